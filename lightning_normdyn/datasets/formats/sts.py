"""The STS benchmark and sets in the same layout: pairs of sentences with a score."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_normdyn.core.object_checks import check_name, check_path
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.folder import find_parquet_splits, find_splits, require_folder
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.parquet import parquet_columns, read_parquet, text_in
from lightning_normdyn.datasets.reading.rows import Row, check_width, read_number, read_rows
from lightning_normdyn.datasets.records import GradedPairs

_ORIGINAL_COLUMNS = 7
_SCORES = ("score", "label", "similarity_score", "relatedness_score")
_HIDDEN = -1
_BY_LANGUAGE = re.compile(
    r"(stsb?[-_](\w\w(?:-\w\w)?)[-_])(?:train|dev|valid|val|validation|test)\.(?:csv|tsv)(?:\.gz)?"
)


class GradedPair(NamedTuple):
    """A row of a similarity set."""

    first: str
    second: str
    grade: float


def read_sts(folder: File, *, language: str | None = None) -> dict[str, GradedPairs]:
    """Reads ``train``, ``dev`` and ``test`` files, ``.tsv`` or ``.csv``, plain or ``.gz``, with or without ``sts-``.

    Three layouts are told apart by the first row: columns named ``sentence1``, ``sentence2`` and ``score`` among
    others, as in GLUE; the original one without names (seven columns or more, the score fifth, then the sentences);
    sentence, sentence and score alone. Files named by language (``stsb-de-train.csv``) are those of one language. Where
    there are no such files, Parquet of the hub is read (``train-00000-of-00001.parquet``, also in ``data``), its score
    named ``score``, ``label``, ``similarity_score`` or ``relatedness_score``. A split without a score column, as GLUE's
    test, or with -1 for all scores, is left out and reported.

    Args:
        folder: of the files.
        language: of files named by language; may be left out where there is only one.

    Returns:
        Split (``train``, ``validation``, ``test``) to its pairs; grades in the unit of the source, 0 to 5.

    Raises:
        MalformedFileError: if a file does not hold what it should, or a language is needed.
    """
    check_path("folder", folder=folder)
    if language is not None:
        check_name(language=language)
    problems = Problems(folder)
    prefix = _language_prefix(folder, language)
    pairs: dict[str, GradedPairs] = {}
    parquet = {} if prefix else find_parquet_splits(folder)
    if parquet:
        for split, files in parquet.items():
            _take(pairs, split, list(_of_parquet(files)), problems, files[0])
    else:
        prefixes = (prefix,) if prefix else ("", "sts-", "sts_")
        for split, file in find_splits(folder, endings=(".tsv", ".csv"), prefixes=prefixes).items():
            _take(pairs, split, list(_read(file)) if _has_scores(file) else None, problems, file)
    if not pairs:
        raise MalformedFileError(folder, None, "a column 'score' in some split", "none")
    problems.report()
    return pairs


def _take(
    pairs: dict[str, GradedPairs], split: str, rows: list[GradedPair] | None, problems: Problems, file: Path
) -> None:
    """Adds a split, or counts that it has no scores."""
    if rows is None or (rows and all(row.grade == _HIDDEN for row in rows)):
        problems.count("splits without a score, left out", line=file.name)
    else:
        pairs[split] = graded_pairs(rows, problems, file)


def _language_prefix(folder: File, language: str | None) -> str:
    """What the names of files begin with where they name a language; nothing where they do not."""
    names = (_BY_LANGUAGE.fullmatch(file.name) for file in require_folder(folder).iterdir())
    prefixes = {match[2]: match[1] for match in names if match is not None}
    if not prefixes and language is None:
        return ""
    if language is None and len(prefixes) == 1:
        return next(iter(prefixes.values()))
    if language not in prefixes:
        came = f"{', '.join(sorted(prefixes)) or 'no'} in the names of files, and language={language!r}"
        raise MalformedFileError(folder, None, "one language", came, "pass language, such as language='en'")
    return prefixes[language]


def _of_parquet(files: Sequence[Path]) -> Iterator[GradedPair]:
    for file in files:
        columns = parquet_columns(file)
        score = next((name for name in _SCORES if name in columns), _SCORES[0])
        for _, row, (first, second, grade) in read_parquet([file], "sentence1", "sentence2", score):
            texts = text_in(file, row, "sentence1", first), text_in(file, row, "sentence2", second)
            yield GradedPair(*texts, read_number(file, row, "a score", str(grade)))


def graded_pairs(rows: Iterable[GradedPair], problems: Problems, file: File) -> GradedPairs:
    """Takes rows of a file as a split, and counts those with an empty sentence, which are kept.

    Raises:
        MalformedFileError: if there is none.
    """
    pairs = list(rows)
    if not pairs:
        raise MalformedFileError(file, None, "pairs of sentences", "none")
    for number, row in enumerate(pairs, start=1):
        if not (row.first.strip() and row.second.strip()):
            problems.count("pairs with an empty sentence, kept", line=f"pair {number} of {file}")
    grades = torch.tensor([row.grade for row in pairs], dtype=torch.float32)
    return GradedPairs([row.first for row in pairs], [row.second for row in pairs], grades)


def _has_scores(file: Path) -> bool:
    header = next(read_rows(file), None)
    return header is None or "sentence1" not in header.cells or "score" in header.cells


def _read(file: Path) -> Iterator[GradedPair]:
    rows = read_rows(file)
    first = next(rows, None)
    if first is None:
        raise MalformedFileError(file, 1, "pairs of sentences", "an empty file")
    width = len(first.cells)
    if "sentence1" in first.cells:
        places = _named(file, first)
    else:
        places = _unnamed(file, first)
        yield _pair(file, first, places)
    for row in rows:
        if places == (5, 6, 4) and len(row.cells) >= _ORIGINAL_COLUMNS:
            # Its rows end in none to two columns that name the source.
            yield _pair(file, row, places)
        else:
            check_width(file, row, width)
            yield _pair(file, row, places)


def _named(file: Path, header: Row) -> tuple[int, int, int]:
    names = ("sentence1", "sentence2", "score")
    missing = [name for name in names if name not in header.cells]
    if missing:
        raise MalformedFileError(file, header.line, f"a column '{missing[0]}'", f"the columns {header.cells}")
    first, second, score = map(list(header.cells).index, names)
    return first, second, score


def _unnamed(file: Path, row: Row) -> tuple[int, int, int]:
    if len(row.cells) == 3:
        return 0, 1, 2
    if len(row.cells) >= _ORIGINAL_COLUMNS:
        return 5, 6, 4
    raise MalformedFileError(
        file,
        row.line,
        "columns named sentence1, sentence2 and score, or three columns, or seven and more",
        f"{len(row.cells)} columns",
    )


def _pair(file: Path, row: Row, places: tuple[int, int, int]) -> GradedPair:
    first, second, score = (row.cells[place] for place in places)
    return GradedPair(first, second, read_number(file, row.line, "a score", score))
