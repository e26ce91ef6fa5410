"""What the program says on stderr: one line each, whatever is in it."""

from __future__ import annotations

import sys
from typing import NoReturn

from rolloutbench.text import cleaned


def say(message: str, kind: str = "error") -> None:
    """Print one line on stderr, without characters that could move a terminal's cursor."""
    print(f"rolloutbench: {kind}: {cleaned(' '.join(message.split()))}", file=sys.stderr)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong, and end with this exit code."""
    say(message)
    sys.exit(code)
