"""Looks: a rule gives each method the same everywhere, and no two of this package look alike."""

from itertools import combinations

import numpy as np
import pytest
from made_up import CURVES, N_STEPS, line
from matplotlib.colors import to_hex, to_rgb

from rolloutbench.allocators import allocators
from rolloutbench.analysis.plotting.curves import learning_curves
from rolloutbench.analysis.plotting.style import COLOURS, MARKERS, OTHER_COLOURS, Style, looks
from rolloutbench.analysis.yardsticks import is_yardstick, method_of
from rolloutbench.predictors import predictors
from rolloutbench.studies.defaults import DEFAULT_ALLOCATORS

REGISTRIES = pytest.mark.parametrize("methods", [allocators, predictors], ids=["allocators", "predictors"])


@REGISTRIES
def test_no_two_methods_look_alike(methods):
    found = looks(methods.builtin, methods)
    assert len({(look.color, look.linestyle) for look in found.values()}) == len(methods.builtin)
    assert len({(look.color, look.marker) for look in found.values()}) == len(methods.builtin)
    assert {look.marker for look in found.values()} <= set(MARKERS)


@REGISTRIES
def test_no_two_variants_of_a_method_look_alike(methods):
    for name in methods.builtin:
        specs = [name, *(f"{name}[a={number}]" for number in range(10))]
        assert len({look.marker for look in looks(specs, methods).values()}) == len(specs)
        for few in ([*specs[:3], f"{name}[predictor=oracle]"], specs[1:5]):
            assert len({str(look.linestyle) for look in looks(few, methods).values()}) == 4


VARIANTS = [
    *("vip", "vip[predictor=oracle]", "vip[predictor=beta]", "vip[preset=paper]", "vip[predictor=ensemble]"),
    *("dapo", "dapo[oversample=1]", "dapo[oversample=1,carry=true]", "uniform", "uniform[divide=2]"),
]


def test_a_variant_looks_alone_as_it_does_among_others():
    together = looks(VARIANTS)
    assert {spec: looks([spec])[spec] for spec in VARIANTS} == together


LINEAR = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
"""From linear sRGB to CIE XYZ (D65)."""
SEEN = {
    "all colours": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""What readers see of linear sRGB: Machado, Oliveira and Fernandes 2009, severity 1."""


def linear(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = LINEAR @ np.clip(rgb, 0, 1) / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def apart(one, other):
    """CIEDE2000, after Sharma, Wu and Dalal 2005."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean**7 / (mean**7 + 25**7))
    c1, c2 = np.hypot(stretch * a1, b1), np.hypot(stretch * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2)
    h = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    lightness, c = (l1 + l2) / 2, (c1 + c2) / 2
    cos = [np.cos(np.radians(angle)) for angle in (h - 30, 2 * h, 3 * h + 6, 4 * h - 63)]
    t = 1 - 0.17 * cos[0] + 0.24 * cos[1] + 0.32 * cos[2] - 0.20 * cos[3]
    by_l = (l2 - l1) / (1 + 0.015 * (lightness - 50) ** 2 / np.sqrt(20 + (lightness - 50) ** 2))
    by_c, by_h = (c2 - c1) / (1 + 0.045 * c), hue / (1 + 0.015 * c * t)
    rotation = -2 * np.sqrt(c**7 / (c**7 + 25**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    return np.sqrt(by_l**2 + by_c**2 + by_h**2 + rotation * by_c * by_h)


def test_the_distance_is_that_of_its_authors():
    """Pairs 1 and 7 of their table."""
    assert apart((50, 2.6772, -79.7751), (50, 0, -82.7485)) == pytest.approx(2.0425, abs=1e-4)
    assert apart((50, 0, 0), (50, -1, 2)) == pytest.approx(2.3669, abs=1e-4)


@pytest.mark.parametrize("readers", SEEN)
def test_readers_with_and_without_colour_blindness_tell_colours_apart(readers):
    seen = {color: lab(SEEN[readers] @ linear(color)) for color in ("0", "0.62", *COLOURS, *OTHER_COLOURS)}
    for one, other in combinations(seen, 2):
        least = 7.8 if {one, other} & set(OTHER_COLOURS) else 11.9
        assert apart(seen[one], seen[other]) >= least, (one, other)


@pytest.mark.parametrize("color", [*COLOURS, *OTHER_COLOURS])
def test_no_colour_is_pale(color):
    assert 1.05 / (LINEAR[1] @ linear(color) + 0.05) >= 2.4


def test_everybody_in_the_default_study_has_a_look_of_its_own():
    found = looks(DEFAULT_ALLOCATORS)
    assert len({(look.color, look.linestyle) for look in found.values()}) == len(DEFAULT_ALLOCATORS)
    assert len({look.color for look in found.values()}) == len(
        {method_of(spec) for spec in DEFAULT_ALLOCATORS}
    )
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
