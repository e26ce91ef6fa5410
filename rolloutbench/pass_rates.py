"""Pass rates that a user measured: how often each prompt was solved, in how many rollouts of what length.

A column of a file says it in one of these ways, recognised by what stands there:

    0.375                       a rate; with a column of trials 3 of 8
    3, with trials 8            k of n in two columns: whole numbers, of which some are above 1
    3/8                         k of n in one
    37.5%                       a percentage; without its sign only where `unit=percent` says so
    [0, 1, 1, 0]                rewards, one a rollout
    1, or true                  a reward, where a column of ids repeats: one row a rollout

Whatever way, what comes of it is the same. A row that says nothing usable is counted, and refused or dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import BoolArray, FloatArray, InputError
from rolloutbench.registry import PARAMETERS, nearest
from rolloutbench.tabular import allowed, identifiers, numbers, read_table

COLUMNS = ("pass_rate", "rewards", "reward")
"""Where pass rates are looked for if nobody says where, the first that is there."""
TRIALS = ("trials", "n", "n_trials", "num_trials", "rollouts", "n_rollouts", "num_rollouts", "num_samples")
"""Columns that are likely to hold trials; none is used unasked, since it can change who wins."""
MOST_TRIALS = 1_000_000
"""Rollouts of one prompt beyond which a pass rate has no sampling error worth removing."""
ROUNDING = 0.005
"""Most by which a rate may miss a whole number of successes over trials: two digits are printed."""
ROWS = "-"
"""An `id` that takes every row for a prompt of its own."""
MANY = 100
"""Trials from which on whole numbers up to 100 may be counts or percentages."""

NAMING = ("column", "trials", "lengths", "id")
"""Parameters that name a column."""

Unit = Literal["rate", "percent", "count"]


class NoColumnError(InputError):
    """A file has no such column; `parameter` is what named it."""

    def __init__(self, message: str, parameter: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@plain_dataclass(frozen=True, eq=False)
class PassRates:
    """Q prompts: `rates` (Q,) in [0, 1], and `trials` (Q,) and mean `lengths` (Q,) in tokens where known.

    `ids` (Q,) are the file's own names of the prompts, or None. `notes` say what was done to the rows, and
    `unused` is a column that may hold trials, where nobody named one.
    """

    rates: FloatArray
    trials: FloatArray | None = None
    lengths: FloatArray | None = None
    ids: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    unused: str | None = None


@dataclass(config=PARAMETERS, frozen=True, kw_only=True)
class PassRateFile:
    """A file of pass rates, and which of its columns say what.

    `file`: in a format of tabular.py. `column`: of pass rates, counts or rewards, by default the first of
    `COLUMNS`; `a.b` is the field b of a column a of records. `trials`: of rollouts per prompt. `lengths`: of
    mean tokens per rollout. `id`: of prompts' names, by default the first of `tabular.IDENTIFIERS`; rows of
    one name are one prompt; `-` takes each row for a prompt. `unit`: of `column`, where it needs saying.
    `label` tells the scenarios of two files apart. None of this is in the key of a cell: the numbers are.
    """

    file: Path | None = field(default=None, compare=False)
    column: str | None = field(default=None, compare=False)
    trials: str | None = field(default=None, compare=False)
    lengths: str | None = field(default=None, compare=False)
    id: str | None = field(default=None, compare=False)
    unit: Unit | None = field(default=None, compare=False)
    drop_bad_rows: bool = field(default=False, compare=False)
    label: str | None = field(default=None, compare=False)

    def read(self) -> PassRates:
        """The prompts, in the order of their first rows.

        Raises InputError where a column is missing, a row is bad, or no rollout could teach anything.
        """
        if self.file is None:
            raise InputError("scenario 'measured' needs a file of pass rates: measured[file=PATH]")
        table = read_table(self.file)
        reading = _Reading(self.file, table, self)
        return reading.prompts()


class _Cells(NamedTuple):
    """A column, row by row: `value` is a rate in [0, 1], or a number whose unit is yet to be found.

    `own` are the trials that a cell itself names, NaN where it names none; `plain` marks numbers.
    """

    value: FloatArray
    own: FloatArray
    plain: BoolArray
    truths: BoolArray


class _Reading:
    """One file on its way from cells to prompts; rows that are bad are collected as they are met."""

    def __init__(self, path: Path, table: pd.DataFrame, asked: PassRateFile) -> None:
        self.path, self.table, self.asked = path, table, asked
        self.bad = np.zeros(len(table), bool)
        self.first: tuple[int, str] | None = None
        self.name = self._named() if asked.column is None else asked.column
        self.values = self._column(self.name)

    def prompts(self) -> PassRates:
        successes, trials, rates = self._units(self._cells(), self._trials())
        lengths = None if self.asked.lengths is None else self._lengths(self.asked.lengths)
        ids = self._ids()
        self._refuse_bad_rows()
        keep = ~self.bad
        notes = [f"{int(self.bad.sum()):,} of {len(keep):,} rows dropped"] if self.bad.any() else []
        found = self._grouped(
            _kept(successes, keep),
            _kept(trials, keep),
            rates[keep],
            _kept(lengths, keep),
            None if ids is None else ids[keep],
        )
        if len(found.rates) < keep.sum():
            notes.append(f"{int(keep.sum()):,} rows of {len(found.rates):,} prompts")
        self._check(found)
        unused = next((name for name in TRIALS if name in self.table), None)
        return replace(found, notes=tuple(notes), unused=None if found.trials is not None else unused)

    # --- columns

    def _named(self) -> str:
        """The column of pass rates that goes without saying."""
        known = self._known()
        for name in COLUMNS:
            ends = [found for found in known if found == name or found.endswith(f".{name}")]
            if name in ends or len(ends) == 1:
                return name if name in ends else ends[0]
        raise InputError(
            f"{self.path}: has no column {' or '.join(map(repr, COLUMNS))}: --column (column=NAME) says "
            f"which of {', '.join(known[:12])}{', ...' if len(known) > 12 else ''} it is"
        )

    def _known(self) -> list[str]:
        """Columns, and the fields of those that hold records."""
        known = []
        for name in map(str, self.table.columns):
            known.append(name)
            first = self.table[name].iloc[0]
            if isinstance(first, dict):
                known += [f"{name}.{inner}" for inner in first]
        return known

    def _column(self, name: str) -> pd.Series[Any]:
        if name in self.table:
            return self.table[name]
        outer, dot, inner = name.partition(".")
        if dot and outer in self.table:
            records = self.table[outer]
            if any(isinstance(record, dict) and inner in record for record in records):
                return pd.Series([_field(record, inner) for record in records])
        said = f"{self.path}: has no column '{name}': {nearest(name, self._known())}"
        raise NoColumnError(said, next(key for key in NAMING if getattr(self.asked, key) == name))

    def _trials(self) -> FloatArray | None:
        if self.asked.trials is None:
            return None
        values = self._column(self.asked.trials)
        trials = numbers(values)
        good = (trials >= 1) & (trials <= MOST_TRIALS) & (trials == np.rint(trials))
        expected = f"{allowed(1, MOST_TRIALS, whole=True)} is expected"
        self._flag(~good, lambda row: f"column '{self.asked.trials}': {values.iloc[row]}: {expected}")
        return np.where(good, trials, 1.0)

    def _lengths(self, name: str) -> FloatArray:
        values = self._column(name)
        if _has_lists(values):
            found = [float(np.mean(value)) if _is_list(value) and len(value) else np.nan for value in values]
            lengths = np.array(found, dtype=np.float64)
        else:
            lengths = numbers(values)
        good = (lengths > 0) & (lengths < 1e9)
        expected = "a mean number of tokens is expected"
        self._flag(~good, lambda row: f"column '{name}': {_short(values.iloc[row])}: {expected}")
        return lengths

    def _ids(self) -> np.ndarray[Any, np.dtype[np.object_]] | None:
        name = identifiers(self.table) if self.asked.id is None else self.asked.id
        if name is None or name == ROWS:
            return None
        values = self._column(name)
        missing = values.isna().to_numpy(dtype=bool)
        if self.asked.id is not None or values.duplicated().any():
            self._flag(missing, lambda row: f"column '{name}': which prompt it is about is expected")
        ids: np.ndarray[Any, np.dtype[np.object_]] = np.array([str(value) for value in values], dtype=object)
        return ids

    # --- cells

    def _cells(self) -> _Cells:
        values = self.values
        if pd.api.types.is_bool_dtype(values.dtype):
            truths = np.ones(len(values), bool)
            return _Cells(values.to_numpy(dtype=np.float64), np.full(len(values), np.nan), ~truths, truths)
        if pd.api.types.is_numeric_dtype(values.dtype):
            found = values.to_numpy(dtype=np.float64, na_value=np.nan)
            none = np.zeros(len(values), bool)
            return _Cells(found, np.full(len(values), np.nan), ~none, none)
        read = [_cell(value) for value in values]
        value, own = np.array([(one.value, one.trials) for one in read], dtype=np.float64).T
        kinds = np.array([one.kind for one in read])
        wrong = kinds == "wrong"
        self._flag(wrong, lambda row: self._said(row, read[row].wrong))
        return _Cells(value, own, kinds == "number", kinds == "truth")

    def _units(
        self, cells: _Cells, trials: FloatArray | None
    ) -> tuple[FloatArray | None, FloatArray | None, FloatArray]:
        """Successes and trials, where there are trials, and rates of every row; bad rows hold anything."""
        value, plain = cells.value.copy(), cells.plain
        unit = self.asked.unit or self._unit(cells, trials)
        if unit == "count" and trials is None and np.isnan(cells.own).all():
            raise InputError(f"{self.path}: unit=count: --trials (trials=COLUMN) says out of how many")
        if unit == "count" and trials is not None:
            good = (value >= 0) & (value <= trials) & (value == np.rint(value))
            tried, hint = trials, self._hint(value[plain], trials)
            self._flag(
                plain & ~good,
                lambda row: self._said(row, f"{allowed(0, tried[row], whole=True)} is expected{hint}"),
            )
            value = np.where(plain, value / trials, value)
        else:
            most = 100.0 if unit == "percent" else 1.0
            good = (value >= 0) & (value <= most)
            hint = "" if unit == "percent" else self._hint(value[plain], trials)
            expected = f"{allowed(0, most)} is expected{hint}"
            self._flag(plain & ~good, lambda row: self._said(row, expected))
            value = np.where(plain, value / most, value)
        value = np.where(self.bad, 0.0, value)
        own = ~np.isnan(cells.own)
        if not own.any() and trials is None:
            return None, None, value
        if trials is None:
            expected = "k/n or a list of rewards is expected, as in other rows"
            self._flag(~own, lambda row: self._said(row, expected))
            trials = np.where(own, cells.own, 1.0)
        else:
            differ = own & (cells.own != trials)
            others = f"column '{self.asked.trials}' has other trials"
            self._flag(differ, lambda row: self._said(row, others))
        successes = np.rint(value * trials)
        apart = np.abs(successes / trials - value) > ROUNDING + 1e-12
        self._flag(
            apart & ~self.bad,
            lambda row: self._said(
                row,
                f"no whole number of successes in {trials[row]:g} trials ({value[row] * trials[row]:.4g}); "
                "without trials it is taken as it is",
            ),
        )
        return successes, trials, successes / trials

    def _unit(self, cells: _Cells, trials: FloatArray | None) -> Unit:
        """What numbers are where nobody says it. Raises InputError where they could be two things."""
        if trials is None:
            return "rate"
        known = np.isfinite(cells.value) & ~self.bad
        if (cells.truths & known & (trials > 1)).any():
            raise InputError(
                f"{self.path}: column '{self.name}' holds true and false, one rollout each, and column "
                f"'{self.asked.trials}' says there were more: leave trials out, or say unit=rate"
            )
        value = cells.value[cells.plain & known]
        whole = bool((value == np.rint(value)).all())
        tried = trials[cells.plain & known]
        if not len(value) or not whole or value.max() < 1:
            return "rate"
        if value.max() > 1:
            if tried.min() >= MANY and value.max() <= 100:
                raise InputError(
                    f"{self.path}: column '{self.name}' may hold counts or percentages: unit=count or "
                    "unit=percent says which"
                )
            return "count"
        written_whole = pd.api.types.is_integer_dtype(self.values.dtype)
        if written_whole and tried.max() > 1 and "rate" not in self.name.lower():
            raise InputError(
                f"{self.path}: column '{self.name}' holds 0 and 1 alone: unit=count says that 1 is one "
                f"success of column '{self.asked.trials}', unit=rate that all of them succeeded"
            )
        return "rate"

    def _hint(self, value: FloatArray, trials: FloatArray | None) -> str:
        """What values above 1 may be."""
        value = value[np.isfinite(value)]
        if not (len(value) and value.max() > 1 and value.min() >= 0):
            return ""
        said = ["--unit percent (unit=percent) if they are percentages"] if value.max() <= 100 else []
        if trials is None and (value == np.rint(value)).all():
            said.append("--trials (trials=COLUMN) if they are counts")
        return f": {', '.join(said)}" if said else ""

    # --- bad rows

    def _said(self, row: int, wrong: str) -> str:
        return f"column '{self.name}': {_short(self.values.iloc[row])}: {wrong}"

    def _flag(self, wrong: BoolArray, say: Callable[[int], str]) -> None:
        """Count rows as bad, and remember what is wrong with the first of all."""
        if not wrong.any():
            return
        row = int(np.argmax(wrong))
        if self.first is None or row < self.first[0]:
            self.first = row, say(row)
        self.bad |= wrong

    def _refuse_bad_rows(self) -> None:
        if self.first is None:
            return
        row, said = self.first
        count, rows = int(self.bad.sum()), len(self.bad)
        where = f"{self.path}: {count:,} of {rows:,} rows cannot be used, the first is row {row + 1}: {said}"
        if count == rows:
            raise InputError(where)
        if not self.asked.drop_bad_rows:
            raise InputError(f"{where}; --drop-bad-rows (drop_bad_rows=true) goes on without them")

    # --- prompts

    def _grouped(
        self,
        successes: FloatArray | None,
        trials: FloatArray | None,
        rates: FloatArray,
        lengths: FloatArray | None,
        ids: np.ndarray[Any, np.dtype[np.object_]] | None,
    ) -> PassRates:
        """Rows of one id become one prompt."""
        if ids is None:
            return PassRates(rates, trials, lengths)
        codes, names = pd.factorize(ids)
        if len(names) == len(ids):
            return PassRates(rates, trials, lengths, names.tolist())
        if successes is None or trials is None:
            rewards = (rates == 0) | (rates == 1)
            if not rewards.all():
                row = int(np.argmax(np.bincount(codes)[codes] > 1))
                raise InputError(
                    f"{self.path}: prompt '{_short(ids[row])}' stands in several rows, as rewards of single "
                    f"rollouts would, but column '{self.name}' has other numbers than 0 and 1: --trials says "
                    f"of how many rollouts, or --id {ROWS} (id={ROWS}) takes each row for a prompt"
                )
            successes, trials = rates, np.ones(len(rates))
        total = np.bincount(codes, weights=trials).astype(np.float64)
        if lengths is not None:
            lengths = np.bincount(codes, weights=lengths * trials) / total
        return PassRates(np.bincount(codes, weights=successes) / total, total, lengths, names.tolist())

    def _check(self, found: PassRates) -> None:
        """Refuse prompts from which nobody could learn anything."""
        rates, path = found.rates, self.path
        if len(rates) < 2:
            raise InputError(f"{path}: holds one prompt: 2 or more are expected")
        if ((rates > 0) & (rates < 1)).any():
            return
        never, always = int((rates == 0).sum()), int((rates == 1).sum())
        many = "nothing can be learned from rollouts that all end alike"
        single = found.trials is None or bool((found.trials == 1).all())
        hint = "; if a row is one rollout, --id (id=COLUMN) says of which prompt" if single else ""
        raise InputError(
            f"{path}: none of {len(rates):,} prompts has 0 < p < 1: {never:,} were never solved and "
            f"{always:,} always, and {many}{hint}"
        )


class _Cell(NamedTuple):
    """Successes and trials that one cell of a file says."""

    kind: Literal["number", "truth", "rate", "wrong"]
    value: float = 0.0
    trials: float = float("nan")
    wrong: str = ""


def _cell(value: Any) -> _Cell:
    if isinstance(value, bool | np.bool_):
        return _Cell("truth", float(value))
    if isinstance(value, int | float | Decimal | np.number):
        return _number(value)
    if _is_list(value):
        return _rewards(list(value))
    if not isinstance(value, str):
        return _Cell("wrong", wrong="a pass rate is expected")
    text = value.strip()
    if text.lower() in ("true", "false"):
        return _Cell("truth", float(text.lower() == "true"))
    if text.startswith("["):
        try:
            return _rewards(json.loads(text))
        except ValueError:
            return _Cell("wrong", wrong="a list of rewards is expected, as [0, 1, 1]")
    successes, slash, trials = text.partition("/")
    if slash:
        return _fraction(successes, trials)
    if text.endswith("%"):
        share = _float(text.removesuffix("%"))
        if not 0 <= share <= 100:
            return _Cell("wrong", wrong="a percentage in [0, 100] is expected")
        return _Cell("rate", share / 100)
    return _number(_float(text))


def _number(value: Any) -> _Cell:
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = np.inf
    return _Cell("number", number) if np.isfinite(number) else _Cell("wrong", wrong="a pass rate is expected")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _fraction(successes: str, trials: str) -> _Cell:
    k, n = _float(successes), _float(trials)
    if not (1 <= n <= MOST_TRIALS and 0 <= k <= n and k == int(k) and n == int(n)):
        expected = f"k of n successes are expected, n at most {MOST_TRIALS}"
        return _Cell("wrong", wrong=expected)
    return _Cell("rate", k / n, n)


def _rewards(values: list[Any]) -> _Cell:
    if not values or len(values) > MOST_TRIALS:
        return _Cell("wrong", wrong=f"1 to {MOST_TRIALS} rewards are expected")
    for value in values:
        if not isinstance(value, bool | int | float | np.bool_ | np.number) or value not in (0, 1):
            return _Cell("wrong", wrong=f"reward {_short(value)}: 0 or 1 is expected")
    return _Cell("rate", float(sum(values)) / len(values), float(len(values)))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _has_lists(values: pd.Series[Any]) -> bool:
    return values.dtype == object and any(map(_is_list, values))


def _kept(values: FloatArray | None, keep: BoolArray) -> FloatArray | None:
    return None if values is None else values[keep]


def _field(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else None


def _short(value: Any) -> str:
    """The text of a cell as it may stand in a message."""
    text = str(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= 60 else text[:57] + "..."
