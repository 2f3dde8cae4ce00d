"""Streamed files of every kind appear whole, follow no planted link and leave nothing behind after an error."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning_normdyn.history.target_history import fresh_root

from lightning_normdyn.atomic_file import atomic_file
from lightning_normdyn.cli.predictions import _write_embeddings
from lightning_normdyn.datasets.reading.arrow_column import ArrowColumn, write_columns
from lightning_normdyn.history import ParquetLog, read_parts
from lightning_normdyn.tasks.audited_model import encode_to_file

SCHEMA = pa.schema([("step", pa.int64())])


def write_part(file: Path) -> None:
    log = ParquetLog(file.parent, SCHEMA)
    log.append({"step": [7]})
    log.flush()


WRITERS = {
    "queries.npz": lambda file: _write_embeddings(file, torch.ones(2, 3), ["a", "b"]),
    "saved.npy": lambda file: encode_to_file(file, ["a", "b"], lambda texts: torch.ones(len(texts), 3)),
    "texts.arrow": lambda file: write_columns(file, [("x",)], text=str),
    "part-00000001.parquet": write_part,
}
READERS = {
    "queries.npz": lambda file: np.load(file)["embeddings"].shape == (2, 3),
    "saved.npy": lambda file: np.load(file).shape == (2, 3),
    "texts.arrow": lambda file: list(ArrowColumn(file, "text")) == ["x"],
    "part-00000001.parquet": lambda file: read_parts(file.parent, SCHEMA)["step"].to_pylist() == [7],
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


def test_a_mark_of_a_run_replaces_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    mark = f"{os.getpid()}-9"  # of an earlier run of this process, which a resumed one takes over
    victim.write_text(mark)
    (tmp_path / "normdyn").mkdir()
    (tmp_path / "normdyn" / "run").symlink_to(victim)
    fresh_root(tmp_path, 1, resumes=True)
    assert victim.read_text() == mark
    assert (tmp_path / "normdyn" / "run").read_text() == f"{os.getpid()}-1@{platform.node()}"


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
