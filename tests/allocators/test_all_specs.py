"""What `--allocators all` stands for comes from the classes of the methods."""

from rolloutbench.allocators import all_specs, allocators
from rolloutbench.registry import parse_spec


def test_all_has_every_method_of_this_package_once_or_with_its_variants():
    specs = all_specs()
    assert len(set(specs)) == len(specs)
    assert {parse_spec(spec)[0] for spec in specs} == set(allocators.builtin)
    made = [repr(allocators.create(spec)) for spec in specs]
    assert len(set(made)) == len(made)  # no two are the same under another name
    assert {"uniform[divide=4]", "dapo[oversample=1,carry=true]", "permuted[of=vip]"} <= set(specs)
    assert "permuted" not in specs


def test_a_method_of_another_package_is_not_among_all(monkeypatch):
    """What `all` stands for is the same on every machine."""
    monkeypatch.setattr(allocators, "_entries", dict(allocators._entries))
    allocators.register("mine", allocators.class_of("vip"))
    assert "mine" not in all_specs()
