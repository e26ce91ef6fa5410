"""How often a test that kills does so: seldom by default, often for `make test-thorough`."""

import os

THOROUGH = bool(os.environ.get("THOROUGH"))


def times(often, seldom):
    return often if THOROUGH else seldom
