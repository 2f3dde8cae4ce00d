"""Settings of the whole suite: property tests have no deadline, which a busy machine would miss."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
