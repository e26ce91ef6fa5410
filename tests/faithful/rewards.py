"""Rewards that anybody can compute again: a hash of prompt and rollout, against the prompt's level."""

import numpy as np


def tape(levels, length=2048):
    """Rewards (Q, length): rollout j of prompt q succeeds where the hash, modulo 16, is below levels[q]."""
    prompt, rollout = np.arange(len(levels), dtype=np.uint64)[:, None], np.arange(length, dtype=np.uint64)
    mixed = (prompt * np.uint64(2048) + rollout + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    return ((mixed >> np.uint64(40)) % np.uint64(16) < np.asarray(levels, np.uint64)[:, None]).astype(int)
