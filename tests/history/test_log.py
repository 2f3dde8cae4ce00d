"""Histories on disk: whole or absent, bounded in trouble, readable after a kill."""

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pyarrow as pa
import pytest

from lightning_normdyn.history import TRAJECTORY, Outage, ParquetLog, TargetHistory, read_parts, read_run
from lightning_normdyn.history.target_history import folder_name, fresh_root

SCHEMA = pa.schema([("step", pa.int64()), ("norm", pa.float32())])


def test_rows_come_back_in_order_over_several_parts(tmp_path: Path) -> None:
    log = ParquetLog(tmp_path, SCHEMA, flush_rows=4)
    for step in range(10):
        log.append({"step": [step, step], "norm": [step + 0.5, step + 0.25]})
    log.flush()
    table = read_parts(tmp_path, SCHEMA)
    assert table["step"].to_pylist() == [step for step in range(10) for _ in range(2)]
    assert len(list(tmp_path.glob("part-*.parquet"))) == 5


def test_a_column_that_is_not_named_is_null(tmp_path: Path) -> None:
    log = ParquetLog(tmp_path, SCHEMA)
    log.append({"step": [1]})
    log.flush()
    assert read_parts(tmp_path, SCHEMA)["norm"].to_pylist() == [None]


def test_half_written_parts_are_never_read(tmp_path: Path) -> None:
    log = ParquetLog(tmp_path, SCHEMA)
    log.append({"step": [1], "norm": [1.0]})
    log.flush()
    (tmp_path / "part-00000002.123.tmp").write_bytes(b"PAR1 and then the power went")
    assert read_parts(tmp_path, SCHEMA).num_rows == 1


def test_a_second_writer_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    for step in (1, 2):
        log = ParquetLog(tmp_path, SCHEMA)
        log.append({"step": [step], "norm": [float(step)]})
        log.flush()
    assert read_parts(tmp_path, SCHEMA)["step"].to_pylist() == [1, 2]


def test_an_unwritable_folder_warns_once_and_is_then_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    log = ParquetLog(tmp_path / "file" / "norms", SCHEMA, flush_rows=1)
    with pytest.warns(UserWarning, match="training goes on") as caught:
        log.append({"step": [1], "norm": [1.0]})
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.append({"step": [2], "norm": [1.0]})
        log.flush()


def test_one_warning_serves_a_whole_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    outage = Outage()
    histories = [TargetHistory(tmp_path / "file" / name, outage=outage) for name in ("queries", "documents")]

    def record_everything() -> None:
        for history in histories:
            history.describe({"target": "table"})
            history.append_quantities(1, {"norm_mean": 1.0})
            history.trajectory_log.append({"step": [1], "row": [0], "norm": [1.0]})
            history.flush()

    with pytest.warns(UserWarning, match="training goes on") as caught:
        record_everything()
    assert len(caught) == 1


def test_a_full_disk_warns_once_and_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ParquetLog(tmp_path, SCHEMA, flush_rows=1)
    log.append({"step": [1], "norm": [1.0]})

    def disk_full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_normdyn.history.log.pq.write_table", disk_full)
    with pytest.warns(UserWarning, match="No space left on device"):
        log.append({"step": [2], "norm": [1.0]})
    assert read_parts(tmp_path, SCHEMA)["step"].to_pylist() == [1]


def test_a_killed_writer_leaves_a_readable_history(tmp_path: Path) -> None:
    code = f"""
import pyarrow as pa
from lightning_normdyn.history import ParquetLog
log = ParquetLog({str(tmp_path)!r}, pa.schema([("step", pa.int64()), ("norm", pa.float32())]), flush_rows=2000)
for step in range(10**9):
    log.append({{"step": [step] * 1000, "norm": [1.0] * 1000}})
    if step == 40:
        print("ready", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == "ready"
        os.kill(writer.pid, signal.SIGKILL)
    steps = read_parts(tmp_path, SCHEMA)["step"].to_pylist()
    assert len(steps) >= 40_000
    assert steps == sorted(steps)


def test_a_repeated_step_is_read_as_it_was_written_last(tmp_path: Path) -> None:
    history = TargetHistory(tmp_path)
    for norm in (1.0, 2.0):  # as a run does that is resumed from a checkpoint before step 50
        history.trajectory_log.append({"step": [50, 50], "row": [0, 1], "norm": [norm, norm + 0.5]})
        history.append_quantities(50, {"norm_mean": norm})
        history.flush()
    assert history.trajectory().select(["step", "row", "norm"]).to_pylist() == [
        {"step": 50, "row": 0, "norm": 2.0},
        {"step": 50, "row": 1, "norm": 2.5},
    ]
    assert history.quantities()["value"].to_pylist() == [2.0]


def test_another_run_in_the_same_folder_does_not_mix_in(tmp_path: Path) -> None:
    for run, norm in ((1, 1.0), (2, 2.0)):
        root = fresh_root(tmp_path, run, resumes=False)
        assert fresh_root(tmp_path, run, resumes=False) == root  # a second monitor of the same trainer
        history = TargetHistory(root / "table")
        history.describe({"target": "table"})
        history.trajectory_log.append({"step": [1], "row": [0], "norm": [norm]})
        history.flush()
    assert read_run(tmp_path)["table"].trajectory()["norm"].to_pylist() == [2.0]
    assert TargetHistory(tmp_path / "normdyn-1" / "table").trajectory()["norm"].to_pylist() == [1.0]


def test_a_resumed_run_goes_on_in_the_same_history(tmp_path: Path) -> None:
    root = fresh_root(tmp_path, 1, resumes=False)
    assert fresh_root(tmp_path, 2, resumes=True) == root
    assert not (tmp_path / "normdyn-1").exists()


def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "normdyn").mkdir()
    (tmp_path / "normdyn" / "__init__.py").write_text("mine = True")
    assert fresh_root(tmp_path, 1, resumes=False) == tmp_path / "normdyn-1"
    assert (tmp_path / "normdyn" / "__init__.py").read_text() == "mine = True"


def test_a_history_that_another_process_still_writes_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as writer:
        (tmp_path / "normdyn").mkdir()
        (tmp_path / "normdyn" / "run").write_text(f"{writer.pid}-7")
        assert fresh_root(tmp_path, 1, resumes=False) == tmp_path / "normdyn-1"
        writer.communicate(b"\n")
    assert fresh_root(tmp_path, 2, resumes=False) == tmp_path / "normdyn"
    assert (tmp_path / "normdyn-2" / "run").exists()


@pytest.mark.parametrize("target", ["towers.user/item.weight", "/absolute.weight", "..", "a" * 300])
def test_any_target_name_stays_inside_the_history(tmp_path: Path, target: str) -> None:
    history = TargetHistory(tmp_path / "normdyn" / folder_name(target))
    history.describe({"target": target})
    assert [folder.parent for folder in (tmp_path / "normdyn").glob("*/target.json")]
    assert list(read_run(tmp_path)) == [target]


def test_a_relative_folder_that_looks_like_an_address_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = ParquetLog("s3:run", SCHEMA)
    log.append({"step": [1], "norm": [1.0]})
    log.flush()
    assert read_parts("s3:run", SCHEMA).num_rows == 1


def test_foreign_files_and_a_cleared_folder_do_no_harm(tmp_path: Path) -> None:
    history = TargetHistory(tmp_path / "normdyn" / "table")
    history.describe({"target": "table"})
    history.append_quantities(1, {"norm_mean": 1.0})
    history.flush()
    shutil.rmtree(tmp_path / "normdyn")
    history.append_quantities(2, {"norm_mean": 2.0})
    history.flush()
    (history.folder / "quantities" / "part-00000001 (copy).parquet").write_bytes(b"")
    history.append_quantities(3, {"norm_mean": 3.0})
    history.flush()
    (history.folder / "quantities" / "part-00000001 (copy).parquet").unlink()
    assert read_run(tmp_path)["table"].quantities()["step"].to_pylist() == [2, 3]


def test_a_damaged_description_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "normdyn" / "table").mkdir(parents=True)
    (tmp_path / "normdyn" / "table" / "target.json").write_text('{"target": ')
    with pytest.raises(ValueError, match=r"target\.json' is damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        '{"rows": [1]}',
        '{"names": ["a"]}',
        '{"rows": [1, 2], "names": ["a"]}',
        '{"rows": [[1]], "names": ["a"]}',
        '{"rows": 1, "names": 2}',
        '{"rows": [1], "names": [2]}',
        "[1]",
    ],
)
def test_so_do_damaged_names_of_rows(tmp_path: Path, content: str) -> None:
    history = TargetHistory(tmp_path / "normdyn" / "table")
    history.folder.mkdir(parents=True)
    (history.folder / "row_names.json").write_text(content)
    with pytest.raises(ValueError, match=r"row_names\.json' is damaged"):
        history.row_names()


def test_a_folder_without_a_history_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="log_dir: no norm history under"):
        read_run(tmp_path)


def test_a_target_without_rows_reads_as_empty(tmp_path: Path) -> None:
    history = TargetHistory(tmp_path / "encoder")
    assert history.trajectory().schema == TRAJECTORY
    assert history.quantities().num_rows == 0
    assert history.description() == {}
