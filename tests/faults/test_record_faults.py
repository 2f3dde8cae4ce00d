"""Nothing of a run's record is lost, mixed or silently wrong, whatever befalls its disk and its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import record_faults
from record_faults import TROUBLES, bit_flips, errors_all_along

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_with_the_disk(tmp_path, name):
    tally = record_faults.trouble_of(tmp_path / "run", name)
    assert tally.is_clean, tally


def test_errors_all_along(tmp_path):
    tally = errors_all_along(tmp_path, 15)
    assert tally.is_clean, tally


def test_wrong_bits(tmp_path):
    tally = bit_flips(tmp_path, 20)
    assert tally.is_clean, tally
    assert tally.said >= 18  # the others changed white space


@pytest.mark.exhaustive
@pytest.mark.skipif(os.name == "nt", reason="processes are forked and killed")
def test_some_kills(monkeypatch):
    """In a process of its own, which may be forked: a few of what is done a hundred times by hand."""
    path = [TESTS / "training_loops", TESTS / "retrieval" / "export", *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, path)))
    command = [sys.executable, record_faults.__file__, "6", "5"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "training killed and resumed" in run.stdout
