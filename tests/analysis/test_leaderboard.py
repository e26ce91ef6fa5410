"""The leaderboard's rows and standings: the summaries' own numbers, and the stated rules of a view."""

import json
import re

import numpy as np
import pytest
from command_line import run

from rolloutbench.analysis import leaderboard
from rolloutbench.analysis.leaderboard import Row, View, first_view, rows, standings
from rolloutbench.analysis.statistics import Estimate
from rolloutbench.protocol import InputError
from rolloutbench.studies.kinds import open_results
from simulators.conditions import TRAINERS
from simulators.scenarios import LearningScenario, scenarios


def row(allocator, scenario="a-v1", estimate=1.0, half=0.1, **about):
    ratio = {"rollouts_to_90": Estimate(estimate, estimate - half, estimate + half)}
    given = {"condition": "c", "epochs": 5.0, "dead": 0.5, "replicates": 16, "study": 0, "ratios": ratio}
    return Row(allocator, scenario, **given | about)


def test_rows_are_the_summary(studies):
    results = open_results(studies["learning"])
    found = rows([results])
    assert {(one.allocator, one.scenario) for one in found} == set(
        results.summary[["allocator", "scenario"]].itertuples(index=False, name=None)
    )
    for one in found:
        for metric, ratio in one.ratios.items():
            recorded = results.of_metric(f"tuned_{metric}", one.scenario).loc[one.allocator]
            assert ratio == (recorded.ratio, recorded.ratio_low, recorded.ratio_high)
        assert one.condition.endswith(", own best rates")


def test_epochs_are_those_of_the_scenario(studies):
    for one in rows([open_results(studies["learning"])]):
        made = scenarios.create(one.scenario)
        assert isinstance(made, LearningScenario)
        assert one.epochs == pytest.approx(made.epochs * 6 / made.steps)  # the study has 6 steps


def test_other_studies_are_refused(studies):
    with pytest.raises(InputError, match=r"study of snapshot: training runs are expected"):
        rows([open_results(studies["snapshot"])])


def test_of_two_studies_the_one_with_more_replicates_counts(studies):
    results = open_results(studies["learning"])
    assert [one.study for one in rows([results, results])] == [0] * len(rows([results]))


def test_the_best_stands_first_by_the_mean_of_its_ratios():
    found = [row("x", "a-v1", 0.8), row("x", "b-v1", 0.6), row("y", "a-v1", 0.85), row("y", "b-v1", 0.85)]
    best, second = standings(found, View())
    assert (best.allocator, second.allocator) == ("x", "y")
    assert best.ratio == pytest.approx((0.7, 0.6, 0.8))
    assert (best.verdict, second.verdict) == ("better", "better")
    assert standings([row("x", estimate=1.05)], View())[0].verdict == "even"


def test_who_lacks_a_scenario_stands_behind_all_that_lack_none():
    found = [row("x", "a-v1", 0.2), row("y", "a-v1", 0.9), row("y", "b-v1", 1.5)]
    assert [(one.allocator, one.scenarios, one.most) for one in standings(found, View())] == [
        ("y", 2, 2),
        ("x", 1, 2),
    ]


@pytest.mark.parametrize(
    ("view", "kept"),
    [
        (View(epochs="one"), {"epochs": 1.0}),
        (View(epochs="few"), {"epochs": 1.01}),
        (View(epochs="many"), {"epochs": 10.5}),
        (View(dead="low"), {"dead": 0.0}),
        (View(dead="middle"), {"dead": 0.6}),
        (View(dead="high"), {"dead": 0.61}),
        (View(condition="d"), {"condition": "d"}),
        (View(scenario="a-v1[steps=2]"), {"scenario": "a-v1[steps=2]"}),
    ],
)
def test_a_view_keeps_what_it_asks_for_and_no_more(view, kept):
    away = row("x", epochs=None if view.epochs else 5.0, dead=None if view.dead else 0.5)
    assert [one.allocator for one in standings([away, row("y", **kept)], view)] == ["y"]


def test_variants_of_scenarios_are_only_seen_by_name():
    assert standings([row("x", "a-v1[steps=2]")], View()) == []


def test_every_value_falls_into_one_choice_of_epochs_and_of_dead_groups():
    for choices, values in (
        (leaderboard.EPOCHS, (0.01, 1, 9, 500)),
        (leaderboard.DEAD, np.linspace(0, 1, 21)),
    ):
        for value in values:
            assert sum(leaderboard._within(choices, name, value) for name in choices) == 1


def test_the_page_opens_where_most_was_measured():
    found = [row("x", condition="d"), row("y"), row("z"), row("z", "a-v1[steps=2]", condition="e")]
    assert first_view(found) == View(condition="c")
    usual = f"{leaderboard.USUAL}, own best rates"
    assert first_view([*found, row("x", condition=usual)]) == View(condition=usual)
    assert leaderboard.USUAL == TRAINERS
    variants = [row("x", "a-v1[steps=2]"), row("x", "b-v1[steps=3]"), row("y", "b-v1[steps=3]")]
    assert first_view(variants) == View(condition="c", scenario="b-v1[steps=3]")


def test_the_address_of_a_view():
    view = View(condition="rloo-prompt-sgd, one rate", price="seconds")
    assert view.address == "#condition=rloo-prompt-sgd%2C+one+rate&price=seconds&target=90"
    assert view.metric == "seconds_to_90"
    assert View(target="area").metric == "area_over_rollouts"


def test_the_command_writes_a_page_whose_data_is_escaped(studies, tmp_path):
    done = run(f"leaderboard {studies['learning']} --out {tmp_path / 'new' / 'page.html'}")
    assert done.code == 0, done.err
    page = (tmp_path / "new" / "page.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["studies"][0]["command"] == open_results(studies["learning"]).record["command"]
    assert "<" not in re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    refused = run(f"leaderboard {studies['prediction']} --out {tmp_path / 'page.html'}")
    assert refused.code == 2
    assert "training runs are expected" in refused.err
