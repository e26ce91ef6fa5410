"""Files of this program: written whole, and read through one gate.

Whatever stands on disk may have been cut short, edited or put there by somebody else. `read_json` and
`parse_json` give an object that a schema has checked, or raise `Damaged` in one line; no other error comes
of what a file holds. Only regular files of a bounded size are opened, so that neither a device nor a pipe
keeps the program waiting.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rolloutbench.protocol import InputError

UNFINISHED = ".unfinished"
"""The end of the name of a file that is being written."""
MOST_BYTES = 256 * 2**20
"""Largest JSON or TOML file that is read."""


class Damaged(InputError):
    """A file of this program that cannot be understood."""


class Schema(BaseModel):
    """What a JSON file must hold; keys that it does not name are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


Checked = TypeVar("Checked", bound=BaseModel)


def read_regular(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises OSError where it cannot be opened, InputError where it is a device, a pipe or too large.
    """
    about = os.stat(path)  # first: a pipe that nobody writes to would not even open
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(about.st_mode):
        raise InputError(f"{path}: is no regular file")
    if about.st_size > most:
        raise InputError(f"{path}: has {about.st_size} bytes; at most {most} are read")
    return path.read_bytes()


def read_json(path: Path, schema: type[Checked], advice: str = "") -> Checked:
    """The JSON object of a file. Raises `Damaged` where it is none, OSError where there is no file."""
    return parse_json(read_regular(path), schema, str(path), advice)


def parse_json(content: bytes | str, schema: type[Checked], where: str, advice: str = "") -> Checked:
    """The JSON object in `content`, as `schema` says. Raises `Damaged` naming `where` and the first fault."""
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:60] for part in problem["loc"])
        fault = f"{place}: {problem['msg']}" if place else problem["msg"]
    except RecursionError:
        fault = "it is nested too deeply"
    then = f"; {advice}" if advice else ""
    raise Damaged(f"{where}: is damaged{then} ({' '.join(fault.split())[:200]})")


def write_whole(path: Path, content: bytes) -> None:
    """Write all of a file or nothing of it, whenever the process is killed or the power fails.

    Raises OSError naming the file where the disk does not take it.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        unfinished.write_bytes(content)
        with contextlib.suppress(AttributeError), open(unfinished, "rb") as written:
            os.fsync(written.fileno())  # else a rename can reach the disk before what it publishes
        unfinished.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # as of a size limit
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
