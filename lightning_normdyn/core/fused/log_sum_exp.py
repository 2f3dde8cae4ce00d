"""The fused log-sum-exp as a differentiable function: Triton kernels forward and backward in one autograd function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.factored import Factored
from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.fused.backward import gradients
from lightning_normdyn.core.fused.forward import log_sum_exps


def fused_log_sum_exp(
    a: Factored,
    b: Factored,
    *,
    positives: Tensor,
    columns: int = 0,
    exclusion: Exclusion | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`lightning_normdyn.core.contrast.log_sum_exp.log_sum_exp` gives for ``factors · rows`` of either side.

    Neither the scores nor a wide copy of the rows is ever made. The arguments must be such that
    :func:`lightning_normdyn.core.fused.language.supports` their rows.

    Args:
        a: ``[n, d]``.
        b: ``[m, d]``.
        positives: a column of each row whose score is wanted too, ``[n]``.
        columns: how many columns are wanted, from the first on.
        exclusion: pairs to leave out, of which positives are none.

    Returns:
        Rows ``[n]`` and columns ``[columns]`` in float64 and the scores of the positives ``[n]`` in float32.
    """
    rows, columns_, of_positives = _FusedLogSumExp.apply(a.place, b.place, a[:2], b[:2], positives, columns, exclusion)
    return rows, columns_, of_positives


class _FusedLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        place_a: Tensor,
        place_b: Tensor,
        a: tuple[Tensor, Tensor],
        b: tuple[Tensor, Tensor],
        positives: Tensor,
        columns: int,
        exclusion: Exclusion | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        del place_a, place_b  # named so that autograd brings their gradients home
        log_sums = log_sum_exps(
            a[0],
            b[0],
            columns=columns,
            positives=positives,
            exclusion=exclusion,
            row_factors=a[1],
            column_factors=b[1],
        )
        ctx.exclusion = exclusion
        ctx.save_for_backward(*a, *b, *log_sums[:2], positives)
        return log_sums

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor, of_positives: Tensor) -> tuple[Tensor | None, ...]:
        a, row_factors, b, column_factors, rows, columns, positives = ctx.saved_tensors
        wants_a, wants_b = ctx.needs_input_grad[:2]
        of_a, of_b = gradients(
            *(a, b, rows, columns, of_rows, of_columns),
            positives=positives,
            of_positives=of_positives,
            exclusion=ctx.exclusion,
            row_factors=row_factors,
            column_factors=column_factors,
            wants_a=wants_a,
            wants_b=wants_b,
        )
        return of_a, of_b, None, None, None, None, None
