"""The balance equation of the norm: where it settles, and the path it takes under any learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_not_negative
from lightning_normdyn.core.tensor_checks import check_tensors


def equilibrium_norm(
    second_moment: Tensor | float, radial_decay: Tensor | float, lr: Tensor | float, drift: Tensor | float = 0.0
) -> Tensor:
    """The norm at which weight decay, radial drift and gradient noise balance.

    The positive root ``R`` of ``lambda_rad·R⁴ - D·R² - lr·V²/2 = 0``::

        R² = [D + sqrt(D² + 2·lr·lambda_rad·V²)] / (2·lambda_rad)

    evaluated without cancellation for a drift of either sign (Su, Ren, Veitch 2026, arXiv 2606.30625, Eq. 4.15; with no
    drift, ``R⁴ = lr·V²/(2·lambda_rad)``, their Fig. 2). Without decay nothing stops a norm that noise or outward drift
    pushes: the result is infinity. Inward drift alone can still balance the noise.

    Args:
        second_moment: ``V²``, mean squared scale-free gradient ``|R·g_tan|²``, absent steps counted as zero; ``[...]``.
        radial_decay: ``lambda_rad``, relative shrinkage per unit of lr; ``[...]``.
        lr: effective learning rate, lr/(1 - momentum) under momentum; ``[...]``.
        drift: ``D``, mean radial push ``<x, Δ_task>/lr``; ``[...]``, negative is inward.

    Returns:
        ``R`` (not its square), broadcast over the arguments; float64 if all are plain numbers. NaN where one is NaN.

    Raises:
        ValueError: if an argument is neither a tensor nor a number, or ``second_moment`` or ``lr`` a negative number.

    Example:
        >>> equilibrium_norm(second_moment=8.0, radial_decay=0.25, lr=1.0)  # (1·8 / (2·0.25)) ** (1/4)
        tensor(2., dtype=torch.float64)
        >>> equilibrium_norm(second_moment=8.0, radial_decay=0.0, lr=1.0)
        tensor(inf, dtype=torch.float64)
    """
    if not isinstance(second_moment, Tensor):
        check_not_negative(unknown=True, second_moment=second_moment)
    if not isinstance(lr, Tensor):
        check_not_negative(unknown=True, lr=lr)
    v2, lam = _as_real(second_moment, "second_moment"), _as_real(radial_decay, "radial_decay")
    eta, d = _as_real(lr, "lr"), _as_real(drift, "drift")
    discriminant = d.square() + 2 * eta * lam * v2
    root = discriminant.clamp(min=0).sqrt()
    infinity = torch.full((), math.inf, dtype=root.dtype, device=root.device)
    outward = torch.where(lam > 0, (d + root) / (2 * lam), infinity)
    # The textbook root subtracts nearly equal numbers when drift is inward; its conjugate does not.
    inward = eta * v2 / (root - d)
    squared = torch.where(d < 0, torch.where(discriminant >= 0, inward, infinity), outward)
    return squared.sqrt()


def equilibrium_norm_stderr(
    second_moment: Tensor | float,
    radial_decay: Tensor | float,
    lr: Tensor | float,
    drift: Tensor | float = 0.0,
    *,
    second_moment_stderr: Tensor | float,
    drift_stderr: Tensor | float = 0.0,
) -> Tensor:
    """The standard error of :func:`equilibrium_norm`, relative to it, from those of the two moments.

    To first order, with ``Q = sqrt(D² + 2·lr·lambda_rad·V²)``: ``d log R = (lr·dV²/(2·R²) + dD)/(2·Q)``, the two errors
    independent. Without drift it is a quarter of the relative error of V².

    Args:
        second_moment: as for :func:`equilibrium_norm`, with the next three.
        radial_decay: see there.
        lr: see there.
        drift: see there.
        second_moment_stderr: of ``V²``; ``[...]``.
        drift_stderr: of ``D``; ``[...]``.

    Returns:
        The relative standard error, broadcast over the arguments; NaN where there is no equilibrium.

    Raises:
        ValueError: as :func:`equilibrium_norm` does, or if an error is a negative number.

    Example:
        >>> equilibrium_norm_stderr(8.0, 0.25, lr=1.0, second_moment_stderr=0.8)  # 10% of V², R like V^(1/2)
        tensor(0.0250, dtype=torch.float64)
    """
    if not isinstance(second_moment_stderr, Tensor):
        check_not_negative(unknown=True, second_moment_stderr=second_moment_stderr)
    if not isinstance(drift_stderr, Tensor):
        check_not_negative(unknown=True, drift_stderr=drift_stderr)
    norm = equilibrium_norm(second_moment, radial_decay, lr, drift)  # which checks them
    v2, lam, eta, d = (_as_real(value) for value in (second_moment, radial_decay, lr, drift))
    root = (d.square() + 2 * eta * lam * v2).sqrt()
    by_moment = eta * _as_real(second_moment_stderr) / (2 * norm.square())
    stderr = torch.hypot(*torch.broadcast_tensors(by_moment, _as_real(drift_stderr).to(by_moment))) / (2 * root)
    return stderr.where(norm.isfinite(), torch.nan)


def forecast_norm(
    norm: Tensor,
    second_moment: Tensor,
    radial_decay: Tensor | float,
    lrs: Tensor | Sequence[float],
    drift: Tensor | float = 0.0,
) -> Tensor:
    """The path of a norm under SGD through any sequence of learning rates.

    One step of the recursion that R⁴ obeys at leading order, with ``a = lr·lambda_rad``::

        R⁴ <- [(1 - a)²·R² + 2·lr·D]² + 2·(1 - a)²·lr²·V²

    whose fixed point is :func:`equilibrium_norm` (theory: relaxation, transients, forecast).

    Args:
        norm: where the path starts, ``[n]``.
        second_moment: ``V²``, ``[n]``.
        radial_decay: ``lambda_rad``, ``[n]`` or one number.
        lrs: effective learning rate of each step, ``[t]``.
        drift: ``D``, ``[n]`` or one number.

    Returns:
        ``[t, n]``: the norm after each of the learning rates, in float64.

    Raises:
        ValueError: if the shapes do not fit, or a norm or a learning rate is negative.

    Example:
        >>> path = forecast_norm(torch.tensor([1.0]), torch.tensor([8.0]), 0.25, [0.01] * 4000)
        >>> path.shape, round(path[-1].item(), 3), round(equilibrium_norm(8.0, 0.25, 0.01).item(), 3)
        (torch.Size([4000, 1]), 0.632, 0.632)
    """
    check_tensors(norm=norm, second_moment=second_moment)
    if norm.shape != second_moment.shape:
        raise ValueError(
            f"second_moment: expected the shape of norm, {tuple(norm.shape)}, got {tuple(second_moment.shape)}; "
            "pass one moment for each norm"
        )
    if bool((norm < 0).any()):
        raise ValueError(f"norm: expected lengths from 0 up, got {float(norm.min()):g}; pass norms, not their changes")
    squared = norm.double().square()
    lam, d = _as_real(radial_decay, "radial_decay").double(), _as_real(drift, "drift").double()
    v2 = second_moment.double()
    for name, numbers in (("radial_decay", lam), ("drift", d)):
        if numbers.shape not in ((), (1,), norm.shape):
            raise ValueError(
                f"{name}: expected one number, or one for each of {tuple(norm.shape)} norms, got {tuple(numbers.shape)}"
            )
    rates = _rates(lrs)
    path = squared.new_empty(len(rates), *squared.shape)
    for step, lr in enumerate(rates):
        retention = (1 - lr * lam).square()
        mean_square = (retention * squared + 2 * lr * d).clamp(min=0)
        squared = (mean_square.square() + 2 * retention * lr**2 * v2).sqrt()
        path[step] = squared
    return path.sqrt_()


def _rates(lrs: Tensor | Sequence[float]) -> list[float]:
    """The learning rate of each step as a number."""
    is_listed = isinstance(lrs, Tensor) or (isinstance(lrs, Sequence) and not isinstance(lrs, str))
    rates: list[float] = torch.as_tensor(lrs, dtype=torch.float64).tolist() if is_listed else []
    if not is_listed or any(not rate >= 0 for rate in rates):
        raise ValueError(
            f"lrs: expected the learning rate of each step, numbers from 0 up, got {min(rates, default=lrs)!r}"
        )
    return rates


def _as_real(value: object, name: str = "value") -> Tensor:
    """A plain number becomes float64 of no dimension, which leaves the precision of the tensors beside it alone."""
    if isinstance(value, Tensor):
        return value if value.dtype in (torch.float32, torch.float64) else value.float()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}: expected a number or a tensor, got {value!r}")
    return torch.tensor(float(value), dtype=torch.float64)
