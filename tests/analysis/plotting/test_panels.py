"""Names on figures: however long they are and wherever they end, they are whole, and no line is empty."""

from hypothesis import example, given
from hypothesis import strategies as st

from rolloutbench.analysis.plotting.panels import folded, folded_all

specs = st.text(st.sampled_from("ab,[]=/ é漢"), max_size=60)


def folded_letter_by_letter(spec, letters):
    """The slow twin: a line takes what ends with a comma or a bracket whole if it can, else what it holds."""
    pieces = [""]
    for letter in spec:
        pieces[-1] += letter
        if letter in ",[":
            pieces.append("")
    lines = [""]
    for piece in pieces:
        room = letters - len(lines[-1])
        if len(piece) > room and lines[-1]:
            lines.append("")
        for letter in piece:
            if len(lines[-1]) == letters:
                lines.append("")
            lines[-1] += letter
    return lines


@given(specs, st.integers(1, 40))
@example("jsonl[path=data/deepmath_train_10k.jsonl]", 32)
@example("permuted[of=" * 30 + "vip" + "]" * 30, 32)
@example("a" * 64, 32)
@example("", 1)
def test_a_name_is_folded_as_letter_by_letter(spec, letters):
    lines = folded(spec, letters)
    assert lines == folded_letter_by_letter(spec, letters)
    assert "".join(lines) == spec
    assert max(map(len, lines)) <= letters
    assert all(lines) or spec == ""
    assert folded_all([spec, "a"], letters) == (["\n".join(lines), "a"], len(lines))
