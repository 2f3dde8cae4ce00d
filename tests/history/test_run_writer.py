"""Who owns a history, and what its line of time is: new, resumed, moved, cleared and contested runs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from small_models import Lit, PairTable, pair_batches, seeded

from lightning_normdyn import NormObserver
from lightning_normdyn.callbacks import EquilibriumFitMonitor, NormDynamics, NormTrajectoryMonitor
from lightning_normdyn.file_lock import FileLock, is_locked
from lightning_normdyn.history import RunWriter, list_runs, read_run
from lightning_normdyn.history.run_record import Bookmark, RunRecord, Stretch


def write(log_dir: Path, steps, *, start: int = 0, run_id: str | None = None, norm: float = 1.0) -> RunWriter:
    """A run that records one row in each of some steps and ends."""
    writer = RunWriter(log_dir)
    writer.begin({"t": start}, None if run_id is None else Bookmark(run_id))
    record(writer, steps, norm)
    writer.end()
    return writer


def record(writer: RunWriter, steps, norm: float = 1.0) -> None:
    for step in steps:
        writer.target("t").append_rows({"step": [step], "row": [0], "norm": [norm]})
        writer.target("t").append_quantities(step, {"norm_mean": norm})
    writer.flush()


def norms(log_dir: Path, **options) -> dict[int, float]:
    table = read_run(log_dir, **options)["t"].trajectory()
    return dict(zip(table["step"].to_pylist(), table["norm"].to_pylist(), strict=True))


def test_runs_in_one_folder_each_have_their_own_history(tmp_path: Path) -> None:
    told = []
    for norm in (1.0, 2.0, 3.0):
        writer = RunWriter(tmp_path, inform=told.append)
        writer.begin({"t": 0})
        record(writer, [1], norm)
        writer.end()
    assert norms(tmp_path) == {1: 3.0}  # of the last to begin
    assert [norms(tmp_path / name) for name in ("normdyn", "normdyn-2", "normdyn-3")] == [{1: 1.0}, {1: 2.0}, {1: 3.0}]
    first = list_runs(tmp_path)[-1]
    assert (
        norms(tmp_path, run=first.id) == norms(tmp_path, run="normdyn") == norms(tmp_path, run=first.id[:8]) == {1: 1.0}
    )
    assert [record.folder.name for record in list_runs(tmp_path)] == ["normdyn-3", "normdyn-2", "normdyn"]
    assert len(told) == 2
    assert told[0] == (
        f"normdyn history: '{tmp_path / 'normdyn'}' holds another run's; this run's goes to '{tmp_path / 'normdyn-2'}'"
    )
    with pytest.raises(FileNotFoundError, match=r"run: expected one of those in .*, got 'mine'; there are: normdyn-3"):
        read_run(tmp_path, run="mine")


def test_a_resumed_run_goes_on_and_what_it_takes_back_is_kept_aside(tmp_path: Path) -> None:
    run = write(tmp_path, range(1, 140)).run_id
    write(tmp_path, range(41, 101), start=40, run_id=run, norm=2.0)
    assert norms(tmp_path) == {**dict.fromkeys(range(1, 41), 1.0), **dict.fromkeys(range(41, 101), 2.0)}
    assert norms(tmp_path, stretch=0) == dict.fromkeys(range(1, 140), 1.0)
    assert read_run(tmp_path)["t"].quantities()["step"].to_pylist() == list(range(1, 101))
    (record,) = list_runs(tmp_path)
    assert (record.id, record.parent, [stretch.step for stretch in record.stretches]) == (run, None, [0, 40])
    write(tmp_path, range(21, 31), start=20, run_id=run, norm=3.0)
    assert norms(tmp_path) == {**dict.fromkeys(range(1, 21), 1.0), **dict.fromkeys(range(21, 31), 3.0)}
    assert max(norms(tmp_path, stretch=1)) == 100
    with pytest.raises(ValueError, match="stretch: expected one of 3 from 0, got 3"):
        read_run(tmp_path, stretch=3)


def test_each_target_is_cut_at_its_own_step(tmp_path: Path) -> None:
    """Two optimizers, or steps that a loss scaler skipped."""
    targets = ("a", "b", "c")
    writer = RunWriter(tmp_path)
    writer.begin(dict.fromkeys(targets, 0))
    for target in targets:
        writer.target(target).append_rows({"step": [1, 2, 3, 4], "row": [0] * 4, "norm": [1.0] * 4})
    writer.end()
    again = RunWriter(tmp_path)
    again.begin({"a": 3, "b": 3}, writer.bookmark)
    again.begin({"c": 2})  # of another monitor
    again.end()
    again.end()
    run = read_run(tmp_path)
    assert [len(run[target].trajectory()) for target in targets] == [3, 3, 2]


def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path, monkeypatch) -> None:
    run = write(tmp_path, [1]).run_id
    monkeypatch.setattr("time.time", lambda: 1e9)
    write(tmp_path, [1], norm=2.0)
    assert norms(tmp_path) == {1: 2.0}
    monkeypatch.setattr("time.time", lambda: 9e8)
    write(tmp_path, [2], start=1, run_id=run, norm=3.0)
    assert norms(tmp_path) == {1: 1.0, 2: 3.0}
    assert [record.folder.name for record in list_runs(tmp_path)] == ["normdyn", "normdyn-2"]


def test_without_locks_nothing_is_mixed(tmp_path: Path, monkeypatch) -> None:
    """On a file system without them a run goes on in a folder of its own: nobody knows whether another writes there."""
    monkeypatch.setattr("lightning_normdyn.file_lock.flock", refuse_lock)
    run = write(tmp_path, range(1, 6)).run_id
    writers = [RunWriter(tmp_path), RunWriter(tmp_path)]
    for number, writer in enumerate(writers, start=2):
        writer.begin({"t": 3}, Bookmark(run, 0))
        record(writer, [4], float(number))
    for writer in writers:
        writer.end()
    assert [norms(tmp_path, run=name) for name in ("normdyn", "normdyn-2", "normdyn-3")] == [
        dict.fromkeys(range(1, 6), 1.0),
        {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0},
        {1: 1.0, 2: 1.0, 3: 1.0, 4: 3.0},
    ]


def refuse_lock(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_link_to_the_folder_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "disk" / "version_0").mkdir(parents=True)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "latest").symlink_to(tmp_path / "disk" / "version_0")
    run = write(tmp_path / "logs" / "latest", range(1, 6)).run_id
    again = write(tmp_path / "disk" / "version_0", [4, 5], start=3, run_id=run, norm=2.0)
    assert norms(tmp_path / "logs" / "latest") == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0}
    RunWriter(tmp_path / "logs" / "next").begin({"t": 5}, again.bookmark)  # and its process is killed
    assert max(norms(tmp_path / "logs" / "next")) == 5


def test_a_run_that_begins_where_nothing_can_be_written_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    writer = RunWriter(tmp_path / "logs")
    with pytest.warns(UserWarning, match="cannot write to"):
        writer.begin({"t": 0})
    record(writer, [1])
    (tmp_path / "logs").unlink()
    with pytest.warns(UserWarning, match="can be written again; nothing was lost"):
        record(writer, [2])
    writer.end()
    assert norms(tmp_path / "logs") == {1: 1.0, 2: 1.0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked and killed")
def test_a_kill_between_writing_and_naming_a_part_leaves_nothing_half(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        writer = RunWriter(tmp_path)
        writer.begin({"t": 0})
        record(writer, [1])
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        record(writer, [2])
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert [path.suffix for path in (tmp_path / "normdyn" / "trajectory").glob(".*")] == [".tmp"]
    assert norms(tmp_path) == {1: 1.0}
    write(tmp_path, [2], start=1, run_id=list_runs(tmp_path)[0].id, norm=2.0)
    assert not list((tmp_path / "normdyn" / "trajectory").glob(".*"))
    assert norms(tmp_path) == {1: 1.0, 2: 2.0}


def test_where_the_record_is_damaged_steps_tell_where_a_branch_ends(tmp_path: Path) -> None:
    run = write(tmp_path, range(1, 140)).run_id
    write(tmp_path, range(41, 101), start=40, run_id=run, norm=2.0)
    (tmp_path / "normdyn" / "run.json").write_text("{")
    with pytest.warns(UserWarning, match=r"run\.json' is damaged"):
        assert norms(tmp_path) == {**dict.fromkeys(range(1, 41), 1.0), **dict.fromkeys(range(41, 101), 2.0)}


def test_a_run_that_another_process_still_writes_is_left_alone(tmp_path: Path) -> None:
    """However it is called: its process has another number space, or its number is somebody else's by now."""
    code = f"""
from lightning_normdyn.history import RunWriter
writer = RunWriter({str(tmp_path)!r})
writer.begin({{"t": 0}})
writer.target("t").append_rows({{"step": [1], "row": [0], "norm": [1.0]}})
writer.flush()
print(writer.run_id, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        run = process.stdout.readline().strip()
        record_of_first = RunRecord.read(tmp_path / "normdyn")
        assert record_of_first.has_writer
        resumed = write(tmp_path, [2], start=1, run_id=run, norm=2.0)
        assert resumed.root.name == "normdyn-2"
        assert RunRecord.read(resumed.root).parent == run
        process.kill()
    assert record_of_first.has_writer is False
    assert write(tmp_path, [2], start=1, run_id=run, norm=3.0).root.name == "normdyn"
    assert norms(tmp_path) == {1: 1.0, 2: 3.0}
    assert norms(tmp_path, run="normdyn-2") == {1: 1.0, 2: 2.0}  # from the checkpoint of the first


def test_the_process_number_says_nothing(tmp_path: Path) -> None:
    """A killed run whose number a living process has."""
    run = write(tmp_path, range(1, 5)).run_id
    record = RunRecord.read(tmp_path / "normdyn")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        stretch = Stretch(**{**vars(record.stretches[0]), "process": process.pid})
        RunRecord(**{**vars(record), "stretches": [stretch], "end": None}).write()
        assert write(tmp_path, [3], start=2, run_id=run, norm=2.0).root.name == "normdyn"
        process.communicate(b"\n")
    assert norms(tmp_path) == {1: 1.0, 2: 1.0, 3: 2.0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked there")
def test_a_forked_child_that_outlives_the_run_does_not_hold_its_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:  # as a worker of a data loader does that is at work when its parent is killed
        os.read(read_end, 1)
        os._exit(0)
    try:
        assert is_locked(tmp_path / "lock")
        lock.release()
        assert FileLock(tmp_path / "lock").acquire()
    finally:
        os.write(write_end, b"x")
        os.waitpid(child, 0)


def test_a_moved_folder_is_gone_on_with(tmp_path: Path) -> None:
    run = write(tmp_path / "here", range(1, 5)).run_id
    (tmp_path / "here").rename(tmp_path / "there")
    write(tmp_path / "there", [3, 4], start=2, run_id=run, norm=2.0)
    assert norms(tmp_path / "there") == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}
    assert len(list_runs(tmp_path / "there")) == 1


def test_a_folder_that_is_cleared_or_moved_while_a_run_goes_on_is_made_again(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "logs")
    writer.begin({"t": 0})
    writer.target("t").describe({"lr": 0.5})
    record(writer, [1])
    (tmp_path / "logs").rename(tmp_path / "moved")
    record(writer, [2])
    shutil.rmtree(tmp_path / "logs")
    record(writer, [3])
    shutil.rmtree(tmp_path / "logs")
    other = RunWriter(tmp_path / "logs")  # and another run takes the place
    other.begin({"t": 0})
    record(other, [1], 7.0)
    record(writer, [4])
    writer.end()
    other.end()
    assert norms(tmp_path / "moved") == {1: 1.0}
    assert norms(tmp_path / "logs", run=writer.run_id) == {4: 1.0}
    assert norms(tmp_path / "logs", run=other.run_id) == {1: 7.0}
    assert read_run(tmp_path / "logs", run=writer.run_id)["t"].description()["lr"] == 0.5


def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "normdyn").mkdir()
    (tmp_path / "normdyn" / "__init__.py").write_text("mine = True")
    assert write(tmp_path, [1]).root.name == "normdyn-2"
    assert [file.name for file in (tmp_path / "normdyn").iterdir()] == ["__init__.py"]
    assert norms(tmp_path) == {1: 1.0}


def test_a_history_of_an_earlier_version_is_one_sentence_and_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "normdyn" / "table"
    (target / "trajectory").mkdir(parents=True)
    (target / "target.json").write_text('{"target": "table"}')
    (target.parent / "run").write_text("12-34@host")
    with pytest.raises(FileNotFoundError, match="was written by an earlier development version"):
        read_run(tmp_path)
    assert write(tmp_path, [1]).root.name == "normdyn-2"
    assert norms(tmp_path) == {1: 1.0}


NAMES = [
    "user/item",
    "user_item",
    "user item",
    "User_Item",
    "run",
    "run.json",
    "lock",
    "ended",
    "..",
    ".",
    "",
    "a" * 300,
    "a" * 300 + "b",
    "con",
    "naïve",
    "nai\u0308ve",
    "模块.weight",
    "line\nbreak",
    "half a pair \\udcff",
    "trajectory",
    "/etc/passwd",
    "C:\\x",
    "null\0byte",
]


def test_any_two_targets_are_kept_apart(tmp_path: Path) -> None:
    """Names that file systems confuse, forbid or keep for themselves."""
    writer = RunWriter(tmp_path)
    writer.begin(dict.fromkeys(NAMES, 0))
    for number, name in enumerate(NAMES):
        target = writer.target(name)
        target.describe({"lr": float(number)})
        target.name_rows({0: name})
        target.append_rows({"step": [1], "row": [0], "norm": [float(number)]})
        target.append_quantities(1, {"norm_mean": float(number)})
    writer.end()
    run = read_run(tmp_path)
    assert set(run) == set(NAMES)
    for number, name in enumerate(NAMES):
        assert run[name].trajectory()["norm"].to_pylist() == [number]
        assert run[name].quantities()["value"].to_pylist() == [number]
        assert run[name].description()["lr"] == number
        assert run[name].row_names() == {0: name}


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.05)


def fitted_rows(folder: Path) -> tuple[list, list]:
    table = read_run(folder)["net.table.weight"].trajectory()
    steps, moments = table["step"].to_pylist(), table["second_moment"].to_pylist()
    assert len(set(zip(steps, table["row"].to_pylist(), strict=True))) == len(steps)
    assert all(norm is not None for norm in table["norm"].to_pylist())
    return steps, moments


def test_columns_of_several_monitors_are_merged_whatever_their_order(fit, tmp_path: Path) -> None:
    monitors = [NormTrajectoryMonitor(every_n_steps=5), EquilibriumFitMonitor(window=10, every_n_steps=5)]
    for name, order in (("ab", monitors), ("ba", monitors[::-1])):
        fit(Lit(seeded(PairTable), sgd), pair_batches(20), *order, default_root_dir=tmp_path / name)
    assert fitted_rows(tmp_path / "ab") == fitted_rows(tmp_path / "ba")
    steps, moments = fitted_rows(tmp_path / "ab")
    with_moment = {step for step, moment in zip(steps, moments, strict=True) if moment is not None}
    assert with_moment == {10, 20}


def test_a_fit_says_when_its_history_is_complete(fit, tmp_path: Path) -> None:
    class Breaks(Lit):
        def on_train_batch_end(self, *_):
            assert list_runs(tmp_path)[0].has_writer
            raise ValueError("broken")

    fit(Lit(seeded(PairTable), sgd), pair_batches(4), NormDynamics(), NormTrajectoryMonitor())
    with pytest.raises(ValueError, match="broken"):
        fit(Breaks(seeded(PairTable), sgd), pair_batches(4), NormDynamics())
    assert [(record.end is not None, record.has_writer) for record in list_runs(tmp_path)] == [(True, False)] * 2


def test_an_observer_says_so_too_and_closes_once(tmp_path: Path) -> None:
    table = torch.nn.Embedding(3, 2)
    optimizer = sgd(table)
    with NormObserver(table, optimizer, log_dir=tmp_path) as observer:
        table(torch.tensor([1])).square().sum().backward()
        optimizer.step()
        (record,) = list_runs(tmp_path)
        assert (record.end, record.has_writer) == (None, True)
    (record,) = list_runs(tmp_path)
    assert (record.end is not None, record.has_writer) == (True, False)
    again = RunWriter(tmp_path)
    again.begin({}, Bookmark(record.id))  # somebody goes on with it
    observer.close()
    assert list_runs(tmp_path)[0].has_writer
    again.end()


def test_a_checkpoint_flushes_first_and_a_finished_run_keeps_its_statistics(tmp_path: Path) -> None:
    table = torch.nn.Embedding(3, 2)
    optimizer = sgd(table)

    def step():
        table(torch.tensor([1])).square().sum().backward()
        optimizer.step()

    with NormObserver(table, optimizer, log_dir=tmp_path, every_n_steps=1) as observer:
        step()
        step()
        state = observer.state_dict()
        assert read_run(tmp_path)["weight"].trajectory()["step"].to_pylist() == [1] * 3 + [2] * 3
    resumed = NormObserver(table, optimizer, log_dir=tmp_path)
    resumed.load_state_dict(state)
    assert resumed.state_dict()["targets"]["weight"]["steps"] == 2


def test_secrets_of_the_command_line_are_left_out(monkeypatch) -> None:
    words = ["/x/train.py", "--api-key", "s3cret", "--token=s3cret", "postgres://me:s3cret@host/db", "--lr", "0.1"]
    monkeypatch.setattr(sys, "argv", words)
    command = Stretch.here(0, {}).command
    assert "s3cret" not in command
    assert command.startswith("train.py --api-key ")
    assert command.endswith("@host/db --lr 0.1")


def test_leftovers_of_a_killed_writer_are_removed_when_the_run_goes_on(tmp_path: Path) -> None:
    run = write(tmp_path, [1]).run_id
    leftover = tmp_path / "normdyn" / "trajectory" / ".part-0000.parquet.0123456789abcdef.tmp"
    leftover.write_bytes(b"PAR1")
    write(tmp_path, [2], start=1, run_id=run)
    assert not leftover.exists()


def test_a_disk_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    writer = RunWriter(tmp_path / "file")
    with pytest.warns(UserWarning, match="cannot write to"):
        writer.begin({"t": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record(writer, [1])
    with pytest.warns(UserWarning, match="2 rows could not be written"):
        writer.end()


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    writer = write(tmp_path, [1])
    content = json.loads((writer.root / "run.json").read_text())
    assert content["id"] == writer.run_id
    assert content["stretches"][0]["process"] == os.getpid()
    assert content["stretches"][0]["host"]
