"""Exceptions of other people's code, said in one line: in which file and line of theirs, and what.

An allocator is written by somebody who debugs it here, so what they need first is their own last frame;
the whole traceback belongs into a file that the line names.
"""

from __future__ import annotations

import site
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

from rolloutbench.errors import InputError, ProtocolError

OWN = frozenset({"rolloutbench", "simulators", "real_runs", "paper_figures"})
"""The packages of this program."""


def one_line(error: BaseException) -> str:
    """What happened, as `mine.py:12 in plan: KeyError: no_such_key`; what is our own to say as it is.

    The place is the last frame of the author's: neither of this program nor of a library. Where there is
    none it is the last of this program's, except where an import failed: its message names what was not
    found, and it is nobody's code here that is wrong.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and len(error.args) == 1 else str(error)
    said = " ".join(text.split())
    if isinstance(error, (InputError, ProtocolError)) and said:
        return said
    kind = type(error).__name__
    what = f"{kind}: {said}" if said else kind
    place = _place(error)
    return f"{place}: {what}" if place else what


def whole(error: BaseException) -> str:
    """The traceback as Python prints it."""
    return "".join(traceback.format_exception(error))


def keep_traceback(error: BaseException) -> Path:
    """A new file in the directory for temporary files with the whole traceback."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="rolloutbench-", suffix=".traceback.txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(whole(error))
    return Path(file.name)


def _place(error: BaseException) -> str:
    frames = list(_frames(error.__traceback__))
    theirs = [(frame, line) for frame, line in frames if _is_authors(frame)]
    own = [] if isinstance(error, (ImportError, SyntaxError)) else [at for at in frames if _is_own(at[0])]
    if not (theirs or own):
        return ""
    frame, line = (theirs or own)[-1]
    return f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _is_authors(frame: FrameType) -> bool:
    """Whether a frame is neither of this program nor of a library.

    An installed package lies among the libraries; what tells it from them is that it uses this program.
    """
    file = frame.f_code.co_filename
    if _is_own(frame) or file.startswith("<frozen "):
        return False
    parts = Path(file).parts
    installed = "site-packages" in parts or "dist-packages" in parts  # of another environment, too
    if not installed and not any(file.startswith(folder) for folder in _library_folders()):
        return True
    origins = (getattr(value, "__module__", None) for value in frame.f_globals.values())
    return any(isinstance(origin, str) and origin.partition(".")[0] in OWN for origin in origins)


def _is_own(frame: FrameType) -> bool:
    """Whether a frame is of this program."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in OWN


def _library_folders() -> set[str]:
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return {*installed, *site.getsitepackages(), site.getusersitepackages()}
