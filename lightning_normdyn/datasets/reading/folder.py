"""The files of a folder, whatever spelling of a split and whichever ending they go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_normdyn.datasets.problems import MalformedFileError
from lightning_normdyn.datasets.reading.lines import File

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "dev", "valid", "val"),
    "test": ("test",),
}
"""The name of a split in this package to the names it goes by in files."""


def require_folder(folder: File) -> Path:
    """Takes a folder.

    Raises:
        MalformedFileError: if it is missing or a file.
    """
    path = Path(folder)
    if not path.is_dir():
        came = "a file" if path.exists() else "nothing of that name"
        raise MalformedFileError(folder, None, "a folder", came, "check the path")
    return path


def find_file(folder: File, *names: str) -> Path | None:
    """Finds the one file of a folder that has one of some names, plain or ``.gz``.

    Raises:
        MalformedFileError: if the folder is missing or has several of them.
    """
    path = require_folder(folder)
    found = [path / (name + zipped) for name in names for zipped in ("", ".gz") if (path / (name + zipped)).is_file()]
    if len(found) > 1:
        came = " and ".join(file.name for file in found)
        raise MalformedFileError(folder, None, f"one file of {', '.join(names)}", came, "keep the one you mean")
    return found[0] if found else None


def require_file(folder: File, *names: str) -> Path:
    """Finds the one file of a folder that has one of some names, plain or ``.gz``.

    Raises:
        MalformedFileError: if the folder is missing or has none or several of them.
    """
    found = find_file(folder, *names)
    if found is None:
        expected = f"a file {' or '.join(names)}, plain or .gz"
        raise MalformedFileError(folder, None, expected, _listing(Path(folder)))
    return found


def find_splits(folder: File, *, endings: Sequence[str], prefixes: Sequence[str] = ("",)) -> dict[str, Path]:
    """Finds the file of each split that is there.

    Args:
        folder: where they lie.
        endings: of names, with their dot; plain or ``.gz``.
        prefixes: what may stand before the name of a split.

    Raises:
        MalformedFileError: if the folder is missing, has two files for a split, or none for any.
    """
    found = {}
    for split, spellings in SPLITS.items():
        names = [prefix + spelling + ending for prefix in prefixes for spelling in spellings for ending in endings]
        file = find_file(folder, *names)
        if file is not None:
            found[split] = file
    if not found:
        expected = " or ".join(f"{prefixes[0]}train{ending}" for ending in endings)
        raise MalformedFileError(folder, None, f"files such as {expected}", _listing(Path(folder)))
    return found


def _listing(folder: Path, most: int = 5) -> str:
    names = sorted(file.name for file in folder.iterdir())
    if not names:
        return "an empty folder"
    return ", ".join(names[:most]) + (" and more" if len(names) > most else "")
