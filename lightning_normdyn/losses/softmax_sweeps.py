"""The sweeps of a softmax loss: log-sum-exps of every kind of candidates, put together pair by pair."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import NO_ID, Exclusion
from lightning_normdyn.core.contrast.log_sum_exp import sum_log_sum_exp, target_log_sum_exp
from lightning_normdyn.core.contrast.positive_pairs import PairSums
from lightning_normdyn.core.contrast.shared_sweep import SoftmaxTerm
from lightning_normdyn.core.contrast.tile_edits import TileEdits
from lightning_normdyn.core.contrast.weighted_sums import score_sums
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.losses.batch_metrics import BatchMetrics
from lightning_normdyn.losses.positive_means import scores_above_mean
from lightning_normdyn.losses.same_side import Pools, same_side_pools
from lightning_normdyn.losses.scored_batch import ScoredBatch
from lightning_normdyn.losses.softmax_terms import NegativeCount, ScoreMean


class ScoreSums(NamedTuple):
    """What a sweep over the scores of queries and documents leaves.

    Attributes:
        rows: log-sum-exp of each of this rank's queries over all but its own document, ``[n]``.
        columns: of the documents of all ranks' queries over this rank's queries, likewise; empty if none is wanted.
        scores: of the pairs, ``[n]``.
        targets: sums of the scores of further positives, of rows and of columns; empty if there are none.
        reading: of the columns, where something reads.
    """

    rows: Tensor
    columns: Tensor
    scores: Tensor
    targets: PairSums
    reading: BatchMetrics | None


@dataclass(frozen=True)
class SoftmaxSweep(ScoredBatch):
    """What :class:`InfoNCE` does with a batch once it is gathered."""

    def losses(self) -> Tensor:
        """The losses ``[n]``, or where it is enough and cheaper their sum."""
        return self._one_direction() if self._is_sum else self.pair_losses(self._sums())

    @property
    def _is_sum(self) -> bool:
        """Whether the cheaper sweep serves, which leaves nothing but a sum, and reads and edits rows alone."""
        loss = self.loss
        is_plain = self.reading is None and self.negatives is None
        is_served = loss.from_queries or is_plain
        return is_served and loss.is_one_direction(self.batch) and loss.wants_sum(self.batch.weights)

    def _one_direction(self) -> Tensor:
        """The sum over one side's anchors, its gradient made on the way."""
        edits = None if self.negatives is None else self.negatives.of_rows()
        if self.loss.from_queries:
            anchors, vectors, exclusion = self.anchors, self.vectors, self.exclusion
        else:
            anchors, vectors, exclusion = self._turned()
        return sum_log_sum_exp(
            anchors,
            vectors,
            positives=self.candidates.positive_columns,
            exclusion=exclusion,
            edits=_reading_too(edits, self.reading),
            chunk_size=self.loss.chunk_size,
        )

    def _turned(self) -> tuple[Tensor, Tensor, Exclusion | None]:
        """This rank's documents as anchors, and everybody's queries."""
        candidates = self.candidates
        everybody = self.ranks.gather(self.anchors, candidates.positives)
        if not candidates.keys:
            return self.local_documents, everybody, None
        column_keys = tuple(keys[: self.total] for keys in candidates.keys)
        columns = candidates.positive_columns[:, None]
        exclusion = Exclusion(tuple(self.batch.query_keys()), column_keys, positive_columns=columns)
        return self.local_documents, everybody, exclusion

    def _sums(self) -> ScoreSums:
        """The general case, log-sum-exps of every query and document without their pair."""
        loss, negatives = self.loss, self.negatives
        if negatives is not None and negatives.has_sides and loss.from_queries and loss.from_documents:
            # Each side judges a pair by a positive of its own, so that they sum up different pairs.
            of_columns = None if self.reading is None else self.new_reading()
            rows, _, scores, by_row = self._log_sum_exp(self.vectors, 0, negatives.of_rows(), self.reading)
            present = self.vectors[: self.total]
            _, columns, _, by_column = self._log_sum_exp(present, self.total, negatives.of_columns(), of_columns)
            return ScoreSums(rows, columns, scores, PairSums(by_row.rows, by_column.columns), of_columns)
        vectors = self.vectors[: self._width]
        return ScoreSums(*self._log_sum_exp(vectors, self._columns, self._edits, self.reading), self.reading)

    @property
    def _width(self) -> int | None:
        """How many candidates take part, where not all do."""
        return None if self.loss.from_queries else self.total

    @property
    def _columns(self) -> int:
        """How many documents pick."""
        return self.total if self.loss.from_documents else 0

    @property
    def _edits(self) -> TileEdits | None:
        """Of the tiles of a sweep that serves all that pick."""
        if self.negatives is None:
            return None
        return self.negatives.of_rows() if self.loss.from_queries else self.negatives.of_columns()

    @property
    def term(self) -> SoftmaxTerm:
        """What a sweep that other losses share is to sum up."""
        edits = _reading_too(self._edits, self.reading)
        places = self.candidates.positive_columns
        return SoftmaxTerm(places, self._columns, self._width, self.exclusion, edits, self.targets)

    def _log_sum_exp(
        self, vectors: Tensor, columns: int, edits: TileEdits | None, reading: BatchMetrics | None
    ) -> tuple[Tensor, Tensor, Tensor, PairSums]:
        return target_log_sum_exp(
            self.anchors,
            vectors,
            self.targets,
            columns=columns,
            positives=self.candidates.positive_columns,
            exclusion=self.exclusion,
            edits=_reading_too(edits, reading),
            chunk_size=self.loss.chunk_size,
        )

    def pair_losses(self, sums: ScoreSums) -> Tensor:
        """The loss of each pair ``[n]``: all kinds of negatives put together, and then the pair, in float64."""
        of_queries, of_documents = self._log_sums(sums)
        scores = most_precise(sums.scores)  # once, so that the parts of its gradient meet before they are rounded
        if self.loss.joint:
            return self._in_one_sum([*of_queries, *of_documents], scores)
        above_mean = scores_above_mean(self, self._pools, scores, sums.targets)
        means = self._score_means() if self.loss.terms.label_smoothing else (None, None)
        counts = self._negative_counts(sums.reading) if self.loss.terms.prior else (None, None)
        losses = [
            self.loss.terms.losses(
                _log_sum(log_sums),
                scores,
                factor=self.factor,
                above_mean=above_mean[side],
                mean=means[side],
                negatives=counts[side],
            )
            for side, log_sums in enumerate((of_queries, of_documents))
            if log_sums
        ]
        return losses[0] if len(losses) == 1 else (losses[0] + losses[1]) / 2

    def _log_sums(self, sums: ScoreSums) -> tuple[list[Tensor], list[Tensor]]:
        """Log-sum-exps of every kind of negatives of the queries, and of their documents, each ``[n]``."""
        of_queries = [sums.rows] if self.loss.from_queries else []
        if len(self.batch.hard_negatives) and not self.loss.shared_hard_negatives:
            of_queries.append(self._own_hard_negatives())
        of_documents = [self.ranks.log_sum_exp(sums.columns)[self.local_slice]] if self.loss.from_documents else []
        for log_sums, pool in zip((of_queries, of_documents), self._pools, strict=True):
            if pool is not None:
                log_sums.append(pool.log_sums)
        return of_queries, of_documents

    @functools.cached_property
    def _pools(self) -> Pools:
        return same_side_pools(self)

    def _own_hard_negatives(self) -> Tensor:
        """Log-sum-exp of each query over its own hard negatives, ``[n]``; minus infinity if ids leave none."""
        batch, n = self.batch, len(self.anchors)
        vectors = self.loss.similarity.rescale_documents(batch.hard_negatives)
        vectors = rearrange(vectors, "(n h) d -> n h d", n=n)
        # No product of matrices, which a backward pass under autocast would make in half precision.
        scores = most_precise((self.anchors[:, None] * vectors).sum(-1))
        if batch.hard_negative_ids is not None and batch.document_ids is not None:
            hard_ids = rearrange(batch.hard_negative_ids, "(n h) -> n h", n=n)
            is_positive = (hard_ids == batch.document_ids[:n, None]) & (hard_ids != NO_ID)
            scores = scores.masked_fill(is_positive, -torch.inf)
        return _log_sum(list(scores.unbind(1)))

    def _in_one_sum(self, negatives: list[Tensor], scores: Tensor) -> Tensor:
        """The loss ``[n]`` of pairs that have all their negatives, given as log-sum-exps, in one sum."""
        loss = self.loss
        counts_twice = loss.joint == "sentence_transformers" and loss.from_queries and loss.from_documents
        log_count = math.log(2) if counts_twice else 0.0
        return loss.terms.losses(_log_sum(negatives) - log_count, scores, factor=self.factor) + log_count

    def _score_means(self) -> tuple[ScoreMean, ScoreMean]:
        """Of all that each query, and each query's document, chooses from, its positives among them."""
        exclusion, chunk_size = self.exclusion, self.loss.chunk_size
        if exclusion is not None and exclusion.without_positives:
            exclusion = exclusion._replace(without_positives=False) if exclusion.row_keys else None
        columns = self.total if self.loss.from_documents else 0
        rows, of_columns, counts, column_counts = score_sums(
            self.anchors, self.vectors, columns=columns, exclusion=exclusion, chunk_size=chunk_size
        )
        local_slice = self.local_slice if self.loss.from_documents else slice(0)
        of_columns, column_counts = (self.ranks.sum(values)[local_slice] for values in (of_columns, column_counts))
        means = [ScoreMean(rows, counts), ScoreMean(of_columns, column_counts)]
        for side, pool in enumerate(self._pools):
            if pool is not None:
                pool_sums, _, pool_counts, _ = score_sums(
                    pool.anchors, pool.vectors, exclusion=pool.exclusion, chunk_size=chunk_size
                )
                means[side] = ScoreMean(means[side].total + pool_sums, means[side].number + pool_counts)
        return means[0], means[1]

    def _negative_counts(self, of_columns: BatchMetrics | None) -> tuple[NegativeCount, NegativeCount]:
        """How many negatives each query, and each query's document, has, and how little they could score."""
        assert self.reading is not None
        assert of_columns is not None
        of_rows = self.reading
        lengths = of_rows.lengths[0], of_rows.lengths[1][self.local_slice]
        longest = [of_rows.lengths[1].max(), self.ranks.max(of_rows.lengths[0].max()[None])[0]]
        numbers = [of_rows.reading.numbers[0], of_rows.reading.numbers[0]]
        if self.loss.from_documents:
            numbers[1] = self.ranks.sum(of_columns.reading.numbers[1])[self.local_slice]
        made = []
        for side, pool in enumerate(self._pools):
            number, floor = numbers[side], -lengths[side] * longest[side]
            if pool is not None:
                assert pool.reading is not None
                number = number + pool.reading.numbers[0]
                sizes = [torch.linalg.vector_norm(x.detach(), dim=1) for x in (pool.anchors, pool.vectors)]
                floor = torch.minimum(floor, -sizes[0] * sizes[1].max())
            made.append(NegativeCount(number, floor))
        return made[0], made[1]


def _reading_too(edits: TileEdits | None, metrics: BatchMetrics | None) -> TileEdits | None:
    """Edits that let the metrics of a batch read their tiles."""
    return edits if metrics is None else (edits or TileEdits())._replace(reading=metrics.reading)


def _log_sum(vectors: list[Tensor]) -> Tensor:
    """Elementwise log-sum-exp of a few vectors; minus infinity, without a gradient, where all of them are."""
    if len(vectors) == 1:
        return vectors[0]
    stacked = torch.stack(vectors)
    has_any = (stacked > -torch.inf).any(0)
    return stacked.where(has_any, 0.0).logsumexp(0).where(has_any, -torch.inf)
