"""Streamed files of every kind appear whole, follow no planted link and leave nothing behind after an error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lightning_normdyn.atomic_file import atomic_file
from lightning_normdyn.cli.predictions import _write_embeddings
from lightning_normdyn.datasets.reading.arrow_column import ArrowColumn, write_columns
from lightning_normdyn.file_lock import FileLock
from lightning_normdyn.history import RunWriter
from lightning_normdyn.history.part import write_part
from lightning_normdyn.history.run_record import RunRecord
from lightning_normdyn.tasks.audited_model import encode_to_file


def write_named_part(file: Path) -> None:
    write_part(file.parent, 0, 1, 1, pa.table({"step": [7]})).file.rename(file)


WRITERS = {
    "queries.npz": lambda file: _write_embeddings(file, torch.ones(2, 3), ["a", "b"]),
    "saved.npy": lambda file: encode_to_file(file, ["a", "b"], lambda texts: torch.ones(len(texts), 3)),
    "texts.arrow": lambda file: write_columns(file, [("x",)], text=str),
    "part.parquet": write_named_part,
}
READERS = {
    "queries.npz": lambda file: np.load(file)["embeddings"].shape == (2, 3),
    "saved.npy": lambda file: np.load(file).shape == (2, 3),
    "texts.arrow": lambda file: list(ArrowColumn(file, "text")) == ["x"],
    "part.parquet": lambda file: pq.read_table(file)["step"].to_pylist() == [7],
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_planted_at_a_name_that_can_be_guessed_is_not_followed(tmp_path: Path, name: str) -> None:
    file, victim = tmp_path / "out" / name, tmp_path / "victim"
    victim.write_text("precious")
    file.parent.mkdir()
    for guess in (f"{name}.tmp", f"{file.stem}.{os.getpid()}.tmp", f"{name}.part"):
        (file.parent / guess).symlink_to(victim)
    WRITERS[name](file)
    assert victim.read_text() == "precious"
    assert READERS[name](file)


def test_the_files_of_a_run_replace_links_and_follow_none(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.begin({})
    writer.end()
    victim = tmp_path / "victim"
    for name in ("run.json", "targets.json"):
        victim.write_bytes((writer.root / "run.json").read_bytes())
        (writer.root / name).unlink(missing_ok=True)
        (writer.root / name).symlink_to(victim)
    content = victim.read_bytes()
    again = RunWriter(tmp_path / "run")
    again.begin({"t": 1}, writer.bookmark)
    again.target("t").describe({})
    again.end()
    assert victim.read_bytes() == content
    assert len(RunRecord.read(writer.root).stretches) == 2


def test_a_planted_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        FileLock(tmp_path / "lock").acquire()
    assert not (tmp_path / "victim").exists()


def test_what_a_killed_writer_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    at_work, file = FileLock(tmp_path / ".page.html.00000000000000aa.tmp"), tmp_path / "page.html"
    assert at_work.acquire()
    for name in (".page.html.0123456789abcdef.tmp", ".page.html.tmp", ".other.html.0123456789abcdef.tmp"):
        (tmp_path / name).write_text("half")
    with atomic_file(file) as temporary:
        temporary.write_text("whole")
    names = [".other.html.0123456789abcdef.tmp", at_work.path.name, ".page.html.tmp", "page.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("name", ["é" * 127, "x" * 255, "模" * 85])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    with atomic_file(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
def test_an_error_on_the_way_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "numbers.bin"
    file.write_text("old")

    def write_half() -> None:
        with atomic_file(file) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("numbers.bin", "old")]


def test_an_encoder_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fails(texts: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="memory"):
        encode_to_file(tmp_path / "saved.npy", ["a"], fails)
    with pytest.raises(ValueError, match="inputs: expected one at least"):
        encode_to_file(tmp_path / "saved.npy", [], fails)
    assert not list(tmp_path.iterdir())


def test_a_device_is_written_to_and_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    replace: Callable[..., None] = pytest.fail
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_file(Path(os.devnull)) as temporary:
        temporary.write_text("gone")
    assert temporary == Path(os.devnull)


def test_other_processes_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("a")
    finally:
        os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
