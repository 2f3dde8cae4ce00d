"""Losses whose negatives come from the batch: documents of all ranks as candidates, pairs excluded by their ids."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.caution import caution
from lightning_normdyn.core.contrast.exclusion import NO_ID, Exclusion
from lightning_normdyn.core.contrast.factored import Factored
from lightning_normdyn.losses.batch import Batch, PairOptions
from lightning_normdyn.losses.batch_checks import check_finite, scores_error
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.gather import Ranks, Rows, Trait
from lightning_normdyn.losses.options import Unpack
from lightning_normdyn.losses.shared_parts import SharedPart
from lightning_normdyn.losses.uncompiled import uncompiled

_SAMPLE = 64  # queries, to see how much ids exclude


class Candidates(NamedTuple):
    """The documents of all ranks, against which this rank's queries are scored.

    Attributes:
        vectors: rescaled, ``[m, d]``: the queries' positives, then documents of no query, then hard negatives. As they
            came where the loss is fused.
        keys: ids of their queries and their own, each ``[m]``; empty if nobody gave any.
        labels: their classes, ``[m]``, of which hard negatives have none; ``None`` without classes.
        positives: how many each rank has of the first.
        unpaired: and of the second.
        hard_negatives: and of the third.
        factored_vectors: the vectors with the factors that would rescale them, where the loss is fused.
    """

    vectors: Tensor
    keys: list[Tensor]
    labels: Tensor | None
    positives: Rows
    unpaired: Rows
    hard_negatives: Rows
    factored_vectors: Factored | None = None

    @property
    def groups(self) -> tuple[Rows, Rows, Rows]:
        """Positives, documents of no query and hard negatives, in their order."""
        return self.positives, self.unpaired, self.hard_negatives

    @property
    def positive_columns(self) -> Tensor:
        """The column of the positive of each of this rank's queries, ``[n]``."""
        columns = self.positives.local_slice
        return torch.arange(columns.start, columns.stop, device=self.vectors.device)

    @property
    def query_numbers(self) -> Tensor:
        """Which query of all ranks' every candidate was given for, ``[m]``; documents of no query have no id."""
        positives, hard_negatives = self.positives, self.hard_negatives
        numbers = torch.arange(positives.total, device=self.vectors.device)
        counts = [
            0 if not n else k // n for n, k in zip(positives.sizes, hard_negatives.sizes, strict=True)
        ]  # of each query
        of_hard_negatives = [
            part.repeat_interleave(count) for part, count in zip(numbers.split(positives.sizes), counts, strict=True)
        ]
        nobody = numbers.new_full((self.unpaired.total,), NO_ID)
        return torch.cat((numbers, nobody, *of_hard_negatives))

    @property
    def local_documents(self) -> Tensor:
        """This rank's documents, rescaled, in the order in which they came."""
        unpaired = self.vectors[self.positives.total :][self.unpaired.local_slice]
        paired = self.vectors[self.positives.local_slice]
        return torch.cat((paired, unpaired)) if len(unpaired) else paired


class InBatchLoss(ContrastiveLoss, ABC):
    """A loss of pairs that find their negatives in the batch, see :class:`ContrastiveLoss` for its arguments."""

    _has_warned_of_ids = False

    @uncompiled
    def forward(self, queries: Tensor, documents: Tensor, **options: Unpack[PairOptions]) -> Tensor:
        """The loss of a batch, the mean over the queries of all ranks.

        Norms, scores and the loss are computed in float32 at least, whatever autocast or the embeddings say.

        Args:
            queries: ``[n, d]``, not normalised.
            documents: ``[m, d]`` with m >= n: document i is the positive of query i, the others are negatives of all.
            options: what else is known of them, each by its name:

                - ``hard_negatives``: ``[n, h, d]``; those of one query serve all.
                - ``labels``: class of each document, ``[m]``, the first n of which are the queries' too: documents of
                  a query's class are all its positives, and with ``same_side`` other queries of its class.
                - ``positives``: numbers of further documents that are positives of a query, ``[n, p]``, -1 for none.
                - ``query_ids``: ``[n]``. Equal ids tell equal queries, whose documents are then no negatives of each
                  other. -1 is no id, and agrees with none, here and in the next two. Ids that exclude more than half of
                  a batch are warned of, once: a column that was never set has the same everywhere.
                - ``document_ids``: ``[m]``. A document equal to the positive of a query is no negative of it.
                - ``hard_negative_ids``: ``[n, h]``, the same for hard negatives.
                - ``query_guides``, ``document_guides``, ``hard_negative_guides``: a second model's embeddings of the
                  same, ``[n, g]``, ``[m, g]`` and ``[n, h, g]``. A negative that it scores higher (by their cosine)
                  than the positive is none: :class:`InfoNCE` leaves it out, by its guide margins.
                - ``weights``: of the pairs, ``[n]``, from 0 up: the mean is then ``sum w_i L_i / sum w_i`` and the sum
                  ``sum w_i L_i``, over all ranks. Without ``reduction`` they are refused.
                - ``temperatures``: ``[n]``, what the scores of a query are divided by in place of the loss's own
                  temperature, whichever side picks (arXiv 2305.11965). They may carry gradient.

        Returns:
            A scalar, the same on every rank; with ``reduction="none"`` ``[n]``, of this rank's queries.

        Raises:
            TypeError: if there is no such argument.
            ValueError: naming the argument that does not fit, or the side with NaN or infinite embeddings.
        """
        return self.shown(queries, documents, **options)

    def shown(self, queries: Tensor, documents: Tensor, **options: Any) -> Tensor:
        """The loss of embeddings that callbacks are shown."""
        if getattr(self, "_is_replica", False):
            raise ValueError(
                "nn.DataParallel cuts the batch before the loss sees it, so that documents miss their negatives; use "
                "the trainer's strategy='ddp', under which ranks exchange them"
            )
        return self.compute(self.queries(queries), self.documents(documents), **options)

    def compute(self, queries: Tensor, documents: Tensor, **options: Any) -> Tensor:
        """The same without showing the embeddings to anybody."""
        batch = self._batch(queries, documents, options)
        self.check_reducible(batch.weights, batch.temperatures)
        with torch.autocast(queries.device.type, enabled=False):
            ranks = self.ranks(queries, documents)
            self.settle(queries, documents[: len(queries)], ranks)
            candidates = self._candidates(batch, ranks)
            wide = torch.promote_types(torch.promote_types(queries.dtype, documents.dtype), torch.float32)
            losses = self._losses(batch, candidates, ranks)
            loss = self.reduce(losses, wide, batch.weights, candidates.positives, ranks)
        self._check_outcome(loss, batch, candidates)
        self._conclude(batch, candidates, ranks)
        return loss

    def factor(self, batch: Batch) -> float | Tensor:
        """One over the temperature, or over that of each query, ``[n]``."""
        return self.scaling.factor if batch.temperatures is None else batch.temperatures.reciprocal()

    def settle(self, queries: Tensor, documents: Tensor, ranks: Ranks) -> None:
        """Finds the temperature where it is to be found, and holds a learnt one within its bound."""
        if self.training:
            self.scaling.hold_in_training()
        self.settle_temperature(queries, documents, ranks)

    def _check_outcome(self, loss: Tensor, batch: Batch, candidates: Candidates) -> None:
        """Refuses a loss that is no number, and warns of ids that leave few negatives."""
        if self.check_finite and not bool(loss.isfinite().all()):
            sides = {"queries": batch.queries, "documents": batch.documents, "hard_negatives": batch.hard_negatives}
            check_finite(**{name: side for name, side in sides.items() if len(side)})
            self._refuse_infinite_targets(batch)
            largest = [float(side.detach().abs().max()) for side in (batch.queries, batch.documents)]
            reach = f", with entries up to {largest[0]:.3g} and {largest[1]:.3g} in documents"
            raise ValueError(scores_error("queries", loss.dtype, len(candidates.positives.sizes), reach=reach))
        if candidates.keys and not self._has_warned_of_ids:
            self._warn_of_ids(batch, candidates)

    def reason_apart(self, batch: Batch) -> str | None:
        """Why this loss cannot share the inner products of a batch with another; ``None`` if it can."""
        del batch
        return f"a {type(self).__name__} makes sweeps of its own"

    def parts(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> list[SharedPart]:
        """What a shared sweep is to sum up; this loss is the sum of the parts' losses.

        Args:
            batch: this rank's.
            candidates: everybody's, as they came.
            ranks: all of them.
        """
        raise NotImplementedError

    def _warn_of_ids(self, batch: Batch, candidates: Candidates) -> None:
        """Says so, once, if ids exclude more than half of the negatives: of the first queries, as a sample."""
        exclusion = excluded_pairs(batch, candidates)
        rows, columns = min(len(batch.queries), _SAMPLE), len(candidates.vectors)
        if exclusion is None or columns < 3:
            return
        share = float(exclusion.mask(slice(0, rows), slice(0, columns)).sum()) / (rows * (columns - 1))
        if share > 0.5:
            self._has_warned_of_ids = True
            caution(
                f"query_ids or document_ids exclude {share:.0%} of the negatives as duplicates, so that little or "
                "nothing is left to learn; give each query and document an id of its own, or -1 for none",
                stacklevel=4,
            )

    @abstractmethod
    def _losses(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        """The loss of each of this rank's queries, ``[n]``; their sum will do where :meth:`wants_sum` says so."""

    def _batch(self, queries: Tensor, documents: Tensor, options: Any) -> Batch:
        """What came, if it fits together."""
        return Batch.check(queries, documents, **options)

    def _refuse_infinite_targets(self, batch: Batch) -> None:
        """Names what else than embeddings can make a loss NaN."""

    def _is_fused(self, batch: Batch) -> bool:
        """Whether fused kernels shall make this batch's share, of vectors that are rescaled in name only."""
        del batch
        return False

    def setting_traits(self) -> list[Trait]:
        """Settings that give every rank another loss where they differ, though messages fit."""
        return []

    def _conclude(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> None:
        """Called once the loss is known to be in order."""

    def _candidates(self, batch: Batch, ranks: Ranks) -> Candidates:
        """Rescales this rank's documents and gathers everybody's."""
        n, m, k = len(batch.queries), len(batch.documents), len(batch.hard_negatives)
        is_fused = self._is_fused(batch)
        kernel_traits = [
            Trait("queries", "1 if fused", int(is_fused)),
            Trait("queries", "1 if fused in float16", int(is_fused and batch.is_float16)),
        ]
        groups = ranks.rows(n, m - n, k, traits=[*batch.traits(), *self.setting_traits(), *kernel_traits])
        gathered_keys = []
        if batch.has_ids:
            keys = zip(batch.document_keys(), batch.hard_negative_keys(), strict=True)
            gathered_keys = [gather_candidates(of_documents, of_hard, groups, ranks) for of_documents, of_hard in keys]
        factored_vectors = self._factored(batch, groups, ranks) if is_fused else None
        vectors = self._rescaled(batch, groups, ranks) if factored_vectors is None else factored_vectors.rows
        candidates = Candidates(vectors, gathered_keys, None, groups[0], groups[1], groups[2], factored_vectors)
        if batch.labels is None:
            return candidates
        return candidates._replace(labels=_labels_of_all(batch.labels, candidates, ranks))

    def _rescaled(self, batch: Batch, groups: Sequence[Rows], ranks: Ranks) -> Tensor:
        """Documents, documents of no query and hard negatives of all ranks, ``[m, d]``."""
        documents = self.similarity.rescale_documents(batch.documents)
        hard_negatives = self.similarity.rescale_documents(batch.hard_negatives) if groups[2].total else documents[:0]
        return gather_candidates(documents, hard_negatives, groups, ranks)

    def _factored(self, batch: Batch, groups: list[Rows], ranks: Ranks) -> Factored:
        """The same in name only."""
        documents = batch.documents
        if len(batch.hard_negatives):
            documents = torch.cat((documents, batch.hard_negatives))
        return ranks.gather_factored(self.similarity.factor_documents(documents), groups)


def gather_candidates(documents: Tensor, hard_negatives: Tensor, groups: Sequence[Rows], ranks: Ranks) -> Tensor:
    """What belongs to this rank's documents ``[m, ...]`` and hard negatives ``[k, ...]``, of all ranks' candidates.

    Args:
        documents: one for each document, those of the queries first.
        hard_negatives: one for each hard negative.
        groups: how many each rank has of positives, of documents of no query, and of hard negatives.
        ranks: all of them.
    """
    n = groups[0].sizes[groups[0].rank]
    local_groups = (documents[:n], documents[n:], hard_negatives)
    pairs = zip(local_groups, groups, strict=True)
    gathered = [ranks.gather(values, rows) for number, (values, rows) in enumerate(pairs) if rows.total or not number]
    return gathered[0] if len(gathered) == 1 else torch.cat(gathered)


def excluded_pairs(batch: Batch, candidates: Candidates, *, without_positives: bool = False) -> Exclusion | None:
    """Pairs of this rank's queries and all documents that ids tell to be no negatives.

    Args:
        batch: this rank's.
        candidates: everybody's.
        without_positives: whether the query's positives are left out too; else they stay in, whatever ids say.
    """
    if not (candidates.keys or without_positives):
        return None
    return Exclusion(
        tuple(batch.query_keys()) if candidates.keys else (),
        tuple(candidates.keys),
        positive_columns=positive_columns(batch, candidates),
        positive_keys=None if candidates.labels is None else (batch.query_labels, candidates.labels),
        without_positives=without_positives,
    )


def positive_columns(batch: Batch, candidates: Candidates) -> Tensor:
    """Columns of the positives of each of this rank's queries, ``[n, 1 + p]``, -1 for none."""
    paired_columns = candidates.positive_columns[:, None]
    if batch.positives is None:
        return paired_columns
    n = len(batch.queries)
    first = candidates.positives.local_slice.start
    behind = candidates.positives.total + candidates.unpaired.local_slice.start - n
    further_columns = batch.positives + torch.where(batch.positives < n, first, behind)
    return torch.cat((paired_columns, further_columns.where(batch.positives >= 0, -1)), 1)


def _labels_of_all(labels: Tensor, candidates: Candidates, ranks: Ranks) -> Tensor:
    """Classes of all candidates, ``[m]``, of this rank's ``labels``."""
    positives, unpaired = candidates.positives, candidates.unpaired
    n = positives.sizes[positives.rank]
    gathered_labels = ranks.gather(labels[:n], positives)
    if unpaired.total:
        gathered_labels = torch.cat((gathered_labels, ranks.gather(labels[n:], unpaired)))
    return F.pad(gathered_labels, (0, len(candidates.vectors) - len(gathered_labels)), value=NO_ID)


def warn_of_one_candidate(advice: str) -> None:
    """Says so; no error, since a last batch of one pair does no harm.

    Args:
        advice: what to take.
    """
    warnings.warn(
        f"documents: expected two candidates or more, got one, so the loss is 0 whatever the embeddings; take "
        f"{advice}, or leave a last batch of one pair out",
        stacklevel=2,
    )
