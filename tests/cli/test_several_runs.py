"""Several runs in one folder: the commands draw one, by the lock or the clock, and name the others."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_history import end_run, history_of

from lightning_normdyn.cli.main import main
from lightning_normdyn.history import RunWriter, list_runs


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def add_run(step):
    writer = RunWriter("run")
    writer.begin({})
    target = writer.target("table")
    target.describe({"kind": "table", "rows": 2, "total_steps": 9})
    target.append_rows({"step": [step, step], "row": [0, 1], "norm": [1.0, 2.0]})
    writer.flush()
    return writer


def test_the_latest_is_drawn_unless_another_is_named(capsys):
    for step in (4, 7):
        add_run(step).end()
    assert main(["report", "run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Of 2 runs in that folder this is normdyn-2 (run ")
    assert lines[0].endswith(", complete); the others:")
    assert lines[1].startswith("  normdyn (run ")
    assert lines[2] == "Report: run/report.html"
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "beside it lie normdyn (run " in page
    assert main(["report", "run/normdyn"]) == 0
    assert Path("run/normdyn/report.html").exists()
    assert [record.folder.name for record in list_runs("run")] == ["normdyn-2", "normdyn"]


def test_the_one_that_goes_on_is_watched(capsys):
    first = add_run(4)
    add_run(7).end()
    assert main(["watch", "run", "--once"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("This is normdyn (run ")
    assert "being written); beside it lie normdyn-2 (run " in " ".join(out.split())
    assert "at step 4 of 9" in Path("run/watch.html").read_text(encoding="utf-8")
    first.end()


def test_a_report_names_damaged_parts_and_draws_the_rest(capsys):
    for step in (1, 2):
        history = history_of("run", "table")
        history.describe({"kind": "table", "rows": 2})
        history.append_rows({"step": [step, step], "row": [0, 1], "norm": [1.0, 2.0]})
        history.flush()
    part = next(Path("run/normdyn/trajectory").iterdir())
    part.write_bytes(part.read_bytes()[1:])
    assert main(["report", "run"]) == 0
    assert f"Left out: history: '{part}' is damaged" in " ".join(capsys.readouterr().out.split()).replace(
        "' is", "' is"
    )
    assert "its rows are left out." in Path("run/report.html").read_text(encoding="utf-8")
    end_run("run")


def test_a_history_of_an_earlier_version_is_one_sentence(capsys):
    Path("run/normdyn/table").mkdir(parents=True)
    Path("run/normdyn/table/target.json").write_text("{}")
    for command in (["report", "run"], ["watch", "run", "--once"]):
        assert main(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["report", "run"]) == 2
    assert "was written by an earlier development version" in capsys.readouterr().err
