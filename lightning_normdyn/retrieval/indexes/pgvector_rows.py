"""Rows of ids and vectors in the binary format of PostgreSQL's COPY."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)


def copy_rows(ids: Sequence[str], vectors: np.ndarray[Any, Any]) -> bytes:
    """Rows of a text column and a ``vector`` (of float32) or ``halfvec`` (of float16) column.

    Such a value is its dimension and a zero, two bytes each, and then its numbers, the most significant byte first.

    Args:
        ids: ``n``.
        vectors: ``[n, d]``.

    Returns:
        The rows alone, without :data:`HEADER` and :data:`TRAILER`.

    Example:
        >>> copy_rows(["a"], np.ones((1, 1), np.float16)).hex(" ", 2)
        '00 0200 0000 0161 0000 0006 0001 0000 3c00'
    """
    dim = vectors.shape[1]
    numbers = np.ascontiguousarray(vectors, dtype=vectors.dtype.newbyteorder(">"))
    width = numbers.itemsize * dim
    column = struct.pack("!ihh", width + 4, dim, 0)
    rows = []
    for one, vector in zip(ids, numbers, strict=True):
        name = one.encode()
        rows += [struct.pack("!hi", 2, len(name)), name, column, vector.tobytes()]
    return b"".join(rows)
