"""Optional dependencies: imported where they are used, with a message that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from rolloutbench.protocol import InputError


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise InputError naming the extra of rolloutbench that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"{module} is not installed: pip install 'rolloutbench[{extra}]'") from None
