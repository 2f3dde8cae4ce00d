"""Advice on scoring and training from the norms of a trained model: of a checkpoint, or of embeddings in files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.cli.audits.audit import print_evidence
from lightning_normdyn.cli.audits.input import AuditRequest, gather_input
from lightning_normdyn.cli.audits.items import Chunks, read_chunks
from lightning_normdyn.cli.audits.queries import check_enough, query_notes
from lightning_normdyn.cli.checkpoint_errors import fitting_checkpoint, loading_options
from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.configuration import name_configured
from lightning_normdyn.cli.fit import WITHOUT_RUN, UnloggedCLI, config_words
from lightning_normdyn.datasets import Judgements, Problems
from lightning_normdyn.datasets.embedding_file import EmbeddingFile, places_by_id
from lightning_normdyn.datasets.formats.qrels import read_qrels
from lightning_normdyn.history.number import measured, show_number
from lightning_normdyn.history.origin import Origin
from lightning_normdyn.retrieval import sweep_alpha
from lightning_normdyn.retrieval.audit import JudgedQueries, audit_norms, first_line
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.grid.advice import ModelAdvice, Scoring, TrainedWith, advise_on, sweep_headline
from lightning_normdyn.tasks.quiet import quiet_lightning


class EmbeddingFiles(NamedTuple):
    """Embeddings on disk, as the command's options name them.

    Attributes:
        queries: file of the queries.
        documents: file of the documents.
        column: of the embeddings.
        judgements: file of query, document, grade.
        texts: file of the documents' texts, for their lengths.
        covariates: file of further columns, a column ``length`` perhaps.
        controls: names of some of them that are held fixed beside length.
        chunks: file of the document that each vector is a chunk of.
    """

    queries: str | None
    documents: str | None
    column: str | None = None
    judgements: str | None = None
    texts: str | None = None
    covariates: str | None = None
    controls: tuple[str, ...] = ()
    chunks: str | None = None


class AdviceRecord(NamedTuple):
    """What ``normdyn advise`` prints.

    Attributes:
        advice: two sentences and the numbers behind them.
        notes: what to know besides.
        origin: what the advice is of, with command, date and version.
    """

    advice: ModelAdvice
    notes: Sequence[str] = ()
    origin: Origin = Origin()

    @property
    def exit_code(self) -> int:
        """Success."""
        return 0

    def print_to(self, console: Console) -> None:
        """Prints how to score, the notes, the numbers, what to train."""
        console.print(self.advice.scoring, markup=False)
        print_evidence(console, [] if self.advice.verdict is None else self.advice.verdict.evidence)
        for note in self.notes:
            console.print(note, markup=False)
        diagnosis = self.advice.diagnosis
        d, qnorm, dnorm = (
            measured(number) for number in (diagnosis.cohens_d.value, diagnosis.kappa_qnorm, diagnosis.kappa_dnorm)
        )
        console.print(
            f"Cohen's d {show_number(d, '+.2f')} · variation of norms: queries {diagnosis.query_cv:.3f}, documents "
            f"{diagnosis.document_cv:.3f} · log10 kappa: qnorm {show_number(qnorm, '.2f')}, dnorm "
            f"{show_number(dnorm, '.2f')}"
        )
        console.print(self.advice.training, markup=False)
        console.print(self.origin.sentence, markup=False)


def check_sources(
    config: Sequence[str] | None, queries: str | None, documents: str | None, overrides: Sequence[str]
) -> bool:
    """Says whether advice is on files of embeddings, and not on a checkpoint.

    Raises:
        ValueError: if options of neither or of both were passed.
    """
    of_files = queries is not None or documents is not None
    if of_files == bool(config):
        raise ValueError(
            "advise: expected either --config with --ckpt_path, or --queries with --documents, got "
            f"{'both' if of_files else 'neither'}; see normdyn advise --help"
        )
    if of_files and overrides:
        raise ValueError(f"advise: expected no further options with --queries and --documents, got {overrides[0]}")
    return of_files


def check_idle(of_files: bool, **options: str | None) -> None:
    """Refuses options of the other source, which nothing would heed.

    Args:
        of_files: whether advice is on files of embeddings.
        options: name to value of those that only one of the two knows.

    Raises:
        ValueError: if one was passed.

    Example:
        >>> check_idle(True, column="a", ckpt_path=None)
    """
    for name, value in options.items():
        if value is not None and of_files == (name == "ckpt_path"):
            source = "--config, whose model it is of" if of_files else "--queries and --documents, which it is about"
            raise ValueError(f"{name}: expected {source}, got '{value}' without; leave it out")


def advise_on_files(files: EmbeddingFiles, trained_with: TrainedWith) -> AdviceRecord:
    """Advice from embeddings before any normalisation; how to score is what ``normdyn audit`` says of the same files.

    Args:
        files: of both sides.
        trained_with: what is known of the training.

    Raises:
        ValueError: if they do not fit together.
        OSError: if a file cannot be read.
    """
    if files.queries is None or files.documents is None:
        raise ValueError("advise: expected both --queries and --documents, got one of them")
    documents = EmbeddingFile(files.documents, column=files.column)
    queries = EmbeddingFile(files.queries, preferred_column=files.column)  # an array's name need not be the same
    for side, file in {"queries": queries, "documents": documents}.items():
        if not file.rows:
            raise ValueError(f"{side}: expected at least one vector in {file.file}, got none")
    if queries.dim != documents.dim:
        raise ValueError(
            f"documents: expected vectors of the queries' length, {queries.dim}, got {documents.dim}; are both of one "
            "model?"
        )
    chunks = _chunks(files, documents)
    judgements = _judgements(
        files.judgements, queries, documents.ids if chunks is None else chunks.documents, documents
    )
    encoded = Encoded(queries.read_finite(), documents.read_finite(), judgements)
    if not len(judgements.relevant().grades):
        raise ValueError(
            f"judgements: expected a grade above 0 for one pair at least, got none in {files.judgements}; grades say "
            "how relevant a document is"
        )
    left_out = query_notes(encoded.queries, judgements)
    check_enough(encoded.queries, judgements, left_out)
    parts = None if chunks is None else chunks.parts
    scoring, notes = _audited(files, encoded, parts)
    owners = None if parts is None else parts.owners
    sweep = sweep_alpha(encoded.queries, encoded.documents, judgements, alphas=(0.0, 1.0), owners=owners)
    if parts is not None:
        encoded = encoded._replace(judgements=parts.judgements_of_parts(judgements))
    notes = [*notes, *([] if chunks is None else chunks.notes), *left_out]
    advice = advise_on(encoded, sweep, trained_with=trained_with, scoring=scoring)
    origin = Origin(f"{files.queries} and {files.documents}", running_command()).dated()
    return AdviceRecord(advice, notes, origin)


def _chunks(files: EmbeddingFiles, documents: EmbeddingFile) -> Chunks | None:
    """Which document each vector is a chunk of."""
    if files.chunks is None:
        return None
    if files.judgements is None:
        raise ValueError("chunks: expected --judgements, whose rankings go by documents, got none; name them")
    return read_chunks(files.chunks, documents.ids)


def _audited(files: EmbeddingFiles, encoded: Encoded, parts: DocumentParts | None) -> tuple[Scoring, Sequence[str]]:
    """The audit's verdict, with lengths of the documents where their texts or a column of lengths are at hand."""
    request = AuditRequest(
        embeddings=files.documents,
        column=files.column,
        texts=files.texts,
        covariates=files.covariates,
        controls=files.controls,
    )
    with tempfile.TemporaryDirectory(prefix="normdyn-advise-") as folder:
        inputs = gather_input(request, Path(folder), Progress(disable=True))
    audit = audit_norms(
        lambda: [encoded.documents],
        len(encoded.documents),
        length=inputs.length,
        covariates=inputs.covariates,
        controls=inputs.controls,
        judged_queries=JudgedQueries(encoded.queries, encoded.judgements, parts=parts),
        name=str(files.documents),
    )
    verdict = None if audit.ranking is None else audit.ranking.verdict
    return Scoring(verdict, first_line(audit)), [*inputs.length_notes, *inputs.notes]


def _judgements(
    file: str | None, queries: EmbeddingFile, document_ids: Sequence[str], documents: EmbeddingFile
) -> Judgements:
    if file is not None:
        problems = Problems(file)
        query_places, document_places = (
            places_by_id(queries.ids, queries.file),
            places_by_id(document_ids, documents.file),
        )
        judgements = read_qrels(file, query_places, document_places, problems)
        problems.report()
        return judgements
    if documents.rows < queries.rows:
        raise ValueError(
            f"judgements: without them document i answers query i, which needs at least {queries.rows} documents, got "
            f"{documents.rows}; pass --judgements"
        )
    rows = torch.arange(queries.rows)
    return Judgements(rows, rows, torch.ones(queries.rows))


def advise_on_checkpoint(
    config: Sequence[str], ckpt_path: str | None = None, overrides: Sequence[str] = ()
) -> AdviceRecord:
    """Advice from a task's configuration and its weights.

    Args:
        config: files of LightningCLI, or names of shipped ones.
        ckpt_path: the checkpoint; ``None`` for the configuration's own, or the model before any training.
        overrides: words of LightningCLI.

    Raises:
        ValueError: if they do not fit together.
        OSError: if a file cannot be read.
    """
    words = config_words(config, overrides)
    notes = []
    with quiet_lightning("Be aware that when using `ckpt_path`"):
        cli = UnloggedCLI([*words, *WITHOUT_RUN], run=False, command="advise")
        model: Any = cli.model
        if not isinstance(model, ContrastiveTask):
            raise ValueError(
                "config: expected a model that is a lightning_normdyn.tasks.ContrastiveTask, got "
                f"{type(model).__name__}; for any other, save embeddings and pass --queries and --documents"
            )
        checkpoint = ckpt_path or cli.config.get("ckpt_path")
        if checkpoint is None:
            notes.append(
                "No --ckpt_path: what follows is of the model as the configuration makes it, before any training."
            )
        _validate(cli, checkpoint)
        notes += [model.caveat] if model.caveat else []
    encoded = model.encoded
    if encoded is None:
        raise ValueError("data: expected a validation split with judged pairs, got none")
    advice = advise_on(
        encoded,
        sweep_headline(model, encoded),
        trained_with=TrainedWith(
            float(model.contrast.temperature), model.symmetry.symmetric, model.contrast.similarity.normalization
        ),
    )
    data = name_configured(cli.config.as_dict().get("data"))
    origin = Origin(f"{data}, {checkpoint}" if checkpoint else data, running_command()).dated()
    return AdviceRecord(advice, notes, origin)


def _validate(cli: UnloggedCLI, checkpoint: str | None) -> None:
    with fitting_checkpoint(checkpoint, cli.trainer):
        options = loading_options(checkpoint)
        cli.trainer.validate(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, verbose=False, **options)


def saved(record: AdviceRecord, file: str | None) -> AdviceRecord:
    """The record, after its numbers went into a file, if one is named."""
    if file is not None:
        write_json(Path(file), _plain(record.advice) | {"origin": record.origin._asdict()}, indent=2)
    return record


def _plain(advice: ModelAdvice) -> dict[str, Any]:
    scores = {name: score.numbers() for name, score in advice.comparison.scores.items()}
    diagnosis = {name: measured(value) for name, value in advice.diagnosis.numbers().items()}
    return {
        "measure": advice.measure,
        "queries": advice.comparison.queries,
        "scores": scores,
        "diagnosis": diagnosis,
        "verdict": None if advice.verdict is None else advice.verdict._asdict(),
        "scoring": advice.scoring,
        "training": advice.training,
    }
