"""Figures from a study that is run here, kept small, and read again."""

import shutil

import pandas as pd
import pytest
from command_line import run as command

from paper_figures import gallery, sources
from paper_figures.drawing import Rows
from paper_figures.series import compared
from paper_figures.sources import Redrawn, Sources, published
from rolloutbench.protocol import InputError
from rolloutbench.studies.kinds import open_results

STUDY = """study = "compare"
replicates = 16
scenarios = ["small-batch-v1[pool_size=64]"]
allocators = ["vip[predictor=beta]", "dapo"]
"""
SCENARIO = "small-batch-v1[pool_size=64]"


def areas(found):
    return compared(
        found.values("mine", "area_over_rollouts"), "area_over_rollouts", panels={SCENARIO: "here"}
    )


MINE = Redrawn("mine_fig1", "Fig. 1: areas", areas, Rows("ratio to uniform", level=1.0), ("mine",))


@pytest.fixture
def described(tmp_path, monkeypatch):
    """A study and a figure of it that only this test knows."""
    (tmp_path / "described").mkdir()
    (tmp_path / "described" / "mine.toml").write_text(STUDY)
    for module in (sources, gallery):
        monkeypatch.setattr(module, "STUDIES", tmp_path / "described")
    monkeypatch.setitem(gallery.FIGURES, "mine_fig1", MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_run_draw_keep_and_draw_again(described, monkeypatch):
    monkeypatch.setattr("paper_figures.claims.claims_in", dict)
    done = command("figures mine_fig1 --run --quick --keep kept --out out")
    assert (done.code, "mine_fig1.png" in done.out) == (0, True), done.err
    out, kept = described / "out", described / "kept" / "mine"
    assert {path.name for path in out.iterdir()} >= {
        "mine_fig1.png",
        "mine_fig1.pdf",
        "mine_fig1.csv",
        "README.md",
    }
    drawn = pd.read_csv(out / "mine_fig1.csv")
    assert drawn.x.tolist() == ["uniform", "vip[predictor=beta]", "dapo"]
    assert (drawn.low <= drawn.value).all()
    assert open_results(out / "studies" / "mine").record["steps"] == {SCENARIO: gallery.QUICK_STEPS}

    # What was kept is what was asked for, and enough to draw it again.
    names = {
        "manifest.json",
        "study.toml",
        *(f"{n}.parquet" for n in ("summary", "ranking", "per_replicate")),
    }
    assert {path.name for path in kept.iterdir()} == names
    assert set(pd.read_parquet(kept / "per_replicate.parquet").metric) == {"area_over_rollouts"}
    again = MINE.read_from(Sources(described / "kept"))
    pd.testing.assert_frame_equal(again, drawn, rtol=1e-5)
    done = command("figures mine_fig1 --results kept --out again")
    assert done.code == 0, done.err
    assert (described / "again" / "mine_fig1.csv").read_bytes() == (out / "mine_fig1.csv").read_bytes()
    assert (described / "again" / "mine_fig1.png").read_bytes() == (out / "mine_fig1.png").read_bytes()

    # A finished study is not run again.
    shutil.rmtree(described / "again")
    done = command("figures mine_fig1 --run --quick --out out")
    assert done.code == 0
    assert "10 of 10 cells are finished already" in done.err

    # What was not kept is missed by name.
    with pytest.raises(InputError, match="mine: its per_replicate has no column tokens"):
        Sources(described / "kept").table("mine", "per_replicate", ["tokens"])
    with pytest.raises(InputError, match="has no table 'curves'"):
        Sources(described / "kept").curves("mine", "rollouts")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("figures vip_fig22", "no figure 'vip_fig22'"),
        ("figures mine_fig1 --results nowhere", "nowhere/mine: no such study; --run runs it"),
        (
            "figures mine_fig1 --results described --run",
            "--results described: goes without --run",
        ),
        (
            "figures vip_fig2 --out described/mine.toml",
            "--out described/mine.toml: cannot be made",
        ),
        (
            "figures vip_fig2 --keep kept --results kept",
            "--keep kept: the studies are read from",
        ),
        ("figures vip_fig2 --keep described/mine.toml", "--keep described/mine.toml: cannot be made"),
        ("claims nobody", "no claim 'nobody'"),
    ],
)
def test_bad_input_is_one_line(described, line, named):
    done = command(line)
    assert done.code == 2
    (said,) = [line for line in done.err.splitlines() if "error" in line]
    assert named in said


def test_published_rows_have_their_source():
    table = published("vip", "fig3")
    assert set(table.method) == {"gaussian_process", "moving_average", "ridge"}
    assert table[(table.setting == "Qwen2.5-Math-1.5B") & (table.x == 3)].value.iloc[0] == 0.0052
    with pytest.raises(KeyError, match="nothing published is known of vip fig99"):
        published("vip", "fig99")
