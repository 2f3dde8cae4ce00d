"""``normdyn audit``: what the norms of a model's or of ready embeddings say, on a page and as JSON."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from lightning_normdyn.cli.audit.input import AuditInput, gather_input
from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.reading.picture import open_image
from lightning_normdyn.report.audit import AuditSubject, write_audit
from lightning_normdyn.report.audit.item import Item, thumbnail
from lightning_normdyn.retrieval.audit import Audit, JudgedQueries, audit_norms, first_line

_CHUNK_NUMBERS = 2**22


def run_audit(options: argparse.Namespace) -> int:
    """Audits, prints the first line of the findings and writes the page.

    Args:
        options: as ``normdyn audit`` takes them.

    Raises:
        ValueError: if the input does not fit together or holds what it should not; nothing is written then.
        OSError: if a file cannot be read or written.
    """
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn())
    with (
        tempfile.TemporaryDirectory(prefix="normdyn-audit-") as folder,
        Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as bar,
    ):
        given = gather_input(options, Path(folder), bar)
        audit = _measure(given, options.measure, bar)
        subject = AuditSubject(given.name, given.facts, given.notes, shown_items(audit, given))
        page = write_audit(Path(options.out), audit, subject)
    console.print(first_line(audit))
    console.print(f"Page: {page}")
    return 0


def _measure(given: AuditInput, measure: str, bar: Progress) -> Audit:
    asked = None if given.asked is None else JudgedQueries(given.asked.queries, given.asked.judgements, measure)
    names = iter(("Norms", "Rankings"))

    def read() -> Iterable[Tensor]:
        yield from _watched(given.embeddings, next(names), bar)

    return audit_norms(
        read,
        given.embeddings.rows,
        length=given.length,
        covariates=given.covariates,
        groups=given.groups,
        judged_queries=asked,
        last_layer=given.last_layer,
        name=str(given.embeddings.file),
    )


def _watched(embeddings: EmbeddingFile, name: str, bar: Progress) -> Iterable[Tensor]:
    task = bar.add_task(name, total=embeddings.rows)
    for chunk in embeddings.chunks(max(1, _CHUNK_NUMBERS // max(1, embeddings.dim))):
        yield chunk
        bar.advance(task, len(chunk))


def shown_items(audit: Audit, given: AuditInput) -> dict[int, Item]:
    """Ids with texts or thumbnails of the longest, the shortest and the zero vectors; no other text is read."""
    return {row: _item(row, given) for row in (*audit.longest, *audit.shortest, *audit.zeros)}


def _item(row: int, given: AuditInput) -> Item:
    text = "" if given.items.texts is None else given.items.texts[row]
    file = None if given.items.images is None else given.items.images[row]
    picture = ""
    if file is not None:
        try:
            picture = thumbnail(open_image(file, name=file))
        except MalformedFileError:
            # All is measured by now, and one picture less takes nothing from it.
            text = "cannot be opened"
    return Item(given.items.ids[row], text, picture)
