"""Settings of the whole suite: no deadline for property tests on a busy machine, and Ctrl-C heard by every test."""

import signal

import pytest
from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture(autouse=True)
def _interruptible():
    """Listens to Ctrl-C again where a Trainer that was interrupted, or the shell behind, left it ignored.

    A Trainer ignores SIGINT while it shuts down, and never listens again; a child inherits that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
