"""Distillation of a teacher's margins between documents, by their mean squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates
from lightning_normdyn.losses.options import (
    SoftmaxOptions,
    TeacherNormalization,
    Unpack,
)
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.teacher_loss import TeacherLoss


class MarginMSE(TeacherLoss):
    """``L = mean_i mean_j [(s_i+ - s_ij)/tau - (T_i+ - T_ij)/tau_T]^2`` over the negatives j of each query.

    A teacher's margin between the first of a query's listed documents and each other one is to be the scorer's own
    (MarginMSE of Hofstätter et al., arXiv 2010.02666). Only margins count, so that teacher and scorer may differ by a
    number of each query's own. Scores are those of :class:`NormalizedSimilarity`, and no other documents meet.

    The paper's scores are inner products: ``normalization="dot", temperature=1.0``. Cosines span 2 at most and margins
    of cross-encoders 10 and more, hence the temperature, which may be learnt. A learnt one may make up for a teacher
    whose unit nobody knows; with ``dot`` lengths do.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        teacher_temperature: what the teacher's scores are divided by, ``tau_T``.
        teacher_normalization: which norms the teacher's own scores keep, where it comes as embeddings.
        with_metrics: whether each batch leaves what :meth:`metrics` gives: ``agreement``, the share of pairs that are
            in the teacher's order.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = MarginMSE(normalization="dot", temperature=1.0)
        >>> queries, documents, hard = torch.eye(2), torch.eye(2), torch.zeros(2, 1, 2)
        >>> loss(queries, documents, hard_negatives=hard, teacher_scores=torch.tensor([[5.0, 4.0], [3.0, 3.0]]))
        tensor(0.5000)
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        teacher_temperature: float = 1.0,
        teacher_normalization: TeacherNormalization = "cosine",
        with_metrics: bool = False,
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        # Written out: jsonargparse up to 4.49 shows no help for the options of a constructor that is inherited.
        super().__init__(
            normalization=normalization,
            teacher_temperature=teacher_temperature,
            teacher_normalization=teacher_normalization,
            with_metrics=with_metrics,
            **options,
        )

    def _losses(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        scores, targets = self._lists(batch, candidates)
        takes_part = targets[:, 1:] != -torch.inf
        margins = (scores[:, :1] - scores[:, 1:].where(takes_part, 0.0)).where(takes_part, 0.0)
        of_teacher = (targets[:, :1] - targets[:, 1:].where(takes_part, 0.0)).where(takes_part, 0.0)
        if self.with_metrics:
            self._keep_metrics((margins * of_teacher > 0) | (margins == of_teacher), takes_part, ranks)
        return (margins - of_teacher).square().sum(1) / takes_part.sum(1)

    @torch.no_grad()
    def _keep_metrics(self, agree: Tensor, takes_part: Tensor, ranks: Ranks) -> None:
        sums = ranks.sum(torch.stack([(x & takes_part).sum() for x in (agree, takes_part)]).to(torch.float64))
        self._metrics = {"agreement": (sums[0] / sums[1]).float()}

    def _refuse_infinite_targets(self, batch: Batch) -> None:
        super()._refuse_infinite_targets(batch)
        scores = None if batch.teacher is None else batch.teacher.scores
        if scores is None:
            return
        largest = float(scores.where(scores.isfinite(), 0.0).abs().max()) / self.teacher_temperature
        if largest > torch.finfo(torch.float32).max ** 0.5 / 2:
            raise ValueError(
                f"teacher_scores: up to {largest:.3g} over teacher_temperature, whose margins squared leave float32; "
                "raise teacher_temperature, or look at the teacher"
            )

    def _lacks_target(self, left_out: Tensor) -> Tensor:
        return left_out[:, 0] | left_out[:, 1:].all(1)

    def _words_on_lack(self, queries: str) -> str:
        return f"{queries} queries have no margin, since the first candidate or all others are left out"
