"""Judgements as TSV: query, document, grade; or TREC's four columns."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.lines import File, Line, read_lines
from lightning_normdyn.datasets.reading.rows import Row, check_width, read_number

_HEADERS = ("query-id", "query_id", "queryid", "qid", "query")


class _Qrel(NamedTuple):
    line: int
    query: str
    document: str
    grade: float


def read_qrels(file: File, queries: Mapping[str, int], documents: Mapping[str, int], problems: Problems) -> Judgements:
    """Reads judgements, three columns or TREC's four (the second unused), parted by tabs or spaces.

    Args:
        file: plain or ``.gz``; a first row that starts with ``query-id`` or the like names the columns.
        queries: id of each query to its place.
        documents: id of each document to its place.
        problems: where pairs of unknown ids, which are left out, and repeated pairs, kept once, are counted.

    Raises:
        MalformedFileError: if a row has another number of columns, a grade is no number or given twice and otherwise,
            or no row is about known queries and documents.
    """
    grades: dict[tuple[int, int], float] = {}
    for line, query, document, grade in _read(file):
        place = f"{file}, line {line}"
        if query not in queries:
            problems.count("judgements of unknown queries, left out", line=place)
        elif document not in documents:
            problems.count("judgements of unknown documents, left out", line=place)
        else:
            pair = queries[query], documents[document]
            if pair not in grades:
                grades[pair] = grade
            elif grades[pair] == grade:
                problems.count("repeated judgements, kept once", line=place)
            else:
                came = f"{grade:g} after {grades[pair]:g} for query '{query}' and document '{document}'"
                raise MalformedFileError(file, line, "one grade a pair", came, "keep the right one")
    if not grades:
        expected = "judgements of queries and documents of this set"
        raise MalformedFileError(file, None, expected, "none", "check that the files belong together")
    return _judgements(grades)


def _judgements(grades: Mapping[tuple[int, int], float]) -> Judgements:
    # Arrays of machine numbers: millions of pairs as Python lists would take three times the memory.
    places = torch.frombuffer(array("q", (place for pair in grades for place in pair)), dtype=torch.int64).view(-1, 2)
    return Judgements(
        places[:, 0].contiguous(),
        places[:, 1].contiguous(),
        torch.frombuffer(array("f", grades.values()), dtype=torch.float32),
    )


def _read(file: File) -> Iterator[_Qrel]:
    lines = read_lines(file)
    first = next(lines, None)
    if first is None:
        return
    row = _row(first)
    if len(row.cells) not in (3, 4):
        raise MalformedFileError(
            file, first.number, "3 or 4 columns", str(len(row.cells)), "write query, document and grade, parted by tabs"
        )
    width = len(row.cells)
    if row.cells[0].lower() not in _HEADERS:
        yield _qrel(file, row, width)
    for line in lines:
        yield _qrel(file, _row(line), width)


def _row(line: Line) -> Row:
    text = line.text
    return Row(line.number, [cell.strip() for cell in text.split("\t")] if "\t" in text else text.split())


def _qrel(file: File, row: Row, width: int) -> _Qrel:
    check_width(file, row, width)
    query, document, grade = row.cells[0], row.cells[-2], row.cells[-1]
    return _Qrel(row.line, query, document, read_number(file, row.line, "a grade", grade))
