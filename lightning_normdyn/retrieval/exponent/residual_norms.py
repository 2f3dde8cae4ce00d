"""Residual norms: norms with the influence of document length regressed out, what it predicts, and lengths as norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_columns, as_tensor, as_tensors
from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.statistics.cubic_spline import spline_weights
from lightning_normdyn.core.statistics.interval import sorted_quantile
from lightning_normdyn.core.tensor_checks import check_columns

# Harrell's places for five knots: regular where the data are, away from the outermost lengths.
_KNOTS = (0.05, 0.275, 0.5, 0.725, 0.95)
_LEAST_SPREAD = 1e-6


def residual_norms(
    norms: ArrayLike,
    length: ArrayLike,
    *,
    controls: Mapping[str, ArrayLike] | None = None,
    fitted_rows: ArrayLike | None = None,
) -> Tensor:
    """Takes out of norms what a smooth function of length explains, and smooth functions of other controls.

    ``log residual = log |d| - s(log(1 + length)) + mean(log |d|)``, where s is a natural cubic spline with knots at
    the 5%, 27.5%, 50%, 72.5% and 95% quantiles of the logarithm, linear beyond them, fitted by least squares
    (Harrell 2015, section 2.4.5). It bends where the data do and cannot follow single documents: five coefficients.
    A control adds a spline of its own, of the number itself, fitted together with the others.

    Args:
        norms: of the documents, not negative, ``[n]``; a zero stays zero and has no part in the fit.
        length: tokens, letters or pixels of each, not negative, ``[n]``.
        controls: name to a further number of each, ``[n]``; what is not finite counts as the median.
        fitted_rows: which documents have a part in the fit, ``[n]`` of bool; all if left out.

    Returns:
        Residual norms ``[n]`` in float64 with the geometric mean of the norms.

    Raises:
        ValueError: if there is not one number of each kind for each document, or norms or lengths are none.

    Example:
        >>> length = torch.arange(1.0, 41.0)
        >>> left = residual_norms(3 * (1 + length).sqrt(), length)
        >>> bool(left.std() / left.mean() < 1e-6)
        True
    """
    fit = _length_fit(norms, length, controls, fitted_rows)
    norms = as_tensor("norms", norms).detach().cpu().double()
    return norms * (fit.mean - fit.values).exp()


def predicted_norms(
    norms: ArrayLike,
    length: ArrayLike,
    *,
    controls: Mapping[str, ArrayLike] | None = None,
    fitted_rows: ArrayLike | None = None,
) -> Tensor:
    """The norms that length predicts, in place of the norms themselves: what :func:`residual_norms` takes out.

    Args:
        norms: as there; so are the others.
        length: of each document.
        controls: further numbers of each.
        fitted_rows: which documents have a part in the fit.

    Returns:
        ``exp(s(log(1 + length)))``, ``[n]`` in float64; 0 where the norm is.

    Raises:
        ValueError: as there.

    Example:
        >>> length = torch.arange(1.0, 41.0)
        >>> predicted_norms((1 + length).sqrt(), length)[:3]
        tensor([1.4142, 1.7321, 2.0000], dtype=torch.float64)
    """
    fit = _length_fit(norms, length, controls, fitted_rows)
    return fit.values.exp() * (as_tensor("norms", norms).detach().cpu() > 0)


_SCALES = (0.1, 0.25, 0.6, 1.5)
_LEAST_RATIO = 1.15
_ROUNDING = 1e-6
_LEAST_DEVIATION = 1e-9


def length_scales(length: Tensor) -> tuple[float, ...]:
    """Exponents of ``1 + length`` that an exponent of 1 stands for, from fine to coarse.

    Norms vary by a few per cent or by half and lengths by a factor of two or three, so that exponents which suit the
    one miss the other. The scales are 0.1, 0.25, 0.6 and 1.5 over the standard deviation of ``log(1 + length)``: an
    exponent of 1 then moves the score of a document one deviation longer by a factor of ``exp(0.1)``, and so on.

    Args:
        length: of each document, ``[n]``.

    Example:
        >>> [round(scale, 2) for scale in length_scales(torch.tensor([0.0, 1.718281828]))]
        [0.2, 0.5, 1.2, 3.0]
    """
    deviation = float(length_norms(length).log().std(correction=0)) if len(length) else 0.0
    return tuple(scale / deviation if deviation > _LEAST_DEVIATION else scale for scale in _SCALES)


def length_exponents(length: Tensor, alphas: Tensor) -> Tensor:
    """Exponents of ``1 + length`` to try where those of the norm are ``alphas``: a scale of their own.

    The products of :func:`length_scales` and alphas, thinned where one is less than 15% larger than another, so
    that they grow by a ratio: a best exponent between two of them is never far from either.

    Args:
        length: of each document, ``[n]``.
        alphas: exponents of the norm, 0 among them, ``[a]``.

    Returns:
        Ascending exponents, 0 among them.

    Example:
        >>> length_exponents(torch.tensor([0.0, 1.718281828]), torch.tensor([-1.0, 0.0, 0.5, 1.0]))
        tensor([-3.0000, -1.2000, -0.5000, -0.2000,  0.0000,  0.1000,  0.2000,  0.2500,
                 0.5000,  0.6000,  1.2000,  1.5000,  3.0000], dtype=torch.float64)
    """
    scales = torch.tensor(length_scales(length), dtype=torch.float64)
    steps = alphas.detach().cpu().double()
    products = (scales.unsqueeze(1) * steps[steps.abs() > _ROUNDING]).flatten().unique()
    below, above = _thinned((-products[products < 0]).flip(0)), _thinned(products[products > 0])
    return torch.cat((-below.flip(0), torch.zeros(1, dtype=torch.float64), above))


def _thinned(ascending: Tensor) -> Tensor:
    """The first number and each that is 15% larger than the one before."""
    places: list[int] = []
    numbers = ascending.tolist()
    for place, number in enumerate(numbers):
        if not places or number >= _LEAST_RATIO * numbers[places[-1]] * (1 - _ROUNDING):
            places.append(place)
    return ascending[places]


def rescaled(vectors: ArrayLike, norms: ArrayLike) -> Tensor:
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
    vectors, norms = *as_embeddings(vectors=vectors), *as_tensors(norms=norms)
    if vectors.ndim != 2 or norms.shape != vectors.shape[:1]:
        raise ValueError(f"norms: expected one for each of {len(vectors)} vectors, got {tuple(norms.shape)}")
    wide = torch.promote_types(vectors.dtype, torch.float32)
    old_norms = precise_norm(vectors)
    factor = norms.to(old_norms) / old_norms.where(old_norms > 0, 1)
    return (vectors.to(wide) * factor.unsqueeze(1)).to(wide)


def length_norms(length: ArrayLike) -> Tensor:
    """Lengths as norms, ``1 + length``: what a ranking by ``cos · length^alpha`` calls the norm, ``[n]`` in float64.

    Example:
        >>> length_norms(torch.tensor([0, 9]))
        tensor([ 1., 10.], dtype=torch.float64)
    """
    (length,) = as_tensors(length=length)
    _check("length", length, length)
    return 1 + length.detach().cpu().double()


class _LengthFit(NamedTuple):
    """What controls predict of log norms: at every document, and on the mean of those fitted."""

    values: Tensor
    mean: Tensor


def _length_fit(
    norms: ArrayLike, length: ArrayLike, controls: Mapping[str, ArrayLike] | None, fitted_rows: ArrayLike | None
) -> _LengthFit:
    """Fits log norms by splines of controls."""
    norms, length = as_tensors(norms=norms, length=length)
    _check("norms", norms, norms)
    _check("length", length, norms)
    controls = {} if controls is None else as_columns("controls", controls)
    check_columns("controls", controls, len(norms), what="documents")
    norms, log_length = norms.detach().cpu().double(), length.detach().cpu().double().log1p()
    if fitted_rows is not None:
        (fitted_rows,) = as_tensors(fitted_rows=fitted_rows)
        if fitted_rows.dtype != torch.bool or fitted_rows.shape != norms.shape:
            raise ValueError(
                f"fitted_rows: expected true or false for each of {len(norms)} norms, got {fitted_rows.dtype} "
                f"{tuple(fitted_rows.shape)}"
            )
    fitted_rows = norms > 0 if fitted_rows is None else (norms > 0) & fitted_rows.cpu()
    if not fitted_rows.any():
        return _LengthFit(torch.zeros_like(norms), torch.zeros(()))
    log_norms = norms[fitted_rows].log()
    columns = [log_length, *(_filled(column.detach().cpu().double(), fitted_rows) for column in controls.values())]
    design = torch.cat([_spline_design(column, fitted_rows) for column in columns], dim=1)
    solution = torch.linalg.lstsq(design[fitted_rows], log_norms.unsqueeze(1), driver="gelsd").solution
    return _LengthFit((design @ solution).squeeze(1), log_norms.mean())


def _filled(column: Tensor, rows: Tensor) -> Tensor:
    """A column with the median in place of what is not finite."""
    finite = column[rows & column.isfinite()]
    return column.where(column.isfinite(), finite.median() if len(finite) else 0.0)


def _spline_design(x: Tensor, rows: Tensor) -> Tensor:
    """Weights of a natural cubic spline of x ``[n, knots]``, whose knots are quantiles of some rows."""
    low, high = x[rows].aminmax()
    reach = high / 2 - low / 2  # half of it, since a range may be wider than the largest number
    if float(reach) <= _LEAST_SPREAD * float(torch.maximum(low.abs(), high.abs())):
        return torch.ones(len(x), 1, dtype=x.dtype)
    # From 0 to 1: a spline knows no unit, and cubes of large numbers leave float64.
    place = (x / 2 - low / 2) / reach
    ascending = place[rows].sort().values
    knots = torch.tensor([sorted_quantile(ascending, level) for level in _KNOTS], dtype=x.dtype)
    knots = knots[torch.cat((torch.ones(1, dtype=torch.bool), knots.diff() > _LEAST_SPREAD))]
    return _linear_beyond(knots if len(knots) > 2 else torch.tensor([0.0, 1.0], dtype=x.dtype), place)


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
    if x.ndim != 1 or x.shape != like.shape:
        raise ValueError(f"{name}: expected one number for each of {len(like)} norms, got {tuple(x.shape)}")
    if not x.isfinite().all() or (x < 0).any():
        raise ValueError(f"{name}: expected finite numbers from 0 up, got others; leave those documents out")
