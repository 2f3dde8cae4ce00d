"""What a softmax loss over a batch was told by its constructor, and the documents of past batches that it keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import NO_ID, Exclusion
from lightning_normdyn.core.contrast.factored import Factored
from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.fused import FusedKernels
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates, InBatchLoss, excluded_pairs
from lightning_normdyn.losses.negatives import NegativeRules
from lightning_normdyn.losses.options import Joint
from lightning_normdyn.losses.prefixes import Prefixes
from lightning_normdyn.losses.queue import DocumentQueue
from lightning_normdyn.losses.shared_parts import NO_INNER_PRODUCT
from lightning_normdyn.losses.softmax_terms import SoftmaxTerms


class SoftmaxSettings(InBatchLoss):
    """Settings of :class:`InfoNCE`, whose constructor checks them, as its sweeps read them.

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
        queue_positives: whether those of a query's class are positives of it.
        prefixes: that are to serve by themselves.
        kernels: that compute the loss where they can.
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
    queue_positives: bool
    prefixes: Prefixes | None
    kernels: FusedKernels | None
    _width: int | None = None

    def judges_negatives(self, batch: Batch) -> bool:
        """Whether some negatives of a batch are left out, or weigh more, for what they score."""
        return self.judges_by_sides(batch) or self.rules.hardness != "none"

    def is_one_direction(self, batch: Batch) -> bool:
        """Whether one side picks from the other, one positive each, and nothing else is asked for."""
        plain = not (self.joint or self.query_negatives or self.document_negatives or batch.has_several_positives)
        plain = plain and self.shared_hard_negatives
        return plain and self.terms == SoftmaxTerms() and not (self.from_queries and self.from_documents)

    def _refuse_terms(self) -> None:
        """Refuses terms that make no sense with each other."""
        for name in ("label_smoothing", "prior"):
            if self.joint and getattr(self.terms, name):
                raise ValueError(f"{name}: a joint sum over several kinds of negatives knows none; leave one out")
        if self.rules.hardness != "none" and self.terms.prior:
            raise ValueError(
                "hardness: a prior counts negatives, and knows no weights of theirs; leave one of them out"
            )
        if self.terms.label_smoothing and (self.rules.has_bounds or self.rules.hardness != "none"):
            raise ValueError(
                "label_smoothing: a smoothed target covers all candidates alike; leave it out where hardness, "
                "negative_margin or negative_share tell them apart"
            )

    def _refuse_idle(self) -> None:
        """Refuses negatives of a side that picks nothing."""
        idle = {
            "queries": self.query_negatives and not self.from_queries,
            "documents": self.document_negatives and not self.from_documents,
        }
        for side, is_idle in idle.items():
            if is_idle and not self.joint:
                raise ValueError(
                    f"same_side: negatives among the {side} serve the direction that starts there alone; choose "
                    "symmetric=True, the other direction or joint=True"
                )

    def _refuse_unshareable(self) -> None:
        """Refuses terms that go through the candidates of all queries where each has hard negatives of its own."""
        unshareable = {
            "label_smoothing": self.terms.label_smoothing,
            "prior": self.terms.prior,
            "negative_margin": self.rules.negative_margin is not None,
            "negative_share": self.rules.negative_share is not None,
            "hardness": self.rules.hardness != "none",
        }
        for name, is_set in unshareable.items():
            if is_set and not self.shared_hard_negatives:
                raise ValueError(f"shared_hard_negatives: {name} takes those of all queries; leave one of them out")

    def reason_apart(self, batch: Batch) -> str | None:
        """See :meth:`InBatchLoss.reason_apart`."""
        both = self.from_queries and self.from_documents
        reasons = {
            "its queue holds documents that no other loss has": self.queue is not None,
            "shared_hard_negatives=False gives each query candidates of its own": not self.shared_hard_negatives,
            "fused kernels make sweeps of their own": self._is_fused(batch),
            "each direction judges negatives by a positive of its own": both and self.judges_by_sides(batch),
            NO_INNER_PRODUCT: not self.similarity.has_directions,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def _is_fused(self, batch: Batch) -> bool:
        """Leaves to the usual way what takes more than the scores of queries and documents, each with one positive."""
        special = self.joint or self.query_negatives or self.document_negatives or self.queue is not None
        special = special or not self.shared_hard_negatives
        special = special or batch.has_several_positives
        special = special or self.terms != SoftmaxTerms() or batch.temperatures is not None or self.with_metrics
        special = special or self.judges_negatives(batch) or self.prefixes is not None
        return not special and self.kernels is not None and self.kernels.serve(batch.queries, batch.documents)

    def _fused(self, batch: Batch, ranks: Ranks, candidates: Candidates, vectors: Factored) -> Tensor:
        """The loss of each pair by kernels that take embeddings as they are."""
        assert self.kernels is not None
        rows, columns, scores = self.kernels.log_sum_exp(
            self.similarity.factor_queries(batch.queries, self.scaling.factor),
            vectors,
            columns=candidates.positives.total if self.from_documents else 0,
            positives=candidates.positive_columns,
            exclusion=excluded_pairs(batch, candidates),
        )
        sums = [rows] if self.from_queries else []
        if self.from_documents:
            sums.append(ranks.log_sum_exp(columns)[candidates.positives.local_slice])
        return torch.stack(sums).mean(0) - scores

    def judges_by_sides(self, batch: Batch) -> bool:
        """Whether that goes by the positive of each pair's query, or document, whichever picks."""
        return self.rules.has_bounds or batch.query_guides is not None

    def _check_pairs(self, batch: Batch) -> None:
        """Refuses several positives where a pair has to have one, and hard negatives that nobody would see."""
        if batch.has_several_positives:
            self._refuse_several()
        if len(batch.hard_negatives) and not self.from_queries:
            raise ValueError(
                "hard_negatives: where documents pick queries they have no part; choose symmetric=True or "
                "direction='query_to_document'"
            )

    def _refuse_several(self) -> None:
        """Refuses labels and lists of positives."""
        terms = self.terms
        needs = {
            "joint": self.joint,
            "margin": terms.margin,
            "relative_margin": terms.relative_margin,
            "prior": terms.prior,
        }
        for name, needs_one in needs.items():
            if needs_one:
                raise ValueError(f"{name}: one sum for a pair knows one positive; leave out labels and positives")

    def _with_queue(
        self, queue: DocumentQueue, batch: Batch, candidates: Candidates, exclusion: Exclusion | None
    ) -> tuple[Tensor, Exclusion | None]:
        """Past documents behind the present ones; positives among them are left out, or are told by labels to stay."""
        if self.queue_positives and batch.labels is None:
            raise ValueError("queue_positives: labels tell which past documents are positives; give labels")
        past = queue.documents.to(candidates.vectors.device)
        if not len(past):
            return candidates.vectors, exclusion
        past = past[:, : self._width]
        if past.shape[1] != candidates.vectors.shape[1]:
            raise ValueError(
                f"documents: the queue holds {len(past)} of d = {past.shape[1]}, got d = {batch.documents.shape[1]}; "
                "start with a new loss when the width changes"
            )
        vectors = torch.cat((candidates.vectors, self.similarity.rescale_documents(past.to(candidates.vectors.dtype))))
        exclusion = Exclusion() if exclusion is None else exclusion
        query_ids, document_ids, labels = (key.to(past.device) for key in queue.keys)
        nobody = labels.new_full((len(candidates.vectors),), NO_ID)
        row_keys, column_keys = exclusion.row_keys, exclusion.column_keys
        if row_keys:
            column_keys = tuple(torch.cat(pair) for pair in zip(column_keys, (query_ids, document_ids), strict=True))
        if batch.labels is not None and not self.queue_positives:
            row_keys, column_keys = (*row_keys, batch.query_labels), (*column_keys, torch.cat((nobody, labels)))
        if exclusion.positive_keys is not None:
            of_queries, of_present = exclusion.positive_keys
            of_past = labels if self.queue_positives else torch.full_like(labels, NO_ID)
            exclusion = exclusion._replace(positive_keys=(of_queries, torch.cat((of_present, of_past))))
        if not (row_keys or exclusion.without_positives):
            return vectors, None
        return vectors, exclusion._replace(row_keys=row_keys, column_keys=column_keys)

    def _conclude(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> None:
        """Remembers the documents of a training step."""
        if self.queue is not None and self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self._remember(self.queue, batch, candidates, ranks)

    def _remember(self, queue: DocumentQueue, batch: Batch, candidates: Candidates, ranks: Ranks) -> None:
        """Puts the documents of all ranks into the queue, as they came: exponents may have moved when they serve."""
        n, batch_total = len(batch.queries), candidates.positives.total + candidates.unpaired.total
        no_ids = torch.full((batch_total,), NO_ID, device=batch.documents.device)
        labels = no_ids if candidates.labels is None else candidates.labels[:batch_total]
        keys = [key[:batch_total] for key in candidates.keys] or [no_ids, no_ids]
        documents = batch.documents.detach().float()
        all_documents = ranks.gather(documents[:n], candidates.positives)
        if candidates.unpaired.total:
            all_documents = torch.cat((all_documents, ranks.gather(documents[n:], candidates.unpaired)))
        queue.push(all_documents, torch.stack((*keys, labels), 1))
