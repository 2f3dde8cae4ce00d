"""The pairwise sigmoid loss: every pair is judged by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.shared_sweep import SoftplusTerm
from lightning_normdyn.core.contrast.softplus_sum import PositivePairs, softplus_sum, softplus_sums
from lightning_normdyn.core.number_checks import check_finite_number, check_flag
from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates, InBatchLoss, excluded_pairs, positive_columns
from lightning_normdyn.losses.learnt import OwnNumbers, learnt_number, take_saved_shape, whole, wide_dtype
from lightning_normdyn.losses.options import SharedOptions, StartTemperature, Unpack
from lightning_normdyn.losses.positives import distinct_positives
from lightning_normdyn.losses.shared_parts import NO_INNER_PRODUCT, SharedPart
from lightning_normdyn.losses.similarity import Normalization


class SigmoidContrastive(OwnNumbers, InBatchLoss):
    """``L = -1/n sum_ij log sigmoid(z_ij (s(q_i, d_j)/tau + bias))``, z = 1 for positives and -1 for all others.

    The loss of SigLIP (arXiv 2303.15343, eq. 1) for any cell of the 2x2 grid of normalizations, made and thrown away a
    tile of scores at a time, gradient included. It looks the same from both sides, so it has no direction.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        temperature: what scores are divided by, at the start; ``"auto"`` goes by the spread of the first training
            batch's scores, see :class:`AutoTemperature`.
        learnable_temperature: whether it trains.
        bias: added to every score, at the start: about minus the log of the batch makes most pairs negative.
        learnable_bias: whether it trains.
        options: what all losses share, see :class:`ContrastiveLoss`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = SigmoidContrastive(temperature=1.0, bias=0.0)
        >>> loss(torch.eye(2), torch.eye(2)).detach()
        tensor(1.0064)
    """

    bias: Tensor
    cosine_temperature = 0.1

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        temperature: StartTemperature = 0.1,
        learnable_temperature: bool = True,
        bias: float = -10.0,
        learnable_bias: bool = True,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(
            normalization=normalization,
            temperature=temperature,
            learnable_temperature=learnable_temperature,
            **options,
        )
        check_finite_number(bias=bias, hint="about minus the log of the batch is common")
        check_flag(learnable_bias=learnable_bias)
        self.learnable_bias, self._first_bias = learnable_bias, float(bias)
        if learnable_bias:
            self.bias = learnt_number(bias)
        else:
            self.register_buffer("bias", torch.tensor(float(bias), dtype=wide_dtype()))

    def reset_parameters(self) -> None:
        """Sets the bias to where it started."""
        self.bias.fill_(self._first_bias)

    def learnt(self) -> dict[str, Tensor]:
        """What trains in the loss itself, by the name under which it is logged; detached."""
        return super().learnt() | ({"bias": whole(self.bias).detach().reshape(())} if self.learnable_bias else {})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        take_saved_shape(self.bias, state_dict, f"{prefix}bias")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _losses(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        _refuse_guides(batch)
        anchors = self.scaled_queries(batch.queries, batch.temperatures)
        streamed = softplus_sum if self.wants_sum(batch.weights) else softplus_sums
        return streamed(
            anchors,
            candidates.vectors,
            self._bias.to(anchors.dtype),
            positives=_positives(batch, candidates),
            exclusion=excluded_pairs(batch, candidates),
            chunk_size=self.chunk_size,
        )

    @property
    def _bias(self) -> Tensor:
        """No dimension, whole."""
        return whole(self.bias).reshape(())

    def reason_apart(self, batch: Batch) -> str | None:
        """See :meth:`InBatchLoss.reason_apart`."""
        del batch
        return None if self.similarity.has_directions else NO_INNER_PRODUCT

    def parts(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> list[SharedPart]:
        """See :meth:`InBatchLoss.parts`."""
        del ranks
        _refuse_guides(batch)
        term = SoftplusTerm(
            self._bias.to(candidates.vectors.dtype), _positives(batch, candidates), excluded_pairs(batch, candidates)
        )
        factor = self.factor(batch)
        return [SharedPart(self.similarity, factor, batch.queries.shape[1], term, lambda outcome: outcome[0])]


def _refuse_guides(batch: Batch) -> None:
    if batch.query_guides is not None:
        raise ValueError("query_guides: the pairwise loss asks no guide; take InfoNCE, or leave them out")


def _positives(batch: Batch, candidates: Candidates) -> PositivePairs:
    """Pairs of this rank's queries and all documents that are positive."""
    if candidates.labels is not None:
        nowhere = candidates.positive_columns.new_empty(len(batch.queries), 0)
        return PositivePairs(nowhere, (batch.query_labels, candidates.labels))
    if batch.positives is None:
        return PositivePairs(candidates.positive_columns[:, None])
    once = batch.positives.where(distinct_positives(batch.positives), -1)
    return PositivePairs(positive_columns(batch._replace(positives=once), candidates))
