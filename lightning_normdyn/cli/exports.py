"""``normdyn export``: ready embeddings into an index whose inner products rank by the score that knows norms."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lightning_normdyn.cli.ray_cluster import check_engine, cluster_of
from lightning_normdyn.cli.ray_passes import RayPasses
from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.cli.user_errors import MissingExtraError
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.storage_place import StoragePlace
from lightning_normdyn.nearest_word import nearest
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import ExportLoss, Source, measure_loss, survey_source, write_index
from lightning_normdyn.retrieval.export.survey import Survey
from lightning_normdyn.retrieval.indexes import TARGETS, Destination, IndexWriter, index_writer
from lightning_normdyn.retrieval.indexes.id_file import read_ids

_NEAREST = 10
_LOW_RECALL = 0.95


class ExportRecord(NamedTuple):
    """What ``normdyn export`` prints.

    Attributes:
        survey: of the embeddings.
        description: of the embeddings and what was stored, in sentences.
        to: the target, a word of ``TARGETS``.
        destination: where in it they are, and how they are kept.
        search: how to search in it, in words.
        loss: what the index loses; ``None`` for an exact one in float32.
        loss_description: the same in sentences.
    """

    survey: Survey
    description: Sequence[str]
    to: str
    destination: Destination
    search: str
    loss: ExportLoss | None
    loss_description: Sequence[str]

    @property
    def exit_code(self) -> int:
        """Success."""
        return 0

    def print_to(self, console: Console) -> None:
        """Prints what was not printed on the way: how to search."""
        console.print(f"Search: {self.search}")


def run_export(
    embeddings: str,
    folding: Folding,
    to: str,
    destination: Destination,
    *,
    column: str | None = None,
    ids: str | None = None,
    queries: str | None = None,
    sample: int = 200,
    chunk_size: int = 16_384,
    engine: str = "local",
) -> ExportRecord:
    """Folds, writes, measures.

    Args:
        embeddings: file of the documents.
        folding: what is folded into them.
        to: a word of ``TARGETS``.
        destination: where they go, and how they are kept.
        column: of the embeddings.
        ids: file of their ids.
        queries: file of queries to measure with.
        sample: queries to measure with.
        chunk_size: embeddings in memory.
        engine: ``local``, or ``ray`` to spread passes over a cluster.

    Raises:
        ValueError: if embeddings, ids or what is at the place will not do; nothing is left half-written.
        OSError: if a file cannot be read or written.
        MissingExtraError: if the target's package is not installed.
    """
    check_engine(engine)
    _check_apart(destination.out, embeddings)
    writer = _writer(to, destination)
    documents = EmbeddingFile(embeddings, column=column)
    source = Source(documents, read_ids(Path(ids)) if ids else documents.ids, chunk_size)
    query_vectors = _queries(queries, documents.dim)
    with cluster_of(engine) as cluster:
        if cluster is not None:
            source = source._replace(spread=partial(RayPasses, cluster, documents, chunk_size))
        return _exported(source, folding, to, destination, writer, query_vectors, sample)


def _exported(
    source: Source,
    folding: Folding,
    to: str,
    destination: Destination,
    writer: IndexWriter,
    query_vectors: Tensor | None,
    sample: int,
) -> ExportRecord:
    console, documents, half = terminal(), source.file, destination.dtype == "float16"
    with _bar(console, "reading", documents.rows) as advance:
        survey = survey_source(source, folding, half=half, tell=advance)
    description = describe(survey, folding)
    with _bar(console, "writing", documents.rows) as advance, disk_errors_of(TARGETS[to].place_of(destination)):
        write_index(source, folding, survey, writer, tell=advance, opened=lambda: _print_lines(console, description))
    console.print(f"Written: {TARGETS[to].place_of(destination)}")
    search = describe_search(to, folding)
    if not (writer.approximate or half or folding.metric != "inner_product"):
        return ExportRecord(survey, description, to, destination, search, loss=None, loss_description=())
    measured_with = _some(survey.sample if query_vectors is None else query_vectors, sample)
    with _bar(console, "measuring", documents.rows) as advance:
        loss = measure_loss(source, folding, survey, writer, measured_with, k=_NEAREST, half=half, tell=advance)
    lines = describe_loss(
        loss, approximate=writer.approximate, of_documents=query_vectors is None, equal_lengths=folding.augment
    )
    _print_lines(console, lines)
    return ExportRecord(survey, description, to, destination, search, loss=loss, loss_description=lines)


def describe(survey: Survey, folding: Folding) -> list[str]:
    """What is said before anything is written, what matters most first.

    Args:
        survey: of the embeddings.
        folding: how they will be folded.
    """
    lines = []
    if survey.unit_length:
        lines.append(
            "All embeddings have length 1 already, so folding does nothing, whatever the exponent: for norms, export "
            "what the model gives before it normalizes."
        )
    elif survey.same_length:
        lines.append(f"All embeddings have the same length ({survey.longest:.4g}), so no exponent changes any ranking.")
    dim = survey.sample.shape[1]
    lines.append(
        f"{survey.rows:,} embeddings of {dim} numbers, lengths from {survey.shortest:.4g} to {survey.longest:.4g}."
    )
    if survey.zeros:
        lines.append(f"{survey.zeros:,} embeddings have length 0: they stay so and score 0 with every query.")
    power = folding.score.document_power
    change = "as they are" if power == 1 else f"each times its length to the power {power - 1:g}"
    lines.append(f"To be stored: {change}; norms count with exponent {power:g}.")
    return lines


def describe_search(to: str, folding: Folding) -> str:
    """How to search in what was written.

    Args:
        to: a word of ``TARGETS``.
        folding: how it was folded.
    """
    queries = "queries with a zero at their end" if folding.augment else "queries as they are"
    return f"{TARGETS[to].hint(folding.metric)}, {queries}, metric {folding.metric}"


def describe_loss(loss: ExportLoss, *, approximate: bool, of_documents: bool, equal_lengths: bool) -> list[str]:
    """What the index loses, and what may help.

    Args:
        loss: as measured.
        approximate: whether the index is.
        of_documents: whether queries are some of the documents.
        equal_lengths: whether lengths are equal already.
    """
    whose = "of the documents as queries" if of_documents else "queries"
    lines = [f"recall@{loss.k} against exact search in float32: {loss.recall:.4f}, over {loss.queries:,} {whose}."]
    if loss.score_error is not None:
        lines.append(f"float16 changes a score by at most {loss.score_error:.1e} of the query's best, in a sample.")
    if approximate and loss.recall < _LOW_RECALL and not equal_lengths:
        lines.append(
            "That is low: try an index that looks at more, or --augment, which adds one dimension so that all lengths "
            "are equal and keeps the ranking, and compare this number; it does not help every index."
        )
    if not approximate and equal_lengths and loss.recall < _LOW_RECALL:
        lines.append(
            "That is low for an exact search: where lengths are so unlike, rounding hides what tells scores apart; "
            "take --metric inner_product."
        )
    return lines


def _writer(to: str, destination: Destination) -> IndexWriter:
    """What writes there.

    Raises:
        ValueError: if there is no such target.
        MissingExtraError: if its package is not installed.
    """
    if to not in TARGETS:
        raise ValueError(f"to: expected one of {', '.join(TARGETS)}, got {to!r}{nearest(to, tuple(TARGETS))}")
    try:
        return index_writer(to, destination)
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error)) from error


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line)


def _check_apart(out: str, embeddings: str) -> None:
    # Embeddings are read again after the index is in place: what it loses would be measured against itself.
    # os.path, since no URL upsets it.
    place = StoragePlace(embeddings).path
    if place is None or not place.exists():
        return
    if os.path.exists(out) and os.path.samefile(out, place):  # noqa: PTH110, PTH121
        raise ValueError(f"out: expected another file than that of the embeddings, got '{out}'; choose another")
    # A file among the shards would be taken for one of them the next time.
    if place.is_dir() and "://" not in out and Path(out).absolute().is_relative_to(place.absolute()):
        raise ValueError(f"out: expected a place outside of the embeddings' folder, got '{out}'; choose another")


def _queries(name: str | None, dim: int) -> Tensor | None:
    if name is None:
        return None
    file = EmbeddingFile(name)
    if file.dim != dim or not file.rows:
        raise ValueError(
            f"queries: expected vectors of {dim} numbers as the documents have, got {[file.rows, file.dim]}"
        )
    queries = file.read()
    bad = (~queries.isfinite().all(1)).nonzero()
    if len(bad):
        raise ValueError(
            f"queries: expected finite numbers, got NaN or infinite ones in row {int(bad[0])}; leave the row out or "
            "encode it again"
        )
    return queries


def _some(queries: Tensor, limit: int) -> Tensor:
    return queries[torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:limit]]


@contextmanager
def disk_errors_of(place: str) -> Iterator[None]:
    """Names the place where an error of the disk names no file, or one that is there for the time being alone.

    Args:
        place: where is written, in words.

    Raises:
        OSError: in the place of one that only has a number.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        reason = os.strerror(error.errno)
        raise OSError(f"out: cannot write {place} ({reason}); free some space, or choose another place") from error


@contextmanager
def _bar(console: Console, doing: str, rows: int) -> Iterator[Callable[[int], object]]:
    columns = (TextColumn("{task.description:>9}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=rows)
        yield lambda rows: bar.advance(task, rows)
