"""Late interaction: queries and documents of many vectors each, scored by each query token's nearest document token."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import NO_ID
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.contrast.token_maxima import max_sim_scores
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.losses.batch_checks import check_finite, check_per_query, scores_error
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.gather import Ranks, Rows, Trait
from lightning_normdyn.losses.options import SoftmaxOptions, Unpack
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.temperature import AutoTemperature
from lightning_normdyn.losses.token_batch import TokenBatch
from lightning_normdyn.losses.uncompiled import uncompiled


class MaxSim(ContrastiveLoss):
    """``L = mean_i [log sum_j exp(S_ij/tau) - S_ii/tau]`` with ``S_ij = mean_a max_b s(q_ia, d_jb)``.

    ColBERT's late interaction (arXiv 2004.12832, eq. 3) for any cell of the grid of normalizations: ``s`` is the score
    of :class:`NormalizedSimilarity` between a token of the query and one of the document, whose norms are kept or
    divided out token by token. Scores of tokens are made and thrown away a tile at a time; padded and packed documents
    give the same. Documents of all ranks are gathered without their padding, which each rank may have of its own.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        symmetric: whether documents pick their query too; the loss is then the mean of both directions.
        length_normalize: whether a query's score is the mean over its tokens; else it is the sum, ColBERT's, which
            suits as many times higher temperatures as queries have tokens (1 is common with 32).
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`. ``chunk_size`` is how
            many documents are looked at together.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> queries = torch.eye(2)[:, None]  # two queries of a token each
        >>> documents = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
        >>> MaxSim(temperature=1.0)(queries, documents, document_lengths=torch.tensor([2, 1]))
        tensor(0.3133)
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        symmetric: bool = False,
        length_normalize: bool = True,
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(normalization=normalization, **options)
        check_flag(symmetric=symmetric, length_normalize=length_normalize)
        self.symmetric, self.length_normalize = symmetric, length_normalize

    @uncompiled
    def forward(
        self,
        queries: Tensor,
        documents: Tensor,
        *,
        query_mask: Tensor | None = None,
        document_mask: Tensor | None = None,
        document_lengths: Tensor | None = None,
        document_ids: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            queries: vectors of their tokens, ``[n, q, d]``, not normalised; callbacks see those that are no padding.
            documents: padded, ``[m, t, d]``, or packed one after the other, ``[N, d]``; m >= n. Document i is the
                positive of query i, the others, as hard negatives behind them, are negatives of all.
            query_mask: true, or 1, where a token is, ``[n, q]``; ``None`` if everywhere.
            document_mask: of padded documents, ``[m, t]``, likewise.
            document_lengths: of packed documents, how many tokens each has, ``[m]``.
            document_ids: ``[m]``. A document equal to the positive of a query is no negative of it; -1 is no id.
            weights: of the queries, ``[n]``, see :meth:`InfoNCE.forward`.

        Returns:
            A scalar, the mean over the queries of all ranks; with ``reduction="none"`` ``[n]``, of this rank's.

        Raises:
            ValueError: naming the argument that does not fit, or the side with NaN or infinite embeddings.
        """
        batch = TokenBatch.check(queries, documents, query_mask, document_mask, document_lengths)
        ids = batch.checked_ids(document_ids)
        check_per_query(queries, weights=weights, temperatures=None)
        self.check_reducible(weights, None)
        query_tokens, document_tokens = self.queries(batch.query_tokens), self.documents(batch.document_tokens)
        batch = batch._replace(query_tokens=query_tokens, document_tokens=document_tokens)
        if self.training:
            self.scaling.hold_in_training()
        with torch.autocast(queries.device.type, enabled=False):
            ranks = self.ranks(batch.query_tokens, batch.document_tokens)
            loss = self._reduced(batch, ids, weights, ranks)
        if self.check_finite and not bool(loss.isfinite().all()):
            check_finite(queries=batch.query_tokens, documents=batch.document_tokens)
            raise ValueError(scores_error("queries", loss.dtype, ranks.count))
        return loss

    def scores(
        self,
        queries: Tensor,
        documents: Tensor,
        *,
        query_mask: Tensor | None = None,
        document_mask: Tensor | None = None,
        document_lengths: Tensor | None = None,
    ) -> Tensor:
        """Scores ``S`` of this rank's queries and documents before temperature, as :meth:`forward` takes them.

        Returns:
            ``[n, m]``, in float32 at least, for any n and m.

        Example:
            >>> loss, tokens = MaxSim(normalization="dot", length_normalize=False), torch.ones(1, 3, 2)
            >>> loss.scores(tokens, tokens)
            tensor([[6.]])
        """
        batch = TokenBatch.check(queries, documents, query_mask, document_mask, document_lengths)
        with torch.autocast(queries.device.type, enabled=False):
            vectors = self.similarity.rescale_documents(batch.document_tokens)
            return self._scores(batch._replace(document_tokens=vectors)).to(vectors.dtype)

    def _scores(self, batch: TokenBatch) -> Tensor:
        """Of queries with documents whose tokens are rescaled, ``[n, m]``."""
        anchors, vectors = self.similarity.rescale_queries(batch.query_tokens), batch.document_tokens
        wide = torch.promote_types(anchors.dtype, vectors.dtype)
        weights = batch.token_weights(is_mean=self.length_normalize)
        queries = batch.padded(anchors.to(wide))
        return max_sim_scores(queries, weights, vectors.to(wide), batch.document_lengths, chunk_size=self.chunk_size)

    def _reduced(self, batch: TokenBatch, ids: Tensor | None, weights: Tensor | None, ranks: Ranks) -> Tensor:
        """Over the queries of all ranks."""
        wide = torch.promote_types(batch.query_tokens.dtype, batch.document_tokens.dtype)
        wide = torch.promote_types(wide, torch.float32)
        vectors = self.similarity.rescale_documents(batch.document_tokens).to(wide)
        sizes = len(batch.query_mask), len(batch.document_lengths), len(vectors)
        rows, columns, tokens = ranks.rows(*sizes, traits=_traits(batch, vectors, ids, weights))
        batch = batch._replace(
            document_tokens=ranks.gather(vectors, tokens),
            document_lengths=ranks.gather(batch.document_lengths, columns),
        )
        scores = self._scores(batch)
        positives = _positive_columns(rows, columns, scores.device)
        local_positives = positives[rows.local_slice]
        self._settle(batch, scores, local_positives, rows, ranks)
        logits = scores * self.scaling.factor
        if ids is not None:
            logits = logits.masked_fill(_duplicates(ranks.gather(ids, columns), local_positives), -torch.inf)
        positive_logits = logits.gather(1, local_positives[:, None])[:, 0]
        losses = logits.logsumexp(1) - positive_logits
        if self.symmetric:
            sums = ranks.log_sum_exp(logits[:, positives].logsumexp(0))[rows.local_slice]
            losses = (losses + sums - positive_logits) / 2
        return self.reduce(losses, wide, weights, rows, ranks)

    def _settle(self, batch: TokenBatch, scores: Tensor, positives: Tensor, rows: Rows, ranks: Ranks) -> None:
        """Finds the temperature in the first batch of all ranks, by the spread of scores and of mean cosines."""
        if not isinstance(self.scaling, AutoTemperature) or self.scaling.is_settled:
            return
        stays = self.training and torch.is_grad_enabled()
        with torch.no_grad():
            vectors = rescale(batch.document_tokens, 1.0)
            queries = batch.padded(rescale(batch.query_tokens, 1.0).to(vectors.dtype))
            token_weights = batch.token_weights(is_mean=True)
            cosines = max_sim_scores(
                queries, token_weights, vectors, batch.document_lengths, chunk_size=self.chunk_size
            )
            spreads = torch.stack([_variances(values, positives).sum() for values in (scores, cosines)])
            of_scores, of_cosines = (ranks.sum(spreads) / rows.total).tolist()
        self.scaling.settle(of_scores, of_cosines, stays=stays)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"symmetric={self.symmetric}, length_normalize={self.length_normalize}"


def _variances(scores: Tensor, positives: Tensor) -> Tensor:
    """Of the scores ``[n, m]`` of each query with all documents but its own, ``[n]``; zero where there are none."""
    count = max(1, scores.shape[1] - 1)
    is_positive = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, positives[:, None], True)
    means = scores.masked_fill(is_positive, 0).sum(1, keepdim=True) / count
    return (scores - means).masked_fill(is_positive, 0).square().sum(1) / count


def _positive_columns(rows: Rows, columns: Rows, device: torch.device) -> Tensor:
    """The columns of the positives of all ranks' queries: the first documents of each rank."""
    numbers = torch.arange(columns.total, device=device).split(columns.sizes)
    return torch.cat([of_rank[:count] for of_rank, count in zip(numbers, rows.sizes, strict=True)])


def _duplicates(ids: Tensor, positives: Tensor) -> Tensor:
    """Where a document ``[m]`` is equal to the positive of a query ``[n]`` and is not that one, ``[n, m]``."""
    of_positives = ids[positives][:, None]
    return ((of_positives == ids) & (ids != NO_ID)).scatter_(1, positives[:, None], False)


def _traits(batch: TokenBatch, vectors: Tensor, ids: Tensor | None, weights: Tensor | None) -> list[Trait]:
    """What all ranks must do alike, or they would wait for each other's messages for ever."""
    return [
        Trait("document_ids", "1 if given", int(ids is not None)),
        Trait("weights", "1 if given", int(weights is not None)),
        Trait("weights", "1 if they carry gradient", int(weights is not None and weights.requires_grad)),
        Trait("queries", "1 if they carry gradient", int(batch.query_tokens.requires_grad)),
        Trait("documents", "1 if they carry gradient", int(vectors.requires_grad)),
        Trait("documents", "bytes of a number", vectors.dtype.itemsize),
        Trait("documents", "dimension", vectors.shape[1]),
    ]
