import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "large_tables.py"
RESULTS = SCRIPT.parent / "results" / "large_tables.json"


@pytest.mark.exhaustive
def test_a_quick_run_reports_every_figure(tmp_path):
    command = [sys.executable, SCRIPT, "--quick", "--out", tmp_path]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "large_tables.json").read_text())
    assert [case["rows"] for case in report["sizes"]] == [2_000, 2_000, 20_000, 20_000]
    assert all(0 < case["met_rows"] <= case["tracked_rows"] <= 16_384 for case in report["sizes"])
    sharded = report["shards"]["sharded"]
    assert set(sharded["collectives"].values()) == {1}  # one message a step that is looked at, whatever it shows
    assert sharded["requests"]["ordinary"] == 3
    assert set(report["shards"]["local"]["collectives"].values()) == {0}
    table = (tmp_path / "large_tables.md").read_text()
    assert report["date"] in table
    assert str(Path.home()) not in table


def test_the_recorded_figures_are_flat_in_the_size_of_the_table():
    """A step on a table ten thousand times as large costs less than three times as much, on a busy machine."""
    sizes = json.loads(RESULTS.read_text())["sizes"]
    smallest, largest = sizes[0], sizes[-1]
    assert largest["rows"] == 10_000 * smallest["rows"] == 100_000_000
    assert largest["mean"] < 3 * smallest["mean"]
    assert largest["held_bytes"] < 2 * smallest["held_bytes"]
    even, octaves = sizes[-2:]
    assert octaves["met_rows"] > 50 * even["met_rows"]
