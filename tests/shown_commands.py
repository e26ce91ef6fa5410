"""Commands that README and the pages show, run as a reader would run them, but small."""

import re
from pathlib import Path

from command_line import run

ROOT = Path(__file__).parents[1]
STUDY = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(), re.DOTALL).group(1)
OWN = re.search(
    r"```python\n(.*?)```", (ROOT / "docs/tutorials/own_allocator.md").read_text(), re.DOTALL
).group(1)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(path, kind):
    """The boxes of one kind of code in a Markdown file."""
    return [code for found, code in BLOCK.findall(Path(path).read_text()) if found == kind]


def commands(path):
    """The lines `rolloutbench ...` in the boxes of a Markdown file."""
    return re.findall(r"^rolloutbench .*$", "".join(blocks(path, "sh")), re.MULTILINE)


def run_small(line, folder, monkeypatch):
    """Run a command as it is shown, with the files that it speaks of, on less."""
    command = line.removeprefix("rolloutbench ").partition("#")[0]
    monkeypatch.chdir(folder)
    Path("results").symlink_to(ROOT / "results")
    Path("study.toml").write_text(STUDY)
    Path("mine.py").write_text(OWN)
    Path("mine.csv").write_text("pass_rate,n\n" + "0.25,8\n0.5,8\n1.0,8\n0,8\n" * 2)
    Path("mine.jsonl").write_text('{"rewards": [0, 1, 0]}\n{"rewards": [1, 1, 1]}\n' * 128)
    rows = (f'{{"step": {n // 8}, "prompt": "q{n // 4}", "reward": {n % 3 % 2}}}' for n in range(64))
    Path("rewards.jsonl").write_text("\n".join(rows))
    if command.startswith("compare"):  # the same, but small
        command = (
            command.replace("-s all", "-s mid-broad-v1").replace(" --quick", "") + " --quick --prompts 8"
        )
        command += "" if "--snapshot" in command else " --steps 5"
        command = command.replace(" --steps 5", "") if "replay:" in command else command
    if command.startswith("recommend") and "--like" not in command:
        command += " --quick --prompts 8 --steps 5"
    if command.startswith(("train", "record")):  # a far smaller model
        Path("real_runs").symlink_to(ROOT / "real_runs")
        command += " --task sorting[longest=4,pool_size=80,held_out=16] --model tiny[width=32,warmup_steps=5]"
        monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(folder / "cache"))
    if command.startswith("train"):
        command += " --steps 2 --prompts 8 --group-size 2 --seeds 2"
    if command.startswith("record"):
        command += " --pool 8 --rollouts 8 --at-steps 0,2 --dimensions 64"
    if command.startswith("figures"):
        command = (
            command.replace(" --quick", "").replace("figures vip ", "figures vip_fig2 vip_fig6 ") + " --quick"
        )
    if command.startswith("predict"):
        command = command.replace("u-shaped-v1", "u-shaped-v1[steps=5,pool_size=128]")
    done = run(command)
    assert done.code == 0, done.err
    assert done.out
