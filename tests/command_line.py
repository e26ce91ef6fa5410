"""Runs the command line inside this process."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
from typing import NamedTuple
from unittest import mock

import pytest

from rolloutbench import cli


class Output(NamedTuple):
    """What a command left: exit code, stdout and stderr."""

    code: object
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def run(command: str) -> Output:
    """Run `rolloutbench COMMAND` here."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["rolloutbench", *shlex.split(command, comments=True)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        cli.main()
    return Output(end.value.code, out.getvalue(), err.getvalue())
