"""Rows of Parquet files, some columns of them, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.lines import File, open_file

_BATCH_ROWS = 256
"""A batch of encoded photographs should not fill the memory."""


def read_parquet(files: Sequence[File], *columns: str) -> Iterator[tuple[File, int, tuple[Any, ...]]]:
    """Reads some columns of Parquet files.

    Yields:
        File, number of the row counted from 1, and a value for each column, None where there is none.

    Raises:
        MalformedFileError: while reading, if a file is missing, no whole Parquet file, or lacks a column.
    """
    for file in files:
        with open_file(file) as stream:
            try:
                source = pq.ParquetFile(stream)
                _check_columns(file, source.schema_arrow.names, columns)
                row = 0
                for batch in source.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(columns))):
                    values_by_column = {name: batch.column(name).to_pylist() for name in batch.schema.names}
                    for values in zip(*(values_by_column[name] for name in columns), strict=True):
                        row += 1
                        yield file, row, values
            except (pa.ArrowException, OSError) as error:
                raise _broken(file, error) from None


def parquet_columns(file: File) -> list[str]:
    """Names of the columns of a Parquet file.

    Raises:
        MalformedFileError: if it is missing or no whole Parquet file.
    """
    with open_file(file) as stream:
        try:
            return list(pq.ParquetFile(stream).schema_arrow.names)
        except (pa.ArrowException, OSError) as error:
            raise _broken(file, error) from None


def text_in(file: File, row: int, column: str, value: object) -> str:
    """Takes a value as text, whole numbers as their digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise MalformedFileError(file, row, f"a text in column '{column}'", repr(value)[:80])
    return value


def _check_columns(file: File, names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        raise MalformedFileError(
            file,
            None,
            f"a column {' and '.join(map(repr, missing))}",
            f"the columns {', '.join(map(repr, names))}",
            "pass the name it has",
        )


def _broken(file: File, error: Exception) -> MalformedFileError:
    return MalformedFileError(file, None, "a whole Parquet file", f"'{error}'", "fetch the file again")
