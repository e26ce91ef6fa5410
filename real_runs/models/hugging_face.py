"""Causal language models of a Hugging Face directory or of the hub.

Weights are safetensors, in single precision, and no code of a model is ever run: transformers is shown a
directory of links to those files that `ALLOWED` names, and not before what they refer to was looked at.
"""

from __future__ import annotations

import contextlib
import fnmatch
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import pydantic.dataclasses
from pydantic import Field, RootModel, ValidationError

from real_runs.models import END, LanguageModel, ModelSpec, check_device, first_line, quiet
from real_runs.models.characters import CHARACTERS, Characters
from real_runs.tasks import Messages, Task, plain
from rolloutbench.files import Damaged, Schema, parse_json, read_json
from rolloutbench.optional import need
from rolloutbench.protocol import InputError
from rolloutbench.registry import PARAMETERS

ALLOWED = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", CHARACTERS),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "*.model", "*.tiktoken", "chat_template.jinja"),
    "chat_template.json",
)
"""Names of the files of a model directory that may be opened: weights, settings, tokenizers; no code."""
REFUSED = {
    "auto_map": "it needs code of its own to be run, which is not done here",
    "quantization_config": "quantized weights are not trained here",
}
"""Settings that a model's files may not have, at any depth, and why."""
MOST_LAYERS, MOST_WIDTH, MOST_WORDS = 1_000, 100_000, 10_000_000
"""Bounds of a model's settings: beyond any model, and far below where making it would not end."""
LARGEST_HEADER = 100 * 2**20
"""Bytes of the header of a safetensors file, as the format has it."""


@pydantic.dataclasses.dataclass(config=PARAMETERS, frozen=True)
class HuggingFace(ModelSpec):
    """A causal language model of a local Hugging Face directory or of the hub; safetensors only."""

    path: str = ""
    chat: bool = False
    """Whether prompts that are plain text are put into the tokenizer's chat template.

    Conversations always are, if it has one; else they are read in their plain form."""

    def check(self, task: Task) -> None:
        """Raise InputError where a directory is not that of a model; the hub is not asked."""
        here = self._here()
        if here is not None:
            check_directory(here)

    def __post_init__(self) -> None:
        """Raise InputError where no path is given."""
        if not self.path:
            raise InputError("model 'hf' needs a directory or a name on the hub: hf[path=NAME_OR_DIR]")

    def load(self, task: Task, device: str, cache: Path) -> LanguageModel:
        """Load the model from its directory, or have huggingface_hub download it into its own cache."""
        check_device(device)
        return open_directory(self._directory(), device, self.chat)

    def _here(self) -> Path | None:
        """Directory of the model, or None where the path is a name on the hub."""
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
        try:
            return Path(hub.snapshot_download(self.path, allow_patterns=list(ALLOWED)))
        except Exception as error:  # of the network, the hub or the name: many kinds
            raise InputError(
                f"path={self.path}: no directory here, and the hub does not give it: {first_line(error)}"
            ) from None


Text: TypeAlias = tuple[int, Callable[[str | Messages], list[int]], Callable[[Sequence[int]], str]]
"""A model's end token, encode and decode."""


def open_directory(directory: Path, device: str, chat: bool = False) -> LanguageModel:
    """Open the model of a directory. Raises InputError where it is no causal LM that can be loaded safely."""
    check_directory(directory)
    with allowed_files(directory) as shown:
        text = _own_text(shown) if (shown / CHARACTERS).exists() else _text(shown, directory, chat)
        network = _network(shown, directory)
    return LanguageModel(network.to(device).eval(), directory, *text)


@contextlib.contextmanager
def allowed_files(directory: Path) -> Iterator[Path]:
    """A directory of links to the files of a model that may be opened, and to nothing else."""
    with tempfile.TemporaryDirectory(prefix="rolloutbench-model-") as name:
        for path in directory.iterdir():
            if path.is_file() and any(fnmatch.fnmatchcase(path.name, wanted) for wanted in ALLOWED):
                (Path(name) / path.name).symlink_to(path.resolve())
        yield Path(name)


class _Config(Schema):
    """What is asked of a model's config.json before anything is made of it."""

    architectures: list[str] | None = None
    num_hidden_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] | None = None
    hidden_size: Annotated[int, Field(ge=1, le=MOST_WIDTH)] | None = None
    intermediate_size: Annotated[int, Field(ge=1, le=100 * MOST_WIDTH)] | list[int] | None = None
    vocab_size: Annotated[int, Field(ge=1, le=MOST_WORDS)] | None = None


class _Index(Schema):
    """Which file has which weight, of a model in several."""

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[\w.-]+\.safetensors$")]]


class _Settings(Schema):
    """Any other JSON object of a model."""


class _Tensor(Schema):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]


def check_directory(directory: Path) -> None:
    """Refuse what can be refused before anything is loaded; InputError names the file and the fault."""
    here = f"model directory {directory}"
    if not (directory / "config.json").is_file():
        raise InputError(f"{here}: no config.json")
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise InputError(f"{here}: no *.safetensors; other weights are not loaded")
    try:
        config = read_json(directory / "config.json", _Config)
        _check_settings(config.model_dump(), f"{here}: config.json")
        for path in directory.glob("*.json"):
            if path.name == "config.json" or not any(fnmatch.fnmatchcase(path.name, one) for one in ALLOWED):
                continue
            if path.name.endswith(".index.json"):
                for name in set(read_json(path, _Index).weight_map.values()):
                    if not (directory / name).is_file():
                        raise InputError(f"{here}: {path.name} names '{name}', which is not there")
            elif path.name.endswith("config.json"):
                _check_settings(read_json(path, _Settings).model_dump(), f"{here}: {path.name}")
        tensors = sum(_count_tensors(path) for path in weights)
    except Damaged as error:
        raise InputError(f"{here}: {error}") from None
    except OSError as error:
        raise InputError(f"{here}: {error.filename}: {error.strerror}") from None
    kinds = config.architectures or []
    if kinds and not any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise InputError(f"{here}: {kinds[0]} is no causal language model")
    layers = config.num_hidden_layers or 0
    if layers > tensors:
        raise InputError(f"{here}: num_hidden_layers={layers}: the files have {tensors} weights")
    held = sum(path.stat().st_size for path in weights)
    if (config.hidden_size or 0) * (config.vocab_size or 0) > held:  # a byte at least for each
        sizes = f"vocab_size={config.vocab_size}, hidden_size={config.hidden_size}"
        raise InputError(f"{here}: {sizes}: the weights' files are too small for them")


def _check_settings(found: Any, where: str) -> None:
    """Refuse settings that would have code or other files loaded, however deep they stand."""
    if isinstance(found, list):
        for inner in found:
            _check_settings(inner, where)
    if not isinstance(found, dict):
        return
    for key, value in found.items():
        if key in REFUSED and value:
            raise InputError(f"{where}: {key}: {REFUSED[key]}")
        if key.endswith("attn_implementation") and value not in (None, "eager", "sdpa"):
            raise InputError(f"{where}: {key}={value!r}: eager or sdpa is expected; no kernels are fetched")
        _check_settings(value, where)


def _count_tensors(path: Path) -> int:
    """Tensors of a safetensors file. Raises `Damaged` where its header is none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(min(size, LARGEST_HEADER))
    tensors = parse_json(header, RootModel[dict[str, Any]], path.name).root
    tensors.pop("__metadata__", None)
    try:
        return len([_Tensor.model_validate(tensor) for tensor in tensors.values()])
    except ValidationError:
        raise Damaged(f"{path.name}: is damaged safetensors") from None


def _network(shown: Path, directory: Path) -> Any:
    """The network in the files at `shown`; messages name the `directory` that they are of."""
    torch, transformers = need("torch", "llm"), need("transformers", "llm")
    try:
        with quiet():
            network, about = transformers.AutoModelForCausalLM.from_pretrained(
                shown,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # refused below, in our words
                output_loading_info=True,
            )
    except need("safetensors", "llm").SafetensorError as error:
        raise InputError(f"model {directory}: damaged safetensors: {error}") from None
    except (OSError, ValueError, RuntimeError, LookupError, ImportError, TypeError, AttributeError) as error:
        raise InputError(f"model {directory}: {_refusal(error)}") from None
    for problem in ("missing", "mismatched"):
        keys = sorted(key if isinstance(key, str) else key[0] for key in about[f"{problem}_keys"])
        if keys:
            raise InputError(f"model {directory}: {len(keys)} {problem} weights, the first {keys[0]}")
    for name, weight in network.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(f"model {directory}: weight {name} has values that are no numbers")
    return network


def _own_text(directory: Path) -> Text:
    try:
        characters = Characters.read(directory)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"model {directory}: {CHARACTERS} cannot be read: {first_line(error)}") from None

    def encode(prompt: str | Messages) -> list[int]:
        return characters.encode(prompt if isinstance(prompt, str) else plain(prompt))

    return END, encode, characters.decode


def _text(shown: Path, directory: Path, chat: bool) -> Text:
    transformers = need("transformers", "llm")
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                shown, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError) as error:
        raise InputError(f"model {directory}: its tokenizer cannot be loaded: {_refusal(error)}") from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"model {directory}: its tokenizer has no end token")
    if chat and not tokenizer.chat_template:
        raise InputError(f"model {directory}: chat=true, but its tokenizer has no chat template")

    def encode(prompt: str | Messages) -> list[int]:
        messages: Messages = (("user", prompt),) if isinstance(prompt, str) else prompt
        templated = chat or (not isinstance(prompt, str) and bool(tokenizer.chat_template))
        text = _templated(tokenizer, messages, directory) if templated else plain(messages)
        # A template writes the beginning token itself.
        return list(tokenizer(text, add_special_tokens=not templated)["input_ids"])

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))

    return int(tokenizer.eos_token_id), encode, decode


def _templated(tokenizer: Any, messages: Messages, directory: Path) -> str:
    """A conversation in the tokenizer's chat template, up to where the response begins."""
    told = [{"role": role, "content": content} for role, content in messages]
    try:
        return str(tokenizer.apply_chat_template(told, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # templates refuse roles, or their order, in exceptions of jinja's
        roles = ", ".join(role for role, _ in messages)
        raise InputError(
            f"model {directory}: its chat template refuses messages of {roles}: {first_line(error)}"
        ) from None


def _refusal(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own to be run, which is not done here"
    if "Unrecognized configuration class" in str(error):
        return "it is no causal language model that transformers knows"
    return first_line(error)
