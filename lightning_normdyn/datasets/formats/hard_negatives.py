"""Mined hard negatives as files: JSON lines of ids beside a BEIR folder, and tables of texts as others read them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, Literal, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.core.object_checks import check_choice, check_path
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.json_lines import Entry, read_json_lines
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.records import MinedRow
from lightning_normdyn.datasets.storage_place import StoragePlace

OutputFormat = Literal["triplet", "n-tuple"]
_BATCH_ROWS = 4096


def write_hard_negatives(rows: Iterable[MinedRow], file: File) -> int:
    """Writes JSON lines ``{"query-id", "positive-id", "negative-ids", "scores"}``, whole or not at all.

    Ids are those of the ``corpus.jsonl`` and ``queries.jsonl`` of a BEIR folder; the first score is the positive's.

    Args:
        rows: of ids, one a pair, those without a negative included.
        file: ending in ``.jsonl`` or ``.jsonl.gz``: a path, or a URL that fsspec knows.

    Returns:
        How many rows.

    Raises:
        ValueError: if the name ends otherwise, or a score is not finite.
        OSError: if the file cannot be written.

    Example:
        >>> write_hard_negatives([MinedRow("q1", "d3", ("d7", "d2"), (0.9, 0.6, 0.5))], "memory://mined.jsonl")
        1
        >>> next(read_hard_negatives("memory://mined.jsonl"))
        MinedRow(query='q1', positive='d3', negatives=('d7', 'd2'), scores=(0.9, 0.6, 0.5))
    """
    place = _place(file, (".jsonl", ".jsonl.gz"))
    return _write_json_lines(
        place,
        (
            {"query-id": row.query, "positive-id": row.positive, "negative-ids": row.negatives, "scores": row.scores}
            for row in rows
        ),
    )


def read_hard_negatives(file: File) -> Iterator[MinedRow]:
    """Reads what :func:`write_hard_negatives` wrote, or anybody with those fields; ``scores`` may be missing.

    Args:
        file: plain or ``.gz``: a path, or a URL that fsspec knows.

    Yields:
        A row a line, of ids.

    Raises:
        MalformedFileError: while reading, if the file is missing or does not hold what it should.
    """
    check_path(file=file)
    for entry in read_json_lines(file):
        negatives = _list(entry, "negative-ids", "ids")
        ids = tuple(Entry(entry.file, entry.line, {"negative-ids": id}).id("negative-ids") for id in negatives)
        scores = _list(entry, "scores", "numbers") if "scores" in entry.fields else []
        if not all(isinstance(score, int | float) and not isinstance(score, bool) for score in scores):
            raise MalformedFileError(entry.file, entry.line, "numbers in field 'scores'", repr(scores)[:80])
        if scores and len(scores) != 1 + len(ids):
            raise MalformedFileError(
                entry.file,
                entry.line,
                f"{1 + len(ids)} scores, the positive's first",
                str(len(scores)),
                "write one a document, or leave the field out",
            )
        yield MinedRow(entry.id("query-id"), entry.id("positive-id"), ids, tuple(map(float, scores)))


def negatives_by_query(
    file: File, queries: Mapping[str, int], documents: Mapping[str, int]
) -> dict[int, tuple[int, ...]]:
    """Reads mined negatives as positions.

    Args:
        file: as :func:`read_hard_negatives` takes it.
        queries: id of each query to its place.
        documents: id of each document to its place.

    Returns:
        The negatives of each query, closest first, those of all its rows each once. Rows of unknown queries and
        negatives that are unknown are left out, and counted in one warning.

    Raises:
        MalformedFileError: if the file does not hold what it should, or is about other queries and documents.
    """
    problems = Problems(str(StoragePlace(file)))
    negatives: dict[int, dict[int, None]] = {}
    for number, row in enumerate(read_hard_negatives(file), start=1):
        if row.query not in queries:
            problems.count("rows of unknown queries, left out", line=number)
            continue
        places = negatives.setdefault(queries[row.query], {})
        for id in row.negatives:
            if id in documents:
                places[documents[id]] = None
            else:
                problems.count("negatives of unknown ids, left out", line=number)
    if not any(negatives.values()):
        raise MalformedFileError(
            str(StoragePlace(file)),
            None,
            "hard negatives of queries and documents of this set",
            "none",
            "check that the files belong together",
        )
    problems.report()
    return {query: tuple(places) for query, places in negatives.items()}


def write_hard_negative_texts(
    rows: Iterable[MinedRow], file: File, *, output_format: OutputFormat = "n-tuple", output_scores: bool = False
) -> int:
    """Writes a table of texts as ``datasets`` and sentence-transformers read it, whole or not at all.

    Args:
        rows: of texts, one a pair.
        file: ending in ``.parquet``, ``.jsonl`` or ``.jsonl.gz``: a path, or a URL that fsspec knows.
        output_format: ``n-tuple`` has the columns ``query``, ``positive``, ``negative_1`` to ``negative_n``, where n is
            the most that a row has, and leaves out rows with fewer, which are counted in one warning; ``triplet`` has
            ``query``, ``positive`` and ``negative``, a row a negative.
        output_scores: whether to add ``scores``, a list with the positive's first.

    Returns:
        How many rows.

    Raises:
        ValueError: if the name ends otherwise, or there is no row with a negative.
        OSError: if the file cannot be written.

    Example:
        >>> row = MinedRow("open file", "opens a file", ("shuts it", "paints it"), (0.9, 0.6, 0.5))
        >>> write_hard_negative_texts([row], "memory://mined.parquet", output_format="triplet")
        2
        >>> pq.read_table(StoragePlace("memory://mined.parquet").open()).column_names
        ['query', 'positive', 'negative']
    """
    place = _place(file, (".parquet", ".jsonl", ".jsonl.gz"))
    check_choice(get_args(OutputFormat), output_format=output_format)
    check_flag(output_scores=output_scores)
    listed = list(rows)
    most = max((len(row.negatives) for row in listed), default=0)
    if not most:
        raise ValueError(f"rows: expected one with a negative or more, got none in {len(listed)}; loosen the limits")
    fields = _triplets(listed) if output_format == "triplet" else _n_tuples(listed, most, Problems(str(place)))
    if not output_scores:
        fields = ({name: value for name, value in row.items() if name != "scores"} for row in fields)
    return _write_parquet(place, fields) if place.suffix == ".parquet" else _write_json_lines(place, fields)


def _triplets(rows: Iterable[MinedRow]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for number, negative in enumerate(row.negatives, start=1):
            scores = [*row.scores[:1], *row.scores[number : number + 1]]
            yield {"query": row.query, "positive": row.positive, "negative": negative, "scores": scores}


def _n_tuples(rows: Iterable[MinedRow], most: int, problems: Problems) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        if len(row.negatives) < most:
            problems.count(f"rows with fewer than {most} negatives, left out", line=number)
            continue
        negatives = {f"negative_{place}": negative for place, negative in enumerate(row.negatives, start=1)}
        yield {"query": row.query, "positive": row.positive, **negatives, "scores": list(row.scores)}
    problems.report()


def _write_json_lines(place: StoragePlace, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    with place.replacing() as temporary, cast("IO[bytes]", temporary.open("wb")) as plain:
        stream = gzip.GzipFile("", "wb", fileobj=plain, mtime=0) if place.suffix == ".gz" else plain
        for row in rows:
            stream.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())
            count += 1
        if stream is not plain:
            stream.close()
    return count


def _write_parquet(place: StoragePlace, rows: Iterable[dict[str, Any]]) -> int:
    count, writer, batch = 0, None, list[dict[str, Any]]()
    with place.replacing() as temporary:
        for row in rows:
            batch.append(row)
            count += 1
            if len(batch) == _BATCH_ROWS:
                writer = _write_batch(temporary, writer, batch)
                batch = []
        writer = _write_batch(temporary, writer, batch)
        writer.close()
    return count


def _write_batch(file: Any, writer: Any, batch: list[dict[str, Any]]) -> Any:
    if writer is None:
        types = {name: pa.list_(pa.float64()) if name == "scores" else pa.string() for name in batch[0]}
        writer = pq.ParquetWriter(file, pa.schema(types.items()))
    writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))
    return writer


def _place(file: File, endings: tuple[str, ...]) -> StoragePlace:
    check_path(file=file)
    place = StoragePlace(file)
    if not str(place).partition("?")[0].endswith(endings):
        raise ValueError(f"file: expected a name that ends in {' or '.join(endings)}, got '{place}'; rename it")
    return place


def _list(entry: Entry, name: str, kind: str) -> list[Any]:
    values = entry.fields.get(name)
    if not isinstance(values, list):
        came = repr(values)[:80] if name in entry.fields else f"the fields {sorted(entry.fields)}"
        raise MalformedFileError(entry.file, entry.line, f"a list of {kind} in field '{name}'", came)
    return values
