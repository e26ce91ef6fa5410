"""A tokenizer of single characters, for models that are made here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from real_runs.models import END
from rolloutbench.files import Schema, read_json
from rolloutbench.protocol import InputError

CHARACTERS = "characters.json"
"""The character tokenizer's file in a model directory."""


class _Characters(Schema):
    """The character tokenizer's file."""

    alphabet: str


@dataclass(frozen=True)
class Characters:
    """A tokenizer of single characters: 0 is padding, 1 the end, then those of `alphabet`."""

    alphabet: str

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Raises InputError at a character that is none of the alphabet."""
        for character in text:
            if character not in self.alphabet:
                raise InputError(
                    f"text {text!r}: the model reads none of {character!r}, only {self.alphabet!r}"
                )
        return [self.alphabet.index(character) + 2 for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, without padding and end."""
        return "".join(self.alphabet[token - 2] for token in tokens if token > END)

    def write(self, directory: Path) -> None:
        """Write the tokenizer into a model's directory as JSON, so that `hf` can read a tiny model too."""
        (directory / CHARACTERS).write_text(json.dumps({"alphabet": self.alphabet}))

    @classmethod
    def read(cls, directory: Path) -> Characters:
        """Read the tokenizer that `write` left in a model's directory."""
        return cls(read_json(directory / CHARACTERS, _Characters).alphabet)
