"""Nothing of a run's record is lost, mixed or silently wrong, whatever befalls its disk and its process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import record_faults
from record_faults import TROUBLES, Tally, bit_flips, errors_all_along, kills_of_exports, kills_of_trainings

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="processes are forked and killed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*LeafSpec.*:FutureWarning"),
]


def assert_clean(tally: Tally) -> None:
    assert tally.is_clean, tally
    print(tally)


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_with_the_disk(tmp_path, name):
    assert_clean(record_faults._trouble(tmp_path / "run", name, *TROUBLES[name]))


def test_errors_all_along(tmp_path):
    assert_clean(errors_all_along(tmp_path, 15))


@pytest.mark.parametrize("flips", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_wrong_bits(tmp_path, flips):
    tally = bit_flips(tmp_path, flips)
    assert_clean(tally)
    assert tally.said >= 0.9 * flips


@pytest.mark.slow
def test_two_containers(tmp_path):
    assert_clean(record_faults.two_containers(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["npy", "qdrant"])
def test_killed_exports(tmp_path, target, monkeypatch):
    if target == "qdrant":
        pytest.importorskip("qdrant_client")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "retrieval" / "export")
    assert_clean(kills_of_exports(tmp_path, 50, target))


@pytest.mark.slow
def test_killed_trainings(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert_clean(kills_of_trainings(tmp_path, 100))
