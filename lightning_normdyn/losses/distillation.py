"""Distillation of a teacher's distribution over documents, by the Kullback-Leibler divergence."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.target_scores import EmbeddingTargets, MatrixTargets, TargetScores
from lightning_normdyn.core.contrast.tile_edits import Tile
from lightning_normdyn.core.object_checks import check_choice
from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates, gather_candidates
from lightning_normdyn.losses.options import (
    Direction,
    DistillationCandidates,
    SoftmaxOptions,
    TeacherNormalization,
    Unpack,
)
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.soft_targets import Directions
from lightning_normdyn.losses.teacher_loss import TeacherLoss


class DistillKLDiv(TeacherLoss):
    """``L = mean_i sum_j t_ij (log t_ij - log p_ij)``, ``p = softmax_j(s_ij/tau)``, ``t = softmax_j(T_ij/tau_T)``.

    Listwise distillation: the distribution of the scores ``s`` of :class:`NormalizedSimilarity` over a query's
    candidates is to be that of a teacher's scores ``T``, as of a cross-encoder or a larger model (TCT-ColBERT,
    arXiv 2010.11386; temperatures after Hinton et al., arXiv 1503.02531, section 2). Candidates are listed, a positive
    and hard negatives of a query's own, or all documents of the batch on all ranks, whose scores are made a tile at a
    time, the teacher's too where it comes as embeddings: neither matrix is ever held.

    The value is 0 where both distributions are equal, and is not multiplied by ``tau^2``, as Hinton et al. do to weigh
    it against another loss: a learnt temperature would lower it by falling.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        candidates: ``"listed"`` for documents that are named for each query, ``"in_batch"`` for all.
        symmetric: whether documents have a distribution over queries too, the teacher's scores being read by column;
            the loss is the mean of both directions. Of candidates in the batch alone.
        direction: which way to go if not both.
        teacher_temperature: what the teacher's scores are divided by, ``tau_T``: so that they spread by a few units.
            1 suits the logits of a cross-encoder, 0.05 the cosines of embeddings.
        teacher_normalization: which norms the teacher's own scores keep, where it comes as embeddings.
        with_metrics: whether each batch leaves what :meth:`metrics` gives: ``agreement``, the share of queries whose
            best candidate is the teacher's, and ``teacher_entropy``, in nats.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`.

    Raises:
        ValueError: if an argument is out of its range, or makes no sense with another.

    Example:
        >>> loss = DistillKLDiv(normalization="dot", temperature=1.0)
        >>> queries, documents, hard = torch.eye(2), torch.eye(2), torch.zeros(2, 1, 2)
        >>> loss(queries, documents, hard_negatives=hard, teacher_scores=torch.tensor([[5.0, 4.0], [3.0, 3.0]]))
        tensor(0.0601)
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        candidates: DistillationCandidates = "listed",
        symmetric: bool = False,
        direction: Direction = "query_to_document",
        teacher_temperature: float = 1.0,
        teacher_normalization: TeacherNormalization = "cosine",
        with_metrics: bool = False,
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(
            normalization=normalization,
            teacher_temperature=teacher_temperature,
            teacher_normalization=teacher_normalization,
            with_metrics=with_metrics,
            **options,
        )
        check_choice(get_args(DistillationCandidates), candidates=candidates)
        self.candidates = candidates
        self.directions = Directions.check(symmetric=symmetric, direction=direction)
        if self.is_listed and self.directions.from_documents:
            raise ValueError(
                f"{'symmetric' if symmetric else 'direction'}: listed documents belong to a query, and have no queries "
                "to choose from; leave it out, or take candidates='in_batch'"
            )

    def _losses(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        if self.is_listed:
            return self._listed(batch, candidates, ranks)
        reading = _TopCandidates(len(batch.queries), batch.queries.device) if self.with_metrics else None
        targets = self._targets(batch, candidates, ranks)
        of_batch = self.directions.streamed(
            self, batch, candidates, ranks, targets, with_entropies=self.with_metrics, reading=reading
        )
        rows = of_batch.rows
        if self.directions.from_queries:
            # A query that the teacher gave nothing, which _refuse_infinite_targets names.
            rows = rows.where(of_batch.row_entropies.isfinite(), torch.nan)
        if reading is not None:
            entropies = self.directions.mean(of_batch.row_entropies, of_batch.column_entropies)
            self._keep_metrics(reading.agree, entropies.nan_to_num(0), candidates, ranks)
        return self.directions.mean(rows, of_batch.columns)

    def _targets(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> TargetScores:
        """Of this rank's queries and the candidates of all."""
        teacher, dtype = batch.teacher, candidates.vectors.dtype
        assert teacher is not None
        if teacher.scores is None:
            queries, documents, hard = self._rescaled_teacher(teacher, dtype)
            return EmbeddingTargets(queries, gather_candidates(documents, hard, candidates.groups, ranks))
        if teacher.scores.shape[1] != len(candidates.vectors):
            raise ValueError(
                f"teacher_scores: expected one for each of {len(candidates.vectors)} candidates of all ranks, got "
                f"{teacher.scores.shape[1]}; teacher_queries and teacher_documents are gathered like documents"
            )
        return MatrixTargets(teacher.scores, 1 / self.teacher_temperature, dtype, leaves_out=True)

    def _listed(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        scores, targets = self._lists(batch, candidates)
        log_p, log_t = scores.log_softmax(1), targets.log_softmax(1)
        has_share = log_t != -torch.inf
        gaps = (log_t - log_p).where(has_share, 0.0)
        if self.with_metrics:
            entropies = -(log_t.exp() * log_t.where(has_share, 0.0)).sum(1)
            self._keep_metrics(scores.argmax(1) == targets.argmax(1), entropies, candidates, ranks)
        return (log_t.exp() * gaps).sum(1)

    @torch.no_grad()
    def _keep_metrics(self, agree: Tensor, entropies: Tensor, candidates: Candidates, ranks: Ranks) -> None:
        sums = ranks.sum(torch.stack((agree.to(entropies.dtype).sum(), entropies.sum())))
        agreement, entropy = (sums / candidates.positives.total).float().unbind()
        self._metrics = {"agreement": agreement, "teacher_entropy": entropy}

    def _lacks_target(self, left_out: Tensor) -> Tensor:
        return left_out.all(1)

    def _words_on_lack(self, queries: str) -> str:
        return f"every candidate of {queries} queries is left out"

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return (
            f"candidates={'listed' if self.is_listed else 'in_batch'!r}, teacher_temperature={self.teacher_temperature}"
        )


class _TopCandidates:
    """Remembers the best candidate of each query by the loss's scores and by the teacher's, tile by tile."""

    def __init__(self, n: int, device: torch.device) -> None:
        self._best = [torch.full((n,), -torch.inf, device=device) for _ in range(2)]
        self._columns = [torch.full((n,), -1, device=device) for _ in range(2)]

    @property
    def agree(self) -> Tensor:
        """Where both have the same, ``[n]``."""
        return self._columns[0] == self._columns[1]

    def __call__(self, scores: Tensor, targets: Tensor, tile: Tile) -> None:
        for values, best, columns in zip((scores, targets), self._best, self._columns, strict=True):
            top, place = values.float().max(1)
            leads = top > best[tile.rows]
            best[tile.rows] = top.where(leads, best[tile.rows])
            columns[tile.rows] = (place + tile.columns.start).where(leads, columns[tile.rows])
