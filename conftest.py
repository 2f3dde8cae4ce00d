"""Settings of the whole suite: property tests have no deadline, and nothing is said of which a test does not know."""

import logging

import pytest
from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture(autouse=True)
def no_unexpected_caution():
    """Warnings are errors here, but those of hooks never raise: one that a test does not expect fails it afterwards."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("lightning_normdyn.caution")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not messages, f"said in a hook, where it cannot raise: {messages}"
