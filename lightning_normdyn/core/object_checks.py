"""Checks of arguments that are paths, words, texts, functions or objects of a class."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from lightning_normdyn.core.number_checks import ending, shown
from lightning_normdyn.nearest_word import nearest


def check_path(kind: str = "file", /, *, hint: str = "", **paths: object) -> None:
    """Refuses what no disk has a name for: a number, nothing, bytes, a zero byte in it.

    Args:
        kind: what the path is of.
        hint: the likely fix, to end the sentence with.
        paths: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_path("folder", log_dir=3)
        Traceback (most recent call last):
            ...
        ValueError: log_dir: expected the path of a folder, got 3
    """
    for name, path in paths.items():
        spelled = os.fspath(path) if isinstance(path, str | os.PathLike) else None
        if not isinstance(spelled, str) or not spelled.strip() or "\0" in spelled:
            raise ValueError(f"{name}: expected the path of a {kind}, got {shown(path)}{ending(hint)}")


def check_name(**names: object) -> None:
    """Refuses what is no word: a number, nothing, blanks alone.

    Args:
        names: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_name(column="")
        Traceback (most recent call last):
            ...
        ValueError: column: expected a name, got ''
    """
    for argument, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{argument}: expected a name, got {shown(name)}")


def check_texts(**columns: object) -> None:
    """Refuses what is no list of texts; a single text is none. Of a list that may lie on disk the first is looked at.

    Args:
        columns: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_texts(ids="abc")
        Traceback (most recent call last):
            ...
        ValueError: ids: expected a list of texts, got one text; put it into a list
    """
    for name, column in columns.items():
        if isinstance(column, str):
            raise ValueError(f"{name}: expected a list of texts, got one text; put it into a list")
        if not isinstance(column, Sequence) or isinstance(column, bytes):
            raise ValueError(f"{name}: expected a list of texts, got {type(column).__name__}; list makes one of others")
        if len(column) and not isinstance(column[0], str):
            raise ValueError(f"{name}: expected texts, got {shown(column[0])} as the first; str makes one of it")


def check_sequence(**columns: object) -> None:
    """Refuses what is not taken by place, or is a single text; a set that reads its items from a disk will do.

    Args:
        columns: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_sequence(queries=None)
        Traceback (most recent call last):
            ...
        ValueError: queries: expected a list, got None; list makes one of others
    """
    for name, column in columns.items():
        if isinstance(column, str | bytes) or not (hasattr(column, "__len__") and hasattr(column, "__getitem__")):
            raise ValueError(f"{name}: expected a list, got {_came(column)}; list makes one of others")


def check_choice(choices: Sequence[str], /, **words: object) -> None:
    """Refuses a word that is none of those there are.

    Args:
        choices: the words.
        words: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected, what came and which word is near.

    Example:
        >>> check_choice(("cosine", "constant"), schedule="cosin")
        Traceback (most recent call last):
            ...
        ValueError: schedule: expected one of cosine, constant, got 'cosin'; did you mean 'cosine'?
    """
    for name, word in words.items():
        if not isinstance(word, str) or word not in choices:
            hint = nearest(word, tuple(choices)) if isinstance(word, str) else ""
            raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {shown(word)}{hint}")


def check_callable(what: str, /, *, optional: bool = False, **functions: object) -> None:
    """Refuses what cannot be called.

    Args:
        what: the function's arguments and result, in words.
        optional: whether ``None`` passes.
        functions: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_callable("of a message", warn="print")
        Traceback (most recent call last):
            ...
        ValueError: warn: expected a function of a message, got 'print'
    """
    for name, function in functions.items():
        if not (callable(function) or (optional and function is None)):
            raise ValueError(f"{name}: expected a function {what}, got {shown(function)}")


def check_instance(
    kinds: type | tuple[type, ...], /, *, optional: bool = False, hint: str = "", **objects: object
) -> None:
    """Refuses an object of another class.

    Args:
        kinds: the class, or those that will do.
        optional: whether ``None`` passes.
        hint: the likely fix, to end the sentence with.
        objects: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_instance(dict, options=[1], hint="dict makes one of pairs")
        Traceback (most recent call last):
            ...
        ValueError: options: expected dict, got list; dict makes one of pairs
    """
    for name, value in objects.items():
        if not (isinstance(value, kinds) or (optional and value is None)):
            classes = kinds if isinstance(kinds, tuple) else (kinds,)
            expectation = " or ".join(cls.__name__ for cls in classes)
            raise ValueError(f"{name}: expected {expectation}, got {_came(value)}{ending(hint)}")


def check_generator(**generators: object) -> None:
    """Refuses what is no generator of random numbers on the CPU; ``None`` passes, which stands for a fresh one.

    Args:
        generators: name of an argument to what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_generator(generator=3)
        Traceback (most recent call last):
            ...
        ValueError: generator: expected torch.Generator, got int; torch.Generator().manual_seed(0) makes one
    """
    for name, generator in generators.items():
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ValueError(
                f"{name}: expected torch.Generator, got {type(generator).__name__}; torch.Generator().manual_seed(0) "
                "makes one"
            )


def check_device(device: object) -> None:
    """Refuses what torch knows no device by; ``None`` passes, which stands for its default.

    Args:
        device: what came.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Example:
        >>> check_device("gpu")
        Traceback (most recent call last):
            ...
        ValueError: device: expected one of torch, such as 'cpu' or 'cuda:0', got 'gpu'
    """
    if device is not None:
        try:
            torch.device(device)  # type: ignore[call-overload]
        except (RuntimeError, TypeError):
            raise ValueError(f"device: expected one of torch, such as 'cpu' or 'cuda:0', got {shown(device)}") from None


def _came(value: object) -> str:
    """The object in a word or two: itself where that is short, else its class."""
    is_plain = value is None or isinstance(value, str | int | float | bool)
    return repr(value)[:80] if is_plain else value.__name__ if isinstance(value, type) else type(value).__name__
