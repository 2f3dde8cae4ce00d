"""Residual norms: norms with the influence of document length regressed out, and lengths used as norms."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.statistics.cubic_spline import spline_weights
from lightning_normdyn.core.statistics.interval import sorted_quantile
from lightning_normdyn.core.tensor_checks import check_tensors

# Harrell's places for five knots: regular where the data are, away from the outermost lengths.
_KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)
_LEAST_SPREAD = 1e-6


def residual_norms(norms: Tensor, length: Tensor) -> Tensor:
    """Takes out of norms what a smooth function of length explains.

    ``log residual = log |d| - s(log(1 + length)) + mean(log |d|)``, where s is a natural cubic spline with knots at
    the 5%, 27.5%, 50%, 72.5% and 95% quantiles of the logarithm, linear beyond them, fitted by least squares
    (Harrell 2015, section 2.4.5). It bends where the data do and cannot follow single documents: five coefficients.

    Args:
        norms: of the documents, not negative, ``[n]``; a zero stays zero and has no part in the fit.
        length: tokens, letters or pixels of each, not negative, ``[n]``.

    Returns:
        Residual norms ``[n]`` in float64 with the geometric mean of the norms.

    Raises:
        ValueError: if there is not one finite number of each kind for each document, or one is negative.

    Example:
        >>> length = torch.arange(1.0, 41.0)
        >>> left = residual_norms(3 * (1 + length).sqrt(), length)
        >>> bool(left.std() / left.mean() < 1e-6)
        True
    """
    _check("norms", norms, norms)
    _check("length", length, norms)
    norms, log_length = norms.detach().cpu().double(), length.detach().cpu().double().log1p()
    positive = norms > 0
    if not positive.any():
        return norms
    log_norms, log_lengths = norms[positive].log(), log_length[positive]
    fit = _smooth(log_lengths, log_norms)
    residual = torch.zeros_like(norms)
    residual[positive] = (log_norms - fit + log_norms.mean()).exp()
    return residual


def rescaled(vectors: Tensor, norms: Tensor) -> Tensor:
    """Gives vectors other norms, in order to search with residual norms or with lengths as with norms.

    Args:
        vectors: ``[n, d]``; a zero vector has no direction and stays zero.
        norms: that they are to have, ``[n]``.

    Returns:
        ``[n, d]`` in the floating type of the vectors, float32 at least.

    Raises:
        ValueError: if there is not one norm for each vector.

    Example:
        >>> rescaled(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([10.0, 1.0]))
        tensor([[6., 8.],
                [0., 0.]])
    """
    check_tensors(vectors=vectors, norms=norms)
    if vectors.ndim != 2 or norms.shape != vectors.shape[:1]:
        raise ValueError(f"norms: expected one for each of {len(vectors)} vectors, got {tuple(norms.shape)}")
    wide = torch.promote_types(vectors.dtype, torch.float32)
    old_norms = precise_norm(vectors)
    factor = norms.to(old_norms) / old_norms.where(old_norms > 0, 1)
    return (vectors.to(wide) * factor.unsqueeze(1)).to(wide)


def length_norms(length: Tensor) -> Tensor:
    """Lengths as norms, ``1 + length``: what a ranking by ``cos · length^alpha`` calls the norm, ``[n]`` in float64.

    Example:
        >>> length_norms(torch.tensor([0, 9]))
        tensor([ 1., 10.], dtype=torch.float64)
    """
    _check("length", length, length)
    return 1 + length.detach().cpu().double()


def _smooth(x: Tensor, y: Tensor) -> Tensor:
    """Least-squares fit of y ``[n]`` by a natural cubic spline of x, at every x."""
    ascending = x.sort().values
    knots = torch.tensor([sorted_quantile(ascending, level) for level in _KNOTS], dtype=x.dtype)
    knots = knots[torch.cat((torch.ones(1, dtype=torch.bool), knots.diff() > _LEAST_SPREAD))]
    ends = torch.stack((x.min(), x.max()))
    if len(knots) < 3:
        knots = ends if ends.diff() > _LEAST_SPREAD else ends[:1]
    if len(knots) < 2:
        return y.mean().expand_as(y)
    design = _linear_beyond(knots, x)
    fit: Tensor = design @ torch.linalg.lstsq(design, y.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    return fit


def _linear_beyond(knots: Tensor, x: Tensor) -> Tensor:
    """Spline weights ``[n, knots]``, continued in a straight line outside the knots."""
    inside = spline_weights(knots, x.clamp(knots[0], knots[-1]))
    # A natural spline's slope at its end, by the straight piece that touches it there.
    small = float(knots.diff().min()) * 1e-4
    first = (spline_weights(knots, knots[:1] + small) - spline_weights(knots, knots[:1])) / small
    last = (spline_weights(knots, knots[-1:]) - spline_weights(knots, knots[-1:] - small)) / small
    below, above = (x - knots[0]).clamp(max=0).unsqueeze(1), (x - knots[-1]).clamp(min=0).unsqueeze(1)
    return inside + below * first + above * last


def _check(name: str, x: Tensor, like: Tensor) -> None:
    check_tensors(**{name: x, "norms": like})
    if x.ndim != 1 or x.shape != like.shape:
        raise ValueError(f"{name}: expected one number for each of {len(like)} norms, got {tuple(x.shape)}")
    if not x.isfinite().all() or (x < 0).any():
        raise ValueError(f"{name}: expected finite numbers from 0 up, got others; leave those documents out")
