"""The exact budget of a squared norm over one optimizer step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import by_blocks, most_precise, safe_norm
from lightning_normdyn.core.tensor_checks import check_tensors


class NormBudget(NamedTuple):
    """Where a change of the squared norm came from. Every field has shape ``[...]`` and the unit of ``x²``.

    Attributes:
        decay: ``2<x, Δ_decay>``, what weight decay took; zero where the optimizer's decay cannot be told apart.
        drift: ``2<x, Δ_task>``, the task's push along the radius.
        growth: ``|Δ|²``, what any step adds, whatever its direction.
        total: the observed change, ``R²(after) - R²(before)``, from the norms alone.
    """

    decay: Tensor
    drift: Tensor
    growth: Tensor
    total: Tensor

    @property
    def residual(self) -> Tensor:
        """``total - (decay + drift + growth)``: zero to rounding, or the bookkeeping is wrong."""
        return self.total - (self.decay + self.drift + self.growth)


class UpdateSums(NamedTuple):
    """What the budget of a step consists of, for each of several vectors; ``[n]`` in float64.

    Attributes:
        before: ``|x|²`` before the step.
        after: the same after it.
        product: ``<x, Δ>``.
        growth: ``|Δ|²``.
    """

    before: Tensor
    after: Tensor
    product: Tensor
    growth: Tensor

    @classmethod
    def of(cls, before: Tensor, after: Tensor) -> UpdateSums:
        """Reads a step of vectors without a history of gradients, ``[n, d]`` before it and after it.

        Example:
            >>> UpdateSums.of(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 2.0]])).product
            tensor([-8.], dtype=torch.float64)
        """
        start, end, product, step = by_blocks(_update_lengths, before, after)
        return cls(start.square_(), end.square_(), product, step.square_())


def _update_lengths(before: Tensor, after: Tensor) -> tuple[Tensor, ...]:
    start, end = most_precise(before), most_precise(after)
    step = end - start
    lengths = [torch.linalg.vector_norm(vectors, dim=-1) for vectors in (start, end, step)]
    return lengths[0], lengths[1], step.mul_(start).sum(-1), lengths[2]  # in its memory: to get more takes longer


def norm_budget(before: Tensor, after: Tensor, decay_update: Tensor | None = None) -> NormBudget:
    """Splits the change of ``R²`` over one step into decay, drift and growth.

    ``R²(t+1) - R²(t) = 2<x, Δ> + |Δ|²`` with ``Δ = Δ_decay + Δ_task``: an identity for any optimizer, so
    ``decay + drift + growth = total`` to rounding, and sums over a window telescope (theory: the exact budget; Su, Ren,
    Veitch 2026, arXiv 2606.30625). Everything is computed in float64, because the change is a small difference of
    large squares.

    Args:
        before: embeddings before the step, ``[..., d]``.
        after: the same embeddings after it, ``[..., d]``.
        decay_update: the part of the update that weight decay made, ``[..., d]``: ``-lr·weight_decay·x`` for AdamW.
            ``None`` where it cannot be told apart (coupled decay in Adam): decay is then zero and drift holds both.

    Returns:
        The budget in float64.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> before, after = torch.tensor([2.0, 0.0]), torch.tensor([1.9, 0.5])
        >>> budget = norm_budget(before, after, decay_update=torch.tensor([-0.1, 0.0]))
        >>> [round(part.item(), 4) for part in budget]
        [-0.4, -0.0, 0.26, -0.14]
    """
    others = {"after": after} if decay_update is None else {"after": after, "decay_update": decay_update}
    check_tensors(before=before, **others)
    for name, rows in others.items():
        if rows.shape != before.shape:
            raise ValueError(
                f"{name}: expected the shape of before, {tuple(before.shape)}, got {tuple(rows.shape)}; "
                "pass the same rows"
            )
    start, end = most_precise(before), most_precise(after)
    step = end - start
    radial = 2 * torch.linalg.vecdot(start, step)
    decay = (
        torch.zeros_like(radial) if decay_update is None else 2 * torch.linalg.vecdot(start, most_precise(decay_update))
    )
    return NormBudget(decay=decay, drift=radial - decay, growth=_square(step), total=_square(end) - _square(start))


def _square(x: Tensor) -> Tensor:
    return safe_norm(x).square()
