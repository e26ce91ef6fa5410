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
        "inverse_accuracy": "rolloutbench.allocators.inverse:InverseAccuracy",
        "inverse_variance": "rolloutbench.allocators.inverse:InverseVariance",
        "knapsack": "rolloutbench.allocators.knapsack:Knapsack",
        "coba": "rolloutbench.allocators.coba:CoBA",
        "hit_utility": "rolloutbench.allocators.hit_utility:HitUtility",
        "permuted": "rolloutbench.allocators.permuted:Permuted",
        "weighted_uniform": "rolloutbench.allocators.weighted_uniform:WeightedUniform",
        "random": "rolloutbench.allocators.random_composition:RandomComposition",
        "effective_count": "rolloutbench.allocators.effective_count:EffectiveCount",
        "dapo": "rolloutbench.allocators.dapo:DAPO",
        "ar3po": "rolloutbench.allocators.ar3po:AR3PO",
        "pilot_commit": "rolloutbench.allocators.pilot_commit:PilotCommit",
        "speed": "rolloutbench.allocators.speed:Speed",
        "reinforce_ada": "rolloutbench.allocators.reinforce_ada:ReinforceAda",
        "reinforce_ada_est": "rolloutbench.allocators.reinforce_ada_est:ReinforceAdaEst",
        "pods": "rolloutbench.allocators.pods:PODS",
        "greso": "rolloutbench.allocators.greso:GRESO",
        "mopps": "rolloutbench.allocators.mopps:MoPPS",
        "gvm": "rolloutbench.allocators.gvm:GVM",
    },
    group="rolloutbench.allocators",
)
AllocatorSpec = Annotated[Allocator, BeforeValidator(allocators.create)]
