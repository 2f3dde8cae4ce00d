"""``normdyn export``: ready embeddings into an index whose inner products rank by the score that knows norms."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from lightning_normdyn.cli.exports.inputs import drawn_queries, manifest_of, query_vectors, stored_power
from lightning_normdyn.cli.exports.request import ExportRequest, target_writer
from lightning_normdyn.cli.exports.sentences import (
    UNCHECKED_UPDATES,
    UNMEASURED_FEED,
    UNMEASURED_UPSERT,
    UNMEASURED_ZEROS,
    describe,
    describe_advice,
    describe_appended,
    describe_loss,
    describe_pilot,
    describe_unmeasured,
    describe_wider,
)
from lightning_normdyn.cli.ray_cluster import cluster_of
from lightning_normdyn.cli.ray_passes import RayPasses
from lightning_normdyn.cli.terminal import row_bar, terminal
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.retrieval.export.index_export import ExportLoss, Source, measure_loss, survey_source, write_index
from lightning_normdyn.retrieval.export.pilot import Pilot, PilotSample, run_pilot
from lightning_normdyn.retrieval.export.survey import Survey, check_scores
from lightning_normdyn.retrieval.indexes import (
    TARGETS,
    Candidate,
    Destination,
    IndexParameters,
    IndexWriter,
    SearchPlan,
)
from lightning_normdyn.retrieval.indexes.id_file import id_file, read_ids

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
        feed: how a server takes in what was written, where that is a feed for one.
    """

    survey: Survey
    description: Sequence[str]
    to: str
    destination: Destination
    search: str
    loss: ExportLoss | None
    loss_description: Sequence[str]
    pilot: Pilot | None = None
    feed: str | None = None

    @property
    def exit_code(self) -> int:
        """Success."""
        return 0

    def print_to(self, console: Console) -> None:
        """Prints what was not printed on the way: how to feed a server, and how to search."""
        if self.feed is not None:
            console.print(f"Feed:\n{self.feed}")
        console.print(f"Search:\n{self.search}" if "\n" in self.search else f"Search: {self.search}")


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
    writer = None if request.is_auto else target_writer(request.to, request.destination)
    if writer is None:  # the place is looked at before the embeddings are
        target_writer(request.to, replace(request.destination, index="flat", parameters=IndexParameters()))
    documents = EmbeddingFile(request.embeddings, column=request.column, dim=request.dim)
    manifest = manifest_of(documents)
    if manifest is not None:
        request = replace(
            request, folding=replace(request.folding, stored_power=stored_power(manifest, request.folding))
        )
    source = Source(documents, read_ids(Path(request.ids)) if request.ids else documents.ids, request.chunk_size)
    if request.destination.payload:
        source = source._replace(payload=documents.payload(request.destination.payload))
    queries = query_vectors(request.queries, documents.dim, is_prefix=request.dim is not None)
    with cluster_of(request.engine) as cluster:
        if cluster is not None:
            source = source._replace(spread=partial(RayPasses, cluster, documents, request.chunk_size))
        half = request.destination.dtype == "float16"
        with row_bar("reading", documents.rows) as advance:
            survey = survey_source(source, request.folding, half=half, tell=advance)
        export = _Export(request, source, survey, queries)
        export.check_scores()
        pilot = export.tried() if writer is None else None
        if pilot is not None:
            _print_lines(console, describe_pilot(pilot, survey.rows))
            export = export._replace(request=request.taking(pilot.best))
            writer = target_writer(export.request.to, export.request.destination)
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
        if self.query_vectors is not None:
            return drawn_queries(self.query_vectors, self.request.sample)
        queries = drawn_queries(self.survey.sample, self.request.sample)
        has_infinite_scores = self.survey.radius * self.survey.longest > torch.finfo(torch.float32).max
        if not has_infinite_scores:
            return queries
        return F.normalize(queries / queries.abs().amax(1, keepdim=True))  # whose squares are within float32

    def check_scores(self) -> None:
        """Refuses lengths whose scores would be infinite."""
        queries, request = self.query_vectors, self.request
        longest_query = 1.0 if queries is None else float(queries.double().norm(dim=1).max())
        compares_documents = request.destination.index != "flat" and not request.folding.keep_norm
        check_scores(self.survey.radius, longest_query, compares_documents=compares_documents)

    def tried(self, more: Sequence[Candidate] = ()) -> Pilot:
        """Candidates on a sample."""
        request, sample = self.request, PilotSample.drawn(self.survey.sample, self._measured_with, self.survey.rows)
        candidates = [*more, *TARGETS[request.to].candidates]
        with row_bar("trying", 1):
            return run_pilot(candidates, sample, request.folding, request.to, request.destination, request.recall)

    def written(self, writer: IndexWriter, pilot: Pilot | None) -> ExportRecord:
        """Writes and measures."""
        console, request, source, survey = terminal(), *self[:3]
        folding, destination, to = request.folding, request.destination, request.to
        description = describe(survey, folding)
        with row_bar("writing", source.file.rows) as advance, _disk_errors_of(TARGETS[to].place_of(destination)):
            write_index(
                source, folding, survey, writer, tell=advance, opened=lambda: _print_lines(console, description)
            )
        console.print(f"Written: {TARGETS[to].place_of(destination)}")
        if destination.append and writer.existing_ids:
            _print_lines(console, [self._appended(writer)])
        loss, lines, advice = self._measured(writer, pilot)
        _print_lines(console, lines)
        plan, target = self._plan(writer), TARGETS[to]
        search, feed = target.hint(plan), None if target.feed is None else target.feed(plan)
        with _disk_errors_of(TARGETS[to].place_of(destination)):
            writer.finish(_findings(search, feed, loss, writer, pilot or advice))
        return ExportRecord(survey, description, to, destination, search, loss, lines, pilot or advice, feed)

    def _appended(self, writer: IndexWriter) -> str:
        """What was added to rows that were there."""
        existing_rows = len(set(writer.existing_ids).intersection(self.source.ids))
        by_row = self.request.ids is None and not self.source.file.has_ids
        return describe_appended(self.survey.rows, existing_rows, by_row=by_row)

    def _measured(self, writer: IndexWriter, pilot: Pilot | None) -> tuple[ExportLoss | None, list[str], Pilot | None]:
        """What the index loses, what is said of it, and what was tried for advice."""
        request, folding, half = self.request, self.request.folding, self.request.destination.dtype == "float16"
        if TARGETS[request.to].feed is not None:
            lines = [UNCHECKED_UPDATES] * request.destination.upsert
            return None, lines + [UNMEASURED_FEED] * (request.destination.index != "flat"), None
        is_exact = not (writer.approximate or half) and (folding.metric == "inner_product" or folding.keep_norm)
        if is_exact:
            return None, [], None
        if request.destination.upsert:
            return None, [UNMEASURED_UPSERT], None
        if not len(self._measured_with):
            return None, [UNMEASURED_ZEROS], None
        others = set(writer.existing_ids).difference(self.source.ids)
        if others:
            return None, [describe_unmeasured(len(others))], None
        with row_bar("measuring", self.source.file.rows) as advance:
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
            names = tuple(request.destination.parameters.of_user)
            own = Candidate("as exported", request.destination.index, folding.augment, folding.keep_norm, names)
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
            self.survey.sample.shape[1] + folding.augment,
        )


def _findings(
    search: str, feed: str | None, loss: ExportLoss | None, writer: IndexWriter, pilot: Pilot | None
) -> dict[str, Any]:
    """For the manifest."""
    findings: dict[str, Any] = {"search": search.split("\n"), "width": dict(writer.width.values)}
    if feed is not None:
        findings["feed"] = feed.split("\n")
    if loss is not None:
        findings["measured"] = loss._asdict()
    return findings if pilot is None else {**findings, "pilot": pilot.as_json()}


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line)


@contextmanager
def _disk_errors_of(place: str) -> Iterator[None]:
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
