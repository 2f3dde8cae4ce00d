"""What queries, and documents, choose from among their like: the further negatives of SimCLR, SupCon and GTE."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.log_sum_exp import target_log_sum_exp
from lightning_normdyn.core.contrast.positive_pairs import PairSums, PositivePairs
from lightning_normdyn.core.contrast.score_readings import ScoreReading
from lightning_normdyn.core.contrast.tile_edits import TileEdits
from lightning_normdyn.losses.scored_batch import ScoredBatch


@dataclass(frozen=True)
class Pool:
    """What anchors choose from beside the other side.

    Attributes:
        anchors: ``[n, d]``.
        vectors: of their side, ``[m, d]``, the anchors' own among them.
        exclusion: pairs that are out.
        edits: of the tiles, if any.
        reading: of the tiles, where negatives are counted.
        targets: pairs that are positive.
        chunk_size: of the sweep.
    """

    anchors: Tensor
    vectors: Tensor
    exclusion: Exclusion
    edits: TileEdits | None
    reading: ScoreReading | None
    targets: PositivePairs | None
    chunk_size: int | None

    @property
    def log_sums(self) -> Tensor:
        """Log-sum-exp of each anchor, ``[n]``."""
        return self._outcome[0]

    @property
    def target_sums(self) -> Tensor | float:
        """Sums of its scores with its positives, ``[n]``."""
        return 0.0 if self.targets is None else self._outcome[3].rows

    @functools.cached_property
    def _outcome(self) -> tuple[Tensor, Tensor, Tensor, PairSums]:
        return target_log_sum_exp(
            self.anchors,
            self.vectors,
            self.targets,
            exclusion=self.exclusion,
            edits=self.edits,
            chunk_size=self.chunk_size,
        )


Pools = tuple[Pool | None, Pool | None]
"""Of queries and of documents."""


def same_side_pools(scored: ScoredBatch) -> Pools:
    """Of those sides that have one."""
    loss = scored.loss
    return (
        _among_queries(scored) if loss.query_negatives else None,
        _among_documents(scored) if loss.document_negatives else None,
    )


def _among_queries(scored: ScoredBatch) -> Pool:
    # Of the anchors, so that embeddings in half precision get one gradient and not the rounded sum of two.
    factor = scored.factor
    queries = scored.anchors / (factor[:, None] if isinstance(factor, Tensor) and factor.ndim else factor)
    everybody = scored.ranks.gather(queries, scored.candidates.positives)
    edits = None if scored.negatives is None else scored.negatives.among_queries()
    return _pool(scored, scored.anchors, everybody, edits)


def _among_documents(scored: ScoredBatch) -> Pool:
    has_all = scored.loss.joint == "sentence_transformers"
    everybody = scored.candidates.vectors if has_all else scored.candidates.vectors[: scored.total]
    local_documents = scored.loss.scale(scored.local_documents, scored.batch.temperatures)
    edits = None if scored.negatives is None else scored.negatives.among_documents()
    return _pool(scored, local_documents, everybody, edits)


def _pool(scored: ScoredBatch, anchors: Tensor, everybody: Tensor, edits: TileEdits | None) -> Pool:
    reading = ScoreReading(anchors.detach()[:, 0], anchors[:0, 0]) if scored.loss.terms.prior else None
    if reading is not None:
        edits = (edits or TileEdits())._replace(reading=reading)
    labels, targets = scored.candidates.labels, None
    if labels is not None and not scored.loss.terms.decoupled:
        targets = scored.targets_of_class(labels[: len(everybody)])
    exclusion = _exclusion(scored, len(everybody))
    return Pool(anchors, everybody, exclusion, edits, reading, targets, scored.loss.chunk_size)


def _exclusion(scored: ScoredBatch, count: int) -> Exclusion:
    """Of this rank's vectors of a side and the first of all ranks'."""
    batch, candidates = scored.batch, scored.candidates
    row_keys, column_keys = [], []
    if candidates.keys:
        row_keys, column_keys = batch.query_keys(), [keys[:count] for keys in candidates.keys]
    positive_keys = None
    if candidates.labels is not None:
        class_keys = batch.query_labels, candidates.labels[:count]
        if scored.loss.terms.decoupled:  # whose sums are over negatives alone
            row_keys.append(class_keys[0])
            column_keys.append(class_keys[1])
        elif row_keys:
            positive_keys = class_keys
    if count > scored.total:
        numbers = candidates.query_numbers
        row_keys.append(numbers[scored.local_slice])
        column_keys.append(numbers)
    return Exclusion(
        tuple(row_keys),
        tuple(column_keys),
        positive_keys=positive_keys,
        self_columns=candidates.positive_columns,
    )
