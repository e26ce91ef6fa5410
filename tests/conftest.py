"""Property tests run the same examples everywhere; machines differ in speed, so there is no deadline."""

import signal

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_configure():
    """A shell that starts the tests in the background has them ignore Ctrl-C, and some are about Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
