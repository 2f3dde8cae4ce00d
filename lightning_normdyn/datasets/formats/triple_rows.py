"""Rows of a file of triples: parted by tabs, commas or spaces, N-Triples, or OpenKE's numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import find_file
from lightning_normdyn.datasets.reading.lines import read_lines
from lightning_normdyn.datasets.reading.rows import Row, check_width, read_rows

Order = Literal["hrt", "htr"]

_HEADERS = {
    "h": ("head", "subject", "source", "h", "s"),
    "r": ("relation", "predicate", "r", "p"),
    "t": ("tail", "object", "target", "t", "o"),
}
_NODE = r"<[^<>]*>|_:[^\s<>]+"
_LITERAL = r'"(?:[^"\\]|\\.)*"(?:@[\w-]+|\^\^<[^<>]*>)?'
_N_TRIPLE = re.compile(rf"\s*({_NODE})\s*(<[^<>]*>)\s*({_NODE}|{_LITERAL})\s*\.\s*(?:#.*)?")
_MOST_COLUMNS = 5
_CONVERSION = "write head, relation and tail on each line, parted by tabs"


class TripleRow(NamedTuple):
    """Head, relation and tail as the source spells them."""

    head: str
    relation: str
    tail: str


def read_triple_rows(file: Path, order: Order, problems: Problems) -> Iterator[TripleRow]:
    """Reads the facts of a file in the layout that its first line shows.

    Args:
        file: of ``.nt``, of OpenKE (``train2id.txt``), or of columns.
        order: of the columns, where no first row names them.
        problems: where columns behind the third, such as times and scores, are counted.

    Raises:
        MalformedFileError: while reading, if a row has another number of columns than the first, or an empty name.
    """
    first = next(read_lines(file), None)
    if first is None:
        return
    if file.name.removesuffix(".gz").endswith("2id.txt"):
        yield from _of_open_ke(file)
    elif _N_TRIPLE.fullmatch(first.text) or file.name.removesuffix(".gz").endswith(".nt"):
        yield from _of_n_triples(file)
    else:
        yield from _of_columns(file, order, problems)


def _of_columns(file: Path, order: Order, problems: Problems) -> Iterator[TripleRow]:
    places, width = tuple(order.index(letter) for letter in "hrt"), 0
    for number, row in enumerate(_rows(file)):
        if number == 0:
            width = len(row.cells)
            _check_first(file, row)
            named_places = _named(row)
            if named_places is not None:
                places = named_places
                continue
        check_width(file, row, width)
        if width > 3:
            kind = "facts with further columns (times, scores), which are left out"
            problems.count(kind, line=f"{file.name}, line {row.line}")
        cells = [row.cells[place].strip() for place in places]
        if not all(cells):
            raise MalformedFileError(file, row.line, "head, relation and tail", f"an empty name in {list(row.cells)}")
        yield TripleRow(*cells)


def _rows(file: Path) -> Iterator[Row]:
    first = next(read_lines(file)).text
    if "\t" in first:
        yield from read_rows(file, delimiter="\t")
    elif 2 <= first.count(",") < _MOST_COLUMNS or first.startswith('"'):
        yield from read_rows(file, delimiter=",")
    else:
        for number, text in read_lines(file):
            yield Row(number, text.split())


def _check_first(file: Path, row: Row) -> None:
    if not 3 <= len(row.cells) <= _MOST_COLUMNS:
        raise MalformedFileError(
            file, row.line, "3 columns, or up to 5 of which the first three count", str(len(row.cells)), _CONVERSION
        )


def _named(row: Row) -> tuple[int, ...] | None:
    """Places of head, relation and tail, if the row names them."""
    cells = [cell.strip().lower() for cell in row.cells]
    places = [next((cells.index(name) for name in names if name in cells), -1) for names in _HEADERS.values()]
    return tuple(places) if min(places) >= 0 else None


def _of_n_triples(file: Path) -> Iterator[TripleRow]:
    for number, text in read_lines(file):
        if text.lstrip().startswith("#"):
            continue
        match = _N_TRIPLE.fullmatch(text)
        if match is None:
            expected = "an N-Triple, '<head> <relation> <tail> .'"
            raise MalformedFileError(file, number, expected, repr(text[:60]), _CONVERSION)
        yield TripleRow(*(name[1:-1] if name.startswith("<") else name for name in match.groups()))


def _of_open_ke(file: Path) -> Iterator[TripleRow]:
    """Numbers of head, tail and relation behind a line with their count; names stand in files beside."""
    entities, relations = _names(file, "entity2id.txt"), _names(file, "relation2id.txt")
    count, facts = -1, 0
    for number, text in read_lines(file):
        cells = text.split()
        if count < 0:
            if len(cells) != 1 or not cells[0].isdecimal():
                raise MalformedFileError(file, number, "the number of facts on the first line", repr(text[:60]))
            count = int(cells[0])
            continue
        check_width(file, Row(number, cells), 3)
        head, tail, relation = cells
        facts += 1
        yield TripleRow(entities.get(head, head), relations.get(relation, relation), entities.get(tail, tail))
    if facts != count:
        raise MalformedFileError(file, 1, f"{count} facts, as the first line says", str(facts), "fetch the file again")


def _names(file: Path, name: str) -> Mapping[str, str]:
    beside = find_file(file.parent, name)
    if beside is None:
        return {}
    names: dict[str, str] = {}
    for place, (number, text) in enumerate(read_lines(beside)):
        cells: Sequence[str] = text.rsplit(maxsplit=1)
        if place == 0 and len(cells) == 1:
            continue
        if len(cells) != 2:
            raise MalformedFileError(beside, number, "a name and a number", repr(text[:60]))
        names[cells[1]] = cells[0]
    return names
