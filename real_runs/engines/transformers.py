"""Sampling with transformers: prompts read once, their keys and values copied for each response.

Prompts are read as `real_runs/reading.py` says; the rows of the cache are then repeated to the counts.
Tokens are drawn row by row from softmax(logits / temperature) in single precision, so sampling log-probs
are the trainer's own. Two ways to take a step: `_Growing`, whose cache grows by a column a token and loses
the rows of finished responses; and `_Fixed`, whose buffers keep their shapes and addresses, so that on CUDA
the step is a captured graph and costs one launch instead of hundreds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from real_runs.engines.stopping import StopStrings
from real_runs.models import LanguageModel
from real_runs.reading import read_prompts
from real_runs.rollouts import Prompt, Sampled
from rolloutbench.protocol import InputError, IntArray, State


class TransformersEngine:
    """Engine that samples from a model's own weights.

    `stop`: strings at which a response ends, the token that completes one its last. `rows`: responses
    sampled side by side. `bf16`: whether to sample from a copy of the weights in
    bfloat16, brought up to date by `sync`; by default on CUDA. `static`: whether to step at fixed shapes;
    by default on CUDA for networks that can. `graphs`: whether to capture these steps; by default on CUDA.
    """

    def __init__(
        self,
        model: LanguageModel,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        rows: int = 1024,
        bf16: bool | None = None,
        static: bool | None = None,
        graphs: bool | None = None,
    ) -> None:
        for name, value in (("max_new_tokens", max_new_tokens), ("rows", rows)):
            if value < 1:
                raise InputError(f"{name}={value}: at least 1")
        if not 0 < temperature < float("inf"):
            raise InputError(f"temperature={temperature}: above 0")
        self.model = model
        self.max_new_tokens, self.temperature, self.rows = max_new_tokens, temperature, rows
        self.device = torch.device(model.network.device)
        cuda = self.device.type == "cuda"
        if graphs and not cuda:
            raise InputError(f"graphs=true: graphs are of CUDA, and the model is on {self.device}")
        self.exact = not (cuda if bf16 is None else bf16)
        self.graphs = cuda if graphs is None else graphs
        self._static = static
        self._stop = StopStrings(stop, model.decode, model.network.config.vocab_size) if stop else None
        self._network: Any = model.network if self.exact else _in_bf16(model.network)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._fixed: _Fixed | None = None

    def generate(self, prompts: Sequence[Prompt], counts: IntArray) -> Sampled:
        """Sample `counts` (P,) responses to each of P prompts; 0 asks for none."""
        source = np.repeat(np.arange(len(prompts)), counts)
        tokens = np.zeros((len(source), self.max_new_tokens), np.int32)
        logprobs = np.zeros(tokens.shape, np.float32)
        lengths, finished = np.zeros(len(source), np.int64), np.zeros(len(source), bool)
        self._network.eval()
        with torch.no_grad():
            for start in range(0, len(source), self.rows):
                part = slice(start, start + self.rows)
                try:
                    tokens[part], logprobs[part], lengths[part], finished[part] = self._responses(
                        prompts, source[part]
                    )
                except torch.OutOfMemoryError:
                    raise InputError(
                        f"rows={self.rows}: {self.device} has no memory to sample so many side by side"
                    ) from None
        if not np.isfinite(logprobs).all():
            raise InputError("the model's probabilities are not numbers: its weights have diverged")
        width = int(lengths.max(initial=0))
        inside = np.arange(width) < lengths[:, None]
        return Sampled(
            source,
            np.where(inside, tokens[:, :width], 0),
            lengths,
            np.where(inside, logprobs[:, :width], 0),
            finished,
        )

    def sync(self) -> None:
        """Bring the copy of the weights up to date, where there is one."""
        if not self.exact:
            with torch.no_grad():
                for own, new in zip(self._network.parameters(), self.model.network.parameters(), strict=True):
                    own.copy_(new)

    def close(self) -> None:
        """Give up the buffers, and the copy of the weights where there is one."""
        self._fixed, self._network = None, None

    def state_dict(self) -> State:
        """State of the random number generator."""
        return {"generator": self._generator.get_state().numpy().copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the state of the random number generator."""
        self._generator.set_state(torch.from_numpy(np.array(state["generator"], dtype=np.uint8)))

    def _responses(self, prompts: Sequence[Prompt], source: IntArray) -> tuple[np.ndarray[Any, Any], ...]:
        """Tokens and log-probs (N, max_new_tokens), arbitrary after the end, of N rows of one pass.

        Also their lengths (N,), and whether each ended by itself (N,).
        """
        asked, owner = np.unique(source, return_inverse=True)
        logits, steps = self._read([prompts[place] for place in asked], owner)
        tokens = torch.zeros((len(source), self.max_new_tokens), dtype=torch.int32, device=self.device)
        logprobs = torch.zeros(tokens.shape, device=self.device)
        lengths = torch.full((len(source),), self.max_new_tokens, device=self.device)
        finished = torch.zeros(len(source), dtype=torch.bool, device=self.device)
        rows = torch.arange(len(source), device=self.device)
        for place in range(self.max_new_tokens):
            token, logprob = self._draw(logits)
            tokens[rows, place], logprobs[rows, place] = token.int(), logprob
            ends = ~finished[rows] & ((token == self.model.end) | self._stops(tokens[rows, : place + 1]))
            lengths[rows[ends]] = place + 1
            finished[rows[ends]] = True
            going = ~finished[rows]
            left = int(going.sum())
            if left == 0 or place == self.max_new_tokens - 1:
                break
            if steps.room(left) < steps.room(len(rows)):
                kept = going.nonzero()[:, 0]
                rows, token = rows[kept], token[kept]
                steps.keep(kept)
            logits = steps.step(token)
        return tuple(found.cpu().numpy() for found in (tokens, logprobs, lengths, finished))

    def _stops(self, tokens: torch.Tensor) -> torch.Tensor:
        """Whether each response (N,) has a stop string, of the tokens (N, L) so far."""
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=self.device)
        if self._stop is not None:
            for row in np.flatnonzero(self._stop.may_end[tokens[:, -1].cpu().numpy()]):
                ended[row] = self._stop.has_ended(tokens[row].tolist())
        return ended

    def _draw(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a token of each row (N,), with its log-probability (N,), from logits (N, V)."""
        logprobs = torch.log_softmax(logits.float() / self.temperature, dim=-1)
        # A race of exponential clocks; torch.multinomial does the same, but waits for the device.
        clocks = torch.empty_like(logprobs).exponential_(generator=self._generator).clamp_(min=1e-30)
        tokens = (logprobs - clocks.log_()).argmax(dim=-1)
        return tokens, logprobs.gather(1, tokens[:, None])[:, 0]

    def _read(self, prompts: Sequence[Prompt], owner: IntArray) -> tuple[torch.Tensor, _Steps]:
        """Logits (N, V) after the prompts, for the N rows that own them, and what takes the next steps."""
        lengths = np.array([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        most = getattr(self._network.config, "max_position_embeddings", None)
        if lengths.min() == 0:
            raise InputError("a prompt has no tokens")
        if most is not None and width + self.max_new_tokens > most:
            raise InputError(
                f"max_new_tokens={self.max_new_tokens}: with a prompt of {width} tokens more than the {most} "
                "that the model can read"
            )
        read = read_prompts(self._network, prompts)
        rows = torch.from_numpy(owner).to(self.device)
        mask = torch.from_numpy(read.mask).to(self.device)[rows]
        positions = torch.from_numpy(read.lengths).to(self.device)[rows, None]
        return read.logits[rows], self._steps(read.cache, rows, mask, positions)

    def _steps(self, cache: Any, rows: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> _Steps:
        can = self._network.config._attn_implementation == "sdpa" and all(
            type(layer) is DynamicLayer for layer in cache.layers
        )
        if self._static and not can:
            raise InputError(
                f"static=true: the network of {self.model.directory} has layers other than full attention"
            )
        if not (can and (self.device.type == "cuda" if self._static is None else self._static)):
            return _Growing(self._network, cache, rows, mask, positions)
        rows_needed = min(1 << (len(mask) - 1).bit_length(), self.rows)
        width_needed = -(-(mask.shape[1] + self.max_new_tokens) // 64) * 64
        fixed = self._fixed
        if fixed is None or fixed.rows < rows_needed or fixed.width < width_needed:
            if fixed is not None:
                rows_needed, width_needed = max(rows_needed, fixed.rows), max(width_needed, fixed.width)
            fixed = self._fixed = None  # what it holds is given up before more is asked for
            fixed = self._fixed = _Fixed(self._network, cache, rows_needed, width_needed, self.graphs)
        fixed.load(cache, rows, mask, positions)
        return fixed


class _Steps(Protocol):
    """Sampling of one token after the other for rows of responses."""

    def room(self, rows: int) -> int:
        """Number of rows that a step computes when `rows` are needed."""

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only the rows at these places from now on."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Take one token further: logits (N, V) after `tokens` (N,)."""


class _Growing:
    """Steps with transformers' own cache: any architecture, finished rows dropped by the dozen."""

    def __init__(
        self, network: Any, cache: Any, rows: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor
    ) -> None:
        self._network, self._cache, self._mask, self._positions = network, cache, mask.long(), positions
        cache.reorder_cache(rows)

    def room(self, rows: int) -> int:
        return -(-rows // 16) * 16

    def keep(self, rows: torch.Tensor) -> None:
        self._mask, self._positions = self._mask[rows], self._positions[rows]
        self._cache.reorder_cache(rows)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        logits: torch.Tensor = self._network(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        self._positions = self._positions + 1
        return logits[:, -1]


class _Slots(Cache):
    """Keys and values of `rows` rows in given buffers, written at the column that `place` (1,) says."""

    def __init__(self, keys: list[torch.Tensor], values: list[torch.Tensor], place: torch.Tensor) -> None:
        super().__init__(layers=[])
        self.keys, self.values, self.place = keys, values, place

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys.index_copy_(2, self.place, key_states)
        values.index_copy_(2, self.place, value_states)
        return keys, values


class _Fixed:
    """Steps at fixed shapes: the first 2^k of `rows` rows, every column of `width`, the unused masked.

    A step is a function of buffers whose addresses never change, and taking it twice is taking it once:
    it writes the same keys and values to the same place. So it can be run for warm-up and captured in
    the middle of a generation, with the inputs that happen to be there.
    """

    def __init__(self, network: Any, like: Any, rows: int, width: int, graphs: bool) -> None:
        self._network, self.rows, self.width = network, rows, width
        device = network.device
        self._tokens = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        self._positions = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        self._mask = torch.zeros((rows, 1, 1, width), dtype=torch.bool, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._keys = [_room_for(layer.keys, rows, width) for layer in like.layers]
        self._values = [_room_for(layer.values, rows, width) for layer in like.layers]
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        # Graphs are never replayed side by side, so they may share their memory.
        self._pool: Any = torch.cuda.graph_pool_handle() if graphs else None

    def load(self, cache: Any, rows: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> None:
        """Begin with the keys and values of these rows of `cache`."""
        count, width = mask.shape
        for own, read in zip(self._keys, cache.layers, strict=True):
            own[:count, :, :width] = read.keys[rows]
        for own, read in zip(self._values, cache.layers, strict=True):
            own[:count, :, :width] = read.values[rows]
        self._mask.zero_()
        self._mask[:count, 0, 0, :width] = mask
        self._positions.zero_()
        self._positions[:count] = positions
        self._place.fill_(width)

    def room(self, rows: int) -> int:
        return min(max(8, 1 << (rows - 1).bit_length()), self.rows)

    def keep(self, rows: torch.Tensor) -> None:
        for buffer in (self._mask, self._positions, *self._keys, *self._values):
            buffer[: len(rows)] = buffer[rows]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self._tokens[: len(tokens), 0] = tokens
        self._mask.index_fill_(3, self._place, True)
        size = self.room(len(tokens))
        if self._pool is None:
            logits = self._forward(size)
        else:
            if size not in self._captured:
                self._captured[size] = self._capture(size)
            graph, logits = self._captured[size]
            graph.replay()
        self._place += 1
        self._positions += 1
        return logits[: len(tokens)]

    def _forward(self, size: int) -> torch.Tensor:
        slots = _Slots([k[:size] for k in self._keys], [v[:size] for v in self._values], self._place)
        logits: torch.Tensor = self._network(
            input_ids=self._tokens[:size],
            attention_mask=self._mask[:size],
            position_ids=self._positions[:size],
            past_key_values=slots,
            use_cache=True,
        ).logits
        return logits[:, -1]

    def _capture(self, size: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """The step as a graph, and where it leaves its logits. Libraries want to warm up on a side stream."""
        side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._forward(size)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._forward(size)
        return graph, logits


def _room_for(states: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    """Zeros for keys or values like `states` (P, heads, L, head size), at `rows` rows of `width` columns."""
    _, heads, _, size = states.shape
    return states.new_zeros((rows, heads, width, size))


def _in_bf16(network: Any) -> Any:
    """Copy a network for sampling.

    Buffers stay in single precision: rotary frequencies would lose far positions.
    """
    copied = copy.deepcopy(network).requires_grad_(False)
    for parameter in copied.parameters():
        parameter.data = parameter.data.bfloat16()
    return copied
