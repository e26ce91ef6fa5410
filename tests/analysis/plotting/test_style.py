"""Looks: a rule gives each method the same everywhere, and no two of this package look alike."""

import pytest
from made_up import CURVES, N_STEPS, line
from matplotlib.colors import to_hex

from rolloutbench.allocators import allocators
from rolloutbench.analysis.plotting.curves import learning_curves
from rolloutbench.analysis.plotting.style import COLOURS, MARKERS, OTHER_COLOURS, Style, looks
from rolloutbench.analysis.yardsticks import is_yardstick
from rolloutbench.predictors import predictors
from rolloutbench.studies.defaults import DEFAULT_ALLOCATORS

REGISTRIES = pytest.mark.parametrize("methods", [allocators, predictors], ids=["allocators", "predictors"])


@REGISTRIES
def test_no_two_methods_look_alike(methods):
    specs = [spec for name in methods.builtin for spec in (name, f"{name}[a=1]", f"{name}[a=2]")]
    found = looks(specs, methods)
    assert len({(look.color, look.linestyle) for look in found.values()}) == len(specs)
    assert len({(look.color, look.marker) for look in found.values()}) == len(specs)
    assert {look.marker for look in found.values()} <= set(MARKERS)


def test_everybody_in_the_default_study_has_a_look_of_its_own():
    found = looks(DEFAULT_ALLOCATORS)
    assert len({(look.color, look.linestyle) for look in found.values()}) == len(DEFAULT_ALLOCATORS)
    assert found["uniform"] == ("#000000", "o", "-")


def test_a_look_depends_neither_on_order_nor_on_other_methods():
    one = looks(["vip[predictor=oracle]", "uniform", "vip[predictor=beta]"])
    other = looks(["dapo", "vip[predictor=beta]", "vip[predictor=oracle]"])
    assert one["vip[predictor=beta]"] == other["vip[predictor=beta]"]
    drawn = line(learning_curves(CURVES, N_STEPS, "rollouts", "").axes[0], "dapo")
    assert to_hex(drawn.get_color()) == looks(["dapo"])["dapo"].color.lower()


def test_variants_share_the_colour_of_their_method():
    assert (
        len({look.color for look in looks(["dapo", "dapo[carry=true]", "dapo[oversample=1]"]).values()}) == 1
    )


def test_methods_of_other_packages_have_colours_of_their_own():
    found = looks(["of_another_package", "of_another_package[a=1]", "vip"])
    assert found["of_another_package"].color in OTHER_COLOURS
    assert found["of_another_package"] == looks(["of_another_package"])["of_another_package"]
    assert not set(OTHER_COLOURS) & set(COLOURS)


def test_what_is_no_method_is_given_its_style():
    found = looks(["vip", "early"], marked={"early": Style("#123456", 2)})
    assert found["early"] == ("#123456", MARKERS[2], "-")
    assert found["vip"] == looks(["vip"])["vip"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("uniform", False),
        ("uniform[divide=2]", True),
        ("effective_count", True),
        ("permuted[of=vip]", True),
        ("weighted_uniform", True),
        ("random", True),
        ("vip", False),
        ("vip[predictor=oracle]", True),
        ("mopps[predictor=ensemble[base=noisy_oracle[std=0.2]]]", True),
        ("oracle", True),
        ("gp", False),
        ("pilot_commit[order=random]", False),  # its order, not the allocator of that name
        ("of_another_package[a=1]", False),
        ("not a spec[", False),
    ],
)
def test_yardsticks_are_what_their_classes_say(spec, expected):
    assert is_yardstick(spec) is expected
