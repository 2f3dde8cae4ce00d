"""Finds the files of a data set in a folder: splits by any usual name, plain or gzipped."""

from __future__ import annotations

import re
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
_SHARD = re.compile(r"-\d+-of-\d+$")


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
    files = [path / (name + suffix) for name in names for suffix in ("", ".gz") if (path / (name + suffix)).is_file()]
    if len(files) > 1:
        came = " and ".join(file.name for file in files)
        raise MalformedFileError(folder, None, f"one file of {', '.join(names)}", came, "keep the one you mean")
    return files[0] if files else None


def require_file(folder: File, *names: str) -> Path:
    """Finds the one file of a folder that has one of some names, plain or ``.gz``.

    Raises:
        MalformedFileError: if the folder is missing or has none or several of them.
    """
    file = find_file(folder, *names)
    if file is None:
        expected = f"a file {' or '.join(names)}, plain or .gz"
        raise MalformedFileError(folder, None, expected, _listing(Path(folder)))
    return file


def find_splits(folder: File, *, endings: Sequence[str], prefixes: Sequence[str] = ("",)) -> dict[str, Path]:
    """Finds the file of each split that is there.

    Args:
        folder: where they lie.
        endings: of names, with their dot; plain or ``.gz``.
        prefixes: what may stand before the name of a split.

    Raises:
        MalformedFileError: if the folder is missing, has two files for a split, or none for any.
    """
    files = {}
    for split, spellings in SPLITS.items():
        names = [prefix + spelling + ending for prefix in prefixes for spelling in spellings for ending in endings]
        file = find_file(folder, *names)
        if file is not None:
            files[split] = file
    if not files:
        expected = " or ".join(f"{prefixes[0]}train{ending}" for ending in endings)
        raise MalformedFileError(folder, None, f"files such as {expected}", _listing(Path(folder)))
    return files


def by_split(place: File, files: Sequence[tuple[str, Path]]) -> dict[str, list[Path]]:
    """Puts files under the names that splits have here, in the order train, validation, test, others.

    Args:
        place: for the error.
        files: each with the name of its split, whose shards are numbered ``-00000-of-00002``.

    Raises:
        MalformedFileError: if two files are of one split and no shards of it.
    """
    spellings = {spelling: split for split, names in SPLITS.items() for spelling in names}
    splits: dict[str, list[Path]] = {}
    for name, file in files:
        split_name = _SHARD.sub("", name)
        shards = splits.setdefault(spellings.get(split_name, split_name), [])
        if shards and split_name == name:
            expected = f"one file of split '{spellings.get(split_name, split_name)}'"
            raise MalformedFileError(place, None, expected, f"{shards[0].name} and {file.name}", "remove one")
        shards.append(file)
    return {split: splits[split] for split in sorted(splits, key=_order)}


def find_parquet_splits(folder: File) -> dict[str, list[Path]]:
    """Finds the Parquet files of each split, in a folder or in its ``data``; empty where there are none.

    Raises:
        MalformedFileError: if the folder is missing, or two files are of one split and no shards of it.
    """
    root = require_folder(folder)
    files = sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))
    return by_split(root, [(file.stem, file) for file in files])


def _order(split: str) -> tuple[int, str]:
    order = list(SPLITS)
    return (order.index(split) if split in order else len(order), split)


def _listing(folder: Path, limit: int = 5) -> str:
    names = sorted(file.name for file in folder.iterdir())
    if not names:
        return "an empty folder"
    return ", ".join(names[:limit]) + (" and more" if len(names) > limit else "")
