"""One policy-gradient step on chosen rollouts: PPO's clipped objective, AdamW, micro-batches.

The objective of a row is weight * sum over its tokens of min(ratio A, clip(ratio) A); its weight says
what the row counts in the batch, so every aggregation and group size is the same code. The ratio is to
the policy at the start of the step, so exactly 1 in the first pass; or, where a row says so, to the
policy that sampled it (AR3PO's replay). An engine whose probabilities are not the trainer's is
corrected by truncated importance weights.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from real_runs.likelihood import distinct_prompts, response_logprobs
from real_runs.models import LanguageModel
from real_runs.rollouts import Prompt, Rollouts
from real_runs.settings import PPO
from rolloutbench.protocol import BoolArray, FloatArray, InputError, IntArray, State

MOST_LOGITS = 2**27
"""Most logits of responses that are differentiated at once: half a GiB in single precision, several times."""


@dataclass(frozen=True)
class Batch:
    """Rows of one update, with what each counts in it.

    `rollouts` (N,) and the token ids of their `prompts`; `advantages` (N,); `weights` (N,): what a row's
    token sum counts in the objective; `recorded` (N,): whether its ratio is to the policy that sampled it.
    `deviations` (B,): standard deviations of the groups' rewards, where these are not 0 and 1 only.
    """

    rollouts: Rollouts
    prompts: Sequence[Prompt]
    advantages: FloatArray
    weights: FloatArray
    recorded: BoolArray
    deviations: FloatArray | None = None

    def __getitem__(self, rows: IntArray) -> Batch:
        return Batch(
            self.rollouts[rows],
            [self.prompts[row] for row in rows],
            self.advantages[rows],
            self.weights[rows],
            self.recorded[rows],
        )


class Trainer:
    """Optimizer of `model`. `exact` says whether the engine's log-probs are the trainer's."""

    def __init__(self, model: LanguageModel, settings: PPO, temperature: float, exact: bool) -> None:
        self.model, self.settings = model, settings
        self._temperature, self._exact = temperature, exact
        self._parameters = [parameter for _, parameter in self._trained()]
        betas = settings.beta1, settings.beta2
        self._optimizer = torch.optim.AdamW(
            self._parameters, settings.learning_rate, betas, weight_decay=settings.weight_decay, fused=True
        )
        if settings.gradient_checkpointing:
            _enable_checkpointing(model.network)
        self._first = copy.deepcopy(model.network).requires_grad_(False) if settings.kl else None
        self.steps = 0

    def update(self, batch: Batch) -> dict[str, float]:
        """Take `epochs` optimizer steps on the batch; returns what was measured, means over the epochs.

        `gradient_norm`: before clipping. `clipped`: share of tokens without gradient for their ratio.
        `kl`: mean over tokens of the estimate of KL(first || now), where it is in the objective. Raises
        InputError where the device has too little memory for a micro-batch.
        """
        # A row without advantage has no gradient, unless there is a KL term.
        batch = batch[np.flatnonzero((batch.advantages * batch.weights != 0) | (self.settings.kl > 0))]
        starts = self._starts(batch) if self.settings.epochs > 1 else None
        found = []
        for _ in range(self.settings.epochs):
            measured = self.gradient(batch, starts)
            limit = float("inf") if self.settings.gradient_norm is None else self.settings.gradient_norm
            norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
            for group in self._optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * self._warmup_factor()
            self._optimizer.step()
            found.append({**measured, "gradient_norm": float(norm)})
        self.steps += 1
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]}

    def gradient(self, batch: Batch, starts: list[torch.Tensor] | None = None) -> dict[str, float]:
        """Put the gradient of minus the objective into the parameters' `grad`.

        `starts`: log-probs (n, T) of each micro-batch at the start of the step; None where that is now.
        """
        self.model.network.train(False)  # dropout would make the ratio noise
        for parameter in self._parameters:
            parameter.grad = None  # taken over from the first micro-batch, not added to zeros
        tokens, clipped, kl = int(batch.rollouts.lengths.sum()), 0.0, 0.0
        for place, rows in enumerate(self._micro_batches(batch)):
            part = batch[rows]
            with self._enough_memory(part), _layers_run_again(self.model.network):
                now = self._logprobs(self.model.network, part)
                start = now.detach() if starts is None else starts[place]
                objective, cut, distance = self._objective(part, now, start)
                (-objective).backward()  # type: ignore[no-untyped-call]
            clipped += cut
            kl += distance
        for parameter in self._parameters:
            if parameter.grad is None:  # the optimizer would pass over it, and its moments would stay
                parameter.grad = torch.zeros_like(parameter)
        return {"clipped": clipped / max(tokens, 1), "kl": kl / max(tokens, 1)}

    def state_dict(self) -> State:
        """Weights that are trained, each once however many layers share it, and the optimizer's moments."""
        moments = self._optimizer.state_dict()["state"]
        return {
            "steps": np.array(self.steps),
            "weights": {name: _array(weight) for name, weight in self._trained()},
            "moments": {str(k): {n: _array(v) for n, v in held.items()} for k, held in moments.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the weights that are trained and the optimizer's moments."""
        self.steps = int(state["steps"])
        with torch.no_grad():
            for name, weight in self._trained():
                weight.copy_(torch.from_numpy(state["weights"][name]))
        moments = {
            int(k): {n: torch.from_numpy(a.copy()) for n, a in held.items()}
            for k, held in state.get("moments", {}).items()
        }
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in self.model.network.named_parameters() if p.requires_grad)

    def _warmup_factor(self) -> float:
        return min(1.0, (self.steps + 1) / max(self.settings.warmup_steps, 1))

    def _starts(self, batch: Batch) -> list[torch.Tensor]:
        starts = []
        for rows in self._micro_batches(batch):
            part = batch[rows]
            with self._enough_memory(part), torch.no_grad():
                starts.append(self._logprobs(self.model.network, part))
        return starts

    def _objective(
        self, part: Batch, now: torch.Tensor, start: torch.Tensor
    ) -> tuple[torch.Tensor, float, float]:
        """Objective of a part of the batch, the number of clipped tokens, and the sum of the KL estimates."""
        device, longest = now.device, now.shape[1]
        sampled = torch.from_numpy(part.rollouts.logprobs[:, :longest]).to(device)
        recorded = torch.from_numpy(part.recorded).to(device)[:, None]
        inside = torch.from_numpy(np.arange(longest) < part.rollouts.lengths[:, None]).to(device)
        advantage = torch.from_numpy(part.advantages).to(now)[:, None]
        weight = torch.from_numpy(part.weights).to(now)[:, None]
        ratio = torch.exp(now - torch.where(recorded, sampled, start))
        limited = ratio.clamp(1 - self.settings.clip_low, 1 + self.settings.clip_high)
        gain = torch.minimum(ratio * advantage, limited * advantage)
        cut = ((ratio * advantage > limited * advantage) & inside).sum()
        if not self._exact:
            correction = torch.exp(start - sampled).clamp(max=self.settings.truncation)
            fresh = torch.from_numpy(part.rollouts.steps == self.steps).to(device)[:, None]
            gain = gain * torch.where(fresh, correction, torch.ones_like(correction))
        objective, distance = (gain * weight * inside).sum(), torch.zeros(())
        if self._first is not None:
            with torch.no_grad():
                first = self._logprobs(self._first, part)
            away = first - now
            estimate = torch.where(inside, torch.exp(away) - away - 1, torch.zeros_like(away))
            objective = objective - self.settings.kl * (estimate * weight).sum()
            distance = estimate.detach().sum()
        return objective, float(cut), float(distance)

    def _logprobs(self, network: torch.nn.Module, part: Batch) -> torch.Tensor:
        device = self._parameters[0].device
        low = self.settings.dtype == "bfloat16" or (self.settings.dtype == "auto" and device.type == "cuda")
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low):
            rollouts = part.rollouts
            return response_logprobs(
                network, part.prompts, rollouts.tokens, rollouts.lengths, self._temperature
            )

    def _micro_batches(self, batch: Batch) -> Iterator[IntArray]:
        """Yield rows of at most `micro_batch` tokens with padding and `MOST_LOGITS` logits; at least one row.

        The responses of a prompt stay together, since it is read once for all of them; prompts of similar
        length stand side by side.
        """
        lengths = batch.rollouts.lengths
        starts = np.array([len(prompt) for prompt in batch.prompts], dtype=np.int64)
        _, owner = distinct_prompts(batch.prompts)
        longest = np.zeros(len(owner), dtype=np.int64)
        np.maximum.at(longest, owner, starts + lengths)
        order = np.lexsort((-lengths, owner, -longest[owner]))
        config = getattr(self.model.network, "config", None)
        vocabulary = int(getattr(config, "vocab_size", 1))
        start = 0
        for end in range(1, len(order) + 1):
            rows = order[start : end + 1]
            responses = len(rows) * int(lengths[rows].max(initial=0))
            read = len(np.unique(owner[rows])) * int(starts[rows].max(initial=0))
            too_many = read + responses > self.settings.micro_batch or responses * vocabulary > MOST_LOGITS
            if end == len(order) or too_many:
                yield order[start:end]
                start = end

    @contextlib.contextmanager
    def _enough_memory(self, part: Batch) -> Iterator[None]:
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if type(error) is RuntimeError and "allocate memory" not in str(error):  # as the CPU's says it
                raise
            raise InputError(
                f"micro_batch={self.settings.micro_batch}: {len(part.prompts)} rows do not fit into the "
                "memory of the device: choose a smaller one; the run goes on from its last checkpoint"
            ) from None


def _enable_checkpointing(network: Any) -> None:
    """Have a network compute its layers again for the gradient, wherever they are in training mode."""
    try:
        network.activation_checkpointing_enable({"use_reentrant": False})
    except (AttributeError, ValueError):
        raise InputError(
            f"gradient_checkpointing=true: {type(network).__name__} cannot compute its layers again"
        ) from None
    network.config.use_cache = False  # a layer that is computed again would write to the cache again


@contextlib.contextmanager
def _layers_run_again(network: torch.nn.Module) -> Iterator[None]:
    """Put those layers into training mode that may be computed again, and nothing that is inside them.

    Dropout is inside, and stays off.
    """
    layers = [layer for layer in network.modules() if getattr(layer, "gradient_checkpointing", False)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _array(value: torch.Tensor) -> FloatArray:
    array: FloatArray = value.detach().cpu().numpy()
    return array
