"""Text that people give and that the program shows: one check where it enters, one cleaner where it leaves.

Control characters can move a terminal's cursor or end a name in the middle, marks of writing direction can
make a name look like another, and bytes that are not UTF-8 break the first file that they are written to.
What enters is refused; what was read from somebody else's files is shown with `?` in their place.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from rolloutbench.errors import InputError

MOST_LETTERS = 20_000
"""Longest name, spec or other text of a description; lists of numbers on the command line may be longer."""
DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the writing direction of what follows."""
SPACES = "\n\t"
"""Control characters that prose may have."""


def is_hidden(letter: str) -> bool:
    """Whether a letter cannot be seen and changes what is: control, direction, line separator, surrogate."""
    return letter in DIRECTIONS or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def check_text(
    value: Any, where: str, prose: bool = False, most: int = MOST_LETTERS, depth: int = 50
) -> None:
    """Refuse text that cannot be a name; looks into lists and mappings too.

    `prose` may have line ends; what is nested more than `depth` deep is no text of ours. Raises InputError
    naming `where`, the first such character and its place.
    """
    if isinstance(value, dict) and depth:
        for key, inner in value.items():
            check_text(key, where, False, most)
            check_text(inner, where, prose, most, depth - 1)
    elif isinstance(value, (list, tuple)) and depth:
        for inner in value:
            check_text(inner, where, prose, most, depth - 1)
    elif isinstance(value, str):
        if len(value) > most:
            raise InputError(
                f"{where}: {len(value)} letters, beginning {cleaned(value[:40])!r}: at most {most}"
            )
        for place, letter in enumerate(value):
            if is_hidden(letter) and not (prose and letter in SPACES):
                said = (
                    "a byte that is not UTF-8" if "\udc80" <= letter <= "\udcff" else f"U+{ord(letter):04X}"
                )
                raise InputError(
                    f"{where}: {cleaned(value[:80])!r}: {said} at letter {place + 1}: text that can be "
                    "printed is expected"
                )


def cleaned(text: str, keep: str = "") -> str:
    """Text with `?` for every character that is hidden, but for those of `keep`."""
    if text.isprintable() and DIRECTIONS.isdisjoint(text):
        return text
    return "".join("?" if is_hidden(letter) and letter not in keep else letter for letter in text)
