import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_the_command_prints_and_saves_what_is_said_of_a_fault_and_of_a_healthy_run(tmp_path):
    command = [
        sys.executable,
        BENCHMARKS / "verdicts.py",
        "--only",
        "a dead loss",
        "bfloat16 weights",
        "--out",
        tmp_path,
    ]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "Faults found: 2 of 2. Healthy runs left alone: 1 of 1." in finished.stdout
    runs = json.loads((tmp_path / "verdicts.json").read_text())["groups"]["seen"]
    assert [run["is_right"] for run in runs] == [True, True, True]
    assert "| a dead loss | no_gradient |" in (tmp_path / "verdicts.md").read_text()


def test_a_run_that_is_made_again_leaves_the_others_as_they_are(verdicts, tmp_path):
    outcomes = verdicts.read_outcomes(BENCHMARKS / "results")
    name = "a dead loss"
    mine = outcomes[name] | {"date": "2031-01-01", "alarms": [], "is_right": False}
    verdicts.save_outcomes(tmp_path, outcomes | {name: mine})
    assert verdicts.read_outcomes(tmp_path) == outcomes | {name: mine}
    page = (tmp_path / "verdicts.md").read_text(encoding="utf-8")
    assert f"| {name} |  | {', '.join(mine['notes'])} | NO | {mine['seconds']} | 2031-01-01 |" in page
    assert page.startswith("# Verdicts on planted faults and on healthy runs, 2031-01-01\n")


def test_the_saved_table_holds_every_run(verdicts):
    names = [run.name for group in verdicts.GROUPS.values() for run in group.runs]
    assert list(verdicts.read_outcomes(BENCHMARKS / "results")) == names


@pytest.fixture
def verdicts(monkeypatch):
    """The benchmark, as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("verdicts")


def saved_runs(group):
    """Faults and healthy runs of the saved table."""
    runs = json.loads((BENCHMARKS / "results" / "verdicts.json").read_text(encoding="utf-8"))["groups"][group]
    return [run for run in runs if run["expected"]], [run for run in runs if not run["expected"]]


@pytest.mark.parametrize("group", ["seen", "held_out", "field"])
def test_the_saved_table_keeps_what_was_promised(group):
    faults, healthy = saved_runs(group)
    assert len(faults) >= 20
    assert sum(run["is_right"] for run in faults) >= 0.95 * len(faults)
    assert len(healthy) >= 20
    assert all(run["is_right"] for run in healthy)


def test_the_saved_table_holds_what_was_said_at_first_try(verdicts):
    page = (BENCHMARKS / "results" / "verdicts.md").read_text(encoding="utf-8")
    assert "36 of 50, 27 of 38 ([table](verdicts_first_try.md))" in page
    assert "20 of 27, 22 of 24 ([table](verdicts_field_first_try.md))" in page
    for group in ("held_out", "field"):
        blind = (BENCHMARKS / "results" / verdicts.GROUPS[group].first_try[-1]).read_text(encoding="utf-8")
        lines = [line.split("|") for line in blind.splitlines() if "| yes |" in line or "| NO |" in line]
        names = {run.name: run.is_healthy for run in verdicts.GROUPS[group].runs}
        for place, is_healthy in ((0, False), (2, True)):
            rights = [line[4].strip() == "yes" for line in lines if names[line[1].strip()] == is_healthy]
            assert (sum(rights), len(rights)) == verdicts.GROUPS[group].first_try[place : place + 2]
