"""What goes wrong by somebody's doing: each error is one clear line for the person who can mend it."""


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: field, value, what is allowed."""


class ProtocolError(RuntimeError):
    """An allocator broke the contract. The message names the allocator and the rule."""


class Interrupted(Exception):
    """A study was stopped by Ctrl-C. The message says what is kept."""


class NameTaken(UserWarning):
    """An installed package brings something under a name that is taken, so that it is left out."""
