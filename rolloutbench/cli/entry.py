"""Where the program begins: what the environment may have done to a process is put right before all else.

Nothing heavy is imported before Ctrl-C and a request to end have an answer, so that neither shows a
traceback however early it comes. Closed standard streams are opened onto nothing, since the next file
would take their place; text that a stream cannot encode is replaced; and warnings of libraries, whatever
PYTHONWARNINGS makes of them, are not the user's business.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings


def main() -> None:
    """Run the command line, and end with its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-done is left
    try:
        _open_streams()
        if os.environ.get("PYTHONWARNINGS"):
            warnings.resetwarnings()
            warnings.simplefilter("ignore")
        from rolloutbench.cli.app import main as run

        run()
    except KeyboardInterrupt:
        print("rolloutbench: error: interrupted", file=sys.stderr)
        sys.exit(130)


def _open_streams() -> None:
    """Have standard input, output and error, and let output replace what it cannot encode."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the lowest number
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # which is how Python finds a closed one
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
