"""``normdyn advise``: what the norms of a trained model say, from a checkpoint or from embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lightning_normdyn.cli.fit import WITHOUT_RUN, UnloggedCLI
from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.core.statistics.ranking import ndcg_at
from lightning_normdyn.datasets import Judgements, Problems
from lightning_normdyn.datasets.embedding_file import EmbeddingFile, places_by_id
from lightning_normdyn.datasets.formats.qrels import read_qrels
from lightning_normdyn.history.json_file import write_json
from lightning_normdyn.history.number import measured, show_number
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.contrast.ranking_measures import ranking_measures
from lightning_normdyn.tasks.grid.advice import ModelAdvice, advise_on
from lightning_normdyn.tasks.quiet import quiet_lightning

_MEASURE = "ndcg@10"
_DEPTH = 10


def run_advise(options: argparse.Namespace, words: Sequence[str]) -> int:
    """Prints two sentences and the numbers behind them.

    Args:
        options: ``config`` and ``ckpt_path``, or ``queries``, ``documents``, ``judgements``, ``temperature``; ``json``.
        words: overrides for LightningCLI.

    Raises:
        ValueError: if neither or both were given, or they do not fit together.
        OSError: if a file cannot be read or written.
    """
    of_files = options.queries is not None or options.documents is not None
    if of_files == bool(options.config):
        raise ValueError(
            "advise: expected either --config with --ckpt_path, or --queries with --documents, got "
            f"{'both' if of_files else 'neither'}; see normdyn advise --help"
        )
    if of_files and words:
        raise ValueError(f"advise: expected no further options with --queries and --documents, got {words[0]}")
    advice = _of_files(options) if of_files else _of_checkpoint(options, words)
    _show(Console(soft_wrap=True, markup=False, emoji=False, highlight=False), advice)
    if options.json:
        write_json(Path(options.json), _plain(advice), indent=2)
    return 0


def _of_files(options: argparse.Namespace) -> ModelAdvice:
    if options.queries is None or options.documents is None:
        raise ValueError("advise: expected both --queries and --documents, got one of them")
    documents = EmbeddingFile(options.documents, column=options.column)
    queries = EmbeddingFile(options.queries, preferred_column=options.column)  # an array's name need not be the same
    for side, file in {"queries": queries, "documents": documents}.items():
        if not file.rows:
            raise ValueError(f"{side}: expected at least one vector in {file.file}, got none")
    if queries.dim != documents.dim:
        raise ValueError(
            f"documents: expected vectors of the queries' length, {queries.dim}, got {documents.dim}; are both of one "
            "model?"
        )
    encoded = Encoded(queries.read_finite(), documents.read_finite(), _judgements(options, queries, documents))
    return advise_on(
        encoded,
        cosine=_ndcg(encoded, "cosine"),
        dot=_ndcg(encoded, "dot"),
        measure=_MEASURE,
        temperature=options.temperature,
    )


def _judgements(options: argparse.Namespace, queries: EmbeddingFile, documents: EmbeddingFile) -> Judgements:
    if options.judgements is not None:
        problems = Problems(options.judgements)
        by_id, document_by_id = (places_by_id(side.ids, side.file) for side in (queries, documents))
        judged = read_qrels(options.judgements, by_id, document_by_id, problems)
        problems.report()
        return judged
    if documents.rows < queries.rows:
        raise ValueError(
            f"judgements: without them document i answers query i, which needs at least {queries.rows} documents, got "
            f"{documents.rows}; pass --judgements"
        )
    rows = torch.arange(queries.rows)
    return Judgements(rows, rows, torch.ones(queries.rows))


def _ndcg(encoded: Encoded, name: str) -> Tensor:
    measures = {_MEASURE: partial(ndcg_at, k=_DEPTH)}
    return ranking_measures(encoded, NORMALIZATIONS[name], measures, depth=_DEPTH)[_MEASURE]


def _of_checkpoint(options: argparse.Namespace, words: Sequence[str]) -> ModelAdvice:
    of_lightning = [word for file in options.config for word in ("--config", file)]
    with quiet_lightning("Be aware that when using `ckpt_path`"):
        cli = UnloggedCLI([*of_lightning, *words, *WITHOUT_RUN], run=False)
        model: Any = cli.model
        if not isinstance(model, ContrastiveTask):
            raise ValueError(
                "config: expected a model that is a lightning_normdyn.tasks.ContrastiveTask, got "
                f"{type(model).__name__}; for any other, save embeddings and pass --queries and --documents"
            )
        checkpoint = options.ckpt_path or cli.config.get("ckpt_path")
        if checkpoint is None:
            print("No --ckpt_path: what follows is of the model as the configuration makes it, before any training.")
        _validate(cli, checkpoint)
        if model.caveat:
            print(model.caveat)
    encoded = model.encoded
    if encoded is None:
        raise ValueError("data: expected a validation split with judged pairs, got none")
    cosine, dot = (model.measures(encoded, NORMALIZATIONS[name])[model.headline] for name in ("cosine", "dot"))
    return advise_on(
        encoded,
        cosine=cosine,
        dot=dot,
        measure=model.headline,
        temperature=float(model.contrast.temperature),
        symmetric=model.symmetry.symmetric,
    )


def _validate(cli: UnloggedCLI, checkpoint: str | None) -> None:
    try:
        cli.trainer.validate(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, verbose=False)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ValueError(
            f"ckpt_path: expected weights of the model that config describes, got others in {checkpoint}; pass the "
            "configs and options of its training, or the config.yaml that fit saved"
        ) from error


def _show(console: Console, advice: ModelAdvice) -> None:
    found = advice.diagnosis
    d, qnorm, dnorm = (measured(number) for number in (found.cohens_d.value, found.kappa_qnorm, found.kappa_dnorm))
    console.print(
        f"Cohen's d {show_number(d, '+.2f')} · variation of norms: queries {found.query_cv:.3f}, documents "
        f"{found.document_cv:.3f} · log10 kappa: qnorm {show_number(qnorm, '.2f')}, dnorm {show_number(dnorm, '.2f')}"
    )
    console.print(advice.scoring)
    console.print(advice.training)


def _plain(advice: ModelAdvice) -> dict[str, Any]:
    scores = {name: score._asdict() for name, score in advice.comparison.scores.items()}
    diagnosis = {name: measured(value) for name, value in advice.diagnosis.numbers().items()}
    return {
        "measure": advice.measure,
        "queries": advice.comparison.queries,
        "scores": scores,
        "diagnosis": diagnosis,
        "scoring": advice.scoring,
        "training": advice.training,
    }
