"""One line of time over folders and branches: a run that began from another's checkpoint goes on from its history."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from lightning_normdyn.cli.main import main
from lightning_normdyn.history import RunWriter, list_runs, read_run
from lightning_normdyn.history.alert_log import AlertLog, read_alerts
from lightning_normdyn.history.run_reader import RunReader, find_record
from lightning_normdyn.history.run_record import Bookmark, find_parent


def write(log_dir: Path, steps, *, bookmark: Bookmark | None = None, norm: float = 1.0, targets=("t",)) -> RunWriter:
    """A run that records two rows in each of some steps and ends; it begins from a checkpoint of the step before."""
    writer = RunWriter(log_dir)
    writer.begin(dict.fromkeys(targets, steps[0] - 1), bookmark)
    for target in targets:
        writer.target(target).describe({"kind": "table", "rows": 2, "lr": norm})
        writer.target(target).name_rows({0: f"word {norm:g}"})
    record(writer, steps, norm, targets)
    writer.end()
    return writer


def record(writer: RunWriter, steps, norm: float, targets=("t",)) -> None:
    for step in steps:
        for target in targets:
            writer.target(target).append_rows({"step": [step] * 2, "row": [0, 1], "norm": [norm] * 2})
            writer.target(target).append_quantities(step, {"norm_mean": norm})
            AlertLog(writer).append({"step": step, "target": target, "rule": "no_decay", "severity": "note"})
    writer.flush()


def norms(log_dir: Path, target: str = "t", **options) -> dict[int, float]:
    run = read_run(log_dir, **options)[target]
    table, scalars = run.trajectory(), run.quantities()
    assert dict(zip(scalars["step"].to_pylist(), scalars["value"].to_pylist(), strict=True)) == dict(
        zip(table["step"].to_pylist(), table["norm"].to_pylist(), strict=True)
    )
    return dict(zip(table["step"].to_pylist(), table["norm"].to_pylist(), strict=True))


def course(*spans: tuple[int, int, float]) -> dict[int, float]:
    return {step: norm for first, last, norm in spans for step in range(first, last + 1)}


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """A run to step 9, resumed from its 6 in a folder beside its own, and that from its 8 in a third."""
    first = write(tmp_path / "version_0", range(1, 10))
    second = write(tmp_path / "version_1", range(7, 11), bookmark=first.bookmark, norm=2.0)
    write(tmp_path / "version_2", range(9, 13), bookmark=second.bookmark, norm=3.0)
    return tmp_path


def test_a_run_that_goes_on_in_another_folder_is_one_line_of_time(versions: Path) -> None:
    assert norms(versions / "version_0") == course((1, 9, 1.0))
    assert norms(versions / "version_1") == course((1, 6, 1.0), (7, 10, 2.0))
    assert norms(versions / "version_2") == course((1, 6, 1.0), (7, 8, 2.0), (9, 12, 3.0))
    alerts = read_alerts(RunReader(find_record(versions / "version_2")))
    assert [alert["step"] for alert in alerts] == list(range(1, 13))
    (listed,) = list_runs(versions / "version_2")
    assert f"goes on from step 8 of run {list_runs(versions / 'version_1')[0].id[:8]})" in str(listed)


def test_descriptions_and_names_are_those_of_the_last_that_had_them(tmp_path: Path) -> None:
    first = write(tmp_path / "a", range(1, 5), targets=("t", "dropped"))
    write(tmp_path / "b", range(3, 7), bookmark=first.bookmark, norm=2.0)
    run = read_run(tmp_path / "b")
    assert {name: target.description()["lr"] for name, target in run.items()} == {"t": 2.0, "dropped": 1.0}
    assert {name: target.row_names()[0] for name, target in run.items()} == {"t": "word 2", "dropped": "word 1"}
    assert norms(tmp_path / "b", "dropped") == course((1, 2, 1.0))


def test_folders_that_are_moved_are_found(versions: Path) -> None:
    expected = norms(versions / "version_2")
    versions.with_name("elsewhere").mkdir()
    for name in ("version_0", "version_1", "version_2"):
        (versions / name).rename(versions.with_name("elsewhere") / name)
    assert norms(versions.with_name("elsewhere") / "version_2") == expected  # all of them
    versions.joinpath("deeper").mkdir()
    (versions.with_name("elsewhere") / "version_2").rename(versions / "deeper" / "last")
    for name in ("version_0", "version_1"):
        (versions.with_name("elsewhere") / name).rename(versions / name)
    assert norms(versions / "deeper" / "last") == expected  # the last alone: the others lie where they lay
    (versions / "version_1").rename(versions / "deeper" / "renamed")
    assert norms(versions / "deeper" / "last") == expected  # beside it, by whatever name
    shutil.copytree(versions / "deeper" / "renamed" / "normdyn", versions / "deeper" / "last" / "normdyn-2")
    shutil.rmtree(versions / "deeper" / "renamed")
    assert norms(versions / "deeper" / "last", run="normdyn") == expected  # or in the same folder


def test_a_parent_that_is_missing_is_said_once(versions: Path, capsys) -> None:
    lost = versions / "version_0"
    lost.rename(versions.parent / "put aside")
    with pytest.warns(
        UserWarning, match=r"goes on from step 6 of run \w{8}, which is not found in .*version_0"
    ) as said:
        assert norms(versions / "version_2") == course((7, 8, 2.0), (9, 12, 3.0))
    assert len(said) == 1
    assert main(["report", str(versions / "version_1")]) == 0
    assert capsys.readouterr().out.count("which is not found") == 1
    reader = RunReader(find_record(versions / "version_1"))
    assert len(reader.damaged) == 1
    (versions.parent / "put aside").rename(lost)
    reader.refresh()
    assert reader.damaged == []
    assert reader.targets()["t"].trajectory()["step"].to_pylist() == [step for step in range(1, 11) for _ in range(2)]


def test_another_run_in_the_parents_place_is_not_taken_for_it(versions: Path) -> None:
    shutil.rmtree(versions / "version_0")
    write(versions / "version_0", range(1, 10), norm=7.0)
    with pytest.warns(UserWarning, match="which is not found"):
        assert norms(versions / "version_1") == course((7, 10, 2.0))


def test_a_parent_that_was_resumed_since_counts_as_it_was(tmp_path: Path) -> None:
    first = write(tmp_path / "a", range(1, 10))
    write(tmp_path / "a", range(4, 20), bookmark=first.bookmark, norm=5.0)
    write(tmp_path / "b", range(8, 11), bookmark=first.bookmark, norm=2.0)
    assert norms(tmp_path / "b") == course((1, 7, 1.0), (8, 10, 2.0))
    assert norms(tmp_path / "a") == course((1, 3, 1.0), (4, 19, 5.0))


def test_a_resume_from_an_abandoned_branch_takes_that_up_again(tmp_path: Path) -> None:
    first = write(tmp_path, range(1, 10))
    write(tmp_path, range(4, 7), bookmark=first.bookmark, norm=2.0)
    write(tmp_path, range(8, 11), bookmark=first.bookmark, norm=3.0)
    assert norms(tmp_path) == course((1, 7, 1.0), (8, 10, 3.0))
    assert norms(tmp_path, stretch=1) == course((1, 3, 1.0), (4, 6, 2.0))


def test_two_that_resume_one_checkpoint_at_once_each_have_the_whole_line(tmp_path: Path) -> None:
    first = write(tmp_path, range(1, 6))
    writers = [RunWriter(tmp_path), RunWriter(tmp_path)]
    for number, writer in enumerate(writers, start=2):
        writer.begin({"t": 5}, first.bookmark)
        record(writer, range(6, 8), float(number))
    for writer in writers:
        writer.end()
    assert norms(tmp_path, run="normdyn") == course((1, 5, 1.0), (6, 7, 2.0))
    assert norms(tmp_path, run="normdyn-2") == course((1, 5, 1.0), (6, 7, 3.0))


def test_a_run_from_the_very_start_of_another_needs_nothing_of_it(tmp_path: Path) -> None:
    first = write(tmp_path / "a", range(1, 5))
    write(tmp_path / "b", range(1, 3), bookmark=first.bookmark, norm=2.0)
    shutil.rmtree(tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert norms(tmp_path / "b") == course((1, 2, 2.0))


def test_runs_that_claim_to_go_on_from_each_other_are_read(versions: Path) -> None:
    last, first = find_record(versions / "version_2"), find_record(versions / "version_0")
    forged = first.__class__(**{**vars(first), "parent": last.id, "parent_folders": ("../../version_2/normdyn",)})
    forged.__class__(**{**vars(forged), "stretches": last.stretches}).write()
    assert find_parent(find_record(versions / "version_0")) is not None
    assert norms(versions / "version_2")[12] == 3.0


def test_report_and_watch_show_the_whole_line(versions: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(versions)
    for command in (["report", "version_2"], ["watch", "version_2", "--once"]):
        assert main(command) == 0
    out = capsys.readouterr().out
    assert "Report: version_2/report.html" in out
    assert "not found" not in out
    reader = RunReader(find_record("version_2"))
    before = reader.targets()["t"].trajectory()
    resumed = RunWriter("version_2")
    resumed.begin({"t": 12}, Bookmark(reader.record.id, 0))
    record(resumed, [13], 4.0)
    reader.refresh()
    after = reader.targets()["t"].trajectory()
    resumed.end()
    assert len(after) == len(before) + 2
    assert sorted(set(after["step"].to_pylist())) == list(range(1, 14))
