"""Who won in real training: a table made from the recorded studies of language models, for README.

Better and worse are those whose whole 95% interval is; of all others nothing can be said.
"""

from __future__ import annotations

from pathlib import Path

from recorded import short_answer, study
from situations import SITE

STUDIES = "sorting", "sorting_large", "gcd", "smollm2_addition", "smollm2_siblings", "sorting_trl"
"""Studies that the table has, where they are recorded, by their names under `results/`."""


def table(root: Path) -> str:
    """The table in Markdown, with what its numbers are."""
    names = [name for name in STUDIES if (root / "results" / name / "manifest.json").is_file()]
    commits = {str(study(root, name).record["commit"] or "unknown") for name in names}
    return "\n".join(
        [
            "| really trained | better than equal groups | not told from them | worse |",
            "|---|---|---|---|",
            *(_row(root, name) for name in names),
            "",
            f"[Real runs]({SITE}real_runs.html) on a CPU: area under held-out accuracy over generated "
            "rollouts, as ratio to equal groups of eight, with 95% intervals over seeds. `uniform[divide=2]` "
            f"spends half as much in a step. Recorded at {', '.join(sorted(commits))}. "
            f"[How it measures]({SITE}how_it_measures.html) says what all these numbers mean.",
        ]
    )


def _row(root: Path, name: str) -> str:
    """A study: its title, who is better and worse with intervals, and in between the names of the others."""
    camps = {camp.verdict: camp.members for camp in short_answer(root, name).camps}
    better, worse = (
        "; ".join(f"`{one}` {number}" for one, number in camps.get(verdict, {}).items())
        for verdict in ("better", "worse")
    )
    untold = ", ".join(f"`{one}`" for one in camps.get("even", {}))
    return f"| {study(root, name).record['title']} | {better} | {untold} | {worse} |"
