"""BEIR sets: a corpus, queries and judgements; scifact, HotpotQA and many others come so (arXiv 2104.08663)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.formats.beir_files import BeirFiles, beir_files, read_texts
from lightning_normdyn.datasets.formats.qrels import read_qrels
from lightning_normdyn.datasets.problems import Problems
from lightning_normdyn.datasets.reading.cached_texts import load_texts, refuse_repeated
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.records import JudgedTexts, Texts

Progress = Callable[[Iterable[tuple[str, str]]], Iterable[tuple[str, str]]]


def read_beir(folder: File, *, cache: File | None = None, progress: Progress | None = None) -> JudgedTexts:
    """Reads a corpus, queries and judgements as BEIR has them, or as the hub and mteb do.

    That is ``corpus.jsonl[.gz]``, ``queries.jsonl[.gz]`` and ``qrels/*.tsv[.gz]``; or Parquet files of those names, or
    in folders of those names; judgements as TSV, as TREC's ``.txt``, as ``.jsonl`` or as Parquet, in ``qrels``,
    ``default`` or ``data``, or as one file ``qrels`` (then of ``test``). A document is its title, a space and its text,
    as BEIR's own models see it. All queries are kept, judged or not. A query's ``metadata.answer``, a text or several,
    becomes its answers. ``dev`` and the like mean ``validation``; judgements under another name keep it.

    Args:
        folder: of the set.
        cache: a folder for an Arrow file of the documents, for sets larger than memory: their texts then stay on disk,
            and the next read takes them from there. Ids and judgements are held in memory.
        progress: wraps the documents as they are read, as ``tqdm`` does.

    Raises:
        MalformedFileError: if a file is missing or does not hold what it should.

    Example:
        >>> read_beir("no/such/folder")
        Traceback (most recent call last):
        lightning_normdyn.datasets.problems.MalformedFileError: no/such/folder: expected a folder, got nothing of...
    """
    check_path("folder", folder=folder)
    problems = Problems(folder)
    texts = read_beir_files(beir_files(folder), problems, cache=cache, progress=progress)
    problems.report()
    return texts


def read_beir_files(
    files: BeirFiles, problems: Problems, *, cache: File | None = None, progress: Progress | None = None
) -> JudgedTexts:
    """Reads the files of a set.

    Args:
        files: of the set.
        problems: where what is left out is counted; the caller reports it.
        cache: see :func:`read_beir`.
        progress: likewise.

    Raises:
        MalformedFileError: if a file does not hold what it should.
    """
    pairs = _documents(files.corpus)
    documents = load_texts(
        progress(pairs) if progress else pairs, source=files.corpus, kind="documents", problems=problems, cache=cache
    )
    queries, answers = _read_queries(files.queries, problems)
    query_places = {id: place for place, id in enumerate(queries.ids)}
    document_places = {id: place for place, id in enumerate(documents.ids)}
    judgements = {
        split: read_qrels(shards, query_places, document_places, problems) for split, shards in files.judgements.items()
    }
    return JudgedTexts(documents, queries, judgements, answers=answers)


def stream_beir_corpus(folder: File) -> Iterator[tuple[str, str]]:
    """Reads the documents of a BEIR folder one at a time.

    Yields:
        Id and text of each document.

    Raises:
        MalformedFileError: while reading, if the file does not hold what it should.
    """
    check_path("folder", folder=folder)
    yield from _documents(beir_files(folder).corpus)


def _documents(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    rows = ((row.file, row.line, row.id, f"{row.title} {row.text}".strip()) for row in read_texts(files))
    yield from refuse_repeated(rows)


def _read_queries(files: Sequence[Path], problems: Problems) -> tuple[Texts, dict[int, tuple[str, ...]]]:
    answers = {}

    def rows() -> Iterator[tuple[File, int, str, str]]:
        for place, row in enumerate(read_texts(files)):
            if row.answers:
                answers[place] = row.answers
            yield row.file, row.line, row.id, row.text

    queries = load_texts(refuse_repeated(rows()), source=files, kind="queries", problems=problems)
    return queries, answers
