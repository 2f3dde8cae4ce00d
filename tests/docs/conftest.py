"""Tests of this folder read the pages; some parse command lines with LightningCLI."""

from __future__ import annotations

from pathlib import Path

from training_fixtures import separate_random_state, silence_third_parties

__all__ = ["separate_random_state"]


def pytest_collection_modifyitems(items):
    silence_third_parties(items, Path(__file__).parent)
