"""A disk without room is one sentence that says where, and leaves nothing half-written; the limit is the system's."""

import errno
import os
import resource
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lightning_normdyn.atomic_file import atomic_file
from lightning_normdyn.cli.main import main
from lightning_normdyn.cli.user_errors import one_sentence

_BYTES = 16_000


@contextmanager
def little_room():
    """No file may grow beyond some bytes, as on a disk that has no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(("target", "place"), [
    ("npy", "a.npy"), ("safetensors", "a.safetensors"), ("parquet", "a.parquet"), ("faiss", "a.faiss"), ("qdrant", "a"),
])  # fmt: skip
def test_an_export_names_the_place(target, place, capsys):
    pytest.importorskip({"faiss": "faiss", "qdrant": "qdrant_client"}.get(target, "numpy"))
    np.save("vectors.npy", np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32))
    words = ["export", "--embeddings", "vectors.npy", "--to", target, "--out", f"made/{place}"]
    with little_room():
        assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("normdyn: out: ")
    assert f"made/{place}" in lines[0]
    assert "Errno" not in lines[0]
    assert "space" in lines[0] or "disk full" in lines[0]
    assert not list(Path().glob("made/*"))


def test_a_file_that_is_written_in_steps_is_named():
    with (
        little_room(),
        pytest.raises(OSError, match=r"File too large: 'vectors\.npz'"),
        atomic_file(Path("vectors.npz")) as temporary,
        temporary.open("wb") as stream,
    ):
        np.savez(stream, a=np.zeros(10_000))
    assert not list(Path().iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_an_error_of_the_disk_that_names_no_file_says_what_to_do(number):
    sentence = one_sentence(OSError(number, os.strerror(number)))
    assert sentence.startswith(f"cannot write ({os.strerror(number)}); ")
    assert "choose another" in sentence
