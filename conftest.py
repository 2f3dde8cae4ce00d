"""Settings of the whole suite: no deadline for property tests, Ctrl-C heard, no caution that no test expects."""

import logging
import re
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


_ALERT = re.compile(r": (warning|critical) \(\w+\) at step |further alerts came too fast")


@pytest.fixture(autouse=True)
def no_unexpected_caution(request):
    """Warnings are errors here, but those of hooks never raise: one that a test does not expect fails it afterwards.

    Verdicts are let through: a toy run earns them by its settings, and the tests of verdicts read them elsewhere. Other
    words that the toy runs of a file earn, it lets through itself, by ``pytest.mark.cautions(*patterns)``.
    """
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("lightning_normdyn.caution")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    marker = request.node.get_closest_marker("cautions")
    patterns = [_ALERT.pattern, *(marker.args if marker else ())]
    messages = [message for message in messages if not re.search("|".join(patterns), message)]
    assert not messages, f"said in a hook, where it cannot raise: {messages}"
