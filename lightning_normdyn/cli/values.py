"""Types of command options: what a value must be, for words of a shell and for calls from Python alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

_MOST = 10**12
SEEDS = 2**32
_LONGEST_NAME = 255


def text(value: object) -> str:
    """A word, or a path.

    Example:
        >>> from pathlib import Path
        >>> text(Path("runs") / "a"), text("sts.yaml")
        ('runs/a', 'sts.yaml')
    """
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"expected text or a path, got {value!r}")
    return str(value)


class Value(NamedTuple):
    """Metadata of an annotation.

    Attributes:
        metavar: what help calls the value.
        check: turns a word or a value into the value, or raises ``ValueError`` with what was expected.
        one_word: whether a list takes one word each time its option is named, and not all words that follow.
    """

    metavar: str
    check: Callable[[Any], Any] = text
    one_word: bool = False


def count(value: int | str) -> int:
    """A positive whole number.

    Example:
        >>> count("12")
        12
    """
    number = _whole(value)
    if number is None or number < 1:
        raise ValueError(f"expected a positive whole number, got {value!r}")
    if number > _MOST:
        raise ValueError(f"expected at most {_MOST}, got {value!r}")
    return number


def seed(value: int | str) -> int:
    """A number that random generators start from."""
    number = _whole(value)
    if number is None or not 0 <= number < SEEDS:
        raise ValueError(f"expected a whole number from 0 to {SEEDS - 1}, got {value!r}")
    return number


def exponent(value: float | str) -> float:
    """Any finite number."""
    number = _number(value)
    if not abs(number) < float("inf"):
        raise ValueError(f"expected a number, got {value!r}")
    return number


def factor(value: float | str) -> float:
    """A positive finite number."""
    number = _number(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"expected a positive number, got {value!r}")
    return number


def file(value: object) -> str:
    """The name of a file.

    Example:
        >>> file("runs/a.npy")
        'runs/a.npy'
        >>> file(" ")
        Traceback (most recent call last):
            ...
        ValueError: expected the name of a file, got nothing
    """
    return _path(value, "file")


def output_file(value: object) -> str:
    """The name of a file on this machine."""
    return _local(file(value), "file")


def folder(value: object) -> str:
    """The name of a folder on this machine.

    Example:
        >>> folder("runs")
        'runs'
        >>> folder("s3://bucket/runs")  # a disk would take it for the folder 's3:'
        Traceback (most recent call last):
            ...
        ValueError: expected a folder on this machine, got a URL; name a path
    """
    return _local(_path(value, "folder"), "folder")


def _local(name: str, kind: str) -> str:
    if "://" in name:
        raise ValueError(f"expected a {kind} on this machine, got a URL; name a path")
    return name


def _path(value: object, kind: str) -> str:
    """A name that a disk can hold."""
    name = text(value)
    if not name.strip():
        raise ValueError(f"expected the name of a {kind}, got nothing")
    if "\0" in name:
        raise ValueError(f"expected the name of a {kind} without zero bytes, got {name!r}")
    part = max(name.split("/"), key=len)
    if len(os.fsencode(part)) > _LONGEST_NAME:
        raise ValueError(
            f"expected the name of a {kind} of at most {_LONGEST_NAME} bytes, got {len(os.fsencode(part))}, "
            f"'{part[:20]}...'"
        )
    return name


def _whole(value: int | str) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isdecimal() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: float | str) -> float:
    """The number that a word says, NaN if it says none."""
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return float("nan")


Count = Annotated[int, Value("N", count)]
Seed = Annotated[int, Value("N", seed)]
Exponent = Annotated[float, Value("A", exponent)]
Factor = Annotated[float, Value("F", factor)]
Minutes = Annotated[float, Value("MINUTES", factor)]
Seconds = Annotated[float, Value("SECONDS", factor)]
Folder = Annotated[str, Value("DIR", folder)]
File = Annotated[str, Value("FILE", file)]
OutputFile = Annotated[str, Value("FILE", output_file)]
Name = Annotated[str, Value("NAME")]
Table = Annotated[str, Value("TSV", file)]
ConfigFile = Annotated[str, Value("FILE", one_word=True)]
