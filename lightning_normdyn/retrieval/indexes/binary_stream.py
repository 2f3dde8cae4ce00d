"""A header and rows of numbers, written a chunk at a time: after older rows, or from where a kill left off."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class BinaryStream:
    """Writes a file whose rows all take the same bytes and end the file.

    Args:
        file: where to.
        header: what comes first.
        row_bytes: bytes of a row.
        rows_done: rows that the file holds already and keeps; whatever comes after them is cut off.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "numbers.npy"
        >>> stream = BinaryStream(file, npy_header("<f4", (3,)), 4)
        >>> stream.write(np.arange(2, dtype="f4")); stream.close()
        >>> stream = BinaryStream(file, npy_header("<f4", (3,)), 4, rows_done=1)
        >>> stream.write(np.array([5, 6], "f4")); stream.close(); np.load(file)
        array([0., 5., 6.], dtype=float32)
    """

    def __init__(self, file: Path, header: bytes, row_bytes: int, *, rows_done: int = 0) -> None:
        self._row_bytes = row_bytes
        self._stream: BinaryIO = file.open("r+b" if rows_done else "wb")
        if rows_done:
            self._stream.seek(len(header) + rows_done * row_bytes)
            self._stream.truncate()
        else:
            self._stream.write(header)

    def copy(self, file: Path, rows: int) -> None:
        """Takes over the rows of another such file.

        Args:
            file: them at its end.
            rows: how many.
        """
        with file.open("rb") as source:
            source.seek(-rows * self._row_bytes, os.SEEK_END)
            shutil.copyfileobj(source, self._stream, 2**24)

    def write(self, rows: np.ndarray[Any, Any]) -> None:
        """Appends rows."""
        self._stream.write(np.ascontiguousarray(rows).astype(f"<f{rows.itemsize}", copy=False).data)

    def sync(self) -> None:
        """Puts what was written on the disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Ends the file."""
        self._stream.close()


def npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    """The beginning of an ``.npy`` file.

    Args:
        kind: of the numbers, as numpy writes it.
        shape: of the array.
    """
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    # Numbers start at a multiple of 64 bytes, so that the file can be mapped.
    padding = -(len(text) + 11) % 64
    line = (text + " " * padding + "\n").encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line
