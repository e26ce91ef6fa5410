"""Where verl is not installed, its trainer says how to get it."""

from importlib.util import find_spec

import pytest

from rolloutbench.protocol import InputError


@pytest.mark.skipif(find_spec("verl") is not None, reason="verl is installed")
def test_what_is_missing_is_named():
    with pytest.raises(InputError, match=r"^verl is not installed: pip install 'rolloutbench\[verl\]'$"):
        import rolloutbench.integrations.verl  # noqa: F401
