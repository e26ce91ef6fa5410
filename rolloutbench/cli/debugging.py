"""`--debug`, which every command takes: exceptions are let through instead of said in one line."""

from __future__ import annotations

from collections.abc import MutableSequence

OPTION = "--debug"

_taken: list[str] = []


def take_option(arguments: MutableSequence[str]) -> bool:
    """Remove `--debug` from the arguments, wherever it stands; returns whether it was there."""
    _taken.clear()
    while OPTION in arguments:
        arguments.remove(OPTION)
        _taken.append(OPTION)
    return is_on()


def is_on() -> bool:
    """Whether exceptions are let through."""
    return bool(_taken)
