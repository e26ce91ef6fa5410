"""Studies that are described beside the code that runs them: each can be built as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

import real_runs
from rolloutbench.studies.kinds.training import Training

FOLDER = Path(real_runs.__file__).parent
FILES = sorted(FOLDER.rglob("*.toml"))


@pytest.mark.torch
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_study_is_what_its_opening_says(path):
    """The number of its seeds in words, and the command that runs it, where it says one."""
    said = path.read_text()
    study = Training.of({}, path).build()
    words = {3: "three seeds", 5: "five seeds", 8: "eight seeds", 12: "twelve seeds"}
    assert words[study.replicates] in said
    assert len(study.cells(Path("out"))) == study.replicates * (len(study.allocators) * len(study.rates) + 1)
    if "studies" in path.parts:
        assert f"rolloutbench train {path.relative_to(FOLDER.parent)} " in said
