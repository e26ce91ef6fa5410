"""How far a study is: a bar on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich import progress as rich

from rolloutbench.analysis import tables
from rolloutbench.cells.cell import Failed
from rolloutbench.cells.store import Store
from rolloutbench.errors import Interrupted
from rolloutbench.files import Schema, read_json
from rolloutbench.protocol import InputError
from rolloutbench.studies.carry_out import Watcher

SECONDS_BETWEEN_LINES = 30.0


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

    def note(self, line: str) -> None:
        """Say it in a line of its own."""
        self._console.print(f"rolloutbench: note: {line}", soft_wrap=True)

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
        self._watch()

    def ended(self, label: str, failure: Failed | None) -> None:
        """Count a cell that ended, and say how it goes on."""
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

    def _watch(self) -> None:
        """Called when the bar starts; whoever watches more than cells begins here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away; where the study was stopped, say what is kept."""
        self._bar.stop()
        kept = "" if self.store is None else self._kept(self.store)
        if not kept:
            return
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted; {kept}, and the same command goes on from there") from None
        if isinstance(error, OSError):
            where = f" ({error.filename})" if error.filename else ""
            raise OSError(f"{error.strerror or error}{where}; {kept}, and the same command goes on") from None

    def _kept(self, store: Store) -> str:
        """What is there of a study that was stopped; nothing where there is nothing."""
        if not store.finished:
            return ""
        return f"{len(store.finished)} of {len(store.manifest.cells)} cells are kept in {self.out}"


class RunProgress(Schema):
    """What a training run under way says of itself in `progress.json`; `of` is the rollouts it goes to.

    `doing`: what it does before it trains.
    """

    label: str
    time: float
    of: float
    steps: float
    accuracy: float
    rollouts: float
    seconds: float
    doing: str = ""


class TrainingProgress(Progress):
    """Progress that also tells how far the runs under way are: they say so themselves, in `OUT/runs`."""

    def __init__(self, command: str, out: Path) -> None:
        super().__init__(command, out)
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._follow, daemon=True)
        self._shown: dict[Path, tuple[rich.TaskID, float]] = {}
        self._left: dict[Path, float] = {}

    def _kept(self, store: Store) -> str:
        """Cells, and checkpoints of runs that were under way."""
        runs = {path.parent for path in (self.out / "runs").glob("*/*.safetensors")}
        one = len(runs) == 1
        said = f"{len(runs)} checkpoint{'s' * (not one)} {'is' if one else 'are'} kept in {self.out / 'runs'}"
        return "; ".join(part for part in (super()._kept(store), said * bool(runs)) if part)

    def _watch(self) -> None:
        # Those that an earlier command left are known by what they say: clocks can go backwards.
        self._left = {path: run.time for path, run in self._under_way().items() if run is not None}
        self._watching.start()

    def _under_way(self) -> dict[Path, RunProgress | None]:
        return {path: self._read(path) for path in sorted((self.out / "runs").glob("*/progress.json"))}

    def _follow(self) -> None:
        while not self._ended.wait(1.0):
            there = self._under_way()
            for gone in set(self._shown) - set(there):
                self._bar.remove_task(self._shown.pop(gone)[0])
            for path, run in there.items():
                if run is not None:
                    self._show(path, run)

    def _read(self, path: Path) -> RunProgress | None:
        try:
            run = read_json(path, RunProgress)
        except (OSError, InputError):  # it ended meanwhile
            return None
        return None if run.time == self._left.get(path) else run

    def _show(self, path: Path, run: RunProgress) -> None:
        said = (
            f"{run.label}: {run.doing}"
            if run.doing
            else (
                f"{run.label}: step {run.steps:.0f}, accuracy {run.accuracy:.3f}, "
                f"{run.rollouts:,.0f} of {run.of:,.0f} rollouts, {run.seconds:.0f} s"
            )
        )
        task, time_shown = self._shown.get(path, (None, 0.0))
        if task is None:
            task = self._bar.add_task("", total=run.of, rate="", failures="")
        self._bar.update(task, completed=run.rollouts, rate=said)
        fresh = run.time != time_shown
        late = time.monotonic() - self._said > SECONDS_BETWEEN_LINES
        if fresh and late and not self._console.is_terminal:
            self._say(f"{self.done} of {self.total} runs done; {said}")
        self._shown[path] = task, run.time

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching the runs before the bar is taken away."""
        self._ended.set()
        if self._watching.is_alive():
            self._watching.join()
        super().__exit__(kind, error, trace)
