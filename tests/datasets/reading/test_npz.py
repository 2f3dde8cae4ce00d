"""Arrays of numbers alone: what is text, garbage or objects is refused in our words, and no word advises pickles."""

import numpy as np
import pytest

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.reading.npz import read_npy, read_npz


def _write(file, content):
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif file.suffix == ".npy":
        np.save(file, content, allow_pickle=True)
    else:
        np.savez(file, a=content)


CONTENTS = {
    "text": b"0.1 0.2\n0.3 0.4\n",
    "garbage": bytes(range(256)) * 3,
    "a pickle": b"\x80\x04K\x01.",
    "objects": np.array([[{}], [1]], dtype=object),
    "texts as objects": np.array([["a"], ["bc"]], dtype=object),
    "nothing": b"",
}


@pytest.mark.parametrize("read", [read_npy, EmbeddingFile])
@pytest.mark.parametrize("content", CONTENTS)
def test_an_npy_of_another_kind(tmp_path, read, content):
    _write(tmp_path / "a.npy", CONTENTS[content])
    _refused(read, tmp_path / "a.npy")


@pytest.mark.parametrize("read", [read_npz, EmbeddingFile])
@pytest.mark.parametrize("content", CONTENTS)
def test_an_npz_of_another_kind(tmp_path, read, content):
    _write(tmp_path / "a.npz", CONTENTS[content])
    _refused(read, tmp_path / "a.npz")


def _refused(read, file):
    with pytest.raises((MalformedFileError, ValueError)) as caught:
        read(file)
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}: ")
    assert "write it" in sentence
    assert "pickle" not in sentence
