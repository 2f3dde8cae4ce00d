"""A gathered batch as a softmax loss scores it: anchors, all that they choose from, and which pairs are out."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import NO_ID, Exclusion
from lightning_normdyn.core.contrast.positive_pairs import PositivePairs
from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.batch_metrics import BatchMetrics
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates, positive_columns
from lightning_normdyn.losses.negatives import NegativeEdits
from lightning_normdyn.losses.positives import distinct_positives
from lightning_normdyn.losses.softmax_settings import SoftmaxSettings


@dataclass(frozen=True)
class ScoredBatch:
    """What every step of a softmax loss reads.

    Attributes:
        loss: whose settings apply.
        batch: of this rank.
        candidates: the documents of all ranks.
        ranks: all of them.
        anchors: this rank's queries, rescaled and over the temperature, ``[n, d]``.
        vectors: what they choose from, the candidates and then past documents, ``[m, d]``.
        exclusion: pairs of both that are out.
        factor: one over the temperature, or over that of each query, ``[n]``.
    """

    loss: SoftmaxSettings
    batch: Batch
    candidates: Candidates
    ranks: Ranks
    anchors: Tensor
    vectors: Tensor
    exclusion: Exclusion | None
    factor: float | Tensor

    @functools.cached_property
    def negatives(self) -> NegativeEdits | None:
        """What the batch does to its tiles, if anything."""
        loss, candidates = self.loss, self.candidates
        if not loss.judges_negatives(self.batch):
            return None
        if self.batch.query_guides is not None:
            if loss.queue is not None:
                raise ValueError("query_guides: documents in the queue have no guide; leave out guides or queue_size")
            if loss.terms.label_smoothing:
                raise ValueError("query_guides: a smoothed target covers all candidates; leave out label_smoothing")
        if candidates.labels is not None and loss.queue is not None:
            past_labels = loss.queue.keys[2].to(candidates.labels.device)
            candidates = candidates._replace(labels=torch.cat((candidates.labels, past_labels)))
        scores = (self.anchors * self.local_documents).sum(-1)
        return NegativeEdits(loss.rules, self.batch, candidates, scores, self.factor, self.ranks)

    @functools.cached_property
    def reading(self) -> BatchMetrics | None:
        """What reads the tiles, for metrics or for a prior."""
        return self.new_reading() if self.loss.with_metrics or self.loss.terms.prior else None

    def new_reading(self) -> BatchMetrics:
        """One more, for a sweep of its own."""
        loss = self.loss
        return BatchMetrics.of(
            self.anchors,
            self.vectors,
            self.candidates.positives,
            self.ranks,
            by_column=not loss.from_queries,
            has_directions=loss.with_metrics and loss.similarity.has_directions,
            counts_columns=loss.from_documents and (not loss.from_queries or loss.terms.prior > 0),
        )

    @property
    def local_slice(self) -> slice:
        """Where the documents of this rank's queries are among all."""
        return self.candidates.positives.local_slice

    @property
    def local_documents(self) -> Tensor:
        """The documents of this rank's queries, ``[n, d]``."""
        return self.candidates.vectors[self.local_slice]

    @property
    def total(self) -> int:
        """Pairs of all ranks."""
        return self.candidates.positives.total

    @property
    def vector_labels(self) -> Tensor:
        """Classes of all that queries choose from, past documents among them where these may be positives."""
        labels, queue = self.candidates.labels, self.loss.queue
        assert labels is not None
        if queue is None or not self.loss.queue_positives:
            return labels
        return torch.cat((labels, queue.keys[2].to(labels.device)))

    @property
    def targets(self) -> PositivePairs | None:
        """Further positives of the queries among the vectors, where they are in the sum too."""
        batch, labels = self.batch, self.candidates.labels
        if self.loss.terms.decoupled:
            return None
        if labels is not None:
            labels = self.vector_labels
            return self.targets_of_class(F.pad(labels, (0, len(self.vectors) - len(labels)), value=NO_ID))
        if batch.positives is None:
            return None
        once = batch.positives.where(distinct_positives(batch.positives), -1)
        return PositivePairs(positive_columns(batch._replace(positives=once), self.candidates)[:, 1:])

    def targets_of_class(self, labels: Tensor) -> PositivePairs:
        """Those of this rank's classes among some of the classes ``labels [m]``."""
        nowhere = labels.new_empty(len(self.anchors), 0)
        return PositivePairs(nowhere, (self.batch.query_labels, labels))
