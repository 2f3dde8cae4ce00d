"""What a softmax loss makes of a pair once its scores are summed: margins, smoothing, a sum without the positive."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.log_sum_exp import softmax_loss
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.number_checks import check_flag, check_not_negative


class ScoreMean(NamedTuple):
    """The mean score of all that a query, or a document, chooses from.

    Attributes:
        total: sum of the scores over the temperature, ``[n]``.
        number: how many they are, ``[n]``.
    """

    total: Tensor
    number: Tensor


class NegativeCount(NamedTuple):
    """What debiasing needs to know of the negatives of each pair.

    Attributes:
        number: how many there are, ``[n]``.
        floor: the smallest score over the temperature that any could have, ``[n]``.
    """

    number: Tensor
    floor: Tensor


class SoftmaxTerms(NamedTuple):
    """How a pair's loss comes of the log-sum-exp of its candidates and the score ``s`` of its positive.

    ``L = log[sum_negatives exp(s_j/tau) + exp(p/tau)] - p/tau`` with ``p = s - relative_margin |s| - margin``
    (the additive margin of CosFace, Wang et al. 2018, arXiv 1801.09414).

    Attributes:
        label_smoothing: share of the target that is spread evenly over all candidates, the positive among them
            (arXiv 1512.00567, section 7).
        margin: taken off the score of a positive, in the unit of scores before the temperature.
        relative_margin: likewise, as a share of the score's size.
        decoupled: whether the positive is left out of the sum (DCL, arXiv 2110.06848).
        prior: share of the negatives that are none, which is taken out of their sum: ``[sum_negatives exp(s_j/tau) - N
            prior exp(p/tau)] / (1 - prior)``, and at least ``N`` times the smallest exponential that there can be
            (Chuang et al. 2020, arXiv 2007.00224, with the pair itself as the sample of positives).

    Example:
        >>> terms = SoftmaxTerms.check(margin=0.1)
        >>> terms.losses(torch.tensor([0.0]), torch.tensor([2.0]), factor=10.0)
        tensor([0.3133], dtype=torch.float64)
    """

    label_smoothing: float = 0.0
    margin: float = 0.0
    relative_margin: float = 0.0
    decoupled: bool = False
    prior: float = 0.0

    @classmethod
    def check(
        cls,
        *,
        label_smoothing: float = 0.0,
        margin: float = 0.0,
        relative_margin: float = 0.0,
        decoupled: bool = False,
        prior: float = 0.0,
    ) -> SoftmaxTerms:
        """Refuses what is out of range, or makes no sense together.

        Raises:
            ValueError: naming the argument, what came, and the likely fix.
        """
        shares = {"label_smoothing": label_smoothing, "relative_margin": relative_margin, "prior": prior}
        check_not_negative(
            label_smoothing=label_smoothing, relative_margin=relative_margin, prior=prior, hint="0.1 is common"
        )
        for name, share in shares.items():
            if share >= 1:
                raise ValueError(f"{name}: expected a share from 0 to below 1, got {share!r}; 0.1 is common")
        check_not_negative(margin=margin, hint="0.1 is common for a cosine")
        check_flag(decoupled=decoupled)
        if decoupled and label_smoothing:
            raise ValueError(
                "label_smoothing: the decoupled loss is no softmax over candidates that could be smoothed; leave it out"
            )
        if prior and label_smoothing:
            raise ValueError("prior: it has no place in the target of label_smoothing; leave one of them out")
        return cls(float(label_smoothing), float(margin), float(relative_margin), decoupled, float(prior))

    def losses(
        self,
        log_sums: Tensor,
        scores: Tensor,
        *,
        factor: float | Tensor,
        above_mean: Tensor | float = 0.0,
        mean: ScoreMean | None = None,
        negatives: NegativeCount | None = None,
    ) -> Tensor:
        """The loss of each pair.

        Args:
            log_sums: log-sum-exps over all candidates but the positive that the pair is made of, ``[n]``; over
                negatives alone where the loss is decoupled.
            scores: of the pairs over the temperature, ``[n]``.
            factor: one over the temperature, a number or one for each pair.
            above_mean: by how much a pair's score is above the mean of all its positives, ``[n]``.
            mean: of the scores of all candidates, where labels are smoothed.
            negatives: where there is a prior.

        Returns:
            ``[n]``; 0 for what has no negatives, where the loss is decoupled.
        """
        p = scores = most_precise(scores)
        if self.relative_margin:
            p = p - self.relative_margin * p.abs()
        if self.margin:
            p = p - self.margin * factor
        if self.prior:
            assert negatives is not None
            log_sums = self._debiased(log_sums, scores, negatives)
        if self.decoupled:
            losses = (log_sums - p + above_mean).where(log_sums > -torch.inf, 0.0)
        else:
            losses = softmax_loss(log_sums, p) + above_mean
        if self.label_smoothing:
            assert mean is not None
            losses = losses + self.label_smoothing * (p - above_mean - (mean.total - scores + p) / mean.number)
        return losses

    def _debiased(self, log_sums: Tensor, scores: Tensor, negatives: NegativeCount) -> Tensor:
        """The log of the negatives' sum without what the prior takes out of it, ``[n]``."""
        logs = log_sums.where(log_sums > -torch.inf, 0.0)
        shares = 1 - self.prior * negatives.number * (scores - logs).exp()
        is_left = (shares > 0) & (log_sums > -torch.inf)
        debiased = logs + shares.where(is_left, 1.0).log() - math.log1p(-self.prior)
        floor = most_precise(negatives.number).log() + negatives.floor
        return torch.maximum(debiased.where(is_left, -torch.inf), floor)
