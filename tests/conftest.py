"""Property tests run the same examples everywhere; machines differ in speed, so there is no deadline."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
