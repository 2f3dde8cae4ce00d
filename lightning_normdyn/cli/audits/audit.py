"""Audits what was gathered, and writes the page and the JSON."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from lightning_normdyn.cli.audits.comparison import AuditedSide, EarlierFiles, compare_with_earlier
from lightning_normdyn.cli.audits.input import AuditInput, AuditRequest, gather_input
from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.drawn_page import draw_page
from lightning_normdyn.cli.ray_cluster import RayCluster, check_engine, cluster_of
from lightning_normdyn.cli.ray_passes import RayPasses
from lightning_normdyn.cli.run_folder import check_output_file, check_writable
from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.reading.picture import open_image
from lightning_normdyn.report import DrawingError
from lightning_normdyn.report.audit import AuditSubject, write_audit
from lightning_normdyn.report.audit.checkpoint_page import CheckpointAudit
from lightning_normdyn.report.audit.hub_table import hub_sentences
from lightning_normdyn.report.audit.item import Item, thumbnail
from lightning_normdyn.report.audit.page import NUMBERS, PAGE
from lightning_normdyn.retrieval.audit import Audit, JudgedQueries, audit_norms, first_line
from lightning_normdyn.retrieval.exponent.model_comparison import ModelComparison

R = TypeVar("R")
_CHUNK_NUMBERS = 2**22
_FILES = (PAGE, NUMBERS)


class AuditRecord(NamedTuple):
    """What ``normdyn audit`` prints and writes.

    Attributes:
        finding: the first line of the findings.
        page: the HTML file; ``None`` if drawing it failed.
        audit: all numbers, of embeddings or of a checkpoint's tables.
        numbers: the JSON file.
        drawing_error: why there is no page, if drawing it failed.
        details: sentences and tables that are printed in place of the finding, where there are several.
        evidence: short sentences that are printed beneath as a list.
    """

    finding: str
    page: Path | None
    audit: Audit | CheckpointAudit
    numbers: Path
    drawing_error: DrawingError | None = None
    details: tuple[str | Table, ...] = ()
    evidence: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Success, or an error if the page could not be drawn."""
        return int(self.drawing_error is not None)

    def print_to(self, console: Console) -> None:
        """Prints what was found and where the page is."""
        for lines in self.details or (self.finding,):
            console.print(lines, markup=False)
        print_evidence(console, self.evidence)
        console.print(f"Numbers: {self.numbers}" if self.page is None else f"Page: {self.page}", markup=False)


def run_audit(request: AuditRequest, out: str, *, overwrite: bool = False) -> AuditRecord:
    """Audits and writes the page.

    Args:
        request: what is audited, and how.
        out: the folder of the page.
        overwrite: whether an audit that is there may be replaced.

    Raises:
        ValueError: if the input does not fit together or holds what it should not; nothing is written then.
        OSError: if a file cannot be read or written.
    """
    request.check()
    check_engine(request.engine)
    earlier_files = request.earlier_files
    check_place(Path(out), overwrite=overwrite)
    if request.encoder.save is not None:
        check_output_file(Path(request.encoder.save), "save")
    with tempfile.TemporaryDirectory(prefix="normdyn-audit-") as folder, _progress(terminal()) as bar:
        audit_input = gather_input(request, Path(folder), bar)
        with cluster_of(request.engine) as cluster:
            audit = _measure(audit_input, request.measure_name, bar, cluster)
        subject = AuditSubject(
            audit_input.name,
            audit_input.facts,
            [*audit_input.length_notes, *audit_input.notes],
            extreme_items(audit, audit_input),
            running_command(),
            _comparison(earlier_files, audit_input, request.measure_name),
            _document_items(audit, audit_input),
        )
        page = draw_page(lambda: write_audit(Path(out), audit, subject))
    finding = first_line(audit)
    comparison = [] if subject.comparison is None else [subject.comparison.sentence]
    evidence = [] if audit.says_nothing else audit_input.length_notes
    if audit.ranking is not None:
        hubs = hub_sentences(audit.ranking.hubs, subject.ranked_items)
        evidence = [*audit.ranking.verdict.evidence, *evidence, *hubs]
    details = (finding, *comparison)
    return AuditRecord(finding, page.path, audit, Path(out) / NUMBERS, page.error, details, tuple(evidence))


def print_evidence(console: Console, evidence: Iterable[str]) -> None:
    """Prints what a verdict rests on, as a list."""
    for sentence in evidence:
        console.print(f"- {sentence}", markup=False)


def _comparison(files: EarlierFiles | None, audit_input: AuditInput, measure: str) -> ModelComparison | None:
    queries = audit_input.judged_queries
    if files is None or queries is None:
        return None
    documents = AuditedSide(audit_input.items.ids, audit_input.embeddings)
    return compare_with_earlier(
        files, documents, AuditedSide(queries.ids, queries.queries), queries.judgements, measure
    )


def check_place(folder: Path, *, overwrite: bool) -> None:
    """Refuses a place that cannot be written, or that holds an audit, before anything is computed."""
    existing = next((folder / name for name in _FILES if (folder / name).exists()), None)
    if existing is not None and not overwrite:
        raise ValueError(f"out: '{existing}' exists already; pass --overwrite to replace it, or choose another folder")
    check_writable(folder)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal)


def _measure(audit_input: AuditInput, measure: str, bar: Progress, cluster: RayCluster | None) -> Audit:
    judged_queries, embeddings = audit_input.judged_queries, audit_input.embeddings
    names = iter(("Norms", "Rankings"))

    def read() -> Iterable[Tensor]:
        yield from _watched(embeddings, next(names), bar)

    def spread(work: Callable[[Iterable[Tensor], range], R], *, by_chunk: bool = False) -> Iterator[R]:
        assert cluster is not None
        task = bar.add_task(next(names), total=embeddings.rows)
        passes = RayPasses(cluster, embeddings, _chunk_size(embeddings), partial(bar.advance, task))
        return passes(work, by_chunk=by_chunk)

    return audit_norms(
        read,
        embeddings.rows,
        length=audit_input.length,
        covariates=audit_input.covariates,
        controls=audit_input.controls,
        groups=audit_input.groups,
        judged_queries=None
        if judged_queries is None
        else JudgedQueries(judged_queries.queries, judged_queries.judgements, measure, parts=audit_input.parts),
        last_layer=audit_input.last_layer,
        name=str(embeddings.file),
        spread=None if cluster is None else spread,
    )


def _watched(embeddings: EmbeddingFile, name: str, bar: Progress) -> Iterable[Tensor]:
    task = bar.add_task(name, total=embeddings.rows)
    for chunk in embeddings.chunks(_chunk_size(embeddings)):
        yield chunk
        bar.advance(task, len(chunk))


def _chunk_size(embeddings: EmbeddingFile) -> int:
    return max(1, _CHUNK_NUMBERS // max(1, embeddings.dim))


def extreme_items(audit: Audit, audit_input: AuditInput) -> dict[int, Item]:
    """Ids with texts or thumbnails of the longest, the shortest and the zero vectors, and of hubs; no other is read."""
    hubs = [] if audit_input.parts is not None else _hubs(audit)
    rows = (*audit.longest, *audit.shortest, *audit.zeros, *audit.near_dead, *hubs)
    return {row: _item(row, audit_input) for row in rows}


def _document_items(audit: Audit, audit_input: AuditInput) -> dict[int, Item] | None:
    """Ids of hubs that are documents of several vectors, each with its first one's text."""
    parts = audit_input.parts
    if parts is None:
        return None
    first_rows = {document: int((parts.owners == document).nonzero()[0]) for document in _hubs(audit)}
    return {
        document: _item(row, audit_input)._replace(id=audit_input.document_ids[document])
        for document, row in first_rows.items()
    }


def _hubs(audit: Audit) -> list[int]:
    return [] if audit.ranking is None else [hub.document for hub in audit.ranking.hubs.listed]


def _item(row: int, audit_input: AuditInput) -> Item:
    items = audit_input.items
    text = "" if items.texts is None else items.texts[row]
    file = None if items.images is None else items.images[row]
    picture = ""
    if file is not None:
        try:
            picture = thumbnail(open_image(file, name=file))
        except MalformedFileError:
            # All is measured by now, and one picture less takes nothing from it.
            text = "cannot be opened"
    return Item(items.ids[row], text, picture)
