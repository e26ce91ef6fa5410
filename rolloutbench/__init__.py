"""RolloutBench: rollout allocators for RL with verifiable rewards, compared at equal cost."""

__version__ = "0.1.0"
