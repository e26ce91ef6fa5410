"""Your situation, what to use: a table made from what is recorded, for README and for the site.

A situation is a view of the leaderboard. Who is named is the best of the methods that were measured in all of
its scenarios and whose whole interval is better than uniform's; those whose intervals overlap with its own
cannot be told from it. A situation that nothing was recorded of is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rolloutbench.analysis.leaderboard import Row, Standing, View, first_view, rows, standings
from rolloutbench.analysis.recommendation import best_of
from rolloutbench.analysis.results import Results

SITE = "https://rolloutbench.github.io/rolloutbench/"
MOST_NAMED = 3
"""Methods that are named as not told from the best; of further ones the number is said."""


@dataclass(frozen=True)
class Situation:
    """What somebody may say of a training run, and the views that show it: the first that has rows counts.

    A view without a condition is under the one that most was measured under, unless `anywhere` is set.
    """

    words: str
    views: tuple[View, ...]
    anywhere: bool = False


NOISY = "u-shaped-adam-v1[false_positive=0.3,false_negative=0.1]"
SHORT = "u-shaped-adam-v1[noise_ratio=0.3,steps=60]"
MILLION = "u-shaped-adam-v1[dimension=8,pool_size=1000000]"
SITUATIONS = (
    Situation("I know nothing yet", (View(),)),
    Situation("Many groups are dead: all right or all wrong", (View(dead="high"),)),
    Situation("Few groups are dead", (View(dead="low"),)),
    Situation("At most one epoch: no prompt has a history", (View(epochs="one"),)),
    Situation("At most one epoch, a million prompts", (View(scenario=MILLION, target="area"),), True),
    Situation("A small pool, seen very often", (View(epochs="many"),)),
    Situation("Answers of a few tokens: little noise", (View(scenario=SHORT, target="area"),), True),
    Situation("The verifier errs: 30% of wrong answers pass", (View(scenario=NOISY, target="area"),), True),
    Situation("Some rollouts are lost", (View(scenario="lossy-v1"),)),
    Situation("Rollouts are some steps old", (View(scenario="stale-v1"),)),
    Situation("Seconds are the price, not rollouts", (View(price="seconds"),)),
)


@dataclass(frozen=True)
class Advice:
    """What a situation's standings say: the best method, if any is better than uniform, and its equals."""

    words: str
    view: View
    best: Standing | None
    equals: tuple[str, ...]

    @property
    def line(self) -> str:
        """The row of the table: situation, method, price with its interval and a link to its view, equals."""
        shown = f"({SITE}leaderboard.html{self.view.address})"
        if self.best is None:
            return f"| {self.words} | equal groups: nobody is clearly better | [1]{shown} | |"
        digits = 3 if self.view.target == "area" else 2
        estimate, low, high = (f"{part:.{digits}f}" for part in self.best.ratio)
        what = "times the area" if self.view.target == "area" else f"of the {self.view.price}"
        named = ", ".join(f"`{name}`" for name in self.equals[:MOST_NAMED])
        more = len(self.equals) - MOST_NAMED
        named += f" and {more} more" if more > 0 else ""
        number = f"{estimate} [{low}, {high}] {what}"
        return f"| {self.words} | `{self.best.allocator}` | [{number}]{shown} | {named} |"


def advices(found: Sequence[Row]) -> Iterator[Advice]:
    """What is recorded of each situation; those without rows are left out."""
    usual = first_view(found).condition
    for situation in SITUATIONS:
        for view in situation.views:
            asked = view if situation.anywhere else replace(view, condition=usual)
            stands = standings(found, asked)
            if stands:
                yield advice(situation.words, asked, stands)
                break


def advice(words: str, view: View, stands: Sequence[Standing]) -> Advice:
    """Who is best of the methods in a view, and who cannot be told from it."""
    return Advice(words, view, *best_of(stands))


def table(studies: Sequence[Results]) -> str:
    """The table in Markdown, and the condition that it holds under."""
    found = rows(studies)
    told = list(advices(found))
    used = {row.study for row in found for one in told if one.view.has(row)}
    commits = sorted({str(studies[place].record["commit"] or "unknown") for place in used})
    usual = first_view(found).condition
    return "\n".join(
        [
            "| your situation | use | against equal groups | not told from it |",
            "|---|---|---|---|",
            *(one.line for one in told),
            "",
            f"Simulated training, {usual}. Ratios with 95% intervals: rollouts or seconds until 90% of the "
            "gain (less is better), or area, the mean gain on the way (more is better). The best of many is "
            f"flattered, and [`frontier`]({SITE}frontier.html) is our own: it was tuned in seven of these "
            "scenarios. Each number leads to everybody's. "
            f"Recorded at {', '.join(commits)}.",
        ]
    )
