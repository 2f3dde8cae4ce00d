"""``normdyn export``: ready embeddings into an index whose inner products rank by the score that knows norms."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from lightning_normdyn.caution import caution
from lightning_normdyn.cli.export_sentences import (
    UNMEASURED_UPSERT,
    describe,
    describe_advice,
    describe_appended,
    describe_loss,
    describe_pilot,
    describe_unmeasured,
    describe_wider,
)
from lightning_normdyn.cli.ray_cluster import check_engine, cluster_of
from lightning_normdyn.cli.ray_passes import RayPasses
from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.cli.user_errors import MissingExtraError
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.storage_place import StoragePlace
from lightning_normdyn.nearest_word import nearest
from lightning_normdyn.retrieval.export.folding import Folding
from lightning_normdyn.retrieval.export.index_export import ExportLoss, Source, measure_loss, survey_source, write_index
from lightning_normdyn.retrieval.export.pilot import Pilot, PilotResult, PilotSample, run_pilot
from lightning_normdyn.retrieval.export.survey import Survey
from lightning_normdyn.retrieval.indexes import (
    TARGETS,
    Candidate,
    Destination,
    IndexParameters,
    IndexWriter,
    Manifest,
    SearchPlan,
    index_writer,
    read_manifest,
)
from lightning_normdyn.retrieval.indexes.id_file import id_file, read_ids
from lightning_normdyn.retrieval.indexes.manifest import FIRST_ROWS, FirstRows, manifest_file

_NEAREST = 10


class ExportRecord(NamedTuple):
    """What ``normdyn export`` prints.

    Attributes:
        survey: of the embeddings.
        description: of the embeddings and what was stored, in sentences.
        to: the target, a word of ``TARGETS``.
        destination: where in it they are, and how they are kept.
        search: how to search in it: lines that can be run, as it was measured.
        loss: what the index loses; ``None`` for an exact one in float32.
        loss_description: the same in sentences.
        pilot: what ``--index auto``, or advice on a low recall, tried; ``None`` if nothing had to be.
    """

    survey: Survey
    description: Sequence[str]
    to: str
    destination: Destination
    search: str
    loss: ExportLoss | None
    loss_description: Sequence[str]
    pilot: Pilot | None = None

    @property
    def exit_code(self) -> int:
        """Success."""
        return 0

    def print_to(self, console: Console) -> None:
        """Prints what was not printed on the way: how to search."""
        console.print(f"Search:\n{self.search}" if "\n" in self.search else f"Search: {self.search}")


@dataclass(frozen=True)
class ExportRequest:
    """What ``normdyn export`` is asked for.

    Args:
        embeddings: file of the documents.
        folding: what is folded into them.
        to: a word of ``TARGETS``.
        destination: where they go, and how they are kept.
        column: of the embeddings.
        ids: file of their ids.
        dim: numbers of each row that are taken; all if left out.
        queries: file of queries to measure with.
        sample: queries to measure with.
        recall: that searches are widened to.
        chunk_size: embeddings in memory.
        engine: ``local``, or ``ray`` to spread passes over a cluster.

    Raises:
        ValueError: if options do not fit together.
    """

    embeddings: str
    folding: Folding
    to: str
    destination: Destination
    column: str | None = None
    ids: str | None = None
    dim: int | None = None
    queries: str | None = None
    sample: int = 200
    recall: float = 0.95
    chunk_size: int = 16_384
    engine: str = "local"

    def __post_init__(self) -> None:
        check_engine(self.engine)
        _check_apart(self.destination.out, self.embeddings)
        if not 0 < self.recall <= 1:
            raise ValueError(f"recall: expected a share above 0 and up to 1, got {self.recall:g}")
        if self.destination.index == "auto":
            self._check_auto()
        if self.destination.append and self.destination.overwrite:
            raise ValueError("append: expected no overwrite beside it, which replaces what is there; leave one out")

    @property
    def is_auto(self) -> bool:
        """Whether the kind of index is to be found."""
        return self.destination.index == "auto"

    def _check_auto(self) -> None:
        target = TARGETS.get(self.to)
        if target is not None and not target.candidates:
            names = ", ".join(name for name, other in TARGETS.items() if other.candidates)
            raise ValueError(f"index: expected auto for {names} alone, got it for {self.to}; name an index")
        choices = {"augment": self.folding.augment, "keep_norm": self.folding.keep_norm}
        choices["metric"] = self.folding.metric != "inner_product"
        for name, is_set in choices.items():
            if is_set:
                raise ValueError(f"{name}: expected nothing with --index auto, which tries it; leave it out")
        if self.destination.append or self.destination.upsert:
            raise ValueError("index: expected that of the vectors that are there to append to, got auto; name it")

    def taking(self, result: PilotResult) -> ExportRequest:
        """The same with the index that was found."""
        candidate, destination = result.candidate, self.destination
        folding = replace(self.folding, augment=candidate.augment, keep_norm=candidate.keep_norm)
        parameters = destination.parameters.among(candidate.parameters)
        destination = replace(
            destination, index=candidate.index, parameters=parameters, first_width=result.width.values
        )
        return replace(self, folding=folding, destination=destination)


def run_export(request: ExportRequest) -> ExportRecord:
    """Folds, writes, measures.

    Args:
        request: what is asked for.

    Raises:
        ValueError: if embeddings, ids or what is at the place will not do; nothing is left half-written.
        OSError: if a file cannot be read or written.
        MissingExtraError: if the target's package is not installed.
    """
    console = terminal()
    writer = None if request.is_auto else _writer(request.to, request.destination)
    if writer is None:  # the place is looked at before the embeddings are
        _writer(request.to, replace(request.destination, index="flat", parameters=IndexParameters()))
    documents = EmbeddingFile(request.embeddings, column=request.column, dim=request.dim)
    manifest = _manifest_of(documents)
    if manifest is not None:
        stored_power = 0.0 if manifest.keep_norm else manifest.exponent
        request = replace(request, folding=replace(request.folding, stored_power=stored_power))
    source = Source(documents, read_ids(Path(request.ids)) if request.ids else documents.ids, request.chunk_size)
    if request.destination.payload:
        source = source._replace(payload=documents.payload(request.destination.payload))
    query_vectors = _queries(request.queries, documents.dim, is_prefix=request.dim is not None)
    with cluster_of(request.engine) as cluster:
        if cluster is not None:
            source = source._replace(spread=partial(RayPasses, cluster, documents, request.chunk_size))
        half = request.destination.dtype == "float16"
        with _bar(console, "reading", documents.rows) as advance:
            survey = survey_source(source, request.folding, half=half, tell=advance)
        export = _Export(request, source, survey, query_vectors)
        pilot = export.tried() if writer is None else None
        if pilot is not None:
            _print_lines(console, describe_pilot(pilot, survey.rows))
            export = export._replace(request=request.taking(pilot.best))
            writer = _writer(export.request.to, export.request.destination)
        assert writer is not None
        return export.written(writer, pilot)


class _Export(NamedTuple):
    """An export whose embeddings have been looked through."""

    request: ExportRequest
    source: Source
    survey: Survey
    query_vectors: Tensor | None

    @property
    def _measured_with(self) -> Tensor:
        return _some(self.survey.sample if self.query_vectors is None else self.query_vectors, self.request.sample)

    def tried(self, more: Sequence[Candidate] = ()) -> Pilot:
        """Candidates on a sample."""
        request, sample = self.request, PilotSample.drawn(self.survey.sample, self._measured_with, self.survey.rows)
        candidates = [*more, *TARGETS[request.to].candidates]
        with _bar(terminal(), "trying", 1):
            return run_pilot(candidates, sample, request.folding, request.to, request.destination, request.recall)

    def written(self, writer: IndexWriter, pilot: Pilot | None) -> ExportRecord:
        """Writes and measures."""
        console, request, source, survey = terminal(), *self[:3]
        folding, destination, to = request.folding, request.destination, request.to
        description = describe(survey, folding)
        with _bar(console, "writing", source.file.rows) as advance, disk_errors_of(TARGETS[to].place_of(destination)):
            write_index(
                source, folding, survey, writer, tell=advance, opened=lambda: _print_lines(console, description)
            )
        console.print(f"Written: {TARGETS[to].place_of(destination)}")
        if destination.append and writer.existing_ids:
            _print_lines(console, [self._appended(writer)])
        loss, lines, advice = self._measured(writer, pilot)
        _print_lines(console, lines)
        search = TARGETS[to].hint(self._plan(writer))
        with disk_errors_of(TARGETS[to].place_of(destination)):
            writer.finish(_findings(search, loss, writer, pilot or advice))
        return ExportRecord(survey, description, to, destination, search, loss, lines, pilot or advice)

    def _appended(self, writer: IndexWriter) -> str:
        """What was added to rows that were there."""
        existing_rows = len(set(writer.existing_ids).intersection(self.source.ids))
        by_row = self.request.ids is None and not self.source.file.has_ids
        return describe_appended(self.survey.rows, existing_rows, by_row=by_row)

    def _measured(self, writer: IndexWriter, pilot: Pilot | None) -> tuple[ExportLoss | None, list[str], Pilot | None]:
        """What the index loses, what is said of it, and what was tried for advice."""
        request, folding, half = self.request, self.request.folding, self.request.destination.dtype == "float16"
        is_exact = not (writer.approximate or half) and (folding.metric == "inner_product" or folding.keep_norm)
        if is_exact:
            return None, [], None
        if request.destination.upsert:
            return None, [UNMEASURED_UPSERT], None
        others = set(writer.existing_ids).difference(self.source.ids)
        if others:
            return None, [describe_unmeasured(len(others))], None
        with _bar(terminal(), "measuring", self.source.file.rows) as advance:
            loss = measure_loss(
                self.source,
                folding,
                self.survey,
                writer,
                self._measured_with,
                k=_NEAREST,
                half=half,
                recall=request.recall if writer.approximate else 0.0,
                tell=advance,
            )
        lines = describe_loss(
            loss,
            writer.width,
            approximate=writer.approximate,
            of_documents=self.query_vectors is None,
            recall=request.recall,
            equal_lengths=folding.augment,
        )
        advice = None
        if writer.approximate and loss.recall < request.recall and pilot is None:
            lines += self._wider(writer, loss)
            own = Candidate(
                "as exported",
                request.destination.index,
                folding.augment,
                folding.keep_norm,
                tuple(request.destination.parameters.of_user),
            )
            advice = self.tried([own]) if TARGETS[request.to].candidates else None
            lines += describe_advice(advice)
        return loss, lines, advice

    def _wider(self, writer: IndexWriter, loss: ExportLoss) -> list[str]:
        """What a wider search than the user's own finds, asked of the index that was written."""
        width = writer.width
        if not width.freed.widened() or all(name in width.limits for name in width.values):
            return []
        writer.width = width.freed
        wider = measure_loss(
            self.source, self.request.folding, self.survey, writer, self._measured_with, recall=self.request.recall
        )
        measured, writer.width = writer.width, width
        return [] if wider.recall <= loss.recall else [describe_wider(wider, measured)]

    def _plan(self, writer: IndexWriter) -> SearchPlan:
        """How to search in what was written."""
        request, folding = self.request, self.request.folding
        return SearchPlan(
            request.destination,
            folding.metric,
            _NEAREST,
            writer.width.values,
            folding.score.document_power if folding.keep_norm else None,
            folding.augment,
            request.dim,
            id_file(Path(request.destination.out)).is_file(),
        )


def _findings(search: str, loss: ExportLoss | None, writer: IndexWriter, pilot: Pilot | None) -> dict[str, Any]:
    """For the manifest."""
    findings: dict[str, Any] = {"search": search.split("\n"), "width": dict(writer.width.values)}
    if loss is not None:
        findings["measured"] = loss._asdict()
    return findings if pilot is None else {**findings, "pilot": pilot.as_json()}


def _manifest_of(documents: EmbeddingFile) -> Manifest | None:
    """What an earlier export says of the embeddings, if they are what it wrote.

    Raises:
        ValueError: if they have a dimension more, which is none of the embeddings.
    """
    place = documents.place.path
    if place is None:
        return None
    file = next(iter(sorted(place.glob("*.parquet"))), place) if place.is_dir() else place
    manifest = read_manifest(file)
    if manifest is None:
        return None
    if manifest.checksum is not None:
        first_rows = FirstRows()
        for chunk in EmbeddingFile(file).chunks(FIRST_ROWS, range(min(FIRST_ROWS, documents.rows))):
            first_rows.add(chunk)
        if (manifest.rows, manifest.checksum) != (documents.rows, first_rows.checksum):
            caution(
                f"embeddings: '{manifest_file(file)}' describes other vectors than '{file}' holds, and is passed over; "
                "remove it",
                stacklevel=3,
            )
            return None
    if manifest.radius is not None:
        raise ValueError(
            f"embeddings: expected embeddings, got '{file}', whose last dimension an export with --augment added; "
            "export the original embeddings"
        )
    return manifest


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


def _queries(name: str | None, dim: int, *, is_prefix: bool) -> Tensor | None:
    if name is None:
        return None
    file = EmbeddingFile(name)
    if file.dim > dim and is_prefix:
        file = EmbeddingFile(name, dim=dim)
    if not file.rows:
        raise ValueError(f"queries: expected at least one vector in {name}, got none")
    if file.dim != dim:
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
