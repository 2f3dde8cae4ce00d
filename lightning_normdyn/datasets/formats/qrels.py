"""Judgements: query, document and grade as TSV, JSON lines or Parquet, or TREC's four columns."""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.json_lines import read_json_lines
from lightning_normdyn.datasets.reading.lines import File, Line, read_lines
from lightning_normdyn.datasets.reading.parquet import parquet_columns, read_parquet, text_in
from lightning_normdyn.datasets.reading.rows import Row, check_width, read_number

_QUERIES = ("query-id", "query_id", "queryid", "qid", "query")
_DOCUMENTS = ("corpus-id", "corpus_id", "doc-id", "doc_id", "docid", "pid", "document")
_GRADES = ("score", "relevance", "grade", "label")


class _Qrel(NamedTuple):
    file: File
    line: int
    query: str
    document: str
    grade: float


def read_qrels(
    files: File | Sequence[File], queries: Mapping[str, int], documents: Mapping[str, int], problems: Problems
) -> Judgements:
    """Reads judgements: three columns or TREC's four (the second unused), parted by tabs or spaces, JSON or Parquet.

    Of a pair that is judged again with another grade the later one counts, as in BEIR's own loader, and is reported.

    Args:
        files: one or several shards. ``.jsonl[.gz]`` and ``.parquet`` name their columns ``query-id``, ``corpus-id``
            and ``score`` or alike; any other is text, plain or ``.gz``, whose first row may name the columns.
        queries: id of each query to its place.
        documents: id of each document to its place.
        problems: where pairs of unknown ids, which are left out, and repeated pairs, kept once, are counted.

    Raises:
        MalformedFileError: if a row has another number of columns, a grade is no number, or no row is about known
            queries and documents.
    """
    shards = [files] if isinstance(files, str | os.PathLike) else files
    grades: dict[tuple[int, int], float] = {}
    for file, line, query, document, grade in (qrel for shard in shards for qrel in _read(shard)):
        place = f"{file}, line {line}"
        if query not in queries:
            problems.count("judgements of unknown queries, left out", line=place)
        elif document not in documents:
            problems.count("judgements of unknown documents, left out", line=place)
        else:
            pair = queries[query], documents[document]
            if pair in grades and grades[pair] == grade:
                problems.count("repeated judgements, kept once", line=place)
            elif pair in grades:
                problems.count("pairs judged again with another grade, the later one taken", line=place)
            grades[pair] = grade
    if not grades:
        expected = "judgements of queries and documents of this set"
        raise MalformedFileError(shards[0], None, expected, "none", "check that the files belong together")
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
    suffix = Path(str(file).removesuffix(".gz")).suffix
    return {".jsonl": _of_json, ".parquet": _of_parquet}.get(suffix, _of_text)(file)


def _of_json(file: File) -> Iterator[_Qrel]:
    for entry in read_json_lines(file):
        query, document, grade = (_named(names, entry.fields) for names in (_QUERIES, _DOCUMENTS, _GRADES))
        number = entry.fields.get(grade)
        yield _Qrel(
            file, entry.line, entry.id(query), entry.id(document), read_number(file, entry.line, "a grade", str(number))
        )


def _of_parquet(file: File) -> Iterator[_Qrel]:
    columns = parquet_columns(file)
    query, document, grade = (_named(names, columns) for names in (_QUERIES, _DOCUMENTS, _GRADES))
    for _, row, (query_id, document_id, number) in read_parquet([file], query, document, grade):
        ids = text_in(file, row, query, query_id), text_in(file, row, document, document_id)
        yield _Qrel(file, row, *ids, read_number(file, row, "a grade", str(number)))


def _named(names: Sequence[str], columns: Collection[str]) -> str:
    """The first of some names that is a column, else the first of all, which is then missed by name."""
    return next((name for name in names if name in columns), names[0])


def _of_text(file: File) -> Iterator[_Qrel]:
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
    if row.cells[0].lower() not in _QUERIES:
        yield _qrel(file, row, width)
    for line in lines:
        yield _qrel(file, _row(line), width)


def _row(line: Line) -> Row:
    text = line.text
    return Row(line.number, [cell.strip() for cell in text.split("\t")] if "\t" in text else text.split())


def _qrel(file: File, row: Row, width: int) -> _Qrel:
    check_width(file, row, width)
    query, document, grade = row.cells[0], row.cells[-2], row.cells[-1]
    return _Qrel(file, row.line, query, document, read_number(file, row.line, "a grade", grade))
