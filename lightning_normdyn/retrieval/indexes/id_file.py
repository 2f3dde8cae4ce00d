"""Files beside those of vectors: ids, one a line in the order of the rows, and norms; for formats that store none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_LARGEST_NUMBER = 2**63 - 1
_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def id_file(vectors: Path) -> Path:
    """Where the ids of a file of vectors are: its name with ``.ids.txt`` added.

    Example:
        >>> id_file(Path("vectors.npy")).name
        'vectors.npy.ids.txt'
    """
    return vectors.with_name(f"{vectors.name}.ids.txt")


def read_ids(file: Path) -> list[str]:
    """One id a line, UTF-8 with a byte order mark or without.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no UTF-8, or a line is empty.
    """
    if not file.is_file():
        raise FileNotFoundError(f"ids: expected a file with one id a line, got none at '{file}'; check the path")
    try:
        ids = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"ids: '{file}' is no UTF-8 text ({error}); write one id a line") from error
    if "" in ids:
        raise ValueError(f"ids: '{file}', line {ids.index('') + 1}: expected an id, got nothing; fill it in")
    return ids


def check_lines(ids: Sequence[str]) -> None:
    """Refuses ids that one line cannot hold.

    Raises:
        ValueError: if an id is empty or has a line break in it.
    """
    for row, text in enumerate(ids):
        if not text or any(end in text for end in _ENDS):
            raise ValueError(
                f"ids: expected text without line breaks for this target, got {text!r} in row {row}; take parquet"
            )


def ids_array(vectors: Path) -> str:
    """The ids of a file of vectors as a piece of Python, for which ``Path`` and numpy are imported."""
    return f"np.array(Path({str(id_file(vectors))!r}).read_text(encoding='utf-8').splitlines())"


def norm_file(vectors: Path) -> Path:
    """Where the norms of vectors of length 1 are, an ``.npy`` in the order of the rows.

    Example:
        >>> norm_file(Path("docs.faiss")).name
        'docs.faiss.norms.npy'
    """
    return vectors.with_name(f"{vectors.name}.norms.npy")


def check_place(vectors: Path, *, has_id_file: bool, overwrite: bool) -> None:
    """Refuses a place where ids or norms lie that would be taken for those of the vectors to come, or be lost.

    Raises:
        FileExistsError: if there is one.
    """
    ids_path, norms_path = id_file(vectors), norm_file(vectors)
    if ids_path.exists() and not (has_id_file and overwrite):
        raise FileExistsError(f"out: '{ids_path}' holds the ids of other vectors; remove it, or choose another file")
    if norms_path.exists() and not overwrite:
        raise FileExistsError(
            f"out: '{norms_path}' holds the norms of other vectors; remove it, or choose another file"
        )


def write_ids(file: Path, ids: Sequence[str]) -> None:
    """One id a line."""
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{text}\n" for text in ids)


def are_rows(ids: Sequence[str]) -> bool:
    """Whether ids are but the numbers of rows, and need no file.

    Example:
        >>> are_rows(["0", "1"]), are_rows(["1", "0"])
        (True, False)
    """
    return all(text == str(row) for row, text in enumerate(ids))


def whole_numbers(ids: Sequence[str]) -> np.ndarray[Any, Any] | None:
    """Ids as int64, if each is a whole number written as numbers are, from 0 on.

    Example:
        >>> whole_numbers(["7", "0"]), whole_numbers(["007", "0"])
        (array([7, 0]), None)
    """
    plain = all(text.isascii() and text.isdigit() and (text == "0" or text[0] != "0") for text in ids)
    if not plain or any(len(text) > 19 or int(text) > _LARGEST_NUMBER for text in ids):
        return None
    return np.array([int(text) for text in ids], dtype=np.int64)
