"""Names of a table's rows, so that a report can say 'the' instead of 'row 968'."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import TableTarget

RowNames = Any
"""``None``, a sequence of names, a path, a tokenizer, a function of row numbers, or these by target name."""


def check_row_names(names: RowNames) -> RowNames:
    """Refuses what can name no rows, and a file that is not there.

    Raises:
        ValueError: with what was expected.
    """
    if isinstance(names, Mapping):
        for source in names.values():
            check_row_names(source)
    elif isinstance(names, (str, os.PathLike)):
        if not Path(names).is_file():
            raise ValueError(
                f"names: no file '{os.fspath(names)}'; write one name a line there, in the order of the rows"
            )
    elif names is not None and not isinstance(names, Sequence) and _namer(names) is None:
        raise ValueError(
            "names: expected one name a row, a path, a tokenizer, a function of row numbers, or a mapping of target "
            f"names to these, got {names!r}"
        )
    return names


def find_row_names(
    names: RowNames, targets: Sequence[TableTarget | OutputTarget], holders: Sequence[object]
) -> dict[str, dict[int, str]]:
    """The names of the rows of each target: the user's, or else what the objects around a model hold.

    Args:
        names: what the user gave.
        targets: what is watched.
        holders: objects that may hold names, such as the datamodule and the module.

    Returns:
        Target name to row number to name, for the targets whose rows have names.

    Raises:
        ValueError: if the user's names do not fit.
    """
    tables = {target.name: target for target in targets if isinstance(target, TableTarget)}
    sources = look_up_names(holders, {name: table.rows for name, table in tables.items()})
    sources |= _user_sources(names, [target.name for target in targets], list(tables))
    return {
        name: named_rows(source, tables[name].row_numbers, tables[name].rows, target=f"'{name}'")
        if name in tables
        else named_rows(source)
        for name, source in sources.items()
    }


def unknown_targets(names: RowNames, targets: Collection[str]) -> list[str]:
    """Targets that the user named rows of and that are not there.

    Example:
        >>> unknown_targets({"table.weight": ["a"], "tabel.weight": ["a"]}, ["table.weight"])
        ['tabel.weight']
    """
    return sorted(set(map(str, names)) - set(targets)) if isinstance(names, Mapping) else []


def _user_sources(names: RowNames, targets: Collection[str], tables: Sequence[str]) -> dict[str, RowNames]:
    """What the user gave by target; names without a target are those of the only table."""
    if names is None:
        return {}
    if isinstance(names, Mapping):
        return {target: names[target] for target in targets if names.get(target) is not None}
    if len(tables) != 1:
        raise ValueError(
            f"names: expected a mapping of target names to row names, since there are {len(tables)} tables; the "
            f"targets are {', '.join(sorted(targets))}"
        )
    return {tables[0]: names}


def named_rows(
    source: RowNames,
    row_numbers: Callable[[], Tensor] | None = None,
    rows: int | None = None,
    *,
    target: str = "the table",
) -> dict[int, str]:
    """The names of the tracked rows of a table, or of the items of a probe.

    Args:
        source: what the user gave for the target.
        row_numbers: gives the rows of a table that are tracked, ``[n]``; ``None`` for a probe, whose items are named in
            their order.
        rows: how many rows the table has.
        target: name of the table, for the message.

    Returns:
        Row number to name.

    Raises:
        ValueError: if there are more or fewer names than rows.

    Example:
        >>> import torch
        >>> named_rows(["a", "b", "c"], lambda: torch.tensor([0, 2]), 3)
        {0: 'a', 2: 'c'}
    """
    namer = _namer(source)
    if namer is not None:
        if row_numbers is None:
            raise ValueError("names: expected a list of names for the items of a probe, got a tokenizer or a function")
        numbers = row_numbers().tolist()
        names = _names_of(namer, numbers, limit=_tokens(source))
        if len(names) != len(numbers):
            raise ValueError(f"names: expected a name for each of {len(numbers)} rows, got {len(names)} for {target}")
        return dict(zip(numbers, names, strict=True))
    all_names = _read_lines(source) if isinstance(source, (str, os.PathLike)) else source
    if rows is not None and len(all_names) != rows:
        raise ValueError(f"names: expected a name for each of {rows} rows, got {len(all_names)} for {target}")
    numbers = list(range(len(all_names))) if row_numbers is None else row_numbers().tolist()
    return {number: str(all_names[number]) for number in numbers}


def _names_of(namer: Callable[[list[int]], Sequence[str]], numbers: list[int], *, limit: int | None) -> list[str]:
    """What a function or a tokenizer calls rows; those beyond its end or without a name are ``row N``."""
    known_numbers = [number for number in numbers if limit is None or number < limit]
    names = [_unless_none(name, number) for number, name in zip(known_numbers, namer(known_numbers), strict=False)]
    return names + [f"row {number}" for number in numbers if limit is not None and number >= limit]


def _unless_none(name: object, number: int) -> str:
    return f"row {number}" if name is None else str(name)


def _tokens(source: RowNames) -> int | None:
    """How many entries a tokenizer has; ``None`` for a function, which knows itself."""
    return len(source) if hasattr(source, "convert_ids_to_tokens") and hasattr(source, "__len__") else None


def _namer(source: RowNames) -> Callable[[list[int]], Sequence[str]] | None:
    """A function of row numbers, or a tokenizer's."""
    if isinstance(source, (str, os.PathLike, Sequence, Mapping)):
        return None
    convert: Any = getattr(source, "convert_ids_to_tokens", source)
    return convert if callable(convert) else None


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    """One name a line; what follows a tab, such as a count, is no part of it."""
    try:
        with Path(path).open(encoding="utf-8-sig") as lines:  # splitlines() would also break at marks of a token
            return [line.rstrip("\n").split("\t")[0] for line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"names: '{os.fspath(path)}' is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8, "
            "one name a line"
        ) from error


_ATTRIBUTES = ("row_names", "vocabulary", "vocab", "tokenizer")


def look_up_names(holders: Sequence[object], rows: Mapping[str, int]) -> dict[str, RowNames]:
    """Names that objects around a model hold in an attribute such as ``vocabulary``, where it is clear whose they are.

    A tokenizer or a list is taken for a table only if it has as many entries as the table has rows and no other table
    has as many.

    Args:
        holders: where to look, such as the datamodule and the module; the first that has names for a table counts.
        rows: how many rows each table has, by target name.
    """
    sources: dict[str, RowNames] = {}
    for holder in holders:
        for attribute in _ATTRIBUTES:
            candidate = _attribute(holder, attribute)
            if attribute == "row_names" and isinstance(candidate, Mapping):
                by_target = {name: _as_names(candidate.get(name)) for name in rows}
            else:
                names = _as_names(candidate)
                tables = [] if names is None else [name for name, count in rows.items() if count == len(names)]
                by_target = {tables[0]: names} if len(tables) == 1 else {}
            sources = {name: names for name, names in by_target.items() if _fits(names, rows[name])} | sources
    return sources


def _fits(names: Sequence[str] | None, rows: int) -> bool:
    return names is not None and len(names) == rows


def _attribute(holder: object, attribute: str) -> Any:
    try:
        return getattr(holder, attribute, None)
    except Exception:  # a property that is not ready yet, or not for this; observing must never end a run
        return None


def _as_names(candidate: Any) -> Sequence[str] | None:
    """One name a row, out of a list of words, a mapping of words to their numbers, or a tokenizer."""
    candidate = getattr(candidate, "words", getattr(candidate, "itos", candidate))
    convert = getattr(candidate, "convert_ids_to_tokens", None)
    try:
        if callable(convert):
            return [_unless_none(name, number) for number, name in enumerate(convert(list(range(len(candidate)))))]
        if isinstance(candidate, Mapping) and sorted(candidate.values()) == list(range(len(candidate))):
            return sorted(candidate, key=candidate.__getitem__)
        if isinstance(candidate, (list, tuple)) and all(isinstance(name, str) for name in candidate):
            return candidate
    except Exception:  # looks like names and is none
        return None
    return None
