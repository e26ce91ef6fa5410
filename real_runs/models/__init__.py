"""Language models: a tiny one made here, and any from a Hugging Face directory or hub."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator

from real_runs.rollouts import Prompt
from real_runs.tasks import Messages, Problem, Task
from rolloutbench.optional import need
from rolloutbench.protocol import InputError
from rolloutbench.registry import Registry

PAD, END = 0, 1
"""Token ids of the character tokenizer; the alphabet's come after."""


@dataclass
class LanguageModel:
    """A causal language model with its tokenizer.

    `network`: of transformers, in eval mode, on its device. `directory`: where config.json and the
    safetensors that it was loaded from are. `end`: the token that ends a response. `encode`: a prompt's text,
    or its messages, to its token ids. `decode`: a response's token ids to its text, without special tokens.
    """

    network: Any
    directory: Path
    end: int
    encode: Callable[[str | Messages], list[int]]
    decode: Callable[[Sequence[int]], str]


class ModelSpec(ABC):
    """Description of where a model comes from.

    Registered ones are pydantic dataclasses, so their fields are checked.
    """

    @abstractmethod
    def load(self, task: Task, device: str, cache: Path) -> LanguageModel:
        """Load the model on its device; what is made for it is kept below `cache`.

        Raises InputError where it cannot be had.
        """

    def check(self, task: Task) -> None:  # noqa: B027 - most can only be known by loading
        """Raise InputError where it is known, without loading anything, that the model cannot be had."""


models: Registry[ModelSpec] = Registry(
    "model",
    {
        "tiny": "real_runs.models.tiny:Tiny",
        "hf": "real_runs.models.hugging_face:HuggingFace",
        "smollm2": "real_runs.models.smollm2:SmolLM2",
    },
    group="rolloutbench.models",
)
ModelChoice = Annotated[ModelSpec, BeforeValidator(models.create)]


def default_cache() -> Path:
    """Folder of the cache: $ROLLOUTBENCH_CACHE, else `rolloutbench` in $XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("ROLLOUTBENCH_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rolloutbench"


def features(model: LanguageModel, problems: Sequence[Problem], batch: int = 64) -> npt.NDArray[np.float32]:
    """Features of prompts as the model sees them, (Q, d): mean last hidden state, centred, of unit length."""
    torch = need("torch", "llm")
    network = model.network
    prompts = [model.encode(problem.question) for problem in problems]
    means = []
    with one_thread(), torch.no_grad():
        for start in range(0, len(prompts), batch):
            ids, mask = padded(prompts[start : start + batch], network.device)
            hidden = network.base_model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            weight = mask[..., None] / mask.sum(1)[:, None, None]
            means.append((hidden * weight).sum(1).cpu().numpy())
    found = np.concatenate(means).astype(np.float64)
    found -= found.mean(0)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return (found / np.where(lengths > 0, lengths, 1)).astype(np.float32)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on one thread.

    For models this small two are slower, and one gives the same bits everywhere.
    """
    torch = need("torch", "llm")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_device(device: str) -> None:
    """Raise InputError where torch has no such device."""
    torch = need("torch", "llm")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device '{device}': {first_line(error)}") from None


def padded(rows: Sequence[Prompt], device: Any) -> tuple[Any, Any]:
    """Token ids and mask (N, L) of rows that are padded on the right."""
    torch = need("torch", "llm")
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device) < lengths[:, None]).long()


def first_line(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0].rstrip(' :')}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and tables of what is wrong: errors are said by us."""
    logging = need("transformers", "llm").utils.logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
