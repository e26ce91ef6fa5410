"""Directories that commands write into: there before the work begins, and gone if nothing came of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rolloutbench.errors import InputError
from rolloutbench.registry import shortened


@contextlib.contextmanager
def made_directory(option: str, directory: Path) -> Iterator[None]:
    """Have a directory for what is made within; one that was made for it goes again where it stayed empty.

    Raises InputError, naming the option that asked for it, where it cannot be made or written.
    """
    made = [above for above in (directory, *directory.parents) if not os.path.lexists(above)]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {shortened(str(directory))}: cannot be made: {error.strerror}") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InputError(f"{option} {shortened(str(directory))}: cannot be written: Permission denied")
    try:
        yield
    finally:
        for above in made:  # those that stayed empty
            with contextlib.suppress(OSError):
                above.rmdir()
