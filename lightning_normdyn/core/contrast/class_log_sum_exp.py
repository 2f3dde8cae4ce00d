"""Softmax losses over many classes, where something else stands in for the score with the own class.

A margin makes the own class score less. The scores of all others are made a strip of whole rows at a time, and the
gradient at once: a row's share of every class is known as soon as the row is, so that nothing is computed twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.first_derivative import first_derivative_only
from lightning_normdyn.core.contrast.log_sum_exp import row_tops, shifted_exp, softmax_losses
from lightning_normdyn.core.dynamics.geometry import most_precise

_STRIP = 2**24  # scores that are held at once: 64 MiB in float32
_LARGEST_LOG_SUM = 60.0  # its exponential and one over it are far from the ends of float32
_SMALLEST_LOG = -85.0  # an exponential below is at the end of float32, where a product slows down tenfold


def sum_class_losses(
    a: Tensor, b: Tensor, classes: Tensor, class_scores: Tensor, slopes: Tensor, *, chunk_size: int | None = None
) -> Tensor:
    """``sum_i log(1 + sum_{j != y} exp(<a_i, b_j> - t_i))`` with what stands in for the own score, ``t_i``.

    Safe at any size of the scores. Three matrix products in all, and memory for 2^24 scores at most.

    Args:
        a: ``[n, d]``, float32 or float64.
        b: ``[m, d]``, likewise.
        classes: the own column ``y`` of each row, int64 ``[n]``.
        class_scores: ``t``, ``[n]``; its own gradient is that by everything but the scores ``<a_i, b_y>``.
        slopes: its derivative by those, ``[n]``; a constant.
        chunk_size: rows that are looked at together; ``None`` picks what suits the device.

    Returns:
        A scalar, float64 where the device has that.

    Example:
        >>> a, b = torch.eye(2), torch.eye(2)
        >>> sum_class_losses(a, b, torch.arange(2), class_scores=torch.tensor([0.5, 0.5]), slopes=torch.ones(2))
        tensor(0.9482, dtype=torch.float64)
    """
    total: Tensor = _SumClassLosses.apply(a, b, classes, class_scores, slopes.to(a.dtype), chunk_size)
    return total


class _SumClassLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, classes: Tensor, class_scores: Tensor, slopes: Tensor, chunk_size: int | None
    ) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            wants_a, wants_b = ctx.needs_input_grad[:2]
            of_a = torch.empty_like(a) if wants_a else None
            of_b = torch.zeros_like(b) if wants_b else None
            of_class_scores = torch.empty_like(class_scores)
            total = most_precise(a.new_zeros(()))
            common_shift = _common_shift(a, b, class_scores)
            height = chunk_size or _height(len(a), len(b), a.device)
            memory = a.new_empty(min(height, len(a)), len(b))
            for top in range(0, len(a), height):
                rows = slice(top, min(top + height, len(a)))
                exps = torch.mm(a[rows], b.T, out=memory[: rows.stop - top])
                exps.scatter_(1, classes[rows, None], -torch.inf)
                shift = row_tops(exps) if common_shift is None else common_shift
                if common_shift is None:
                    shifted_exp(exps, shift, exps)
                else:
                    exps.sub_(common_shift).exp_()
                sums = exps.sum(1, keepdim=True)
                losses, divisors = softmax_losses(sums, shift, class_scores[rows, None])
                total += losses.sum()
                of_class_scores[rows] = -(most_precise(sums) / divisors).squeeze(1).to(class_scores.dtype)
                # The own class falls by the share of all others, times what its score moves the loss by.
                exps.scatter_(1, classes[rows, None], -sums * slopes[rows, None])
                if of_a is not None:
                    torch.mm(exps, b, out=of_a[rows]).div_(divisors)
                if of_b is not None:
                    of_b.addmm_(exps.T, a[rows] / divisors)
        ctx.save_for_backward(*(gradient for gradient in (of_a, of_b) if gradient is not None), of_class_scores)
        return total

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, of_total: Tensor) -> tuple[Tensor | None, ...]:
        *of_vectors, of_class_scores = ctx.saved_tensors
        gradients = iter(of_vectors)
        of_a, of_b = (next(gradients) * of_total if is_needed else None for is_needed in ctx.needs_input_grad[:2])
        return of_a, of_b, None, of_class_scores * of_total, None, None


def _common_shift(a: Tensor, b: Tensor, class_scores: Tensor) -> Tensor | None:
    """What may be taken off all scores, by the Cauchy-Schwarz inequality; ``None`` if rows need shifts of their own."""
    if a.device.type != "cpu":  # it would have to be waited for
        return None
    longest = float(torch.linalg.vector_norm(a, dim=1).max() * torch.linalg.vector_norm(b, dim=1).max())
    largest = max(longest, float(class_scores.max()))
    shift = max(0.0, largest + math.log(len(b)) - _LARGEST_LOG_SUM)
    return a.new_full((1, 1), shift) if -longest - shift >= _SMALLEST_LOG else None


def _height(n: int, m: int, device: torch.device) -> int:
    """Rows of a strip, of which all but the last are equally high."""
    most = max(1, (_STRIP if device.type == "cpu" else 4 * _STRIP) // m)
    return math.ceil(n / math.ceil(n / most))
