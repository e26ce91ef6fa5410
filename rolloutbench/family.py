"""The family of allocators as a table: what each does, by what its class says, and where it comes from.

Every column is an attribute of `rolloutbench.protocol.Allocator`. Tests hold these to what the methods do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from rolloutbench.allocators import allocators
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Allocator, Provenance


@dataclass(frozen=True)
class Member:
    """One allocator's line in the family table, in words.

    `form` is "one shot" where counts and weights are fixed before any reward, "stages" where further rollouts
    depend on rewards of the same step, else "one stage": only what is trained on depends on rewards.
    `predictor` is the spec of its predictor, "its own" for a memory of its own, "none" for none. `billed` are
    the rollouts that are paid for and never trained on.
    """

    allocator: str
    form: str
    predictor: str
    goal: str
    hard_budget: str
    chooses_prompts: str
    unbiased: str
    billed: str
    paper: str
    code: str
    licence: str

    @classmethod
    def of(cls, spec: str) -> Member:
        """The line of the allocator that a spec describes. Raises InputError like `allocators.create`."""
        made = allocators.create(spec)
        source = made.provenance or Provenance()
        return cls(
            spec,
            form_of(made),
            _predictor_of(made),
            made.goal or "–",
            _said(made.hard_budget),
            _said(made.chooses_prompts),
            _said(made.unbiased),
            ", ".join(made.discards) or "nothing",
            source.paper or "–",
            source.code or ("–" if made.provenance is None else "none"),
            source.licence or "–",
        )


def form_of(allocator: Allocator) -> str:
    """How often, and before what, an allocator decides: "one shot", "one stage" or "stages"."""
    if allocator.one_shot:
        return "one shot"
    return "stages" if allocator.staged else "one stage"


def _predictor_of(allocator: Allocator) -> str:
    predictor = getattr(allocator, "predictor", None)
    if predictor is not None:
        return predictors.spec_of(predictor)
    of = getattr(allocator, "of", None)
    if of is not None:
        return _predictor_of(of)
    return "its own" if type(allocator).state_dict is not Allocator.state_dict else "none"


def _said(flag: bool) -> str:
    return "yes" if flag else "no"


def members(specs: Iterable[str] | None = None) -> list[Member]:
    """The lines of these allocators; of every method of this package, by name, unless given."""
    return [Member.of(spec) for spec in (allocators.builtin if specs is None else specs)]


def table(specs: Iterable[str] | None = None) -> pd.DataFrame:
    """The family table: one row an allocator, one column an attribute of `Member`."""
    return pd.DataFrame([vars(member) for member in members(specs)])


def sources(specs: Iterable[str] | None = None) -> pd.DataFrame:
    """Where allocators come from: paper, code, licence, files that were read, and what differs on purpose."""
    rows = []
    for spec in allocators.builtin if specs is None else specs:
        said = allocators.create(spec).provenance
        if said is not None:
            code = said.code or "none"
            rows.append(
                (spec, said.paper or "–", code, said.licence or "–", said.file or "–", said.note or "–")
            )
    return pd.DataFrame(rows, columns=["allocator", "paper", "code", "licence", "files", "note"])
