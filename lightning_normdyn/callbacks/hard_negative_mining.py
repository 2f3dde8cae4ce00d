"""Mines hard negatives with the model that trains, every so many steps, and hands them to its data."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from lightning_normdyn.callbacks.encoding import RankShares, encode_share
from lightning_normdyn.callbacks.lightning import Callback, LightningModule, Trainer, rank_zero_only
from lightning_normdyn.callbacks.run_histories import log_folder
from lightning_normdyn.caution import caution
from lightning_normdyn.core.number_checks import check_count, check_flag
from lightning_normdyn.core.object_checks import check_instance
from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.losses.similarity import Normalization, check_normalization
from lightning_normdyn.retrieval.exponent.scoring import NormAwareScore
from lightning_normdyn.retrieval.mining.hard_negatives import HardNegatives
from lightning_normdyn.retrieval.mining.miner import DocumentShare, mine
from lightning_normdyn.retrieval.mining.options import MiningOptions, SamplingStrategy
from lightning_normdyn.retrieval.mining.source import MiningSource

_FOLDER = "hard_negatives"


class HardNegativeMining(Callback):
    """Encodes queries and documents every so many steps, mines hard negatives, and hands them to the data.

    They come from a :class:`~lightning_normdyn.retrieval.MiningSource`: that of the data module, whose
    ``mining_source()`` gives it (as ``RetrievalData(hard_negatives=4, hard_negatives_from="mining")`` does), or one
    that your collate function looks up. The module needs ``encode_queries`` and ``encode_documents``, each from a batch
    to ``[b, d]``.

    Ranks encode a share each, in the trainer's precision; modes and random states are put back, so that a run differs
    by its negatives alone. Each mining writes ``hard_negatives/step-<n>.jsonl`` in the run's folder, from which a
    resumed run reads what it trained with, and logs as ``normdyn/hard_negatives/<name>``: ``overlap``, the share of
    negatives that stayed since the last time (while there was one), ``false_negative_share``, the share of the closest
    documents that the limits left out, ``lacking_share``, the share of queries with too few negatives, which are filled
    up at random, ``score``, the mean of the negatives' scores, ``positive_score``, and ``seconds``.

    Args:
        every_n_steps: optimizer steps between two minings.
        start_step: steps before the first one.
        source: what to mine from; what ``mining_source()`` of the data module or of the module gives if left out.
        batch_size: inputs that are encoded at once.
        range_min: how many of the closest documents that meet all limits are passed over.
        range_max: how many of the closest documents that are no positives are looked at; all if left out.
        max_score: the highest score of a negative.
        min_score: the lowest.
        absolute_margin: negatives score at most the positive's score minus this.
        relative_margin: negatives score at most the positive's score minus this share of its size; 0.05 is
            NV-Retriever's TopK-PercPos at 95% (arXiv 2407.15831), ``null`` is no such limit.
        sampling_strategy: ``top`` or ``random``, see :func:`~lightning_normdyn.retrieval.mine_hard_negatives`.
        seed: of what is drawn.
        normalization: which norms scores keep; that of the module's ``contrast`` if left out, or cosine.
        save: whether to write files; without them a resumed run mines anew.

    Raises:
        ValueError: if an option is out of its range; when a fit starts, if there is nothing to mine from.

    Attributes:
        hard_negatives: what the last mining found; ``None`` before the first.

    Example:
        >>> mining = HardNegativeMining(every_n_steps=500, relative_margin=0.1)
    """

    def __init__(
        self,
        *,
        every_n_steps: int = 1000,
        start_step: int = 0,
        source: MiningSource | None = None,
        batch_size: int = 256,
        range_min: int = 0,
        range_max: int | None = None,
        max_score: float | None = None,
        min_score: float | None = None,
        absolute_margin: float | None = None,
        relative_margin: float | None = 0.05,
        sampling_strategy: SamplingStrategy = "top",
        seed: int = 0,
        normalization: Normalization | None = None,
        save: bool = True,
    ) -> None:
        check_count(every_n_steps=every_n_steps, batch_size=batch_size)
        check_count(0, start_step=start_step)
        check_flag(save=save)
        check_instance(MiningSource, optional=True, source=source)
        if normalization is not None:
            check_normalization(normalization)
        self.options = MiningOptions(
            num_negatives=1,
            range_min=range_min,
            range_max=range_max,
            max_score=max_score,
            min_score=min_score,
            absolute_margin=absolute_margin,
            relative_margin=relative_margin,
            sampling_strategy=sampling_strategy,
            seed=seed,
        )
        self.every_n_steps, self.start_step, self.batch_size = every_n_steps, start_step, batch_size
        self.source = source
        self.normalization = normalization
        self.save = save
        self.hard_negatives: HardNegatives | None = None
        self._source: MiningSource | None = None
        self._mined_step: int | None = None
        self._file: str | None = None
        self._is_restored, self._has_warned = False, False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds what to mine from, and takes back what a resumed run trained with, or mines for the first time."""
        self._source = self.source if self.source is not None else _source_of(trainer, pl_module)
        for name in ("encode_queries", "encode_documents"):
            if not callable(getattr(pl_module, name, None)):
                raise ValueError(
                    f"{type(pl_module).__name__}: expected a method {name}, from a batch of inputs to embeddings "
                    "[b, d], got none; hard negatives are mined with it"
                )
        self.options = dataclasses.replace(self.options, num_negatives=self._source.negatives.num_negatives)
        self._score(pl_module)
        is_lost = self._is_restored and self._mined_step is not None and not self._read(trainer)
        is_of_another_run = not self._is_restored and (self._mined_step or 0) > trainer.global_step
        if is_lost or is_of_another_run:
            self._mined_step = None
        # Data workers load the first batches before training starts; a checkpoint's weights may come later than this.
        if trainer.ckpt_path is None and self._is_due(trainer.global_step):
            self._refresh(trainer, pl_module)
        self._is_restored = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mines for the first time, where a resumed run has nothing to go on with."""
        if self._is_due(trainer.global_step):
            self._refresh(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Mines after the steps that are due, unless it was the last of the run."""
        if self._is_due(trainer.global_step) and trainer.global_step < trainer.estimated_stepping_batches:
            self._refresh(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """When it mined last, and where that was written; loads with ``weights_only=True``."""
        return {"mined_step": self._mined_step, "file": self._file}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until the fit starts."""
        self._mined_step, self._file = state_dict.get("mined_step"), state_dict.get("file")
        self._is_restored = True

    def _is_due(self, step: int) -> bool:
        return step >= (self.start_step if self._mined_step is None else self._mined_step + self.every_n_steps)

    def _refresh(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step, started = trainer.global_step, time.monotonic()
        self._mined_step = step
        hard_negatives = self._mine(trainer, pl_module)
        assert self._source is not None
        if hard_negatives is None:
            if not self._source.negatives.is_filled:
                raise ValueError(
                    f"HardNegativeMining: embeddings at step {step} are NaN or infinite, and there are no earlier hard "
                    "negatives to go on with; look at the encoder's weights and inputs, or train in higher precision"
                )
            _say(
                f"HardNegativeMining: embeddings at step {step} are NaN or infinite, so the hard negatives stay as "
                "they are; lower the learning rate, or train in higher precision"
            )
            return
        overlap = self._hand_over(hard_negatives)
        self._file = self._write(trainer, hard_negatives, step) if self.save and not _is_trial(trainer) else None
        if len(hard_negatives.lacking) and not self._has_warned:
            self._has_warned = True
            fewer = "ask for fewer (hard_negatives of RetrievalData, num_negatives of a MiningSource)"
            _say(f"HardNegativeMining: {hard_negatives.shortage(fewer)}; what is missing is drawn from all documents")
        scores = {name: column["mean"] for name, column in hard_negatives.statistics().items()}
        readings = {
            "false_negative_share": hard_negatives.false_negative_share,
            "lacking_share": len(hard_negatives.lacking) / len(hard_negatives.indices),
            "score": scores["negative"],
            "positive_score": scores["positive"],
            "seconds": time.monotonic() - started,
        }
        _log(trainer, readings if overlap is None else {"overlap": overlap, **readings})

    def _mine(self, trainer: Trainer, pl_module: LightningModule) -> HardNegatives | None:
        """The same on all ranks; nothing where an embedding is not finite."""
        source, shares = self._source, RankShares(trainer)
        assert source is not None
        module: Any = pl_module
        sides = {"queries": source.queries, "documents": source.documents}
        queries, documents = (
            encode_share(
                trainer,
                pl_module,
                getattr(module, f"encode_{name}"),
                inputs,
                collate=source.collate,
                batch_size=self.batch_size,
                shares=shares,
                description=f"encoding {name} for hard negatives",
            )
            for name, inputs in sides.items()
        )
        device = trainer.strategy.root_device
        bad = torch.tensor(float(not (queries.isfinite().all() and documents.isfinite().all())), device=device)
        if bool(shares.gather(bad).any()):
            return None
        width = _trained_width(pl_module)
        queries, documents = queries[:, :width], documents[:, :width]
        here = shares.places(len(source.documents))
        return mine(
            shares.gather_rows(queries.to(device), len(source.queries)),
            documents,
            source.positives,
            source.firsts,
            self.options,
            self._score(pl_module),
            DocumentShare(here.start, len(source.documents), shares.gather if shares.ranks > 1 else None),
            excluded_pairs=source.excluded_pairs,
        )

    def _hand_over(self, hard_negatives: HardNegatives) -> float | None:
        """Fills the table; the share of the negatives that were there before, if there were any."""
        source = self._source
        assert source is not None
        earlier = source.negatives.indices.clone() if source.negatives.is_filled else None
        source.update(hard_negatives.indices, seed=self.options.seed)
        self.hard_negatives = hard_negatives
        if earlier is None:
            return None
        is_common = (source.negatives.indices.unsqueeze(2) == earlier.unsqueeze(1)).any(2)
        return float(is_common.float().mean())

    def _score(self, pl_module: LightningModule) -> NormAwareScore:
        """What the module's own loss ranks by, as it is now."""
        similarity: Any = getattr(getattr(pl_module, "contrast", None), "similarity", None)
        if self.normalization is not None and self.normalization != "learnable":
            return NormAwareScore(self.normalization)
        if similarity is None and self.normalization is None:
            return NormAwareScore()
        if similarity is None or not similarity.has_directions:
            raise ValueError(
                f"normalization: expected a module whose loss scores by cosine and norms, got "
                f"{type(similarity).__name__ if similarity is not None else 'one without a contrast'}; name one of "
                "cosine, dot, qnorm and dnorm"
            )
        if similarity.normalization != "learnable":
            return NormAwareScore(similarity.normalization)
        gamma_query, gamma_document = (float(exponent.detach()) for exponent in similarity.exponents)
        return NormAwareScore("learnable", gamma_query=gamma_query, gamma_document=gamma_document)

    def _write(self, trainer: Trainer, hard_negatives: HardNegatives, step: int) -> str | None:
        """Where the first rank wrote it; the training goes on where it cannot."""
        if not trainer.is_global_zero or self._source is None:
            return None
        from lightning_normdyn.datasets.formats.hard_negatives import write_hard_negatives  # loads pyarrow

        folder = log_folder(trainer).rstrip("/")
        file = f"{folder if '://' in folder else Path(folder).absolute()}/{_FOLDER}/step-{step:06d}.jsonl"
        try:
            write_hard_negatives(self._source.rows(hard_negatives), file)
        except (OSError, ValueError) as error:
            caution(f"HardNegativeMining: the hard negatives of step {step} are not saved: {error}")
            return None
        return file

    def _read(self, trainer: Trainer) -> bool:
        """Fills the table with what was saved, if every rank can read it."""
        from lightning_normdyn.datasets.formats.hard_negatives import negatives_by_query  # loads pyarrow

        source, shares = self._source, RankShares(trainer)
        assert source is not None
        places = ({id: place for place, id in enumerate(ids)} for ids in (source.query_ids, source.document_ids))
        negatives, reason = {}, "none was saved"
        if self._file is not None:
            try:
                negatives = negatives_by_query(self._file, *places)
            except (MalformedFileError, OSError, ValueError) as error:
                reason = str(error)
        has_failed = torch.tensor(float(not negatives), device=trainer.strategy.root_device)
        if bool(shares.gather(has_failed).any()):
            _say(
                f"HardNegativeMining: the hard negatives of step {self._mined_step} cannot be read back ({reason}), so "
                "they are mined anew with the model as it is now"
            )
            return False
        source.update(source.indices_of(negatives), seed=self.options.seed)
        return True


def _trained_width(pl_module: LightningModule) -> int | None:
    """Coordinates that the widest prefix of a Matryoshka loss has; ``None`` where all of them train."""
    prefixes: Any = getattr(getattr(pl_module, "contrast", None), "prefixes", None)
    return None if prefixes is None else int(prefixes.widths[-1])


def _source_of(trainer: Trainer, pl_module: LightningModule) -> MiningSource:
    for owner in (getattr(trainer, "datamodule", None), pl_module):
        make = getattr(owner, "mining_source", None)
        if callable(make):
            source = make()
            if isinstance(source, MiningSource):
                return source
            raise ValueError(
                f"{type(owner).__name__}: expected a MiningSource of mining_source(), got {type(source).__name__}; "
                "write MiningSource(queries, documents, positives)"
            )
    raise ValueError(
        "source: expected a MiningSource, or a data module or module whose mining_source() gives one, got none; write "
        "HardNegativeMining(source=MiningSource(queries, documents, positives))"
    )


@rank_zero_only
def _say(message: str) -> None:
    caution(message, stacklevel=3)


def _is_trial(trainer: Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))


def _log(trainer: Trainer, readings: dict[str, float]) -> None:
    metrics = {f"normdyn/{_FOLDER}/{name}": value for name, value in readings.items()}
    trainer.callback_metrics.update(zip(metrics, torch.tensor(list(metrics.values())).unbind(), strict=True))
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        logger.log_metrics(
            {key.replace("/", logger.group_separator): value for key, value in metrics.items()}, step=step
        )
