"""Files of texts: one a line, TSV with ids, or JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.cached_texts import load_texts, refuse_repeated
from lightning_normdyn.datasets.reading.json_lines import read_json_lines
from lightning_normdyn.datasets.reading.lines import File, read_lines
from lightning_normdyn.datasets.reading.rows import check_width, read_rows
from lightning_normdyn.datasets.records import Texts

_IDS = ("_id", "id")
_Rows = Iterator[tuple[File, int, str, str]]


def read_listed_texts(file: File, *, keep_blank: bool = False) -> Texts:
    r"""Reads texts, plain or ``.gz``.

    ``.tsv`` has an id, a tab and a text on each line; a first line that starts with ``id`` or ``_id`` names the
    columns. ``.jsonl`` has objects with ``_id`` or ``id`` and ``text``, and ``title`` where there is one, as BEIR
    writes them. Any other file has one text a line, whose id is its place among them, from 0.

    Args:
        file: the texts.
        keep_blank: whether a blank line of one text a line is an empty text, and no problem.

    Raises:
        MalformedFileError: if a line does not hold what it should, an id comes twice, or there is no text.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "texts.tsv"
        >>> _ = file.write_text("a\tfirst text\nb\tsecond text\n")
        >>> read_listed_texts(file).ids
        ['a', 'b']
    """
    readers: dict[str, Callable[[File], _Rows]] = {".tsv": _tsv, ".jsonl": _jsonl}
    problems = Problems(file)
    lines = partial(_lines, keep_blank=keep_blank)
    rows = readers.get(Path(str(file).removesuffix(".gz")).suffix, lines)(file)
    texts = load_texts(refuse_repeated(rows), source=[file], kind="texts", problems=problems)
    if not len(texts):
        raise MalformedFileError(file, None, "texts", "an empty file")
    if not keep_blank:
        problems.report()
    return texts


def _lines(file: File, *, keep_blank: bool) -> _Rows:
    for place, line in enumerate(read_lines(file, keep_blank=keep_blank)):
        yield file, line.number, str(place), line.text


def _tsv(file: File) -> _Rows:
    for place, row in enumerate(read_rows(file, delimiter="\t")):
        if len(row.cells) == 1:
            advice = "separate them by a tab, or name a file of one text a line .txt"
            raise MalformedFileError(file, row.line, "an id, a tab and a text", "no tab", advice)
        check_width(file, row, 2)
        if place or row.cells[0] not in _IDS:
            yield file, row.line, row.cells[0], row.cells[1]


def _jsonl(file: File) -> _Rows:
    for entry in read_json_lines(file):
        id = entry.id(next((name for name in _IDS if name in entry.fields), _IDS[0]))
        yield file, entry.line, id, f"{entry.text('title', default='')} {entry.text('text')}".strip()
