"""Training on a balanced part of what was generated."""

from __future__ import annotations

import numpy as np

from rolloutbench.protocol import IntArray, Outcomes


def balanced(outcomes: Outcomes, keep: int) -> tuple[IntArray, IntArray]:
    """Kept successes and failures (R, B): `keep` rollouts a prompt, as near to half and half as it goes.

    Where one class has too few, the other fills in. An odd `keep` takes one failure more. Prompts
    with fewer than `keep` rollouts keep them all.
    """
    failures = outcomes.counts - outcomes.successes
    kept = np.minimum(outcomes.successes, np.maximum(keep // 2, keep - failures))
    return kept, np.minimum(failures, keep - kept)
