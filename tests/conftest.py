"""What every test may rely on."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_seed_is_left_behind() -> Iterator[None]:
    """Lightning tells its seed to child processes by the environment, where the next test's would find it."""
    yield
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)
