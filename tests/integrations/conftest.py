"""Tests of this folder train small models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from training_fixtures import fit, one_thread, separate_random_state, shared_modules_in_workers, silence_third_parties

collect_ignore = [] if find_spec("torchrec") else ["torchrec_worker.py"]
__all__ = ["fit", "one_thread", "separate_random_state", "shared_modules_in_workers"]


def pytest_collection_modifyitems(items):
    silence_third_parties(items, Path(__file__).parent)
