"""Where a response ends before its end token: at a stop string.

A token may complete a stop string only if it has the string's last character, so few tokens have their
response decoded; bytes that are no character by themselves may be part of any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rolloutbench.protocol import BoolArray

UNFINISHED = "�"
"""What bytes are decoded to that are no character by themselves."""


class StopStrings:
    """Stop strings of responses of a model with `vocabulary` tokens, which `decode` turns into text."""

    def __init__(self, stop: Sequence[str], decode: Callable[[Sequence[int]], str], vocabulary: int) -> None:
        self._stop, self._decode = tuple(stop), decode
        last = {one[-1] for one in stop} | {UNFINISHED}
        texts = [decode([token]) for token in range(vocabulary)] if stop else []
        self.may_end: BoolArray = np.array([not last.isdisjoint(text) for text in texts], dtype=bool)
        """Whether a response may end with each token (V,)."""

    def has_ended(self, tokens: Sequence[int]) -> bool:
        """Whether the text of a response's tokens has a stop string in it."""
        text = self._decode(tokens)
        return any(one in text for one in self._stop)
