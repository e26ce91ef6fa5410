"""Language models: a tiny one made here, and any from a Hugging Face directory or hub.

`tiny` is a Llama from scratch that reads single characters, warmed up by supervised learning on fresh
examples of its task and kept in a cache by a hash of all that went into it. `hf` is a directory or a hub
name; weights are safetensors and no code from them is ever run. Weights are in single precision.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pydantic.dataclasses
from filelock import FileLock
from pydantic import BeforeValidator, Field

from real_runs.rollouts import Prompt
from real_runs.tasks import Problem, Task
from rolloutbench.experiment import describe
from rolloutbench.optional import need
from rolloutbench.protocol import InputError
from rolloutbench.registry import PARAMETERS, Registry

PAD, END = 0, 1
"""Token ids of the character tokenizer; the alphabet's come after."""
ALPHABET = "0123456789="
"""Of a task that names none."""
CHARACTERS = "characters.json"
"""The character tokenizer's file in a model directory."""
DIGESTS = "digests.json"
"""Hashes of all other files of a model in the cache."""
BATCH = 256
RISING = 50
"""Warm-up: examples in a batch, and steps in which the learning rate rises."""


@dataclass
class LanguageModel:
    """A causal language model and its text.

    `network`: of transformers, in eval mode, on its device. `directory`: where config.json and the
    safetensors that it was loaded from are. `end`: the token that ends a response. `encode`: a prompt's
    text to its token ids. `decode`: a response's token ids to its text, without special tokens.
    """

    network: Any
    directory: Path
    end: int
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


class ModelSpec(ABC):
    """Where a model comes from. Registered specs are pydantic dataclasses, so their fields are checked."""

    @abstractmethod
    def load(self, task: Task, device: str, cache: Path) -> LanguageModel:
        """The model, on its device; what is made for it is kept below `cache`.

        Raises InputError where it cannot be had.
        """

    def check(self, task: Task) -> None:  # noqa: B027 - most can only be known by loading
        """Raises InputError where it is known, without loading anything, that it cannot be had."""


models: Registry[ModelSpec] = Registry(
    "model",
    {"tiny": "real_runs.models:Tiny", "hf": "real_runs.models:HuggingFace"},
    group="rolloutbench.models",
)
ModelChoice = Annotated[ModelSpec, BeforeValidator(models.create)]


def default_cache() -> Path:
    """$ROLLOUTBENCH_CACHE, else `rolloutbench` in $XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("ROLLOUTBENCH_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rolloutbench"


@dataclass(frozen=True)
class Characters:
    """A tokenizer of single characters: 0 is padding, 1 the end, then those of `alphabet`."""

    alphabet: str

    def encode(self, text: str) -> list[int]:
        """Token ids. Raises InputError at a character that is none of the alphabet."""
        for character in text:
            if character not in self.alphabet:
                raise InputError(
                    f"text {text!r}: the model reads none of {character!r}, only {self.alphabet!r}"
                )
        return [self.alphabet.index(character) + 2 for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, without padding and end."""
        return "".join(self.alphabet[token - 2] for token in tokens if token > END)

    def write(self, directory: Path) -> None:
        """As JSON, so that `hf` can read a tiny model too."""
        (directory / CHARACTERS).write_text(json.dumps({"alphabet": self.alphabet}))

    @classmethod
    def read(cls, directory: Path) -> Characters:
        """What `write` wrote."""
        return cls(json.loads((directory / CHARACTERS).read_text())["alphabet"])


@pydantic.dataclasses.dataclass(config=PARAMETERS, frozen=True)
class Tiny(ModelSpec):
    """Llama from scratch over characters, after a supervised warm-up on fresh examples of the task."""

    layers: Annotated[int, Field(ge=1, le=100)] = 2
    width: Annotated[int, Field(ge=32, le=8192, multiple_of=32)] = 64
    warmup_steps: Annotated[int, Field(ge=0)] = 120
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    seed: Annotated[int, Field(ge=0)] = 0

    def check(self, task: Task) -> None:
        """The task must make examples."""
        task.examples(np.random.default_rng(self.seed), 1)

    def load(self, task: Task, device: str, cache: Path) -> LanguageModel:
        """From the cache, or made now; processes that start together make it once.

        A damaged entry is made again. On a CPU the same weights come out to the bit.
        """
        _check_device(device)
        place = cache / "models" / self._name(task, device)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{place}.lock"):
                if not _undamaged(place):
                    self._make(task, device, place)
        except OSError as error:
            raise InputError(f"cache {place}: {error.strerror or error}") from None
        except need("safetensors", "llm").SafetensorError as error:  # its name for a full disk
            raise InputError(f"cache {place}: {error}") from None
        return _opened(place, device)

    def _name(self, task: Task, device: str) -> str:
        sources = [Path(__file__).read_text(), _source(type(task))]
        versions = [version(package) for package in ("torch", "transformers", "numpy")]
        asked = [describe(self), describe(task), _alphabet(task), task.max_new_tokens]
        text = json.dumps([asked, sources, versions, device.partition(":")[0]], sort_keys=True)
        return f"tiny-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _make(self, task: Task, device: str, place: Path) -> None:
        made = place.with_name(f"{place.name}.part")
        for old in (made, place):
            shutil.rmtree(old, ignore_errors=True)
        made.mkdir()
        try:
            tokenizer = Characters(_alphabet(task))
            network = self._trained(task, tokenizer, device)
            with _quiet():
                network.save_pretrained(made)
            tokenizer.write(made)
            (made / DIGESTS).write_text(json.dumps(_digests(made)))
            made.rename(place)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _trained(self, task: Task, tokenizer: Characters, device: str) -> Any:
        torch = need("torch", "llm")
        examples = task.examples(np.random.default_rng(self.seed), BATCH * max(self.warmup_steps, 1))
        prompts = [tokenizer.encode(example.prompt) for example in examples]
        answers = [[*tokenizer.encode(example.answer), END] for example in examples]
        longest = max(map(len, prompts)) + max(task.max_new_tokens, *map(len, answers))
        with one_thread():
            network = self._fresh(len(tokenizer.alphabet) + 2, longest).to(device).train()
            optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, betas=(0.9, 0.98))
            for step in range(self.warmup_steps):
                batch = slice(BATCH * step, BATCH * (step + 1))
                rate = min(1, (step + 1) / RISING) * (1 - 0.9 * step / self.warmup_steps)
                optimizer.param_groups[0]["lr"] = self.learning_rate * rate
                with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
                    loss = _answer_loss(network, prompts[batch], answers[batch])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
        return network.eval()

    def _fresh(self, vocabulary: int, longest: int) -> Any:
        torch, transformers = need("torch", "llm"), need("transformers", "llm")
        config = transformers.LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=self.width,
            intermediate_size=2 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // 32,  # vLLM has no kernels for heads of 16
            head_dim=32,
            # Room for problems longer than the examples: with rotary positions it costs no weights.
            max_position_embeddings=max(64, 1 << (longest - 1).bit_length()),
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=END,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return transformers.LlamaForCausalLM(config)


@pydantic.dataclasses.dataclass(config=PARAMETERS, frozen=True)
class HuggingFace(ModelSpec):
    """A causal language model of a local Hugging Face directory or of the hub; safetensors only."""

    path: str = ""
    chat: bool = False
    """Whether prompts are put into the tokenizer's chat template."""

    def check(self, task: Task) -> None:
        """A directory must be that of a model; the hub is not asked."""
        here = self._here()
        if here is not None:
            _check(here)

    def __post_init__(self) -> None:
        """There is no model that goes without saying."""
        if not self.path:
            raise InputError("model 'hf' needs a directory or a name on the hub: hf[path=NAME_OR_DIR]")

    def load(self, task: Task, device: str, cache: Path) -> LanguageModel:
        """From its directory, or downloaded by huggingface_hub into its own cache."""
        _check_device(device)
        return _opened(self._directory(), device, self.chat)

    def _here(self) -> Path | None:
        """The directory, or None where it is a name on the hub."""
        here = Path(self.path).expanduser()
        if here.is_dir():
            return here
        if here.exists():
            raise InputError(f"path={self.path}: a directory is expected, not a file")
        if here.is_absolute() or self.path.startswith((".", "~")) or self.path.count("/") > 1:
            raise InputError(f"path={self.path}: no such directory")
        return None

    def _directory(self) -> Path:
        here = self._here()
        if here is not None:
            return here
        hub = need("huggingface_hub", "llm")
        wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        try:
            return Path(hub.snapshot_download(self.path, allow_patterns=wanted))
        except Exception as error:  # of the network, the hub or the name: many kinds
            raise InputError(
                f"path={self.path}: no directory here, and the hub does not give it: {_first_line(error)}"
            ) from None


def features(model: LanguageModel, problems: Sequence[Problem], batch: int = 64) -> npt.NDArray[np.float32]:
    """The prompts as the model sees them, (Q, d): mean last hidden state, centred, of unit length."""
    torch = need("torch", "llm")
    network = model.network
    prompts = [model.encode(problem.prompt) for problem in problems]
    means = []
    with one_thread(), torch.no_grad():
        for start in range(0, len(prompts), batch):
            ids, mask = _padded(prompts[start : start + batch], network.device)
            hidden = network.base_model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            weight = mask[..., None] / mask.sum(1)[:, None, None]
            means.append((hidden * weight).sum(1).cpu().numpy())
    found = np.concatenate(means).astype(np.float64)
    found -= found.mean(0)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return (found / np.where(lengths > 0, lengths, 1)).astype(np.float32)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: for models this small two are slower, and one gives the same bits everywhere."""
    torch = need("torch", "llm")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_device(device: str) -> None:
    torch = need("torch", "llm")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device '{device}': {_first_line(error)}") from None


def _source(kind: type[Any]) -> str:
    """Of the module that a class is from; nothing where that is no file."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return Path(file).read_text() if file else ""


def _alphabet(task: Task) -> str:
    return str(getattr(task, "alphabet", ALPHABET))


def _padded(rows: Sequence[Prompt], device: Any) -> tuple[Any, Any]:
    """Ids and mask (N, L), padded on the right."""
    torch = need("torch", "llm")
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device) < lengths[:, None]).long()


def _answer_loss(network: Any, prompts: Sequence[Prompt], answers: Sequence[Prompt]) -> Any:
    """Mean negative log-likelihood of the answers' tokens."""
    torch = need("torch", "llm")
    ids, mask = _padded([[*p, *a] for p, a in zip(prompts, answers, strict=True)], network.device)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=network.device)
    asked = torch.arange(ids.shape[1], device=network.device) < starts[:, None]
    wanted = ids.masked_fill(asked | (mask == 0), -100)[:, 1:]
    logits = network(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten())


def _digests(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path.name != DIGESTS
    }


def _undamaged(directory: Path) -> bool:
    try:
        expected: dict[str, str] = json.loads((directory / DIGESTS).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return expected == _digests(directory)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0].rstrip(' :')}"


Text: TypeAlias = tuple[int, Callable[[str], list[int]], Callable[[Sequence[int]], str]]
"""A model's end token, encode and decode."""


def _opened(directory: Path, device: str, chat: bool = False) -> LanguageModel:
    """The model of a directory. Raises InputError where it is no causal LM that can be loaded safely."""
    _check(directory)
    text = _own_text(directory) if (directory / CHARACTERS).exists() else _text(directory, chat)
    return LanguageModel(_network(directory).to(device).eval(), directory, *text)


def _check(directory: Path) -> None:
    """What can be refused before anything is loaded."""
    config = directory / "config.json"
    if not config.is_file():
        raise InputError(f"model directory {directory}: no config.json")
    if not list(directory.glob("*.safetensors")):
        raise InputError(f"model directory {directory}: no *.safetensors; other weights are not loaded")
    try:
        about = json.loads(config.read_text())
    except ValueError as error:
        raise InputError(f"model directory {directory}: config.json is no JSON: {error}") from None
    kinds = about.get("architectures") or []
    if kinds and not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise InputError(f"model directory {directory}: {kinds[0]} is no causal language model")


def _network(directory: Path) -> Any:
    torch, transformers = need("torch", "llm"), need("transformers", "llm")
    try:
        with _quiet():
            network, about = transformers.AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # refused below, in our words
                output_loading_info=True,
            )
    except need("safetensors", "llm").SafetensorError as error:
        raise InputError(f"model {directory}: damaged safetensors: {error}") from None
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise InputError(f"model {directory}: {_refusal(error)}") from None
    for problem in ("missing", "mismatched"):
        keys = sorted(key if isinstance(key, str) else key[0] for key in about[f"{problem}_keys"])
        if keys:
            raise InputError(f"model {directory}: {len(keys)} {problem} weights, the first {keys[0]}")
    return network


def _own_text(directory: Path) -> Text:
    try:
        characters = Characters.read(directory)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"model {directory}: {CHARACTERS} cannot be read: {_first_line(error)}") from None
    return END, characters.encode, characters.decode


def _text(directory: Path, chat: bool) -> Text:
    transformers = need("transformers", "llm")
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError) as error:
        raise InputError(f"model {directory}: its tokenizer cannot be loaded: {_refusal(error)}") from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"model {directory}: its tokenizer has no end token")
    if chat and not tokenizer.chat_template:
        raise InputError(f"model {directory}: chat=true, but its tokenizer has no chat template")

    def encode(text: str) -> list[int]:
        if chat:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
            )
        # A template writes the beginning token itself.
        return list(tokenizer(text, add_special_tokens=not chat)["input_ids"])

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))

    return int(tokenizer.eos_token_id), encode, decode


def _refusal(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own to be run, which is not done here"
    if "Unrecognized configuration class" in str(error):
        return "it is no causal language model that transformers knows"
    return _first_line(error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, and its tables of what is wrong: we say that ourselves."""
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
