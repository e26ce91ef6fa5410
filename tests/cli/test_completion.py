"""Completion as a shell asks for it: a process with the words so far in its environment."""

import os
import re
import subprocess
import sys
from types import ModuleType

import pytest

from rolloutbench import cli
from rolloutbench.allocators import allocators
from rolloutbench.predictors import predictors
from simulators.scenarios import scenarios


def complete(line, monkeypatch, capsys):
    """What a bash would offer after this line, asked of the program in this process."""
    words = line.split(" ")
    environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    for name, value in {"_ROLLOUTBENCH_COMPLETE": "complete_bash", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["rolloutbench"])
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # or it takes pytest for its name
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    return capsys.readouterr().out.split()


def test_a_shell_is_answered():
    """By a process of its own, as the script that `--install-completion` writes starts it."""
    words = "rolloutbench compare -a vip"
    asked = {"_ROLLOUTBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    code = "import sys; sys.argv = ['rolloutbench']; from rolloutbench import cli; cli.main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "vip" in done.stdout.split()
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("compare -a ", {*allocators.names(), "all"}),
        ("compare --allocator pilot", {"pilot_commit"}),
        ("compare -s ", {*scenarios.names(), "all", "all-snapshots"}),
        ("compare --scenario u-sh", {"u-shaped-v1"}),
        ("compare --estimator ", {"reinforce", "dr_grpo", "rloo", "grpo"}),
        ("compare --sort rollouts_to_9", {"rollouts_to_90"}),
        ("predict -p ", set(predictors.names())),
        ("predict --allocator cob", {"coba"}),
        ("train --task so", {"sorting"}),
        ("train --model ", {"hf", "tiny"}),
        ("train study.toml --trainer p", {"ppo"}),
        ("record -a da", {"dapo"}),
        ("check vip", {"vip"}),
        ("check bet", {"beta"}),
        ("solve --objective ml", set()),
        ("solve --solver a", {"auto"}),
        ("show results --sort rollouts_to_9", {"rollouts_to_90"}),
        ("figures dap", {"dapo"}),
        ("claims vip-g", {"vip-gain"}),
        ("list alloc", {"allocator"}),
        ("comp", {"compare"}),
    ],
)
def test_names_are_offered(line, offered, monkeypatch, capsys):
    found = set(complete(f"rolloutbench {line}", monkeypatch, capsys))
    assert offered <= found
    begun = line.rpartition(" ")[2]
    assert all(name.startswith(begun) for name in found)


def test_the_help_imports_nothing_that_completion_needs():
    """Or every `--help` would pay for it."""
    code = "import sys; sys.argv = ['rolloutbench', '--help']; from rolloutbench import cli; cli.main()"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "rolloutbench.cli.app" in imported
    assert not imported & {"numpy", "pandas", "rolloutbench.allocators", "rolloutbench.cli.completion"}
