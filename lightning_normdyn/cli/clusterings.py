"""``normdyn cluster``: what norms gain in clustering ready embeddings, beside plain and spherical k-means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.drawn_page import draw_page
from lightning_normdyn.cli.run_folder import check_writable
from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.cli.user_errors import MissingExtraError
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.formats.covariates import read_labels
from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.report import DrawingError
from lightning_normdyn.report.audit.clustering_page import (
    NUMBERS,
    PAGE,
    ClusteringSubject,
    clustering_rows,
    write_clustering_numbers,
    write_clustering_page,
)
from lightning_normdyn.retrieval.uses.clustering import Engine, engine_of
from lightning_normdyn.retrieval.uses.clustering_comparison import EXPONENTS, ClusteringComparison, compare_clusterings

_PRINTED, _PRINTED_WITHOUT_LABELS = (0, 1, 2, 4), (0, 4, 5)  # the page has all columns


class ClusteringRequest(NamedTuple):
    """What is clustered, and how, as the command's options have it.

    Attributes:
        embeddings: ready ones.
        column: of theirs.
        labels: file of classes.
        label_column: of it.
        clusters: k; as many as classes by default.
        exponents: of the norm; those of the library by default.
        engine: whose k-means runs.
        seeds: from which each way clusters.
        restarts: of each k-means.
        sample: items at most.
    """

    embeddings: str
    column: str | None = None
    labels: str | None = None
    label_column: str | None = None
    clusters: int | None = None
    exponents: Sequence[float] | None = None
    engine: Engine = "auto"
    seeds: int = 10
    restarts: int = 3
    sample: int = 20_000


class ClusteringRecord(NamedTuple):
    """What ``normdyn cluster`` prints and writes.

    Attributes:
        comparison: all numbers.
        notes: what was left out.
        numbers: the JSON file.
        page: the HTML file; ``None`` if drawing it failed.
        drawing_error: why there is no page, if drawing it failed.
    """

    comparison: ClusteringComparison
    notes: Sequence[str]
    numbers: Path
    page: Path | None
    drawing_error: DrawingError | None = None

    @property
    def exit_code(self) -> int:
        """Success, or an error if the page could not be drawn."""
        return int(self.drawing_error is not None)

    def print_to(self, console: Console) -> None:
        """Prints the verdict, the table, and where the page is."""
        console.print(self.comparison.sentence, markup=False)
        headings, rows = clustering_rows(self.comparison)
        shown = _PRINTED if self.comparison.has_labels else _PRINTED_WITHOUT_LABELS
        table = Table(*(headings[place] for place in shown))
        for row in rows:
            table.add_row(*(row[place] for place in shown))
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False)
        console.print(f"Numbers: {self.numbers}" if self.page is None else f"Page: {self.page}", markup=False)


def run_clustering(request: ClusteringRequest, out: str, *, overwrite: bool = False) -> ClusteringRecord:
    """Compares ways to cluster and writes the page.

    Args:
        request: what is clustered.
        out: the folder of the page.
        overwrite: whether a comparison that is there may be replaced.

    Raises:
        ValueError: if files or options do not fit together; nothing is written then.
        OSError: if a file cannot be read or written.
        MissingExtraError: if no k-means is installed.
    """
    folder = Path(out)
    _check_place(folder, overwrite=overwrite)
    try:
        engine_of(request.engine)
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error)) from error
    items = _read(request)
    comparison = compare_clusterings(
        items.embeddings,
        items.labels,
        clusters=request.clusters,
        exponents=EXPONENTS if request.exponents is None else request.exponents,
        engine=request.engine,
        seeds=request.seeds,
        restarts=request.restarts,
        progress=_bar,
    )
    subject = ClusteringSubject(
        Path(request.embeddings).name,
        items.notes,
        running_command(),
        without_passwords(request.embeddings),
        request.column,
    )
    numbers = write_clustering_numbers(folder, comparison, subject)
    page = draw_page(lambda: write_clustering_page(folder, comparison, subject))
    return ClusteringRecord(comparison, items.notes, numbers, page.path, page.error)


class _Items(NamedTuple):
    """What is clustered."""

    embeddings: Tensor
    labels: Tensor | None
    notes: list[str]


def _read(request: ClusteringRequest) -> _Items:
    """Embeddings and labels as numbers; a sample where there are many, without what has no label."""
    file = EmbeddingFile(request.embeddings, column=request.column)
    if request.labels is None and request.label_column is not None:
        raise ValueError(f"label_column: expected --labels with it, got none with '{request.label_column}'")
    names = None if request.labels is None else read_labels(request.labels, file.ids, column=request.label_column)
    rows = torch.tensor([row for row in range(file.rows) if names is None or names[row] is not None])
    notes = []
    if len(rows) < file.rows:
        notes.append(f"{file.rows - len(rows):,} of {file.rows:,} items have no label and were left out.")
    if len(rows) > request.sample:
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: request.sample]
        notes.append(f"A random sample of {request.sample:,} of {len(rows):,} items; --sample takes more.")
        all_rows, rows = rows, rows[chosen.sort().values]
        _check_sample(request, names, all_rows, rows)
    labels = None
    if names is not None:
        numbers = {name: number for number, name in enumerate(sorted({names[row] or "" for row in rows.tolist()}))}
        labels = torch.tensor([numbers[names[row] or ""] for row in rows.tolist()])
    return _Items(_rows_of(file, rows), labels, notes)


def _check_sample(
    request: ClusteringRequest, names: Sequence[str | None] | None, all_rows: Tensor, rows: Tensor
) -> None:
    """Refuses a sample that is too small for clusters, where all items would do."""
    classes, all_classes = ({names[row] for row in part.tolist()} if names else set() for part in (rows, all_rows))
    clusters = request.clusters or max(2, len(all_classes))
    if len(rows) < 2 * clusters:
        raise ValueError(
            f"sample: expected {2 * clusters} items or more, two for each of {clusters} clusters, got {len(rows)}; "
            "take more, or leave it out"
        )
    if len(classes) < 2 <= len(all_classes):
        raise ValueError(
            f"sample: expected items of two classes or more, got {len(rows)} of '{classes.pop()}' alone; take more, or "
            "leave it out"
        )


def _rows_of(file: EmbeddingFile, rows: Tensor) -> Tensor:
    """Some rows, ascending, read a chunk at a time."""
    parts, start = [torch.empty(0, file.dim)], 0
    for chunk in file.chunks():
        inside = rows[(rows >= start) & (rows < start + len(chunk))]
        parts.append(chunk[inside - start])
        bad_rows = inside[~parts[-1].isfinite().all(1)]
        if len(bad_rows):
            raise ValueError(f"{file.file}: expected finite numbers, got NaN or infinity in row {int(bad_rows[0])}")
        start += len(chunk)
    return torch.cat(parts)


def _bar(seeds: Sequence[int]) -> Iterable[int]:
    console = terminal()
    return track(seeds, "Clustering", console=console, transient=True, disable=not console.is_terminal)


def _check_place(folder: Path, *, overwrite: bool) -> None:
    existing = next((folder / name for name in (PAGE, NUMBERS) if (folder / name).exists()), None)
    if existing is not None and not overwrite:
        raise ValueError(f"out: '{existing}' exists already; pass --overwrite to replace it, or choose another folder")
    check_writable(folder)
