"""Prompts that nobody has counted yet: a stream gives each an id when it first comes.

A streamed data set has no rows to number, and may grow. Here a prompt that comes again, in a later pass or
twice in one, has its old id, so what was learned of it counts. The order is the source's; it is read again
from its beginning when it ends, and when a saved run goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rolloutbench.protocol import BoolArray, InputError, IntArray, PromptStream, State


class Arrivals(PromptStream):
    """Prompts as they come from `source`, for one replicate, at most `most` different ones.

    A prompt is text or anything that JSON can say, which tells it from others. `prompts` are all that came so
    far, by id; `epoch` counts the passes over the source. Raises InputError where too many come, or where the
    source is another than that of a saved run.
    """

    def __init__(self, source: Iterable[Any], most: int) -> None:
        super().__init__(most, 1, np.random.SeedSequence(0))
        self.prompts: list[Any] = []
        self._source = source
        self._rest: Iterator[Any] | None = None
        self._ids: dict[bytes, int] = {}
        self._digest = hashlib.sha256()
        self._read = 0

    def draw(self, count: int, where: BoolArray | None = None) -> IntArray:
        """Draw the next `count` different prompts, (1, count); -1 where a whole pass brings no other."""
        found: dict[int, None] = {}
        if where is None or where[0]:
            passes = 0
            while len(found) < count and passes < 2:
                q = self._next()
                if q is None:
                    passes += 1
                elif not self._retired[0, q] and q not in found:
                    found[q], passes = None, 0
        drawn = np.full((1, count), -1)
        drawn[0, : len(found)] = list(found)
        self.drawn[0, list(found)] = True
        return drawn

    def retire(self, prompts: IntArray) -> None:
        """Never draw these prompts (1, n) again; -1 is passed over."""
        self._retired[0, prompts[0][prompts[0] >= 0]] = True

    def state_dict(self) -> State:
        """How far the source was read, and a digest of the prompts that came."""
        return {
            "epoch": self.epoch.copy(),
            "drawn": self.drawn.copy(),
            "retired": self._retired.copy(),
            "read": self._read,
            "came": len(self.prompts),
            "digest": self._digest.hexdigest(),
        }

    def load_state_dict(self, state: State) -> None:
        """Read the source again as far as it had been read when `state_dict` was taken."""
        self.__init__(self._source, self.pool_size)  # type: ignore[misc]
        for prompt in self._source:
            if len(self.prompts) == state["came"]:  # those that the source has gained since come later
                break
            self._id_of(prompt)
        self._rest = iter(self._source)
        self._read = sum(1 for _ in itertools.islice(self._rest, int(state["read"])))
        came = len(self.prompts), self._read, self._digest.hexdigest()
        if came != (state["came"], state["read"], state["digest"]):
            raise InputError("the stream of prompts is not the one that was saved: it brings other prompts")
        self.epoch = state["epoch"].copy()
        if self.epoch[0] < 0:
            self._rest = None  # nothing was drawn yet
        self.drawn, self._retired = state["drawn"].copy(), state["retired"].copy()

    def _next(self) -> int | None:
        """The id of the next prompt; None at the end of a pass, after which another begins."""
        if self._rest is None:
            self._rest, self._read = iter(self._source), 0
            self.epoch = self.epoch + 1
        for prompt in self._rest:
            self._read += 1
            return self._id_of(prompt)
        self._rest = None
        return None

    def _id_of(self, prompt: Any) -> int:
        try:
            key = hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).digest()
        except (TypeError, ValueError):
            raise InputError(f"a prompt of type {type(prompt).__name__}: text or JSON is expected") from None
        if key not in self._ids:
            if len(self.prompts) == self.pool_size:
                raise InputError(f"pool_size={self.pool_size}: more different prompts have come")
            self._ids[key] = len(self.prompts)
            self.prompts.append(prompt)
            self._digest.update(key)
        return self._ids[key]
