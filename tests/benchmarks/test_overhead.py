import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overhead.py"
SPREAD = {"median", "q1", "q3"}


@pytest.mark.slow
def test_a_quick_run_reports_every_figure(tmp_path):
    pytest.importorskip("tensorboard")
    command = [sys.executable, SCRIPT, "--quick", "--out", tmp_path]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "overhead.json").read_text())
    assert report["quick"] is True
    assert {"cpu", "cores", "python", "torch", "torch_threads"} <= set(report["machine"])
    for name, case in report["ratios"].items():
        assert SPREAD == set(case["ratio"]) == set(case["ratio_cpu"]) == set(case["added_us"]), name
        assert {"at_most", "met", "ratio_whole_run", "added_us_by_step"} <= set(case), name
        assert case["weights_bit_identical"] is True, name
    assert [case["rows"] for case in report["tables"]["cases"]] == [2_000, 20_000]
    assert all(case["live_bytes_per_row"] <= case["at_most"] for case in report["memory"])
    quiet = report["off_schedule"]
    assert quiet["operations"] > 0
    assert quiet["operations_added"] == quiet["clones_added"] == quiet["syncs_added"] == 0
    encoder = report["encoder"]
    assert {"at_most", "met", "ratio_whole_run"} <= set(encoder["ratio"])
    assert encoder["ratio"]["weights_bit_identical"] is True
    assert encoder["off_schedule"]["operations_added"] == encoder["off_schedule"]["syncs_added"] == 0
    held = encoder["memory"]
    assert held["radial_decay_bytes"] <= held["encode_bytes"] + 1.1 * held["decayed_bytes"]
    table = (tmp_path / "overhead.md").read_text()
    assert report["date"] in table
    assert report["machine"]["cpu"] in table
    assert str(Path.home()) not in table
