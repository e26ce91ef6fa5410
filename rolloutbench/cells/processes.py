"""What processes that are started here keep to: Ctrl-C is their driver's to answer, and they end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator


@contextlib.contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Let processes started within ignore Ctrl-C from their first moment: it is for this one to answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def live_and_die_with(driver: int) -> None:
    """Leave Ctrl-C to the driver, and end when that process is gone: nobody else would tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
