"""Properties are searched the same way in every run, without a clock and without a folder of findings."""

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("repeatable")
