"""Parts on disk: whole or absent, few however long a run is, kept through trouble, readable after a kill."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_normdyn.history.outage import Outage
from lightning_normdyn.history.part import Part, grouped_parts, part_files, read_part, write_part
from lightning_normdyn.history.part_log import PartLog

SCHEMA = pa.schema([("step", pa.int64()), ("norm", pa.float32()), ("name", pa.string())])


def steps_in(log: PartLog) -> list[int]:
    return [step for part in part_files(log.folder) for step in read_part(part, log.schema)["step"].to_pylist()]


def written(folder: Path, steps: range, **options: object) -> PartLog:
    log = PartLog(folder, SCHEMA, **options)
    for step in steps:
        log.append("t", {"step": [step], "norm": [step / 2]})
        log.flush()
    return log


def test_rows_of_all_targets_come_back_in_order_over_several_parts(tmp_path: Path) -> None:
    log = PartLog(tmp_path, SCHEMA, flush_rows=4)
    for step in range(10):
        log.append(f"t{step % 3}", {"step": [step, step], "norm": [step + 0.5, step + 0.25]})
    log.flush()
    tables = [read_part(part, log.schema) for part in part_files(tmp_path)]
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["step"] for row in rows] == [step for step in range(10) for _ in range(2)]
    assert [row["target"] for row in rows[::2]] == [f"t{step % 3}" for step in range(10)]
    assert len(tables) == 5


def test_a_column_that_is_not_named_is_null_and_nan_is_a_number(tmp_path: Path) -> None:
    log = PartLog(tmp_path, SCHEMA)
    log.append("t", {"step": [1]})
    log.append("t", {"step": [2], "norm": [float("nan")], "name": [None]})
    log.append("t", {"step": [3], "name": ["x"]})
    log.flush()
    table = read_part(part_files(tmp_path)[0], log.schema)
    assert [norm is None for norm in table["norm"].to_pylist()] == [True, False, True]
    assert table["name"].to_pylist() == [None, None, "x"]


def test_rows_are_copied(tmp_path: Path) -> None:
    import numpy as np

    log, norms = PartLog(tmp_path, SCHEMA), np.ones(1, np.float32)
    log.append("t", {"step": [1], "norm": norms})
    norms[0] = 7
    log.flush()
    assert read_part(part_files(tmp_path)[0], log.schema)["norm"].to_pylist() == [1.0]


def test_what_is_no_part_is_not_read(tmp_path: Path) -> None:
    log = written(tmp_path, range(1))
    for name in (".part-0000-00000002-00000002-01234567.parquet.0123456789abcdef.tmp", "part-1.parquet", "notes"):
        (tmp_path / name).write_bytes(b"PAR1 and then the power went")
    assert steps_in(log) == [0]


def test_a_second_writer_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    for step in (1, 2):
        log = written(tmp_path, range(step, step + 1))
    assert steps_in(log) == [1, 2]
    assert [part.first for part in part_files(tmp_path)] == [1, 2]


@pytest.mark.parametrize(("parts", "most"), [(15, 15), (16, 1), (256, 1), (130, 8 + 2)])
def test_however_many_parts_are_written_few_lie_there(tmp_path: Path, parts: int, most: int, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which is what most of the time goes to
    log = written(tmp_path, range(parts))
    assert len(part_files(tmp_path)) <= most
    assert steps_in(log) == sorted(set(steps_in(log)))
    log.seal()
    assert len(part_files(tmp_path)) == 1
    assert len(list(tmp_path.iterdir())) == 1
    assert steps_in(log) == list(range(len(steps_in(log))))


def test_a_kill_between_putting_together_and_removing_doubles_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    log = written(tmp_path, range(16))
    assert len(list(tmp_path.iterdir())) == 17
    assert steps_in(log) == list(range(16))


def test_a_damaged_part_is_not_put_together_with_others(tmp_path: Path) -> None:
    log = written(tmp_path, range(15))
    part = part_files(tmp_path)[4]
    part.file.write_bytes(part.file.read_bytes()[:-9])
    log.append("t", {"step": [15]})
    log.flush()
    log.seal()
    assert part.file in [group[0].file for group in grouped_parts(tmp_path)]
    assert [(part.first, part.last) for part in part_files(tmp_path)] == [(1, 4), (5, 5), (6, 16)]


def test_every_single_bit_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    part = write_part(tmp_path, 0, 1, 1, pa.table({"step": [1, 2, 3]}))
    content = part.file.read_bytes()
    for place in range(0, 8 * len(content), 37):
        spoilt = bytearray(content)
        spoilt[place // 8] ^= 1 << place % 8
        part.file.write_bytes(spoilt)
        with pytest.raises(ValueError, match=f"history: '{part.file}' is damaged"):
            read_part(part, pa.schema([("step", pa.int64())]))


def test_pages_carry_parquets_own_checksums_for_other_readers(tmp_path: Path) -> None:
    """One wrong bit in the numbers of a page: pyarrow itself refuses it."""
    part = write_part(
        tmp_path, 0, 1, 1, pa.table({"norm": pa.array([float(i % 7) for i in range(1000)], pa.float32())})
    )
    content = bytearray(part.file.read_bytes())
    content[60] ^= 1
    part.file.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(part.file, page_checksum_verification=True)


def test_an_unwritable_folder_is_said_once_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    log = PartLog(tmp_path / "file" / "norms", SCHEMA, flush_rows=1)
    with pytest.warns(UserWarning, match="training goes on") as caught:
        log.append("t", {"step": [1], "norm": [1.0]})
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.append("t", {"step": [2], "norm": [1.0]})
        log.flush()
    (tmp_path / "file").unlink()
    with pytest.warns(UserWarning, match="can be written again; nothing was lost"):
        log.append("t", {"step": [3], "norm": [1.0]})
    assert steps_in(log) == [1, 2, 3]


@pytest.mark.parametrize("number", [5, 28])
def test_one_error_of_the_disk_costs_a_retry_and_not_a_word(tmp_path: Path, monkeypatch, number: int) -> None:
    """Input/output error, no space left: at the system's own write, sync or move."""
    for name in ("fsync", "replace"):
        real, calls = getattr(os, name), []

        def fails_once(*arguments, real=real, calls=calls, **options):
            calls.append(arguments)
            if len(calls) == 1:
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, fails_once)
        log = written(tmp_path / name, range(3))
        monkeypatch.undo()
        assert steps_in(log) == [0, 1, 2]
        assert len(calls) > 1 or name == "replace"
        assert len(list(log.folder.iterdir())) == 3


def test_one_warning_serves_all_logs_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    outage = Outage()
    logs = [PartLog(tmp_path / "file" / name, SCHEMA, flush_rows=1, outage=outage) for name in ("a", "b")]
    with pytest.warns(UserWarning, match="training goes on"):
        logs[0].append("t", {"step": [1]})
    logs[1].append("t", {"step": [1]})  # a second warning would be an error


def test_memory_is_bounded_while_the_disk_is_away(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lightning_normdyn.history.part_log._MOST_WAITING_BYTES", 10_000)
    (tmp_path / "file").write_text("not a folder")
    outage = Outage()
    log = PartLog(tmp_path / "file" / "norms", SCHEMA, flush_rows=100, outage=outage)
    with pytest.warns(UserWarning, match="training goes on"):
        log.append("t", {"step": [0] * 100, "norm": [1.0] * 100})
    for step in range(1, 100):
        log.append("t", {"step": [step] * 100, "norm": [1.0] * 100})
    assert log.waiting_rows < 1000
    assert log.waiting_rows + outage.lost_rows == 10_000
    with pytest.warns(UserWarning, match="10,000 rows could not be written"):
        outage.conclude(log.waiting_rows)


def test_a_killed_writer_leaves_a_readable_log(tmp_path: Path) -> None:
    code = f"""
import pyarrow as pa
from lightning_normdyn.history.part_log import PartLog
log = PartLog({str(tmp_path)!r}, pa.schema([("step", pa.int64()), ("norm", pa.float32())]), flush_rows=2000)
for step in range(10**9):
    log.append("t", {{"step": [step] * 1000, "norm": [1.0] * 1000}})
    if step == 40:
        print("ready", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == "ready"
        os.kill(writer.pid, signal.SIGKILL)
    steps = steps_in(PartLog(tmp_path, SCHEMA))
    assert len(steps) >= 40_000
    assert steps == sorted(steps)


def test_a_relative_folder_that_looks_like_an_address_is_a_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert steps_in(written(Path("s3:run"), range(1))) == [0]


def test_a_name_says_what_a_part_holds() -> None:
    assert Part.of_file(Path("part-0000-00000001-00000016-00c0ffee.parquet"))[:4] == (0, 1, 16, "00c0ffee")
    for name in ("part-00000001.parquet", "part-0000-00000001-00000016-00c0ffee.parquet (copy)"):
        assert Part.of_file(Path(name)) is None
