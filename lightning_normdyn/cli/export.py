"""``normdyn export``: ready embeddings into an index whose inner products rank by the score that knows norms."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lightning_normdyn.cli.extras import MissingExtraError
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import ExportLoss, Source, look_through, measure_loss, write_index
from lightning_normdyn.retrieval.export.survey import Survey
from lightning_normdyn.retrieval.indexes import TARGETS, Destination, IndexWriter, index_writer
from lightning_normdyn.retrieval.indexes.id_file import read_ids

_NEAREST = 10
_LOW_RECALL = 0.95


def run_export(options: argparse.Namespace) -> int:
    """Folds, writes, measures.

    Args:
        options: as ``normdyn export --help`` lists them.

    Raises:
        ValueError: if embeddings, ids, exponents or what is at the place will not do; nothing is left half-written.
        OSError: if a file cannot be read or written.
        MissingExtraError: if the target's package is not installed.
    """
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    folding = Folding(
        options.normalization,
        alpha=options.alpha,
        gamma_document=options.gamma_document,
        augment=options.augment,
        metric=options.metric,
    )
    writer = _writer(options)
    embeddings = EmbeddingFile(options.embeddings, column=options.column)
    _check_apart(options)
    source = Source(embeddings, read_ids(Path(options.ids)) if options.ids else embeddings.ids, options.chunk)
    asked = _queries(options, embeddings.dim)
    half = options.dtype == "float16"
    with _bar(console, "reading", embeddings.rows) as tell:
        seen = look_through(source, folding, half=half, tell=tell)
    for line in describe(seen, folding):
        console.print(line)
    with _bar(console, "writing", embeddings.rows) as tell:
        write_index(source, folding, seen, writer, tell=tell)
    console.print(f"Written: {_place(options)}")
    if writer.approximate or half or options.metric != "inner_product":
        queries = _some(seen.sample if asked is None else asked, options.sample)
        with _bar(console, "measuring", embeddings.rows) as tell:
            loss = measure_loss(source, folding, seen, writer, queries, k=_NEAREST, half=half, tell=tell)
        for line in describe_loss(loss, approximate=writer.approximate, own=asked is None, augmented=options.augment):
            console.print(line)
    console.print(f"Search: {_search(options)}")
    return 0


def describe(seen: Survey, folding: Folding) -> list[str]:
    """What is said before anything is written, what matters most first.

    Args:
        seen: of the embeddings.
        folding: how they will be folded.
    """
    lines = []
    if seen.unit_length:
        lines.append(
            "All embeddings have length 1 already, so folding does nothing, whatever the exponent: for norms, export "
            "what the model gives before it normalizes."
        )
    elif seen.same_length:
        lines.append(f"All embeddings have the same length ({seen.longest:.4g}), so no exponent changes any ranking.")
    dim = seen.sample.shape[1]
    lines.append(f"{seen.rows:,} embeddings of {dim} numbers, lengths from {seen.shortest:.4g} to {seen.longest:.4g}.")
    if seen.zeros:
        lines.append(f"{seen.zeros:,} embeddings have length 0: they stay so and score 0 with every query.")
    power = folding.score.document_power
    changed = "as they are" if power == 1 else f"each times its length to the power {power - 1:g}"
    lines.append(f"To be stored: {changed}; norms count with exponent {power:g}.")
    return lines


def describe_loss(loss: ExportLoss, *, approximate: bool, own: bool, augmented: bool) -> list[str]:
    """What the index loses, and what may help.

    Args:
        loss: as measured.
        approximate: whether the index is.
        own: whether queries are some of the documents.
        augmented: whether lengths are equal already.
    """
    whose = "of the documents as queries" if own else "queries"
    lines = [f"recall@{loss.k} against exact search in float32: {loss.recall:.4f}, over {loss.queries:,} {whose}."]
    if loss.score_error is not None:
        lines.append(f"float16 changes a score by at most {loss.score_error:.1e} of the query's best, in a sample.")
    if approximate and loss.recall < _LOW_RECALL and not augmented:
        lines.append(
            "That is low: try an index that looks at more, or --augment, which adds one dimension so that all lengths "
            "are equal and keeps the ranking, and compare this number; it does not help every index."
        )
    if not approximate and augmented and loss.recall < _LOW_RECALL:
        lines.append(
            "That is low for an exact search: where lengths are so unlike, rounding hides what tells scores apart; "
            "take --metric inner_product."
        )
    return lines


def _writer(options: argparse.Namespace) -> IndexWriter:
    destination = Destination(options.out, options.name, options.dtype, options.index, options.overwrite)
    try:
        return index_writer(options.to, destination)
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error)) from error


def _check_apart(options: argparse.Namespace) -> None:
    # Embeddings are read again after the index is in place: what it loses would be measured against itself.
    if os.path.exists(options.out) and Path(options.out).samefile(options.embeddings):  # noqa: PTH110  (no URL upsets it)
        raise ValueError(f"out: expected another file than that of the embeddings, got '{options.out}'; choose another")


def _queries(options: argparse.Namespace, dim: int) -> Tensor | None:
    if options.queries is None:
        return None
    file = EmbeddingFile(options.queries)
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


def _some(queries: Tensor, most: int) -> Tensor:
    return queries[torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:most]]


def _place(options: argparse.Namespace) -> str:
    if options.to == "pgvector":  # its connection string may hold a password
        return f"the table {options.name}"
    return f"{options.name} in {options.out}" if options.to in ("qdrant", "lancedb") else str(options.out)


def _search(options: argparse.Namespace) -> str:
    queries = "queries with a zero at their end" if options.augment else "queries as they are"
    return f"{TARGETS[options.to].hint(options.metric)}, {queries}, metric {options.metric}"


@contextmanager
def _bar(console: Console, doing: str, rows: int) -> Iterator[Callable[[int], object]]:
    columns = (TextColumn("{task.description:>9}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=rows)
        yield lambda done: bar.advance(task, done)
