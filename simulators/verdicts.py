"""What a verifier says of a rollout: right, wrong, or nothing, and what is then done with it.

It accepts a wrong rollout with chance `false_positive` and refuses a right one with `false_negative`.
Before that a rollout may be lost: it broke off at its limit, or the verifier hung. Wrong ones are longer, so
they are lost more often: `lost_bias` times as often as right ones, and `lost` is the mean of the two chances,
as at p = 1/2. A lost rollout is paid for. What becomes of it is `no_verdict`, see `NoVerdict` in
rolloutbench/protocol.py: it is dropped, a failure, or a failure without a gradient.

Write l_c and l_w for the chances that a right and a wrong rollout is lost. Dropping leaves those with a
verdict, of which p (1 - l_c) / (1 - lost) are right. Counting them as failures is a verifier with
false negatives 1 - (1 - l_c)(1 - fn) and false positives (1 - l_w) fp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rolloutbench.protocol import FloatArray, NoVerdict


@dataclass(frozen=True)
class Verdicts:
    """Chances of a verifier's errors and of losses, and what is done with what is lost."""

    false_positive: float
    false_negative: float
    lost: float
    lost_bias: float
    no_verdict: NoVerdict

    @property
    def perfect(self) -> bool:
        """Whether every rollout has a verdict, and every verdict is right."""
        return self.false_positive == self.false_negative == self.lost == 0

    @property
    def losses(self) -> tuple[float, float]:
        """Chances that a right rollout and a wrong one is lost."""
        right = 2 * self.lost / (1 + self.lost_bias)
        return right, self.lost_bias * right

    @property
    def dropped(self) -> bool:
        """Whether lost rollouts are in no group."""
        return self.lost > 0 and self.no_verdict == "drop"

    def lost_at(self, p: FloatArray) -> FloatArray:
        """Chance that a rollout is lost where p is the chance to be right."""
        right, wrong = self.losses
        return p * right + (1 - p) * wrong

    def accepted(self, p: FloatArray) -> FloatArray:
        """Chance of reward 1 of a rollout that is in its group."""
        if self.perfect:
            return p
        right, wrong = self.losses
        passed = p * (1 - right) * (1 - self.false_negative) + (1 - p) * (1 - wrong) * self.false_positive
        return passed / np.maximum(1 - self.lost_at(p), 1e-300) if self.dropped else passed

    def right_if_accepted(self, p: FloatArray) -> FloatArray:
        """Chance that a rollout with reward 1 is right."""
        right, wrong = self.losses
        passed = p * (1 - right) * (1 - self.false_negative)
        return _share(passed, passed + (1 - p) * (1 - wrong) * self.false_positive)

    def right_if_refused(self, p: FloatArray) -> FloatArray:
        """Chance that a rollout with reward 0 and a gradient is right."""
        right, wrong = self.losses
        refused = p * (1 - right) * self.false_negative
        wrongly = (1 - p) * (1 - wrong) * (1 - self.false_positive)
        if self.no_verdict == "zero":
            refused, wrongly = refused + p * right, wrongly + (1 - p) * wrong
        return _share(refused, refused + wrongly)

    def masked_if_refused(self, p: FloatArray) -> FloatArray:
        """Chance that a rollout with reward 0 has no gradient, because it was lost."""
        if self.no_verdict != "mask":
            return np.zeros(p.shape)
        return _share(self.lost_at(p), 1 - self.accepted(p))


def _share(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.minimum(part / np.maximum(whole, 1e-300), 1.0)
