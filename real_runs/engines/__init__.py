"""Engines: what samples responses from a model."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from real_runs.models import LanguageModel
from real_runs.rollouts import Prompt, Sampled
from rolloutbench.protocol import InputError, IntArray, State
from rolloutbench.registry import nearest


class Engine(Protocol):
    """Sampler of responses from one model, whose weights an update may change."""

    exact: bool
    """Whether sampling log-probs equal the trainer's, so that none need be computed again."""

    def generate(self, prompts: Sequence[Prompt], counts: IntArray) -> Sampled:
        """Sample `counts` (P,) responses to each of P prompts; 0 asks for none."""

    def sync(self) -> None:
        """Take over the model's weights after they have changed."""

    def close(self) -> None:
        """Give up the memory; the engine is of no use after that."""

    def state_dict(self) -> State:
        """State of the random numbers, as arrays."""

    def load_state_dict(self, state: State) -> None:
        """Continue the random numbers where `state_dict` was taken."""


ENGINES = {
    "transformers": "real_runs.engines.transformers:TransformersEngine",
    "vllm": "real_runs.engines.vllm:VLLMEngine",
}
"""Paths of the engines' classes by name; a class is imported only when asked for."""


def engine(
    name: str,
    model: LanguageModel,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> Engine:
    """Make the engine of that name; `options` are its own, see its class.

    Raises InputError at an unknown name.
    """
    if name not in ENGINES:
        raise InputError(f"unknown engine '{name}': {nearest(name, ENGINES)}")
    module, _, attribute = ENGINES[name].partition(":")
    make = getattr(importlib.import_module(module), attribute)
    made: Engine = make(model, max_new_tokens, temperature=temperature, seed=seed, **options)
    return made
