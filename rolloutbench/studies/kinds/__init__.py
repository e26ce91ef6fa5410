"""The kinds of study, one a file: what it runs, under which description, and how its results are shown.

A new kind is its own file and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rolloutbench.analysis.columns import check_record
from rolloutbench.analysis.results import Results, check_sort
from rolloutbench.cells.store import Manifest, read_manifest
from rolloutbench.optional import load
from rolloutbench.protocol import InputError
from rolloutbench.studies.description import Description, brief

DESCRIPTIONS = {
    "compare": "rolloutbench.studies.kinds.comparison:Comparison",
    "predict": "rolloutbench.studies.kinds.prediction:Prediction",
    "train": "rolloutbench.studies.kinds.training:Training",
}
"""Description of a study, by the command that runs it. Imported when asked for."""
RESULTS = {
    "snapshot": "rolloutbench.studies.kinds.snapshot:SnapshotResults",
    "learning": "rolloutbench.studies.kinds.learning:LearningResults",
    "prediction": "rolloutbench.studies.kinds.prediction:PredictionResults",
    "training": "rolloutbench.studies.kinds.training:TrainingResults",
}
"""Results of a study, by its kind. Imported when asked for."""


def description_of(command: Any) -> type[Description]:
    """The description that a command takes. Raises InputError where no command has this name."""
    if not isinstance(command, str) or command not in DESCRIPTIONS:
        raise InputError(f"study = {brief(command)}: {' or '.join(DESCRIPTIONS)} is expected")
    found: type[Description] = load(DESCRIPTIONS[command])
    return found


def described(config: Mapping[str, Any]) -> Description:
    """The description that a study was recorded with."""
    return description_of(config.get("study", "")).of(config)


def merge_descriptions(configs: Sequence[Mapping[str, Any]]) -> Description:
    """One study of all scenarios and allocators of several. Raises InputError naming what else differs."""
    whole, *others = (described(config).model_dump(exclude_none=True) for config in configs)
    joined = description_of(whole["study"]).joined
    for config in others:
        for key in dict.fromkeys([*whole, *config]):
            before, now = whole.get(key), config.get(key)
            if key in joined:
                whole[key] = list(dict.fromkeys([*(before or []), *(now or [])]))
            elif key == "replicates":
                whole[key] = max(before or 0, now or 0)
            elif before != now and key not in ("title", "question", "sort"):
                raise InputError(f"{key}: {before} and {now}: only studies under the same conditions merge")
    return described(whole)


def read_study(directory: Path) -> Manifest:
    """The study that a directory holds, finished or not. Raises InputError where it holds none."""
    manifest = read_manifest(directory)
    kind, config = manifest.study.get("kind"), manifest.study.get("config")
    if kind not in RESULTS or not isinstance(config, dict) or "command" not in manifest.study:
        raise InputError(f"{directory}: its manifest describes no study that this version knows")
    return manifest


def open_results(directory: Path | str) -> Results:
    """The results that a directory holds. Raises InputError where there are none, or none yet."""
    directory = Path(directory)
    manifest = read_study(directory)
    if not manifest.is_done:
        raise InputError(f"{directory}: its study is not finished; run it again: {manifest.study['command']}")
    check_record(manifest.study, directory)
    kind: type[Results] = load(RESULTS[manifest.study["kind"]])
    check_sort(kind.metrics, manifest.study["sort"], f"{directory}: its manifest is damaged: sort =")
    return kind(directory, manifest.study)
