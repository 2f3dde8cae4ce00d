"""What an experiment found survives the disk, and what is damaged says so."""

import math
from pathlib import Path

import pytest

from lightning_normdyn.history.experiment import ExperimentRecord, Finding, read_experiment, write_experiment
from lightning_normdyn.history.number import measured

RECORD = ExperimentRecord(
    name="walk",
    findings=(Finding("slope", 0.88, "SRV Fig. 3a", 0.9), Finding("V²", None, "none", None)),
    arrays={"norm": [1.0, 2.5], "empty": []},
    settings={"steps": 10, "corpus": "ünïcode"},
    seconds=1.5,
)


def test_a_record_comes_back_as_it_went(tmp_path):
    file = tmp_path / "deep" / "walk.json"
    write_experiment(file, RECORD)
    assert read_experiment(file) == RECORD
    assert [path.name for path in file.parent.iterdir()] == ["walk.json"]


def test_what_json_cannot_say_is_refused_and_leaves_the_old_file(tmp_path):
    file = tmp_path / "walk.json"
    write_experiment(file, RECORD)
    bad = ExperimentRecord("walk", (), {"norm": [math.nan]})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_experiment(file, bad)
    assert read_experiment(file) == RECORD


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "walk", "findings": [{"slope": 1}], "arrays": {}}'])
def test_a_damaged_file_is_named(tmp_path, content):
    file = Path(tmp_path / "walk.json")
    file.write_text(content)
    with pytest.raises(ValueError, match=r"out: '.*walk.json' is damaged .*; remove it"):
        read_experiment(file)


def test_findings_are_looked_up_by_quantity():
    assert RECORD.finding("slope").measured == 0.9
    with pytest.raises(KeyError, match="r2"):
        RECORD.finding("r2")


def test_infinities_are_no_measurement():
    assert [measured(value) for value in (1, math.inf, -math.inf, math.nan)] == [1.0, None, None, None]
