"""The methods, one a file; compositions of predictor, objective and solver share one base.

An allocator of your own appears here by name through the entry-point group `rolloutbench.allocators`,
or by `allocators.register(name, cls)`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from rolloutbench.protocol import Allocator
from rolloutbench.registry import Registry

allocators: Registry[Allocator] = Registry(
    "allocator",
    {
        "uniform": "rolloutbench.allocators.uniform:Uniform",
        "vip": "rolloutbench.allocators.vip:VIP",
        "knapsack": "rolloutbench.allocators.knapsack:Knapsack",
        "coba": "rolloutbench.allocators.coba:CoBA",
        "dapo": "rolloutbench.allocators.dapo:DAPO",
        "ar3po": "rolloutbench.allocators.ar3po:AR3PO",
        "pilot_commit": "rolloutbench.allocators.pilot_commit:PilotCommit",
        "reinforce_ada": "rolloutbench.allocators.reinforce_ada:ReinforceAda",
        "mopps": "rolloutbench.allocators.mopps:MoPPS",
        "vigor": "rolloutbench.allocators.vigor:Vigor",
        "frontier": "rolloutbench.allocators.frontier:Frontier",
        "effective_count": "rolloutbench.allocators.effective_count:EffectiveCount",
        "hit_utility": "rolloutbench.allocators.hit_utility:HitUtility",
        "inverse_accuracy": "rolloutbench.allocators.inverse:InverseAccuracy",
        "inverse_variance": "rolloutbench.allocators.inverse:InverseVariance",
        "greso": "rolloutbench.allocators.greso:GRESO",
        "gvm": "rolloutbench.allocators.gvm:GVM",
        "speed": "rolloutbench.allocators.speed:Speed",
        "permuted": "rolloutbench.allocators.permuted:Permuted",
        "weighted_uniform": "rolloutbench.allocators.weighted_uniform:WeightedUniform",
        "random": "rolloutbench.allocators.random_composition:RandomComposition",
        "reinforce_ada_est": "rolloutbench.allocators.reinforce_ada_est:ReinforceAdaEst",
        "pods": "rolloutbench.allocators.pods:PODS",
        "dars": "rolloutbench.allocators.dars:DARS",
        "e3": "rolloutbench.allocators.e3:E3",
        "rollout_gdro": "rolloutbench.allocators.rollout_gdro:RolloutGDRO",
        "cures": "rolloutbench.allocators.cures:CurES",
        "adarft": "rolloutbench.allocators.adarft:AdaRFT",
        "dots": "rolloutbench.allocators.dots:DOTS",
        "bots": "rolloutbench.allocators.bots:BOTS",
        "fast_ema": "rolloutbench.allocators.fast_ema:FastEMA",
        "pools": "rolloutbench.allocators.pools:Pools",
        "c_grpo": "rolloutbench.allocators.c_grpo:CGRPO",
        "sgpo": "rolloutbench.allocators.sgpo:SGPO",
        "hora": "rolloutbench.allocators.hora:HORA",
        "aero": "rolloutbench.allocators.aero:AERO",
        "pcl": "rolloutbench.allocators.pcl:PCL",
        "prioritized": "rolloutbench.allocators.prioritized:Prioritized",
        "dbb": "rolloutbench.allocators.dbb:DBB",
        "pooled_baseline": "rolloutbench.allocators.pooled_baseline:PooledBaseline",
    },
    group="rolloutbench.allocators",
)
"""The registry of allocators. A method keeps its colour as long as its place, so new ones go to the end."""
names, create = allocators.names, allocators.create
register, describe = allocators.register, allocators.describe
AllocatorSpec = Annotated[Allocator, BeforeValidator(allocators.create)]
"""The type of a parameter that is an allocator, given as a spec."""


def all_specs() -> list[str]:
    """What `--allocators all` stands for: every method of this package, with each of its `variants`."""
    methods = [(name, allocators.class_of(name)) for name in allocators.builtin]
    return [
        f"{name}[{parameters}]" if parameters else name
        for name, method in methods
        for parameters in (method.variants if method else ())
    ]
