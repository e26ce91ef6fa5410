"""Real RLVR runs of a language model behind the same protocol as the simulators.."""
