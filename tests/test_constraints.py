"""The constraints pin everything that the tests install, whatever it was that asked for it."""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def plain(name):
    return re.sub(r"[-_.]+", "-", name.lower())


def needed(name, extras, seen):
    """Names of all that a distribution needs with these extras, and what those need."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    for line in importlib.metadata.requires(name) or []:
        wanted = Requirement(line)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": one}) for one in ("", *extras)):
            needed(wanted.name, tuple(sorted(wanted.extras)), seen)


def test_every_dependency_has_one_exact_version():
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [line.partition("==")[::2] for line in lines if line]
    assert all(version and not set(version) & set("*<>,") for _, version in pins)
    names = [plain(name) for name, _ in pins]
    assert len(names) == len(set(names))
    seen = set()
    needed("rolloutbench", ("test",), seen)
    building = {"rolloutbench", "setuptools"}
    assert {plain(name) for name, _ in seen} - building <= set(names)
