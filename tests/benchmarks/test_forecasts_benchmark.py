import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "forecasts.py"


@pytest.mark.slow
def test_a_quick_run_beats_stays_as_it_is(tmp_path):
    command = [sys.executable, SCRIPT, "--quick", "--out", tmp_path]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "forecasts.json").read_text())
    assert len(report["runs"]) == 2
    for run in report["runs"]:
        assert run["median"]["forecast_skill"] > 0
        assert run["median"]["radial_decay_ratio"] == pytest.approx(2, abs=1e-3)
        assert run["median"]["balance_pearson_r"] > 0.99
    table = (tmp_path / "forecasts.md").read_text()
    assert report["date"] in table
    assert str(Path.home()) not in table
