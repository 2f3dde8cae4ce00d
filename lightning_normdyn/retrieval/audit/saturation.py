"""Detects norms that a model's last layer fixes: unit length, nearly constant, on an ellipsoid, or clipped."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["unit", "constant", "ellipsoid", "clipped", "free"]

_UNIT = 2e-3
_CONSTANT = 0.01
_ON_ELLIPSOID = 0.01
_HYPERPLANE = 1e-5
_ROWS_A_WEIGHT = 3
_MOST_DIMENSIONS = 1_024
_RIDGE = 1e-10
_AT_EDGE = 1e-3
_PILED_UP = 0.02


class LastLayer(NamedTuple):
    """What a model does last, as far as it concerns norms.

    Attributes:
        name: class of the layer that its vectors, or its tokens' vectors, come out of.
        is_norm: whether that layer normalises (LayerNorm, RMSNorm and the like).
        pooling: how tokens become one vector; empty where the layer's output is the vector.
        had_unit_step: whether a step to length one was taken off for the audit.
    """

    name: str
    is_norm: bool
    pooling: str
    had_unit_step: bool


class Saturation(NamedTuple):
    """How much room the norms have.

    Attributes:
        kind: ``unit``: all of length one; ``constant``: they vary by less than 1%; ``ellipsoid``: the vectors lie on an
            ellipsoid along the axes, as after a final LayerNorm or RMSNorm, so that a direction has one norm;
            ``clipped``: more than 2% of norms pile up at the largest; ``free``: none of these.
        cv: standard deviation of norms over their mean.
        off_ellipsoid: spread of held-out vectors about the best such ellipsoid, 0 on it, infinite where none fits;
            NaN where it was not tested.
        in_hyperplane: whether the vectors also share a hyperplane, as after LayerNorm, which takes out a mean.
        at_largest: share of norms within 0.1% of the largest.
        last_layer: of the model, where it was at hand.
    """

    kind: Kind
    cv: float
    off_ellipsoid: float
    in_hyperplane: bool
    at_largest: float
    last_layer: LastLayer | None

    @property
    def sentence(self) -> str:
        """The finding with the test that it comes from."""
        ellipsoid_note = (
            "" if math.isnan(self.off_ellipsoid) else ", the vectors lie on no ellipsoid as a final norm layer makes it"
        )
        finding = {
            "unit": f"All vectors have length one (within {_UNIT:g}): whatever their norms said was divided out.",
            "constant": f"Norms are nearly constant (standard deviation {self.cv:.2%} of the mean, under 1%), as a "
            "final LayerNorm or RMSNorm makes them: hardly anything can be read from them.",
            "ellipsoid": f"The vectors lie on an ellipsoid along the axes (held-out spread {self.off_ellipsoid:.1e}, "
            f"under {_ON_ELLIPSOID:g}), as a final {'LayerNorm' if self.in_hyperplane else 'RMSNorm'} with learnt "
            f"weights puts them: norms vary by {self.cv:.1%}, yet each follows from its direction.",
            "clipped": f"{self.at_largest:.1%} of norms lie within 0.1% of the largest one: something clips them.",
            "free": f"Norms are free: they vary by {self.cv:.1%} of their mean{ellipsoid_note}, and nothing piles up "
            "at the largest.",
        }[self.kind]
        return f"{finding} {_of_layer(self.last_layer)}".rstrip()


def norm_saturation(norms: Tensor, sample: Tensor, *, last_layer: LastLayer | None = None) -> Saturation:
    """Tests whether norms are fixed, tied to directions, or clipped.

    LayerNorm and RMSNorm with weights g and bias b put a vector x on ``sum ((x_i - b_i) / g_i)² = d``. Whether
    embeddings lie on any such surface is a linear question in ``x_i²`` and ``x_i``: it is fitted to two thirds of the
    sample and tested on the rest.

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
    off, plane = _off_ellipsoid(sample.double())
    if bool(((positive - 1).abs() <= _UNIT).all()):
        kind: Kind = "unit"
    elif cv < _CONSTANT:
        kind = "constant"
    elif off < _ON_ELLIPSOID:
        kind = "ellipsoid"
    else:
        kind = "clipped" if at_largest > _PILED_UP and len(positive) * _PILED_UP >= 2 else "free"
    return Saturation(kind, cv, off, plane, at_largest, last_layer)


def _off_ellipsoid(sample: Tensor) -> tuple[float, bool]:
    """Spread of ``sum a_i x_i² + c_i x_i``, fitted to be 1, on rows held out; and whether rows share a hyperplane."""
    rows, dim = sample.shape
    fit_rows = 2 * rows // 3
    if not 2 <= dim <= _MOST_DIMENSIONS or fit_rows < 2 * dim * _ROWS_A_WEIGHT:
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
