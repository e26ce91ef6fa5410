"""How far a study is: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich import progress as rich

from rolloutbench import tables
from rolloutbench.experiment import Failed
from rolloutbench.store import Store
from rolloutbench.sweep import Watcher

SECONDS_BETWEEN_LINES = 30.0


class Interrupted(Exception):
    """A study was stopped; the message says what is kept."""


class Progress(Watcher):
    """Cells done, their rate, the time left, failures. Use it as a context around a study."""

    def __init__(self, command: str, out: Path) -> None:
        self.command, self.out = command, out
        self.total = self.done = self.failures = 0
        self.store: Store | None = None
        self._console = tables.console(stderr=True)
        self._started = self._said = time.monotonic()
        self._bar = rich.Progress(
            rich.TextColumn(command),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[failures]}", style="red"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", rate="", failures="")

    def begins(self, store: Store, pending: int) -> None:
        """Say what is known already, and start the bar."""
        self.store, self.total = store, pending
        self._started = self._said = time.monotonic()
        cells, known = len(store.manifest.cells), len(store.finished)
        for label in store.damaged:
            self._say(f"{label}: its file was damaged, it runs again")
        if known:
            self._say(f"{known} of {cells} cells are finished already")
        skipped = cells - known - pending
        if skipped > 0:
            self._say(f"{skipped} cells failed before; --retry-failed runs them again")
        self._bar.reset(self._task, total=pending)
        self._bar.start()

    def ended(self, label: str, failure: Failed | None) -> None:
        """One more."""
        self.done += 1
        if failure is not None:
            self.failures += 1
            self._say(f"failed: {label}: {failure.error}")
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = f"{self.done / seconds:.3g} cells/s"
        failed = f"{self.failures} failed" if self.failures else ""
        self._bar.update(self._task, advance=1, rate=rate, failures=failed)
        if not self._console.is_terminal and self._is_time():
            left = seconds / self.done * (self.total - self.done)
            said = [f"{self.done} of {self.total} cells", rate, f"{left:.0f} s left", failed]
            self._say(", ".join(part for part in said if part))

    def _is_time(self) -> bool:
        """Five lines are enough, and one now and then where they are far between."""
        fifth = self.done * 5 // self.total > (self.done - 1) * 5 // self.total
        late = time.monotonic() - self._said > SECONDS_BETWEEN_LINES
        return fifth or late

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(f"{self.command}: {text}", soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away; where the study was stopped, say what is kept."""
        self._bar.stop()
        if self.store is None or not self.store.finished:
            return
        kept = f"{len(self.store.finished)} of {len(self.store.manifest.cells)} cells are kept in {self.out}"
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted; {kept}, and the same command goes on from there") from None
        if isinstance(error, OSError):
            where = f" ({error.filename})" if error.filename else ""
            raise OSError(f"{error.strerror or error}{where}; {kept}, and the same command goes on") from None
