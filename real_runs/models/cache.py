"""Models that are made here once and kept in the cache.

A model's directory is made under another name and renamed when it is whole, so a process that is killed
leaves nothing that is taken for a model. `DIGESTS` beside its files says what they are: a damaged one is
made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from pydantic import RootModel

from rolloutbench.files import read_json
from rolloutbench.optional import need
from rolloutbench.protocol import InputError

DIGESTS = "digests.json"
"""The file of the hashes of all other files of a model in the cache."""


def make_once(place: Path, make: Callable[[Path], None]) -> None:
    """Have the files of a model at `place`: as they were made before, or by `make` in an empty directory.

    Processes that start together make them once. Raises InputError where the cache cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not is_undamaged(place):
                _make(place, make)
    except OSError as error:
        raise InputError(f"cache {place}: {error.strerror or error}") from None
    except need("safetensors", "llm").SafetensorError as error:  # its name for a full disk
        raise InputError(f"cache {place}: {error}") from None


def is_undamaged(place: Path) -> bool:
    """Whether a model's files are there, all of them and as they were made."""
    try:
        expected = read_json(place / DIGESTS, RootModel[dict[str, str]]).root
    except (FileNotFoundError, InputError):
        return False
    return expected == _digests(place)


def _make(place: Path, make: Callable[[Path], None]) -> None:
    made = place.with_name(f"{place.name}.part")
    for old in (made, place):
        shutil.rmtree(old, ignore_errors=True)
    made.mkdir()
    try:
        make(made)
        (made / DIGESTS).write_text(json.dumps(_digests(made)))
        made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(directory.iterdir()) if path.name != DIGESTS}


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
