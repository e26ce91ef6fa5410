"""The rule for verdicts, and the claims."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_figures.claims import Claim, Measurement, claims_in, judge, judge_all, supports
from paper_figures.gallery import FIGURES
from paper_figures.sources import STUDIES, Sources
from rolloutbench.analysis.metrics import METRICS
from rolloutbench.analysis.statistics import Interval
from rolloutbench.protocol import InputError

ROOT = Path(__file__).parents[2]
TOLD = {"paper": "P", "where": "Table 1", "says": "more", "published": "2x", "why": "because"}


class Fixed(Claim):
    """A claim whose measurement is given: conditions as (low, high), and their mean."""

    conditions: list[tuple[float, float]]
    mean: tuple[float, float] = (0.0, 0.0)

    def under(self, sources):
        return []

    def measure(self, sources):
        low, high = np.array(self.conditions).T
        middle = sum(self.mean) / 2
        return Measurement(Interval((low + high) / 2, low, high), Interval(middle, *self.mean))


def verdict(conditions, mean=(1.2, 1.3), **rule):
    claim = Fixed(**TOLD, study="s", allocator="a", metric="m", conditions=conditions, mean=mean, **rule)
    found = judge("name", claim, Sources())
    return found.verdict, found.support


@pytest.mark.parametrize(
    ("conditions", "rule", "expected"),
    [
        ([(1.1, 1.3), (1.2, 1.4)], {"above": 1}, ("reproduced", 2)),
        ([(1.1, 1.3), (0.9, 1.4)], {"above": 1}, ("partly", 1)),
        ([(0.8, 1.3), (0.9, 1.4)], {"above": 1}, ("not", 0)),
        ([(0.5, 0.6)], {"above": 1}, ("not", 0)),
        ([(0.5, 0.6)], {"below": 1}, ("reproduced", 1)),
        ([(1.1, 1.3), (1.2, 1.4)], {"above": 1, "within": [1.3, 2]}, ("reproduced", 2)),
        ([(1.1, 1.3), (1.2, 1.4)], {"above": 1, "within": [1.4, 2]}, ("partly", 2)),  # another size
        ([(1.1, 1.3), (2.2, 2.4)], {"within": [1.25, 2]}, ("partly", 1)),
        ([(1.1, 1.3), (1.2, 2.4)], {"within": [1.25, 2]}, ("reproduced", 2)),
        ([(1.1, 1.3)], {"within": [0.5, 1]}, ("not", 0)),
        ([(1.1, 1.3)], {"above": 1, "below": 1.2}, ("not", 0)),
    ],
)
def test_the_rule(conditions, rule, expected):
    assert verdict(conditions, **rule) == expected


ENDS = st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted).map(tuple)


@given(st.lists(ENDS, min_size=1, max_size=5), st.floats(-5, 5))
def test_above_and_below_exclude_each_other_and_mirror(conditions, than):
    low, high = np.array(conditions).T
    interval, mirrored = Interval(low, low, high), Interval(-low, -high, -low)
    above = supports(Claim(**TOLD, study="s", allocator="a", metric="m", above=than), interval)
    below = supports(Claim(**TOLD, study="s", allocator="a", metric="m", below=than), interval)
    assert not (above & below).any()
    assert (
        above == supports(Claim(**TOLD, study="s", allocator="a", metric="m", below=-than), mirrored)
    ).all()


def test_what_nothing_tests_has_no_verdict():
    found = judge("name", Claim(**TOLD), Sources())
    assert (found.verdict, found.ours, found.as_json()["command"]) == ("not testable here", "–", None)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('study = "s"', "a study goes with an allocator and a metric"),
        ('figure = "vip_fig22"\nabove = 1', "figure = vip_fig22"),
        ('figure = "vip_fig2"', "above, below or within"),
        ("colour = 1", "colour"),
    ],
)
def test_a_wrong_claim_is_named(tmp_path, text, named):
    path = tmp_path / "claims.toml"
    told = "\n".join(f'{key} = "{value}"' for key, value in TOLD.items())
    path.write_text(f"[bad-claim]\n{told}\n{text}\n")
    with pytest.raises(InputError, match="bad-claim: .*" + named):
        claims_in(path)


CLAIMS = claims_in()


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_can_be_run_again(name):
    claim = CLAIMS[name]
    assert 10 < len(claim.why) < 300
    if claim.study is not None:
        assert (STUDIES / f"{claim.study}.toml").exists() or (ROOT / "results" / claim.study).is_dir()
        assert claim.metric in METRICS
    elif claim.figure is not None:
        assert claim.figure in FIGURES


def test_the_headline_claims_are_there():
    count = {
        paper: sum(name.partition("-")[0] == paper for name in CLAIMS)
        for paper in ("vip", "ar3po", "pilot_commit", "dapo")
    }
    assert count["vip"] >= 6 + 3
    assert count["ar3po"] >= 5
    assert count["pilot_commit"] >= 5
    assert count["dapo"] >= 2


class Given:
    """Sources of one metric: two scenarios, eight replicates."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.cube = {name: rng.gamma(4.0, size=(2, 8)) for name in ("uniform", "vip")}

    def values(self, study, metric):
        return pd.DataFrame(
            [
                {
                    "scenario": f"s{s}",
                    "allocator": name,
                    "replicate": r,
                    "metric": metric,
                    "value": cube[s, r],
                }
                for name, cube in self.cube.items()
                for s in range(2)
                for r in range(7, -1, -1)  # in any order
            ]
        )


@pytest.mark.parametrize(("how", "scale"), [("ratio", 1), ("difference", -100), ("value", 10)])
def test_what_a_study_says_against_plain_loops(how, scale):
    sources = Given()
    ours, theirs = sources.cube["vip"], sources.cube["uniform"]
    claim = Claim(**TOLD, study="s", allocator="vip", metric="m", how=how, scale=scale, above=0)
    conditions, mean = claim.measure(sources)
    by_scenario = {
        "ratio": [ours[s].mean() / theirs[s].mean() for s in range(2)],
        "difference": [np.mean([ours[s, r] - theirs[s, r] for r in range(8)]) for s in range(2)],
        "value": [ours[s].mean() for s in range(2)],
    }[how]
    assert conditions.estimate == pytest.approx([scale * value for value in by_scenario])
    assert mean.estimate == pytest.approx(scale * np.mean(by_scenario))
    assert (conditions.low < conditions.estimate).all()
    assert (conditions.estimate < conditions.high).all()
    assert mean.low < mean.estimate < mean.high
    one = Claim(
        **TOLD, study="s", allocator="vip", metric="m", how=how, scale=scale, above=0, scenarios=["s1"]
    )
    alone = one.measure(sources)
    assert [float(part[0]) for part in alone.conditions] == pytest.approx(
        [float(part) for part in alone.mean]
    )
    assert alone.conditions.estimate[0] == pytest.approx(conditions.estimate[1])


def test_every_verdict_says_what_it_was_tested_under():
    sources = Sources(quick=True)
    for one in judge_all({name: claim for name, claim in claims_in().items() if claim.study}, sources):
        config = sources.results(one.claim.study).record["config"]
        assert one.under.startswith(f"{config['estimator']}, mean over {config['aggregation']}s")
        assert one.as_json()["under"] == one.under
