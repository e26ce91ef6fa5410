import dataclasses
import importlib.metadata
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.dataclasses import dataclass

from rolloutbench.allocators import allocators
from rolloutbench.allocators.uniform import Uniform
from rolloutbench.errors import NameTaken
from rolloutbench.objectives import objectives
from rolloutbench.predictors import predictors
from rolloutbench.predictors.beta import Beta
from rolloutbench.protocol import InputError
from rolloutbench.registry import PARAMETERS, Registry, parse_spec, split_outside_brackets
from simulators.scenarios import scenarios


@dataclass(config=PARAMETERS)
class Thing:
    """A thing for tests."""

    size: int = 1
    flag: bool = False
    name: str | None = "x"


def test_specs_nest():
    made = allocators.create("permuted[of=vip[predictor=beta[discount=0.5, prior_successes=2], lower=4]]")
    assert made.of.lower == 4
    assert made.of.upper is None
    assert made.of.predictor == Beta(prior_successes=2.0, discount=0.5)


def test_parameters_are_typed():
    things = Registry("thing", {"thing": Thing})
    assert things.create("thing[size=7,flag=true,name=none]") == Thing(7, True, None)
    assert things.create(" thing ") == things.create("thing[]") == Thing()
    ready = Thing(3)
    assert things.create(ready) is ready


def test_ready_objects_take_parameters_too():
    changed = scenarios.create("snapshot-u-shaped-v1[visits=4,difficulty=beta[alpha=2,beta=3]]")
    assert changed.visits == 4
    assert changed.difficulty.alpha == 2
    assert scenarios.create("snapshot-u-shaped-v1").visits == 1
    with pytest.raises(InputError, match="no parameter 'summary'"):
        scenarios.create("snapshot-u-shaped-v1[summary=mine]")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unifrom", "unknown allocator 'unifrom': did you mean uniform"),
        ("MoPPS", "unknown allocator 'MoPPS': did you mean mopps"),
        ("", "unknown allocator ''"),
        ("qqq", "known: adarft, aero, ar3po"),
        ("vip[lwer=3]", "allocator 'vip' has no parameter 'lwer': did you mean lower"),
        ("uniform[divide=0]", "divide=0: Input should be greater than or equal to 1"),
        ("uniform[divide=1.5]", "divide=1.5: Input should be a valid integer"),
        ("uniform[divide=none]", "divide=None"),
        ("uniform[divide=1,divide=2]", "'divide' is given twice"),
        ("uniform[divide]", "'divide' is not key=value"),
        ("uniform[divide=]", "'divide=' is not key=value"),
        ("uniform[divide=1", "expected name"),
        ("vip[predictor=beta[discount=0.5]", "without its"),
        ("vip[predictor=beta]]", "without its"),
        ("vip[predictor=bta]", "unknown predictor 'bta': did you mean beta"),
        ("vip[predictor=beta[discount=2]]", "predictor 'beta.discount=2.': discount=2: Input should be less"),
        ("vip[objective=rlo]", "unknown objective 'rlo': did you mean rloo"),
        ("permuted[of=permuted[of=vpi]]", "unknown allocator 'vpi'"),
        ("coba[alpha_max=20]", "alpha_max=20.0, kappa=11.0"),
        ("inverse_accuracy[rule=lp]", "rule=lp: Input should be 'proportional' or 'linear_program'"),
    ],
)
def test_wrong_specs_say_what_is_wrong(spec, message):
    with pytest.raises(InputError, match=message) as error:
        allocators.create(spec)
    assert "\n" not in str(error.value)


def test_names_cannot_be_taken_twice():
    things = Registry("thing", {"thing": Thing})
    things.register("other", Thing)
    assert things.names() == ["other", "thing"]
    for name in ("thing", "other"):
        with pytest.raises(InputError, match=f"thing '{name}' is registered already"):
            things.register(name, Thing)


class FakePoint:
    def __init__(self, name, thing):
        self.name, self.thing, self.value = name, thing, f"elsewhere:{name}"
        self.dist = SimpleNamespace(name="elsewhere")

    def load(self):
        if isinstance(self.thing, Exception):
            raise self.thing
        return self.thing


def with_plugins(monkeypatch, *points):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: list(points))
    return Registry("allocator", {"uniform": "rolloutbench.allocators.uniform:Uniform"}, group="some.group")


def test_other_packages_add_allocators_by_entry_point(monkeypatch):
    registry = with_plugins(monkeypatch, FakePoint("mine", Uniform))
    assert registry.names() == ["mine", "uniform"]
    assert isinstance(registry.create("mine[divide=2]"), Uniform)
    assert [entry.name for entry in registry.describe()] == ["mine", "uniform"]
    assert registry.create("mine") == Uniform()  # again, now that it is loaded


def test_what_is_built_in_stays_what_it_is(monkeypatch):
    """Somebody else's package takes no name away, and stops nobody who does not ask for it."""
    registry = with_plugins(monkeypatch, FakePoint("uniform", Beta), FakePoint("mine", Uniform))
    assert registry.names() == ["mine", "uniform"]
    registry.create("mine")
    said = (
        r"^allocator 'uniform' of package elsewhere \(elsewhere:uniform\) is left out: the name is taken by a"
    )
    with pytest.warns(NameTaken, match=said):
        assert isinstance(registry.create("uniform"), Uniform)
    registry.create("uniform")  # which is said once
    registry = with_plugins(monkeypatch, FakePoint("uniform", Beta))
    with pytest.warns(NameTaken, match=said):
        assert [entry.name for entry in registry.describe()] == ["uniform"]


def test_a_name_that_two_packages_bring_is_neithers(monkeypatch):
    registry = with_plugins(monkeypatch, FakePoint("mine", Uniform), FakePoint("mine", Beta))
    assert registry.names() == ["mine", "uniform"]
    registry.create("uniform")
    with pytest.raises(
        InputError, match="'mine' is brought by package .* and by package .*: uninstall all b"
    ):
        registry.create("mine")
    assert "is brought by" in registry.describe()[0].summary


def test_a_broken_plugin_breaks_only_itself(monkeypatch):
    registry = with_plugins(monkeypatch, FakePoint("broken", ImportError("no module")))
    assert isinstance(registry.create("uniform"), Uniform)
    said = "'broken' of package elsewhere .elsewhere:broken. cannot be loaded: .* in load: ImportError: no"
    with pytest.raises(InputError, match=said):
        registry.create("broken")
    assert "cannot be loaded" in registry.describe()[0].summary


@pytest.mark.parametrize("registry", [allocators, predictors, objectives, scenarios], ids=lambda r: r.kind)
def test_everything_registered_can_be_made_and_has_one_line(registry):
    for entry in registry.describe():
        assert registry.create(entry.name) is not None
        assert 10 < len(entry.summary) < 110, entry
        assert entry.summary.endswith(".")


@given(st.text(max_size=30))
def test_no_text_makes_a_registry_fail_otherwise(text):
    try:
        allocators.create(text)
    except InputError as error:
        assert "\n" not in str(error) or "\n" in text


class Plain:
    """Takes nothing."""


class WithArguments:
    def __init__(self, size=3):
        self.size = size


class NeedsArguments:
    def __init__(self, size):
        self.size = size


@dataclasses.dataclass
class OfTheStandardLibrary:
    """Checked like pydantic's."""

    size: int
    rate: float = 0.5


OWN = Registry(
    "thing", {"with": WithArguments, "needs": NeedsArguments, "plain": OfTheStandardLibrary, "none": Plain}
)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "with[size=4]",
            "thing 'with' has no parameter 'size': make WithArguments a dataclass (pydantic.dataclasses) to "
            "give it parameters",
        ),
        (
            "needs",
            "thing 'needs': NeedsArguments.__init__() missing 1 required positional argument: 'size': make "
            "NeedsArguments a dataclass (pydantic.dataclasses) to give it parameters",
        ),
        ("none[size=4]", "thing 'none' has no parameter 'size': it takes none"),
        ("plain", "thing 'plain' needs plain[size=...]"),
        (
            "plain[size=x]",
            "thing 'plain[size=x]': size=x: Input should be a valid integer, unable to parse string as an "
            "integer",
        ),
    ],
)
def test_what_other_classes_lack_is_said(spec, message):
    with pytest.raises(InputError) as error:
        OWN.create(spec)
    assert str(error.value) == message


def test_dataclasses_of_the_standard_library_get_numbers():
    assert OWN.create("plain[size=4,rate=1]") == OfTheStandardLibrary(4, 1.0)
    assert isinstance(OWN.create("plain[size=4]").size, int)


def test_a_long_spec_does_not_hide_the_point():
    rest = ",".join(f"{name}=0.5" for name in ("p_easy", "p_hard", "easy_from", "hard_to", "target"))
    with pytest.raises(InputError, match="step_size=2: Input should be less than or equal to 1") as error:
        allocators.create(f"greso[{rest},step_size=2]")
    assert len(str(error.value)) < 150


def test_splitting():
    assert split_outside_brackets("a[x=1,y=[2,3]],b") == ["a[x=1,y=[2,3]]", "b"]
    assert parse_spec("a[b=c[d=1,e=2], f = g ]") == ("a", {"b": "c[d=1,e=2]", "f": "g"})


def test_the_class_of_a_name():
    registry = Registry("thing", {"thing": Thing, "ready": Thing()})
    assert registry.class_of("thing") is registry.class_of("ready") is Thing
    assert registry.class_of("nothing") is None
    assert registry.builtin == ("thing", "ready")
