"""A column on disk is the sequence that was written."""

from __future__ import annotations

import pickle

import pytest
from small_files import write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.reading.arrow_column import ArrowColumn, write_columns


@pytest.fixture
def texts():
    # More than one batch by rows, with signs of several bytes.
    return [f"text {number} é 漢 🙂" * (number % 3) for number in range(9_000)]


def test_it_is_a_sequence_in_memory_and_after_pickling(tmp_path, texts):
    file = tmp_path / "new" / "a.arrow"
    write_columns(file, ((text, text.encode()) for text in texts), text=str, data=bytes)
    column = ArrowColumn[str](file, "text")
    assert len(column) == len(texts)
    assert list(column) == texts
    assert column.empty_places() == [place for place, text in enumerate(texts) if not text]
    for found in (column, pickle.loads(pickle.dumps(column))):
        assert [found[place] for place in (0, 4095, 4096, 8999, -1, -9000)] == [
            texts[place] for place in (0, 4095, 4096, 8999, -1, -9000)
        ]
        assert found[8191:8194] == texts[8191:8194]
        with pytest.raises(IndexError, match="9000 rows, got 9000"):
            found[9000]
    assert ArrowColumn[bytes](file, "data")[-1] == texts[-1].encode()
    assert len(pickle.dumps(column)) < 1000


def test_a_batch_is_bounded_in_bytes_too(tmp_path):
    write_columns(tmp_path / "a.arrow", (("x" * (3 << 20),) for _ in range(4)), text=str)
    assert len(ArrowColumn[str](tmp_path / "a.arrow", "text")._chunks) == 2


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path):
    def fails():
        yield ("a",)
        raise MalformedFileError("source", 2, "a row", "none")

    with pytest.raises(MalformedFileError, match="source, line 2"):
        write_columns(tmp_path / "a.arrow", fails(), text=str)
    assert not list(tmp_path.iterdir())


def test_an_empty_column_has_no_rows(tmp_path):
    write_columns(tmp_path / "a.arrow", (), text=str)
    column = ArrowColumn[str](tmp_path / "a.arrow", "text")
    assert len(column) == 0
    assert list(column) == []


def test_what_is_no_such_file_is_refused(tmp_path):
    write_columns(tmp_path / "a.arrow", [("a",)], text=str)
    with pytest.raises(MalformedFileError, match="expected a column 'name', got"):
        ArrowColumn[str](tmp_path / "a.arrow", "name")
    with pytest.raises(MalformedFileError, match="expected an Arrow IPC file"):
        ArrowColumn[str](write(tmp_path / "b.arrow", "no arrow"), "name")
    with pytest.raises(MalformedFileError, match="expected an Arrow IPC file"):
        ArrowColumn[str](tmp_path / "c.arrow", "name")
