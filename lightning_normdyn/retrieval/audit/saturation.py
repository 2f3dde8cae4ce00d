"""Detects norms that a model's last layer fixes: unit length, nearly constant, on an ellipsoid, or clipped."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["unit", "constant", "ellipsoid", "clipped", "free", "unclear"]

_UNIT = 2e-3
_CONSTANT = 0.01
_ON_ELLIPSOID = 0.01
_LEAST_GAIN = 1e-4
_HYPERPLANE = 1e-5
_ROWS_A_WEIGHT = 1.25
_MOST_DIMENSIONS = 1_450  # whose vectors the sample of an audit still holds enough of
_FREE_OF_DIRECTION = 0.15
_FREE_OF_SCALE = 0.8
_LEAST_REGRESSED = 50
_MOST_REGRESSED = 1_000
_PENALTIES = 17
_OF_ONE_TOKEN = ("", "cls", "last")
_RIDGE = 1e-10
_AT_EDGE = 1e-3
_PILED_UP = 0.02


class NormWeights(NamedTuple):
    """Learnt weights of a LayerNorm or RMSNorm: its outputs x lie on ``mean ((x_i - b_i) / g_i)² = 1``.

    Where several gains are 0 they lie inside, each at a height of its own.

    Attributes:
        gains: g, float64 ``[d]``.
        shifts: b, float64 ``[d]``.
    """

    gains: Tensor
    shifts: Tensor

    @classmethod
    def of(cls, gains: Tensor, shifts: Tensor | None, outputs: Tensor) -> NormWeights | None:
        """The weights, or those with 1 added to the gains, as some layers do; ``None`` where outputs lie on neither.

        Args:
            gains: as the layer has them, ``[d]``.
            shifts: likewise, if it has any.
            outputs: of the layer itself, ``[..., d]``.

        Example:
            >>> outputs = torch.nn.functional.layer_norm(torch.randn(3, 8), (8,), weight=torch.full((8,), 3.0))
            >>> NormWeights.of(torch.full((8,), 2.0), None, outputs).gains[0]
            tensor(3., dtype=torch.float64)
        """
        gains = gains.detach().cpu().double()
        outputs = outputs.detach().cpu().double().flatten(0, -2)
        if gains.shape != outputs.shape[1:]:
            return None
        shifts = torch.zeros_like(gains) if shifts is None else shifts.detach().cpu().double()
        candidates = [cls(gains, shifts), cls(1 + gains, shifts)]
        return next((weights for weights in candidates if weights._holds(outputs)), None)

    @property
    def has_gain(self) -> Tensor:
        """Which gains are not as good as 0, ``[d]`` of bool."""
        return self.gains.abs() > _LEAST_GAIN * self.gains.abs().max()

    def _holds(self, outputs: Tensor) -> bool:
        constants = (outputs - self.shifts)[:, ~self.has_gain].abs().amax() if not self.has_gain.all() else 0.0
        heights = self.heights(outputs)
        is_on = bool(((heights - 1).abs() < _ON_ELLIPSOID).all())
        is_inside = int((~self.has_gain).sum()) > 1 and bool((heights < 1 + _ON_ELLIPSOID).all())
        return float(constants) <= _CONSTANT * float(outputs.abs().amax()) and (is_on or is_inside)

    def heights(self, vectors: Tensor) -> Tensor:
        """``mean ((x_i - b_i) / g_i)²`` of vectors ``[n, d]``: 1 on the ellipsoid, less inside.

        A gain as good as 0 hides what a token has in that coordinate. Of one LayerNorm gives it back, since the numbers
        that are squared sum to 0. Of several it is lost, and the layer's own outputs lie inside: in all-MiniLM-L6-v2
        three such coordinates have up to 80% of a token's squared length.
        """
        normed = ((vectors.double() - self.shifts) / self.gains)[:, self.has_gain]
        squares = normed.square().sum(1)
        squares = squares + normed.sum(1).square() if int((~self.has_gain).sum()) == 1 else squares
        return squares / len(self.gains)


class LastLayer(NamedTuple):
    """What a model does last, as far as it concerns norms.

    Attributes:
        name: class of the layer that its vectors, or its tokens' vectors, come out of.
        is_norm: whether that layer normalises (LayerNorm, RMSNorm and the like).
        pooling: how tokens become one vector; empty where the layer's output is the vector.
        had_unit_step: whether a step to length one was taken off for the audit.
        weights: of that layer, where it is a LayerNorm or RMSNorm.
    """

    name: str
    is_norm: bool
    pooling: str
    had_unit_step: bool
    weights: NormWeights | None = None


class Saturation(NamedTuple):
    """How much room the norms have.

    Attributes:
        kind: ``unit``: all of length one; ``constant``: they vary by less than 1%; ``ellipsoid``: the vectors lie on an
            ellipsoid along the axes, as after a final LayerNorm or RMSNorm, so that a direction has one norm;
            ``clipped``: more than 2% of norms pile up at the largest; ``free``: none of these; ``unclear``: none of
            the others, but whether the vectors lie on an ellipsoid cannot be told from so few.
        cv: standard deviation of norms over their mean.
        off_ellipsoid: spread of held-out vectors about the best such ellipsoid, 0 on it, infinite where none fits;
            NaN where there are too few vectors to fit one.
        in_hyperplane: whether the vectors also share a hyperplane, as after LayerNorm, which takes out a mean.
        at_largest: share of norms within 0.1% of the largest.
        last_layer: of the model, where it was at hand.
        by_direction: share of the norms' variation that directions predict in vectors left out of the fit, where there
            are too few for an ellipsoid: about 0 where norms are free; NaN
            where it was not needed or cannot be had.
        rows: vectors that these tests saw.
        dim: of the vectors.
        by_weights: whether ``off_ellipsoid`` is the spread about the ellipsoid of the model's own weights, and nothing
            was fitted.
    """

    kind: Kind
    cv: float
    off_ellipsoid: float
    in_hyperplane: bool
    at_largest: float
    last_layer: LastLayer | None
    by_direction: float = math.nan
    rows: int = 0
    dim: int = 0
    by_weights: bool = False

    @property
    def sentence(self) -> str:
        """The finding with the test that it comes from."""
        if self.by_weights and self.last_layer is not None:
            ellipsoid_note = (
                f", the vectors lie on no ellipsoid of the weights of the model's {self.last_layer.name} (spread "
                f"{self.off_ellipsoid:.1%})"
            )
        elif not math.isnan(self.off_ellipsoid):
            ellipsoid_note = ", the vectors lie on no ellipsoid as a final norm layer makes it"
        elif not math.isnan(self.by_direction):
            ellipsoid_note = (
                f", neither directions (predicting {max(0.0, self.by_direction):.0%} of that) nor coordinates' scales "
                "explain it as after a final norm layer"
            )
        else:
            ellipsoid_note = ""
        finding = {
            "unit": f"All vectors have length one (within {_UNIT:g}): whatever their norms said was divided out.",
            "constant": f"Norms are nearly constant (standard deviation {self.cv:.2%} of the mean, under 1%), as a "
            "final LayerNorm or RMSNorm makes them: hardly anything can be read from them.",
            "ellipsoid": self._on_ellipsoid(),
            "unclear": self._unclear(),
            "clipped": f"{self.at_largest:.1%} of norms lie within 0.1% of the largest one: something clips them.",
            "free": f"Norms are free: they vary by {self.cv:.1%} of their mean{ellipsoid_note}, and nothing piles up "
            "at the largest.",
        }[self.kind]
        return f"{finding} {_of_layer(self.last_layer)}".rstrip()

    def _on_ellipsoid(self) -> str:
        """The finding by the vectors, or by the model where there are too few of them."""
        if math.isnan(self.off_ellipsoid) and self.last_layer is not None:
            return (
                f"The model ends in {self.last_layer.name}, which puts vectors on an ellipsoid along the axes (by the "
                f"model; {self.rows:,} vectors of {self.dim} numbers are too few to see it): norms vary by "
                f"{self.cv:.1%}, yet each follows from its direction."
            )
        if self.by_weights and self.last_layer is not None:
            return (
                f"The vectors lie on the ellipsoid of the weights of the model's {self.last_layer.name} (spread "
                f"{self.off_ellipsoid:.1e}, under {_ON_ELLIPSOID:g}): norms vary by {self.cv:.1%}, yet each follows "
                "from its direction."
            )
        return (
            f"The vectors lie on an ellipsoid along the axes (held-out spread {self.off_ellipsoid:.1e}, under "
            f"{_ON_ELLIPSOID:g}), as a final {'LayerNorm' if self.in_hyperplane else 'RMSNorm'} with learnt weights "
            f"puts them: norms vary by {self.cv:.1%}, yet each follows from its direction."
        )

    def _unclear(self) -> str:
        predicted = (
            "" if math.isnan(self.by_direction) else f", of which directions predict {max(0.0, self.by_direction):.0%}"
        )
        needed = least_rows(self.dim)
        way = (
            f"give {needed:,} vectors or more"
            if self.dim <= _MOST_DIMENSIONS
            else f"above {_MOST_DIMENSIONS:,} numbers it is not fitted"
        )
        return (
            f"Whether norms are free, or follow from directions as after a final norm layer, cannot be told from "
            f"{self.rows:,} vectors of {self.dim} numbers: they vary by {self.cv:.1%} of their mean{predicted}; {way}, "
            "or audit the model itself, whose last layer says it."
        )


def least_rows(dim: int) -> int:
    """Vectors of so many numbers that an ellipsoid can be fitted to and tested on.

    Example:
        >>> least_rows(384)
        1440
    """
    return math.ceil(3 * _ROWS_A_WEIGHT * dim)


def norm_saturation(norms: Tensor, sample: Tensor, *, last_layer: LastLayer | None = None) -> Saturation:
    """Tests whether norms are fixed, tied to directions, or clipped.

    LayerNorm and RMSNorm with weights g and bias b put a vector x on ``sum ((x_i - b_i) / g_i)² = d``. Whether
    embeddings lie on any such surface is a linear question in ``x_i²`` and ``x_i``: it is fitted to two thirds of the
    sample and tested on the rest, from 3.75 d vectors on. Of fewer, inverse squares of norms are regressed on
    directions ``u_i²`` and ``u_i`` (ridge, each vector left out in turn): on an ellipsoid about the origin they are
    linear in ``u_i²``. What directions do not predict is free; where they do, it may be the ellipsoid or something
    else, and the model's own last layer decides, if it is at hand: its weights are the ellipsoid, so that of any number
    of vectors, pooled however they may be, it can be said whether they lie on it, and nothing is fitted.

    Args:
        norms: of all vectors, ``[n]``; zeros are left out.
        sample: some of the vectors, none of them zero, ``[s, d]``.
        last_layer: what is known of the model.

    Returns:
        The record.

    Example:
        >>> vectors = torch.randn(400, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> norm_saturation(vectors.norm(dim=1), vectors).kind
        'free'
        >>> after = torch.nn.functional.layer_norm(vectors, (8,)) * torch.arange(1.0, 9.0)
        >>> found = norm_saturation(after.norm(dim=1), after)
        >>> found.kind, found.in_hyperplane
        ('ellipsoid', True)
    """
    positive = norms[norms > 0].double()
    cv = float((positive - positive.mean()).square().mean().sqrt() / positive.mean())
    at_largest = float((positive >= positive.max() * (1 - _AT_EDGE)).double().mean())
    rows, dim = sample.shape
    off, plane = _off_ellipsoid(sample.double())
    weights = None if last_layer is None else last_layer.weights
    by_weights = rows > 1 and weights is not None and len(weights.gains) == dim
    if by_weights and weights is not None:
        heights = weights.heights(sample)
        off = float(heights.std(correction=0) / heights.mean())
    by_direction = math.nan
    if bool(((positive - 1).abs() <= _UNIT).all()):
        kind: Kind = "unit"
    elif cv < _CONSTANT:
        kind = "constant"
    elif off < _ON_ELLIPSOID:
        kind = "ellipsoid"
    elif at_largest > _PILED_UP and len(positive) * _PILED_UP >= 2:
        kind = "clipped"
    elif math.isnan(off) and _ends_on_ellipsoid(last_layer):
        kind = "ellipsoid"
    elif math.isnan(off):
        by_direction = _by_direction(sample.double())
        is_free = by_direction < _FREE_OF_DIRECTION and _left_by_scale(sample.double()) > _FREE_OF_SCALE
        kind = "free" if is_free else "unclear"
    else:
        kind = "free"
    return Saturation(kind, cv, off, plane, at_largest, last_layer, by_direction, rows, dim, by_weights)


def _ends_on_ellipsoid(layer: LastLayer | None) -> bool:
    """Whether a model's vectors are, one by one, what a LayerNorm or RMSNorm puts out."""
    if layer is None or not layer.is_norm or layer.pooling not in _OF_ONE_TOKEN:
        return False
    return any(kind in layer.name.lower() for kind in ("layernorm", "rmsnorm", "layer_norm"))


def _left_by_scale(sample: Tensor) -> float:
    """Share of the norms' variation that is left where every coordinate has the same scale.

    Where directions have no preferred axis, nothing predicts a norm on an ellipsoid from few vectors; the weights of a
    norm layer are then what coordinates differ by.
    """
    squares = sample.square()
    norms = squares.sum(1).sqrt()
    scale = squares.mean(0)
    scaled_norms = (squares / scale.where(scale > 0, 1)).sum(1).sqrt()
    first, second = (float(x.std() / x.mean()) for x in (norms, scaled_norms))
    return second / first if first > 0 else 0.0


def _by_direction(sample: Tensor) -> float:
    """Share of the variation of inverse squared norms that directions predict, each vector left out in turn."""
    rows = sample[:: -(-len(sample) // _MOST_REGRESSED)] if len(sample) else sample
    if len(rows) < _LEAST_REGRESSED or rows.shape[1] < 2:
        return math.nan
    norms = rows.norm(dim=1, keepdim=True)
    directions = rows / norms
    target = (norms.mean() / norms).square().squeeze(1)
    target = target - target.mean()
    squares = directions.square()
    features = torch.cat((squares / squares.mean(), directions / squares.mean().sqrt()), dim=1)
    features = features - features.mean(0)
    values, vectors = torch.linalg.eigh(features @ features.T)
    values = values.clamp(min=0)
    projected = vectors.T @ target
    penalties = torch.logspace(-7, 1, _PENALTIES, dtype=torch.float64) * values.max()
    left = [_left_out_error(values / (values + penalty), vectors, projected, target) for penalty in penalties]
    return 1 - min(left) / float(target.square().mean())


def _left_out_error(shrinkage: Tensor, vectors: Tensor, projected: Tensor, target: Tensor) -> float:
    """Mean square error of a ridge regression at each item, fitted without it (Allen's PRESS)."""
    leverage = vectors.square() @ shrinkage + 1 / len(target)
    residual = target - vectors @ (shrinkage * projected)
    return float((residual / (1 - leverage).clamp(min=_RIDGE)).square().mean())


def _off_ellipsoid(sample: Tensor) -> tuple[float, bool]:
    """Spread of ``sum a_i x_i² + c_i x_i``, fitted to be 1, on rows held out; and whether rows share a hyperplane."""
    rows, dim = sample.shape
    fit_rows = 2 * rows // 3
    if not 2 <= dim <= _MOST_DIMENSIONS or rows < least_rows(dim):
        return math.nan, False
    scaled_rows = sample - sample[:fit_rows].mean(0)
    scale = scaled_rows[:fit_rows].square().mean(0).sqrt()
    scaled_rows = scaled_rows / scale.where(scale > 0, 1)
    features = torch.cat((scaled_rows.square(), scaled_rows), dim=1)
    train, test = features[:fit_rows], features[fit_rows:]
    gram = train.T @ train / fit_rows
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    weights = torch.linalg.solve(gram, train.mean(0))
    left = test @ weights - 1
    # Of a normalisation all squares count in the same direction; other weights fit something else.
    if bool((weights[:dim][scale > 0] <= 0).any()):
        return math.inf, False
    spectrum = torch.linalg.eigvalsh(scaled_rows[:fit_rows].T @ scaled_rows[:fit_rows] / fit_rows)
    return float(left.square().mean().sqrt()), bool(spectrum[0] < _HYPERPLANE * spectrum.mean())


def _of_layer(layer: LastLayer | None) -> str:
    if layer is None:
        return ""
    note = " A final step to length one was taken off for this audit." if layer.had_unit_step else ""
    if layer.is_norm and layer.pooling == "mean":
        return (
            f"Every token leaves the model through {layer.name} with nearly one length, and the mean over tokens is "
            f"the longer the more they agree: that agreement is what the norm can say.{note}"
        )
    pooling_note = f", then {layer.pooling} pooling" if layer.pooling else ""
    return f"The model's last layer is {layer.name}{pooling_note}.{note}"
