"""What holds for the whole suite: property tests do not depend on how busy the machine is."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
