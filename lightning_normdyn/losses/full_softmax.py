"""Softmax over a whole table of documents, or over a sample of it that is corrected for how it was drawn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.log_sum_exp import log_sum_exp, softmax_loss, sum_log_sum_exp
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.losses.batch_checks import check_finite, check_per_query, scores_error
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.gather import Ranks, Trait
from lightning_normdyn.losses.infonce import InfoNCE
from lightning_normdyn.losses.negatives import NegativeRules
from lightning_normdyn.losses.options import SoftmaxOptions, Unpack
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.softmax_terms import SoftmaxTerms
from lightning_normdyn.losses.uncompiled import uncompiled


class FullSoftmax(ContrastiveLoss):
    """Each query picks its document among all that there are: cross entropy over a table.

    ``L = mean_i [log sum_j exp(s(q_i, d_j)/tau - log Q_j) - (s(q_i, d_t(i))/tau - log Q_t(i))]`` with the score ``s``
    of :class:`NormalizedSimilarity` and the temperature ``tau``. Over a whole table every document stands in the sum
    once and ``log_expected`` is left out, ``Q = 1``. Over a sample, ``Q_j`` is how often document j was expected in it,
    which makes the sum an estimate of that over the table (the correction of Yi et al. 2019,
    doi:10.1145/3298689.3346996, section 4).

    Scores are made a strip of rows at a time, so that memory does not grow with queries times documents. Every rank
    scores its own queries against the documents that it is given, so that nothing is gathered but the number of
    queries; the gradient is that of the whole batch's mean on a single rank. With ``share_documents`` the table is made
    of the documents of all ranks: then it is :class:`InfoNCE` of queries that may share documents, of which there can
    be fewer than queries.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        share_documents: whether the documents of each rank serve the queries of all.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`.

    Example:
        >>> loss = FullSoftmax(normalization="dot", temperature=1.0)
        >>> queries, documents = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
        >>> loss(queries, documents, torch.tensor([1]))
        tensor(0.2395)
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        share_documents: bool = False,
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(normalization=normalization, **options)
        check_flag(share_documents=share_documents)
        if share_documents and not self.gather:
            raise ValueError("share_documents: nothing is shared where gather=False; leave one of them out")
        self.share_documents = share_documents

    @classmethod
    def sharing(cls, contrast: ContrastiveLoss) -> FullSoftmax:
        """A softmax with the parts of another loss, so that what the other learns is learnt by both.

        Similarity, temperature and the names under which callbacks see embeddings are the other's own modules; its
        kernels play no part, nor does the bias of a sigmoid loss, which all documents of a query have in common.

        Raises:
            ValueError: if the other goes another way than from queries to documents alone.
        """
        if isinstance(contrast, InfoNCE) and _has_other_terms(contrast):
            raise ValueError(
                "contrast: a full softmax goes from queries to documents alone; leave symmetric, direction, same_side, "
                "joint, queue_size and what shapes the sum (smoothing, margins, decoupled, prior, hardness, prefixes) "
                "as they are by default"
            )
        softmax = cls(**contrast.shared_options)
        softmax.similarity, softmax.scaling = contrast.similarity, contrast.scaling
        softmax.queries, softmax.documents = contrast.queries, contrast.documents
        softmax.training, softmax.rank_group = contrast.training, contrast.rank_group
        return softmax

    @uncompiled
    def forward(
        self,
        queries: Tensor,
        documents: Tensor,
        targets: Tensor | None = None,
        *,
        document_ids: Tensor | None = None,
        log_expected: Tensor | None = None,
        weights: Tensor | None = None,
        temperatures: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of queries.

        Args:
            queries: ``[n, d]``, not normalised.
            documents: ``[m, d]``, not normalised.
            targets: the row of each query's document, int64 ``[n]``; left out, document i is that of query i.
            document_ids: ``[m]``, where a document may stand in several rows: further rows of the target are no
                negatives. -1 is no id.
            log_expected: ``log Q`` of every row, ``[m]``.
            weights: of the queries, ``[n]``, see :meth:`InfoNCE.forward`.
            temperatures: of the queries, ``[n]``, likewise.

        Returns:
            A scalar, the mean over the queries of all ranks; with ``reduction="none"`` ``[n]``, of this rank's.

        Raises:
            ValueError: if something does not fit together, or a side has NaN or infinite embeddings.
        """
        targets = _in_order(queries, documents) if targets is None else targets
        _check_shapes(queries, documents, targets, {"document_ids": document_ids, "log_expected": log_expected})
        check_per_query(queries, weights=weights, temperatures=temperatures)
        self.check_reducible(weights, temperatures)
        queries, documents = self.queries(queries), self.documents(documents)
        if self.training:
            self.scaling.hold_in_training()
        with torch.autocast(queries.device.type, enabled=False):
            ranks = self.ranks(queries, targets)
            self.settle_temperature(queries, documents, ranks)
            rows = ranks.rows(len(queries), traits=[Trait("weights", "1 if given", int(weights is not None))])[0]
            anchors = self.scaled_queries(queries, temperatures)
            wide = torch.promote_types(torch.promote_types(queries.dtype, documents.dtype), torch.float32)
            vectors = self.similarity.rescale_documents(documents)
            if self.share_documents:
                vectors, targets, document_ids, log_expected = _of_all_ranks(
                    ranks, vectors.to(wide), targets, document_ids, log_expected
                )
            losses = self._losses(anchors, vectors, targets, document_ids, log_expected, in_sum=self.wants_sum(weights))
            loss = self.reduce(losses, wide, weights, rows, ranks)
        if self.check_finite and not bool(loss.isfinite().all()):
            check_finite(queries=queries, documents=documents)
            raise ValueError(scores_error("queries", loss.dtype, ranks.count))
        return loss

    def _losses(
        self,
        anchors: Tensor,
        vectors: Tensor,
        targets: Tensor,
        document_ids: Tensor | None,
        log_expected: Tensor | None,
        *,
        in_sum: bool,
    ) -> Tensor:
        """Of this rank's queries, ``[n]``, or their sum."""
        wide = torch.promote_types(anchors.dtype, vectors.dtype)
        anchors, vectors = anchors.to(wide), vectors.to(wide)
        if log_expected is not None:
            # One more coordinate adds a term to every score, and the scores need not be held to add it.
            anchors = F.pad(anchors, (0, 1), value=1.0)
            vectors = torch.cat((vectors, -log_expected.to(wide)[:, None]), 1)
        exclusion = _repeated(document_ids, targets)
        if in_sum:
            return sum_log_sum_exp(anchors, vectors, positives=targets, exclusion=exclusion, chunk_size=self.chunk_size)
        rows, _, scores = log_sum_exp(
            anchors, vectors, positives=targets, exclusion=exclusion, chunk_size=self.chunk_size
        )
        return softmax_loss(rows, scores)


def _has_other_terms(contrast: InfoNCE) -> bool:
    """Whether a loss is more than a softmax of queries over documents."""
    further = contrast.from_documents or contrast.query_negatives or contrast.document_negatives or contrast.joint
    is_shaped = contrast.terms != SoftmaxTerms() or contrast.rules != NegativeRules()
    is_shaped = is_shaped or contrast.prefixes is not None
    return bool(further) or contrast.queue is not None or is_shaped


def _of_all_ranks(
    ranks: Ranks, vectors: Tensor, targets: Tensor, document_ids: Tensor | None, log_expected: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Documents of all ranks one after the other, and what is known of them; targets are rows of those."""
    traits = [
        Trait("document_ids", "1 if given", int(document_ids is not None)),
        Trait("log_expected", "1 if given", int(log_expected is not None)),
        Trait("documents", "1 if they carry gradient", int(vectors.requires_grad)),
        Trait("documents", "bytes of a number", vectors.dtype.itemsize),
        Trait("documents", "dimension", vectors.shape[1]),
    ]
    rows = ranks.rows(len(vectors), traits=traits)[0]
    ids = None if document_ids is None else ranks.gather(document_ids.long(), rows)
    expected = None if log_expected is None else ranks.gather(log_expected.to(vectors.dtype), rows)
    return ranks.gather(vectors, rows), targets + rows.local_slice.start, ids, expected


def _in_order(queries: Tensor, documents: Tensor) -> Tensor:
    """Targets of queries whose documents come first, in their order."""
    if not isinstance(queries, Tensor) or not isinstance(documents, Tensor) or len(documents) < len(queries):
        raise ValueError(
            "targets: expected the row of each query's document; they may be left out where document i is that of "
            "query i, of which there are fewer than queries here"
        )
    return torch.arange(len(queries), device=queries.device)


def _repeated(document_ids: Tensor | None, targets: Tensor) -> Exclusion | None:
    if document_ids is None:
        return None
    return Exclusion((document_ids[targets],), (document_ids,), positive_columns=targets[:, None])


def _check_shapes(queries: Tensor, documents: Tensor, targets: Tensor, of_documents: dict[str, Tensor | None]) -> None:
    _check_tensors(queries, documents, targets, of_documents)
    if queries.ndim != 2 or not queries.numel():
        raise ValueError(f"queries: expected [n, d] with at least one, got {tuple(queries.shape)}; skip empty batches")
    if documents.ndim != 2 or documents.shape[1] != queries.shape[1] or not len(documents):
        raise ValueError(
            f"documents: expected [m, {queries.shape[1]}] as queries, with at least one, got {tuple(documents.shape)}"
        )
    if targets.shape != queries.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(f"targets: expected int64 [{len(queries)}], got {targets.dtype} {list(targets.shape)}")
    if not 0 <= int(targets.min()) <= int(targets.max()) < len(documents):
        lowest, highest = int(targets.min()), int(targets.max())
        raise ValueError(f"targets: expected rows of documents, 0 to {len(documents) - 1}, got {lowest} to {highest}")
    for name, values in of_documents.items():
        if values is not None and values.shape != documents.shape[:1]:
            raise ValueError(f"{name}: expected one for each of {len(documents)} documents, got {list(values.shape)}")
    ids, log_expected = of_documents["document_ids"], of_documents["log_expected"]
    if ids is not None and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
        raise ValueError(f"document_ids: expected whole numbers, got {ids.dtype}; use torch.long")
    if log_expected is not None and not (log_expected.is_floating_point() and bool(log_expected.isfinite().all())):
        raise ValueError(
            f"log_expected: expected finite floating-point logarithms, got {log_expected.dtype}, of which "
            f"{int((~log_expected.isfinite()).sum())} are not finite; a document that is never drawn is in no sample"
        )


def _check_tensors(queries: Tensor, documents: Tensor, targets: Tensor, of_documents: dict[str, Tensor | None]) -> None:
    arguments = {"queries": queries, "documents": documents, "targets": targets, **of_documents}
    for name, values in arguments.items():
        if values is None and name in of_documents:
            continue
        if not isinstance(values, Tensor):
            raise ValueError(f"{name}: expected a tensor, got {type(values).__name__}; number what has names")
        if name in ("queries", "documents") and not values.is_floating_point():
            raise ValueError(f"{name}: expected floating-point embeddings, got {values.dtype}; write {name}.float()")
        if values.device != queries.device:
            raise ValueError(f"{name}: expected on the device of queries, {queries.device}, got {values.device}")
