"""BEIR folders: a corpus, queries and judgements; scifact, HotpotQA and many others come so (arXiv 2104.08663)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.formats.qrels import read_qrels
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.cached_texts import load_texts, refuse_repeated
from lightning_normdyn.datasets.reading.folder import SPLITS, require_file, require_folder
from lightning_normdyn.datasets.reading.json_lines import read_json_lines
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.records import JudgedTexts, Texts

Progress = Callable[[Iterable[tuple[str, str]]], Iterable[tuple[str, str]]]


def read_beir(folder: File, *, cache: File | None = None, progress: Progress | None = None) -> JudgedTexts:
    """Reads ``corpus.jsonl[.gz]``, ``queries.jsonl[.gz]`` and ``qrels/*.tsv[.gz]``.

    A document is its title, a space and its text, as BEIR's own models see it. All queries are kept, judged or not.
    A query's ``metadata.answer``, a text or several, becomes its answers. ``dev`` and the like mean ``validation``;
    judgements under another name keep it.

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
    corpus_file, queries_file = require_file(folder, "corpus.jsonl"), require_file(folder, "queries.jsonl")
    files = _qrels_files(Path(folder) / "qrels")
    pairs: Iterable[tuple[str, str]] = stream_beir_corpus(folder)
    documents = load_texts(
        progress(pairs) if progress else pairs, source=[corpus_file], kind="documents", problems=problems, cache=cache
    )
    queries, answers = _read_queries(queries_file, problems)
    judgements = _read_judgements(files, documents, queries, problems)
    problems.report()
    return JudgedTexts(documents, queries, judgements, answers=answers)


def stream_beir_corpus(folder: File) -> Iterator[tuple[str, str]]:
    """Reads the documents of a BEIR folder one at a time.

    Yields:
        Id and text of each document.

    Raises:
        MalformedFileError: while reading, if the file does not hold what it should.
    """
    check_path("folder", folder=folder)
    file = require_file(folder, "corpus.jsonl")
    entries = read_json_lines(file)
    rows = (
        (file, entry.line, entry.id(), f"{entry.text('title', default='')} {entry.text('text')}".strip())
        for entry in entries
    )
    yield from refuse_repeated(rows)


def _read_queries(file: Path, problems: Problems) -> tuple[Texts, dict[int, tuple[str, ...]]]:
    answers = {}

    def rows() -> Iterator[tuple[File, int, str, str]]:
        for place, entry in enumerate(read_json_lines(file)):
            metadata = entry.fields.get("metadata")
            answer = metadata.get("answer") if isinstance(metadata, dict) else None
            texts = [answer] if isinstance(answer, str) else answer
            if isinstance(texts, list) and texts and all(isinstance(text, str) and text for text in texts):
                answers[place] = tuple(texts)
            yield file, entry.line, entry.id(), entry.text("text")

    queries = load_texts(refuse_repeated(rows()), source=[file], kind="queries", problems=problems)
    return queries, answers


def _qrels_files(folder: Path) -> dict[str, Path]:
    split_names = {spelling: split for split, spellings in SPLITS.items() for spelling in spellings}
    files: dict[str, Path] = {}
    for file in sorted((*require_folder(folder).glob("*.tsv"), *folder.glob("*.tsv.gz"))):
        name = file.name.split(".tsv")[0]
        split = split_names.get(name, name)
        if split in files:
            raise MalformedFileError(
                folder, None, f"one file of split '{split}'", f"{files[split].name} and {file.name}", "remove one"
            )
        files[split] = file
    if not files:
        raise MalformedFileError(folder, None, "judgements such as test.tsv", "no .tsv file")
    return {split: files[split] for split in sorted(files, key=_order)}


def _order(split: str) -> tuple[int, str]:
    split_order = list(SPLITS)
    return (split_order.index(split) if split in split_order else len(split_order), split)


def _read_judgements(
    files: Mapping[str, Path], documents: Texts, queries: Texts, problems: Problems
) -> dict[str, Judgements]:
    query_places = {id: place for place, id in enumerate(queries.ids)}
    document_places = {id: place for place, id in enumerate(documents.ids)}
    return {split: read_qrels(file, query_places, document_places, problems) for split, file in files.items()}
