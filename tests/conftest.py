"""What holds for all tests: the same examples everywhere, and no more processes and threads than asked for.

Machines differ in speed, so there is no deadline.
"""

import os
import signal

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # read when numpy is imported
os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # without --jobs no workers, who import everything first

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_configure():
    """A shell that starts the tests in the background has them ignore Ctrl-C, and some are about Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def plots_unsaved(monkeypatch):
    """Studies draw their plots and do not write them, which takes longer than a small study."""
    monkeypatch.setattr(
        "rolloutbench.analysis.plotting.panels.save",
        lambda figure, directory, name, *formats: [directory / name],
    )
