"""Classification heads with a margin: NormFace, CosFace, ArcFace, MagFace and AdaFace."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_normdyn.caution import caution
from lightning_normdyn.core.number_checks import check_not_negative, check_positive
from lightning_normdyn.losses.class_softmax import GatherNorms, MarginHead
from lightning_normdyn.losses.norm_statistics import NormStatistics
from lightning_normdyn.losses.options import MarginOptions, Unpack

_SMALLEST_SQUARED_SINE = 1e-12
_WIDEST_COSINES = 2


class NormFace(MarginHead):
    """A softmax over the cosines with class vectors, without a margin: ``f(cos) = cos`` (arXiv 1704.06369).

    The paper learns the scale: ``learnable_temperature=True``. Where norms are to be kept, see :class:`FullSoftmax`.

    Args:
        num_classes: see :class:`MarginHead`.
        dim: width of the embeddings.
        options: see :class:`MarginHead`.

    Example:
        >>> head = NormFace(3, 3, temperature=1.0)
        >>> _ = torch.nn.init.eye_(head.weight)
        >>> head(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).detach()
        tensor(0.5514)
    """

    def __init__(self, num_classes: int, dim: int, **options: Unpack[MarginOptions]) -> None:
        # Written out: jsonargparse up to 4.49 shows no help for the options of a constructor that is inherited.
        super().__init__(num_classes, dim, **options)


class CosFace(MarginHead):
    """The cosine with the own class counts less by a margin: ``f(cos) = cos - m`` (arXiv 1801.09414).

    Args:
        num_classes: see :class:`MarginHead`.
        dim: width of the embeddings.
        margin: ``m``.
        options: see :class:`MarginHead`.

    Raises:
        ValueError: if an argument is out of its range; a margin above 2 is wider than all cosines.

    Example:
        >>> head = CosFace(3, 3, margin=0.5, temperature=1.0)
        >>> _ = torch.nn.init.eye_(head.weight)
        >>> head(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).detach()
        tensor(0.7944)
    """

    def __init__(self, num_classes: int, dim: int, *, margin: float = 0.35, **options: Unpack[MarginOptions]) -> None:
        super().__init__(num_classes, dim, **options)
        check_not_negative(margin=margin, hint="0.35 is common")
        if margin > _WIDEST_COSINES:
            raise ValueError(
                f"margin: expected a part of the cosine's range, which is {_WIDEST_COSINES} wide, got {margin!r}; 0.35 "
                "is common, and for an angle take ArcFace, whose 28.6 degrees are 0.5"
            )
        self.margin = float(margin)

    def target_cosines(self, cosines: Tensor, norms: Tensor, gather_norms: GatherNorms) -> Tensor:
        """See :class:`CosFace`."""
        del norms, gather_norms
        return cosines - self.margin


class ArcFace(MarginHead):
    """The angle to the own class counts more by a margin: ``f(cos a) = cos(a + m)`` (arXiv 1801.07698).

    Where ``a + m`` is beyond a half turn the cosine would rise again; there it is ``cos a - m sin m``, as PyTorch
    Metric Learning and others have it. The gradient is that of the formula; insightface's program takes the margin for
    a constant to it.

    Args:
        num_classes: see :class:`MarginHead`.
        dim: width of the embeddings.
        margin: ``m`` in radians.
        options: see :class:`MarginHead`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> head = ArcFace(3, 3, margin=0.5, temperature=1.0)
        >>> _ = torch.nn.init.eye_(head.weight)
        >>> head(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).detach()
        tensor(0.6052)
    """

    def __init__(self, num_classes: int, dim: int, *, margin: float = 0.5, **options: Unpack[MarginOptions]) -> None:
        super().__init__(num_classes, dim, **options)
        _check_angles(margin=margin)
        self.margin = float(margin)

    def target_cosines(self, cosines: Tensor, norms: Tensor, gather_norms: GatherNorms) -> Tensor:
        """See :class:`ArcFace`."""
        del norms, gather_norms
        return _wider_angle(cosines, torch.full_like(cosines.detach(), self.margin))


class MagFace(MarginHead):
    """ArcFace whose margin grows with the embedding's length, which so comes to say how good it is (arXiv 2103.06015).

    ``f(cos a) = cos(a + m(R))`` with ``m`` linear in the norm ``R``, from ``lower_margin`` at ``lower_norm`` to
    ``upper_margin`` at ``upper_norm``, and ``norm_weight · (1/R + R/upper_norm^2)`` is added to the loss. A norm beyond
    the bounds counts as the bound, in both terms, as in the authors' program, and has no gradient along its length; the
    head warns if that is all of its first training batch. Choose bounds that the encoder's norms lie between. Where the
    own cosine is negative the margin counts too: that is the authors' ``easy_margin=False``, and not their default.

    Args:
        num_classes: see :class:`MarginHead`.
        dim: width of the embeddings.
        lower_norm: the norm with the smallest margin.
        upper_norm: the norm with the largest, and where the added term is least.
        lower_margin: the smallest margin in radians.
        upper_margin: the largest.
        norm_weight: of the added term, the paper's ``lambda_g``.
        options: see :class:`MarginHead`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> head = MagFace(3, 3, lower_norm=1.0, upper_norm=3.0, norm_weight=0.0, temperature=1.0)
        >>> _ = torch.nn.init.eye_(head.weight)
        >>> head(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).detach()
        tensor(0.6360)
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        lower_norm: float = 10.0,
        upper_norm: float = 110.0,
        lower_margin: float = 0.45,
        upper_margin: float = 0.8,
        norm_weight: float = 35.0,
        **options: Unpack[MarginOptions],
    ) -> None:
        super().__init__(num_classes, dim, **options)
        check_positive(lower_norm=lower_norm, upper_norm=upper_norm, hint="10 and 110 are the paper's")
        _check_angles(lower_margin=lower_margin, upper_margin=upper_margin)
        check_not_negative(norm_weight=norm_weight, hint="35 is the authors'")
        if upper_norm <= lower_norm:
            raise ValueError(f"upper_norm: expected more than lower_norm, {lower_norm:g}, got {upper_norm:g}")
        if upper_margin < lower_margin:
            raise ValueError(f"upper_margin: expected at least lower_margin, {lower_margin:g}, got {upper_margin:g}")
        self.lower_norm, self.upper_norm = float(lower_norm), float(upper_norm)
        self.lower_margin, self.upper_margin = float(lower_margin), float(upper_margin)
        self.norm_weight = float(norm_weight)
        self._was_compared = False

    def target_cosines(self, cosines: Tensor, norms: Tensor, gather_norms: GatherNorms) -> Tensor:
        """See :class:`MagFace`."""
        del gather_norms
        if self._is_step and not self._was_compared and bool(norms.isfinite().all()):
            self._was_compared = True
            self._compare(norms.detach())
        slope = (self.upper_margin - self.lower_margin) / (self.upper_norm - self.lower_norm)
        return _wider_angle(cosines, self.lower_margin + slope * (self._within(norms) - self.lower_norm))

    def penalties(self, norms: Tensor) -> Tensor:
        """See :class:`MagFace`."""
        norms = self._within(norms)
        return self.norm_weight * (1 / norms + norms / self.upper_norm**2)

    def _within(self, norms: Tensor) -> Tensor:
        return norms.clamp(self.lower_norm, self.upper_norm)

    def _compare(self, norms: Tensor) -> None:
        if not bool(((norms > self.lower_norm) & (norms < self.upper_norm)).any()):
            lowest, highest = (float(norm) for norm in norms.aminmax())
            caution(
                f"MagFace: all norms of the first batch, {lowest:.3g} to {highest:.3g}, are outside of lower_norm="
                f"{self.lower_norm:g} and upper_norm={self.upper_norm:g}, so that no length trains; set these around "
                "the encoder's norms",
                stacklevel=2,
            )


class AdaFace(MarginHead):
    """A margin in the angle for short embeddings and in the cosine for long ones (arXiv 2204.00964).

    ``f(cos a) = cos(a - m z) - m (1 + z)``, with ``z = h (R - mean)/(std + 0.001)`` cut to -1 and 1. The norm ``R``
    stands for the quality of the input: an embedding shorter than most is pushed less if it is hard. No gradient goes
    through ``z``, and angles are held between 0 and a half turn. The authors' program also cuts norms at 100, which
    this does not, and starts its averages elsewhere.

    Args:
        num_classes: see :class:`MarginHead`.
        dim: width of the embeddings.
        margin: ``m``.
        concentration: ``h``.
        momentum: of the averages of mean and standard deviation, see :class:`NormStatistics`.
        options: see :class:`MarginHead`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> head = AdaFace(3, 3, temperature=1.0)
        >>> _ = torch.nn.init.eye_(head.weight)
        >>> head(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).detach()
        tensor(0.7408)
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        margin: float = 0.4,
        concentration: float = 0.333,
        momentum: float = 0.99,
        **options: Unpack[MarginOptions],
    ) -> None:
        super().__init__(num_classes, dim, **options)
        _check_angles(margin=margin)
        check_positive(concentration=concentration, hint="0.333 is common")
        self.margin, self.concentration = float(margin), float(concentration)
        self.statistics = NormStatistics(momentum)

    def target_cosines(self, cosines: Tensor, norms: Tensor, gather_norms: GatherNorms) -> Tensor:
        """See :class:`AdaFace`."""
        norms = norms.detach()
        batch_norms = gather_norms(norms)
        if self._is_step:
            self.statistics.update(batch_norms)
        z = (self.concentration * self.statistics.standardise(norms, batch_norms)).clamp(-1, 1)
        return _held_angle(cosines, -self.margin * z) - self.margin * (1 + z)


def _check_angles(**margins: float) -> None:
    for name, margin in margins.items():
        check_not_negative(hint="0.5 radians are common", **{name: margin})  # type: ignore[arg-type]
        if margin >= math.pi:
            raise ValueError(f"{name}: expected radians from 0 to below pi, got {margin!r}; 28.6 degrees are 0.5")


def _turned(cosines: Tensor, angles: Tensor) -> Tensor:
    """The cosines of angles that are wider by some, ``[n]``."""
    sines = (1 - cosines.square()).clamp(min=_SMALLEST_SQUARED_SINE).sqrt()
    return cosines * angles.cos() - sines * angles.sin()


def _wider_angle(cosines: Tensor, margins: Tensor) -> Tensor:
    """ArcFace's, which falls beyond a half turn too."""
    is_short_of_half_turn = cosines >= -margins.cos()
    return torch.where(is_short_of_half_turn, _turned(cosines, margins), cosines - margins * margins.sin())


def _held_angle(cosines: Tensor, angles: Tensor) -> Tensor:
    """AdaFace's, which is held between 0 and a half turn."""
    turned = _turned(cosines, angles)
    turned = torch.where((angles > 0) & (cosines < -angles.cos()), -1.0, turned)
    return torch.where((angles < 0) & (cosines > angles.cos()), 1.0, turned)
