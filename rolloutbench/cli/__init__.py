"""The command line: `rolloutbench`, or `python -m rolloutbench`."""

from rolloutbench.cli.entry import main as main
