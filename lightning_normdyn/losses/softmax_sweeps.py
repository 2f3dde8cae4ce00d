"""The sweeps of a softmax loss: log-sum-exps of every kind of candidates, put together pair by pair."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import NO_ID, Exclusion
from lightning_normdyn.core.contrast.log_sum_exp import log_sum_exp, sum_log_sum_exp
from lightning_normdyn.core.contrast.score_readings import ScoreReading
from lightning_normdyn.core.contrast.tile_edits import TileEdits
from lightning_normdyn.core.contrast.weighted_sums import score_sums
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.batch_metrics import BatchMetrics
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates, InBatchLoss
from lightning_normdyn.losses.negatives import NegativeEdits, NegativeRules
from lightning_normdyn.losses.options import Joint
from lightning_normdyn.losses.positives import (
    counts_of_class,
    mean_scores_of_class,
    scores_above_class,
    scores_above_listed,
)
from lightning_normdyn.losses.queue import DocumentQueue
from lightning_normdyn.losses.softmax_terms import NegativeCount, ScoreMean, SoftmaxTerms


class SoftmaxSweeps(InBatchLoss):
    """What :class:`InfoNCE` does with a batch once it is gathered; its constructor sets what is read here.

    Attributes:
        terms: how a pair's loss comes of its sums.
        rules: how negatives are judged.
        joint: whether all negatives of a pair share one sum, and by whose reading.
        from_queries: whether queries pick their documents.
        from_documents: whether documents pick their queries.
        query_negatives: whether queries are negatives of queries.
        document_negatives: and documents of documents.
        shared_hard_negatives: whether those of one query serve all.
        queue: past documents.
    """

    terms: SoftmaxTerms
    rules: NegativeRules
    joint: Joint
    from_queries: bool
    from_documents: bool
    query_negatives: bool
    document_negatives: bool
    shared_hard_negatives: bool
    queue: DocumentQueue | None

    def _factor(self, batch: Batch) -> float | Tensor:
        """One over the temperature, or over that of each query, ``[n]``."""
        return self.scaling.factor if batch.temperatures is None else batch.temperatures.reciprocal()

    def _judges_negatives(self, batch: Batch) -> bool:
        return self.rules.has_bounds or self.rules.hardness != "none" or batch.query_guides is not None

    def _reading(self, anchors: Tensor, vectors: Tensor, candidates: Candidates, ranks: Ranks) -> BatchMetrics:
        return BatchMetrics.of(
            anchors,
            vectors,
            candidates.positives,
            ranks,
            by_column=not self.from_queries,
            has_directions=self.with_metrics and self.similarity.has_directions,
            counts_columns=self.from_documents and (not self.from_queries or self.terms.prior > 0),
        )

    def _edits(
        self, batch: Batch, ranks: Ranks, anchors: Tensor, candidates: Candidates, factor: float | Tensor
    ) -> NegativeEdits | None:
        """What the batch does to its tiles, if anything."""
        if not self._judges_negatives(batch):
            return None
        if batch.query_guides is not None:
            if self.queue is not None:
                raise ValueError("query_guides: documents in the queue have no guide; leave out guides or queue_size")
            if self.terms.label_smoothing:
                raise ValueError("query_guides: a smoothed target covers all candidates; leave out label_smoothing")
        if batch.labels is not None and (self.query_negatives or self.document_negatives):
            raise ValueError(
                "labels: guides, hardness and bounds would judge positives of the same side as negatives; leave out "
                "same_side or labels"
            )
        scores = (anchors * candidates.vectors[candidates.positives.local_slice]).sum(-1)
        return NegativeEdits(self.rules, batch, candidates, scores, factor, ranks)

    def _streamed(
        self,
        batch: Batch,
        ranks: Ranks,
        anchors: Tensor,
        candidates: Candidates,
        vectors: Tensor,
        exclusion: Exclusion | None,
        reading: BatchMetrics | None,
    ) -> Tensor:
        """By one sweep or two: the losses ``[n]``, or where it is enough and cheaper their sum."""
        has_several = batch.labels is not None or batch.positives is not None
        factor = self._factor(batch)
        negatives = self._edits(batch, ranks, anchors, candidates, factor)
        is_plain = negatives is None and reading is None
        if self.wants_sum(batch.weights) and self._is_one_direction(has_several) and (self.from_queries or is_plain):
            edits = None if negatives is None else negatives.of_rows()
            edits = _reading_too(edits, reading)
            return self._one_direction(batch, ranks, anchors, candidates, vectors, exclusion, edits)
        return self._both_directions(batch, ranks, anchors, candidates, vectors, exclusion, negatives, reading, factor)

    def _is_one_direction(self, has_several: bool) -> bool:
        plain = not (self.joint or self.query_negatives or self.document_negatives or has_several)
        plain = plain and self.shared_hard_negatives
        return plain and self.terms == SoftmaxTerms() and not (self.from_queries and self.from_documents)

    def _one_direction(
        self,
        batch: Batch,
        ranks: Ranks,
        anchors: Tensor,
        candidates: Candidates,
        vectors: Tensor,
        exclusion: Exclusion | None,
        edits: TileEdits | None,
    ) -> Tensor:
        """The sum over one side's anchors, its gradient made on the way."""
        if not self.from_queries:
            anchors, vectors, exclusion = self._turned(batch, ranks, anchors, candidates)
        return sum_log_sum_exp(
            anchors,
            vectors,
            positives=candidates.positive_columns,
            exclusion=exclusion,
            edits=edits,
            chunk_size=self.chunk_size,
        )

    def _turned(
        self, batch: Batch, ranks: Ranks, anchors: Tensor, candidates: Candidates
    ) -> tuple[Tensor, Tensor, Exclusion | None]:
        """This rank's documents as anchors, and everybody's queries."""
        everybody = ranks.gather(anchors, candidates.positives)
        local_documents = candidates.vectors[candidates.positives.local_slice]
        if not candidates.keys:
            return local_documents, everybody, None
        column_keys = tuple(keys[: candidates.positives.total] for keys in candidates.keys)
        return (
            local_documents,
            everybody,
            Exclusion(tuple(batch.query_keys()), column_keys, positive_columns=candidates.positive_columns[:, None]),
        )

    def _both_directions(
        self,
        batch: Batch,
        ranks: Ranks,
        anchors: Tensor,
        candidates: Candidates,
        vectors: Tensor,
        exclusion: Exclusion | None,
        negatives: NegativeEdits | None,
        reading: BatchMetrics | None,
        factor: float | Tensor,
    ) -> Tensor:
        """The general case, ``[n]``: log-sum-exps of every kind of negatives, put together afterwards.

        The pair of a query and its own document is in none of them, and meets them in float64 at the end.
        """
        local_slice, total = candidates.positives.local_slice, candidates.positives.total
        sweep = functools.partial(
            log_sum_exp,
            anchors,
            positives=candidates.positive_columns,
            exclusion=exclusion,
            chunk_size=self.chunk_size,
        )
        of_columns = reading
        if negatives is not None and negatives.has_sides and self.from_queries and self.from_documents:
            # Each side judges a pair by a positive of its own, so that they sum up different pairs.
            of_columns = None if reading is None else self._reading(anchors, vectors, candidates, ranks)
            rows, _, scores = sweep(vectors, edits=_reading_too(negatives.of_rows(), reading))
            _, columns, _ = sweep(
                vectors[:total], columns=total, edits=_reading_too(negatives.of_columns(), of_columns)
            )
        else:
            edits = None
            if negatives is not None:
                edits = negatives.of_rows() if self.from_queries else negatives.of_columns()
            width = total if self.from_documents else 0
            candidates_of_rows = vectors if self.from_queries else vectors[:total]
            rows, columns, scores = sweep(candidates_of_rows, columns=width, edits=_reading_too(edits, reading))
        of_queries = [rows] if self.from_queries else []
        if len(batch.hard_negatives) and not self.shared_hard_negatives:
            of_queries.append(self._own_hard_negatives(batch, anchors))
        of_documents = [ranks.log_sum_exp(columns)[local_slice]] if self.from_documents else []
        pools = self._same_side(batch, ranks, anchors, candidates, negatives)
        for sums, pool in zip((of_queries, of_documents), pools, strict=True):
            if pool is not None:
                sums.append(pool.log_sum_exp(self.chunk_size))
        if self.joint:
            return self._in_one_sum([*of_queries, *of_documents], scores, factor)
        above_mean = self._above_mean(batch, ranks, anchors, candidates, vectors, scores)
        if candidates.labels is not None:
            above_mean = self._with_class(above_mean, pools, batch, candidates, scores)
        means: tuple[ScoreMean | None, ScoreMean | None] = (None, None)
        if self.terms.label_smoothing:
            means = self._score_means(ranks, anchors, candidates, vectors, exclusion, pools)
        counts: tuple[NegativeCount | None, NegativeCount | None] = (None, None)
        if self.terms.prior:
            assert reading is not None
            assert of_columns is not None
            counts = self._negative_counts(ranks, candidates, reading, of_columns, pools)
        losses = [
            self.terms.losses(
                _log_sum(sums),
                scores,
                factor=factor,
                above_mean=above_mean[side],
                mean=means[side],
                negatives=counts[side],
            )
            for side, sums in enumerate((of_queries, of_documents))
            if sums
        ]
        return losses[0] if len(losses) == 1 else (losses[0] + losses[1]) / 2

    def _negative_counts(
        self,
        ranks: Ranks,
        candidates: Candidates,
        of_rows: BatchMetrics,
        of_columns: BatchMetrics,
        pools: tuple[_Pool | None, _Pool | None],
    ) -> tuple[NegativeCount, NegativeCount]:
        """How many negatives each query, and each query's document, has, and how little they could score."""
        local_slice = candidates.positives.local_slice
        lengths = of_rows.lengths[0], of_rows.lengths[1][local_slice]
        longest = [of_rows.lengths[1].max(), ranks.max(of_rows.lengths[0].max()[None])[0]]
        numbers = [of_rows.reading.numbers[0], of_rows.reading.numbers[0]]
        if self.from_documents:
            numbers[1] = ranks.sum(of_columns.reading.numbers[1])[local_slice]
        made = []
        for side, pool in enumerate(pools):
            number, floor = numbers[side], -lengths[side] * longest[side]
            if pool is not None:
                assert pool.reading is not None
                number = number + pool.reading.numbers[0]
                sizes = [torch.linalg.vector_norm(x.detach(), dim=1) for x in (pool.anchors, pool.vectors)]
                floor = torch.minimum(floor, -sizes[0] * sizes[1].max())
            made.append(NegativeCount(number, floor))
        return made[0], made[1]

    def _same_side(
        self,
        batch: Batch,
        ranks: Ranks,
        anchors: Tensor,
        candidates: Candidates,
        negatives: NegativeEdits | None,
    ) -> tuple[_Pool | None, _Pool | None]:
        """What queries, and documents, choose from among their like."""
        of_queries = of_documents = None
        if self.query_negatives:
            everybody = ranks.gather(self.similarity.rescale_queries(batch.queries), candidates.positives)
            edits = None if negatives is None else negatives.among_queries()
            of_queries = self._among(anchors, everybody, batch, candidates, edits)
        if self.document_negatives:
            has_all = self.joint == "sentence_transformers"
            everybody = candidates.vectors if has_all else candidates.vectors[: candidates.positives.total]
            local_documents = self.scale(candidates.vectors[candidates.positives.local_slice], batch.temperatures)
            edits = None if negatives is None else negatives.among_documents()
            of_documents = self._among(local_documents, everybody, batch, candidates, edits)
        return of_queries, of_documents

    def _own_hard_negatives(self, batch: Batch, anchors: Tensor) -> Tensor:
        """Log-sum-exp of each query over its own hard negatives, ``[n]``; minus infinity if ids leave none."""
        vectors = rearrange(self.similarity.rescale_documents(batch.hard_negatives), "(n h) d -> n h d", n=len(anchors))
        scores = most_precise(torch.einsum("nd,nhd->nh", anchors, vectors))
        if batch.hard_negative_ids is not None and batch.document_ids is not None:
            hard_ids = rearrange(batch.hard_negative_ids, "(n h) -> n h", n=len(anchors))
            is_positive = (hard_ids == batch.document_ids[: len(anchors), None]) & (hard_ids != NO_ID)
            scores = scores.masked_fill(is_positive, -torch.inf)
        return _log_sum(list(scores.unbind(1)))

    def _in_one_sum(self, negatives: list[Tensor], scores: Tensor, factor: float | Tensor) -> Tensor:
        """The loss ``[n]`` of pairs that have all their negatives, given as log-sum-exps, in one sum."""
        counts_twice = self.joint == "sentence_transformers" and self.from_queries and self.from_documents
        log_count = math.log(2) if counts_twice else 0.0
        return self.terms.losses(_log_sum(negatives) - log_count, scores, factor=factor) + log_count

    def _among(
        self, anchors: Tensor, everybody: Tensor, batch: Batch, candidates: Candidates, edits: TileEdits | None
    ) -> _Pool:
        """This rank's vectors of a side and the others of that side."""
        row_keys, column_keys = [], []
        if candidates.keys:
            row_keys, column_keys = batch.query_keys(), [keys[: len(everybody)] for keys in candidates.keys]
        positive_keys = None
        if candidates.labels is not None:
            class_keys = batch.query_labels, candidates.labels[: len(everybody)]
            if self.terms.decoupled:  # whose sums are over negatives alone
                row_keys.append(class_keys[0])
                column_keys.append(class_keys[1])
            elif row_keys:
                positive_keys = class_keys
        if len(everybody) > candidates.positives.total:
            numbers = candidates.query_numbers
            row_keys.append(numbers[candidates.positives.local_slice])
            column_keys.append(numbers)
        exclusion = Exclusion(
            tuple(row_keys),
            tuple(column_keys),
            positive_keys=positive_keys,
            self_columns=candidates.positive_columns,
        )
        if not self.terms.prior:
            return _Pool(anchors, everybody, exclusion, edits, None)
        reading = ScoreReading(anchors.detach()[:, 0], anchors[:0, 0])
        return _Pool(anchors, everybody, exclusion, (edits or TileEdits())._replace(reading=reading), reading)

    def _score_means(
        self,
        ranks: Ranks,
        anchors: Tensor,
        candidates: Candidates,
        vectors: Tensor,
        exclusion: Exclusion | None,
        pools: tuple[_Pool | None, _Pool | None],
    ) -> tuple[ScoreMean, ScoreMean]:
        """Of all that each query, and each query's document, chooses from, its positives among them."""
        if exclusion is not None and exclusion.without_positives:
            exclusion = exclusion._replace(without_positives=False) if exclusion.row_keys else None
        columns = candidates.positives.total if self.from_documents else 0
        rows, of_columns, counts, column_counts = score_sums(
            anchors, vectors, columns=columns, exclusion=exclusion, chunk_size=self.chunk_size
        )
        local_slice = candidates.positives.local_slice if self.from_documents else slice(0)
        of_columns, column_counts = (ranks.sum(values)[local_slice] for values in (of_columns, column_counts))
        means = [ScoreMean(rows, counts), ScoreMean(of_columns, column_counts)]
        for side, pool in enumerate(pools):
            if pool is not None:
                pool_sums, _, pool_counts, _ = score_sums(
                    pool.anchors, pool.vectors, exclusion=pool.exclusion, chunk_size=self.chunk_size
                )
                means[side] = ScoreMean(means[side].total + pool_sums, means[side].number + pool_counts)
        return means[0], means[1]

    def _with_class(
        self,
        above_mean: tuple[Tensor, Tensor],
        pools: tuple[_Pool | None, _Pool | None],
        batch: Batch,
        candidates: Candidates,
        scores: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`_above_mean` where those of a pair's class on the same side are positives too."""
        assert candidates.labels is not None
        labels, total = batch.query_labels, candidates.positives.total
        classes = candidates.labels[:total]
        numbers_across = (
            counts_of_class(labels, self._labels_of_vectors(candidates)),
            counts_of_class(labels, classes),
        )
        sides = list(above_mean)
        for side, pool in enumerate(pools):
            if pool is not None:
                local_vectors = pool.vectors[candidates.positives.local_slice]
                mean, number = mean_scores_of_class(pool.anchors, local_vectors, labels, pool.vectors[:total], classes)
                across = numbers_across[side]
                sides[side] = (across * above_mean[side] + number * (scores - mean)) / (across + number)
        return sides[0], sides[1]

    def _labels_of_vectors(self, candidates: Candidates) -> Tensor:
        """Classes of all that queries choose from, past documents among them where these may be positives."""
        assert candidates.labels is not None
        if self.queue is None or not self.queue_positives:
            return candidates.labels
        return torch.cat((candidates.labels, self.queue.keys[2].to(candidates.labels.device)))

    def _above_mean(
        self, batch: Batch, ranks: Ranks, anchors: Tensor, candidates: Candidates, vectors: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By how much the score of a pair is above the mean of its query, and of its document, with its positives.

        Both ``[n]``, and zero to the last bit where a pair is alone.
        """
        if batch.positives is not None:
            return scores_above_listed(scores, anchors, candidates.local_documents, batch.positives)
        of_queries = of_documents = torch.zeros_like(scores)
        if candidates.labels is None:
            return of_queries, of_documents
        labels, of_all = batch.query_labels, candidates.labels
        local_documents = candidates.vectors[candidates.positives.local_slice]
        if self.from_queries:
            of_vectors = self._labels_of_vectors(candidates)
            choices = vectors[: len(of_vectors)]
            of_queries = scores_above_class(scores, anchors, local_documents, labels, choices, of_vectors)
        if self.from_documents:
            everybody = ranks.gather(anchors, candidates.positives)
            of_present = of_all[: len(everybody)]
            of_documents = scores_above_class(scores, local_documents, anchors, labels, everybody, of_present)
        return of_queries, of_documents


class _Pool(NamedTuple):
    """What anchors ``[n, d]`` choose from beside the other side: vectors ``[m, d]`` without some pairs, edited."""

    anchors: Tensor
    vectors: Tensor
    exclusion: Exclusion
    edits: TileEdits | None
    reading: ScoreReading | None

    def log_sum_exp(self, chunk_size: int | None) -> Tensor:
        """Of each anchor, ``[n]``."""
        sums = log_sum_exp(
            self.anchors, self.vectors, exclusion=self.exclusion, edits=self.edits, chunk_size=chunk_size
        )
        return sums[0]


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
