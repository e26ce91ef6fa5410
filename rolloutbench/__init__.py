"""RolloutBench: rollout allocators for RL with verifiable rewards, compared at equal cost.

    import rolloutbench as rb
    results = rb.compare(["vip", "mopps"], scenarios=["u-shaped-v1"], replicates=16)

The names in `__all__` are what is public; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from rolloutbench import allocators as allocators
    from rolloutbench import estimators as estimators
    from rolloutbench import predictors as predictors
    from rolloutbench.api import compare as compare
    from rolloutbench.api import open_results as open_results
    from rolloutbench.api import predict as predict
    from rolloutbench.api import recommend as recommend
    from rolloutbench.api import solve as solve
    from rolloutbench.api import train as train
    from rolloutbench.coach import Coach as Coach
    from rolloutbench.protocol import Allocator as Allocator
    from rolloutbench.protocol import Belief as Belief
    from rolloutbench.protocol import Budget as Budget
    from rolloutbench.protocol import Groups as Groups
    from rolloutbench.protocol import InputError as InputError
    from rolloutbench.protocol import Outcomes as Outcomes
    from rolloutbench.protocol import Predictor as Predictor
    from rolloutbench.protocol import ProtocolError as ProtocolError
    from rolloutbench.protocol import Request as Request
    from rolloutbench.protocol import Setting as Setting
    from simulators.scenarios import scenarios as scenarios

_PLACES = {
    "rolloutbench.api": ("compare", "open_results", "predict", "recommend", "solve", "train"),
    "rolloutbench.coach": ("Coach",),
    "rolloutbench.protocol": (
        *("Allocator", "Belief", "Budget", "Groups", "InputError", "Outcomes", "Predictor"),
        *("ProtocolError", "Request", "Setting"),
    ),
    "simulators.scenarios": ("scenarios",),
}
"""The module that each public name is in."""
_REGISTRIES = ("allocators", "estimators", "predictors")
"""Public modules: each has the `names`, `create`, `register` and `describe` of its registry."""
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = ["__version__", *_REGISTRIES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _REGISTRIES:
        return importlib.import_module(f"rolloutbench.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'rolloutbench' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
