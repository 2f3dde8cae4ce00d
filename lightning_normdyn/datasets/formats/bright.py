"""BRIGHT: queries whose documents take reasoning to find, as Parquet (arXiv 2407.12883)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.cached_texts import load_texts, refuse_repeated
from lightning_normdyn.datasets.reading.folder import require_folder
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.parquet import read_parquet, text_in
from lightning_normdyn.datasets.records import JudgedTexts

_NO_IDS = ("", "N/A")


def read_bright(
    folder: File, *, domain: str | None = None, long_documents: bool = False, cache: File | None = None
) -> JudgedTexts:
    """Reads ``examples/<domain>*.parquet`` and ``documents/<domain>*.parquet``, or files of those names.

    All queries are of split ``test``; documents that a query excludes are in ``excluded_pairs``, with grade 0.

    Args:
        folder: of the set.
        domain: such as ``"biology"``; may be left out where there is only one.
        long_documents: whether whole pages (``long_documents``, ``gold_ids_long``) are searched instead of passages.
        cache: a folder for an Arrow file of the documents, whose texts then stay on disk.

    Raises:
        MalformedFileError: if a file is missing or does not hold what it should, a domain is needed, or no query's
            documents are there.
    """
    check_path("folder", folder=folder)
    problems = Problems(folder)
    kind, gold = ("long_documents", "gold_ids_long") if long_documents else ("documents", "gold_ids")
    examples, files = _files(folder, "examples", domain), _files(folder, kind, domain)
    documents = load_texts(_texts(files, "id", "content"), source=files, kind=kind, problems=problems, cache=cache)
    queries = load_texts(_texts(examples, "id", "query"), source=examples, kind="queries", problems=problems)
    places = {id: place for place, id in enumerate(documents.ids)}
    relevant: dict[tuple[int, int], float] = {}
    excluded_grades: dict[tuple[int, int], float] = {}
    for query, (file, row, (gold_ids, excluded_ids)) in enumerate(read_parquet(examples, gold, "excluded_ids")):
        for id in _ids(file, row, gold, gold_ids):
            if id in places:
                relevant[query, places[id]] = 1.0
            else:
                problems.count("judgements of unknown documents, left out", line=f"{file}, row {row}")
        for id in _ids(file, row, "excluded_ids", excluded_ids):
            if id in places:
                excluded_grades[query, places[id]] = 0.0
            else:
                problems.count("excluded documents that are not searched anyway", line=f"{file}, row {row}")
    if not relevant:
        raise MalformedFileError(folder, None, f"documents that '{gold}' names", "none", "check the domains")
    problems.report()
    return JudgedTexts(
        documents, queries, {"test": _judgements(relevant)}, excluded_pairs={"test": _judgements(excluded_grades)}
    )


def _files(folder: File, kind: str, domain: str | None) -> list[Path]:
    root = require_folder(folder)
    inside = sorted((root / kind).glob(f"{domain or ''}*.parquet"))
    files = [file for file in inside if domain is None or file.stem.split("-")[0] == domain]
    domains = sorted({file.stem.split("-")[0] for file in inside})
    if domain is None and len(domains) > 1:
        raise MalformedFileError(root / kind, None, "one domain", ", ".join(domains), "pass domain")
    if not files and domain is None:
        files = sorted(root.glob(f"{kind}.parquet"))
    if not files:
        name = f"{domain}*.parquet" if domain else "Parquet files"
        raise MalformedFileError(root / kind, None, name, "none")
    return files


def _texts(files: Iterable[Path], id_column: str, text_column: str) -> Iterator[tuple[str, str]]:
    def rows() -> Iterator[tuple[File, int, str, str]]:
        for file, row, (id, text) in read_parquet(list(files), id_column, text_column):
            yield file, row, text_in(file, row, id_column, id), text_in(file, row, text_column, text)

    return refuse_repeated(rows())


def _ids(file: File, row: int, column: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise MalformedFileError(file, row, f"a list of ids in column '{column}'", repr(value)[:80])
    return [id for id in (text_in(file, row, column, cell) for cell in value) if id not in _NO_IDS]


def _judgements(grades: Mapping[tuple[int, int], float]) -> Judgements:
    return Judgements.of((query, document, grade) for (query, document), grade in grades.items())
