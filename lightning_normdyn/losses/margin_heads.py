"""Classification heads with a margin: NormFace, ArcFace, CosFace, MagFace and AdaFace, over all classes or a sample."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_normdyn.caution import caution
from lightning_normdyn.core.contrast.log_sum_exp import log_sum_exp, softmax_loss
from lightning_normdyn.core.dynamics.geometry import most_precise, safe_norm
from lightning_normdyn.core.number_checks import check_count, check_not_negative, check_positive
from lightning_normdyn.losses.batch import check_finite, check_per_query, check_set
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.gather import Trait
from lightning_normdyn.losses.learnt import OwnNumbers, whole, wide_dtype
from lightning_normdyn.losses.options import MarginOptions, SharedOptions, StartTemperature, Unpack
from lightning_normdyn.losses.uncompiled import uncompiled

_SMALLEST_SQUARED_SINE = 1e-12
_SMALLEST_DEVIATION = 1e-3

GatherNorms = Callable[[Tensor], Tensor]
"""Hands out the norms of the embeddings of all ranks, given those of this one; ``[n]`` to ``[total]``."""


class ClassSample(OwnNumbers):
    """Which classes take part in a training step: those of the batch, and some of the others, drawn anew each time.

    The draw depends on the seed and the number of steps alone, so that all ranks make the same one and a resumed run
    goes on as it would have (Partial FC, arXiv 2203.15565).

    Args:
        sample: share of the classes without an embedding in the batch that take part.
        seed: of the draws.

    Example:
        >>> ClassSample(0.5, 0).draw(torch.tensor([3, 3]), 7).tolist()
        [1, 2, 3, 6]
    """

    steps: Tensor

    def __init__(self, sample: float, seed: int) -> None:
        super().__init__()
        check_positive(sample=sample, hint="1 takes all classes")
        if sample > 1:
            raise ValueError(f"sample: expected a share of the classes, up to 1, got {sample!r}; 0.1 is common")
        check_count(0, seed=seed)
        self.sample, self.seed = float(sample), int(seed)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Starts counting steps anew."""
        self.steps.zero_()

    @property
    def is_partial(self) -> bool:
        """Whether some classes are left out."""
        return self.sample < 1

    def draw(self, labels: Tensor, num_classes: int) -> Tensor:
        """The classes of the next step in ascending order, int64, and counts it.

        Args:
            labels: of the embeddings of all ranks.
            num_classes: how many there are.
        """
        is_wanted = torch.zeros(num_classes, dtype=torch.bool)
        is_wanted[labels.cpu()] = True
        others = (~is_wanted).nonzero().squeeze(1)
        # Torch looks at 32 bits of a seed alone.
        seed = random.Random(f"{self.seed} {int(self.steps)}").getrandbits(32)
        generator = torch.Generator().manual_seed(seed)
        size = max(1, round(self.sample * len(others)))
        is_wanted[others[torch.randperm(len(others), generator=generator)[:size]]] = True
        self.steps += 1
        return is_wanted.nonzero().squeeze(1).to(labels.device)


class MarginHead(ContrastiveLoss):
    """``L = mean_i [log(sum_{j != y} exp(s cos_ij) + exp(s f(cos_iy))) - s f(cos_iy)]``, with ``s = 1/temperature``.

    ``y`` is the class of embedding ``i``, ``cos`` the cosine of embeddings and class vectors, and ``f`` the margin,
    which makes an embedding's own class score less. Scores are made a tile at a time, never ``[n, classes]``. The
    cosine that the margin acts on is computed in float64.

    Args:
        num_classes: rows of the class table ``weight``, which trains.
        dim: width of the embeddings.
        temperature: one over the papers' scale ``s``.
        learnable_temperature: whether it trains.
        sample: share of the classes without an embedding in the batch of all ranks that a training step takes part
            with, see :class:`ClassSample`; evaluation always takes all. The sum is not corrected for those left out.
        seed: of that sample.
        options: whatever else all losses share, see :class:`ContrastiveLoss`.

    Raises:
        TypeError: if there is no such argument; a margin head divides both norms out, so it takes no ``normalization``.
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        temperature: StartTemperature = 1 / 64,
        learnable_temperature: bool = False,
        sample: float = 1.0,
        seed: int = 0,
        **options: Unpack[SharedOptions],
    ) -> None:
        if "normalization" in options:
            raise TypeError(
                f"{type(self).__name__}: got an unexpected keyword argument 'normalization': margins are of cosines; "
                "FullSoftmax takes one, with a class table as its documents"
            )
        super().__init__(
            normalization="cosine", temperature=temperature, learnable_temperature=learnable_temperature, **options
        )
        check_count(2, num_classes=num_classes)
        check_count(dim=dim)
        self.sampling = ClassSample(sample, seed)
        self.weight = nn.Parameter(torch.empty(num_classes, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws class vectors with norms near one."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    def target_cosines(self, cosines: Tensor, norms: Tensor, gather_norms: GatherNorms) -> Tensor:
        """What stands in for the cosine with the own class.

        Args:
            cosines: ``[n]``.
            norms: of the embeddings, ``[n]``.
            gather_norms: for statistics of the whole batch.
        """
        del norms, gather_norms
        return cosines

    def penalties(self, norms: Tensor) -> Tensor | None:
        """What is added to the loss of each embedding, ``[n]``, if anything is."""
        del norms
        return None

    @property
    def _is_step(self) -> bool:
        return self.training and torch.is_grad_enabled()

    @uncompiled
    def forward(self, embeddings: Tensor, labels: Tensor, *, weights: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: ``[n, dim]``, not normalised; callbacks see them as ``queries``, the class vectors of the step
                as ``documents``.
            labels: class of each, whole numbers from 0 to below ``num_classes``, ``[n]``.
            weights: of the embeddings, ``[n]``, see :meth:`InfoNCE.forward`.

        Returns:
            A scalar, the mean over the embeddings of all ranks; with ``reduction="none"`` ``[n]``, of this rank's.

        Raises:
            ValueError: naming the argument that does not fit, or if embeddings are NaN or infinite.
        """
        check_set(embeddings, labels)
        self._check_fit(embeddings, labels)
        check_per_query(embeddings, weights=weights, temperatures=None)
        self.check_reducible(weights, None)
        embeddings, labels = self.queries(embeddings), labels.to(embeddings.device, torch.int64)
        if self.training:
            self.scaling.hold_in_training()
        with torch.autocast(embeddings.device.type, enabled=False):
            loss = self._reduced(embeddings, labels, weights)
        if self.check_finite and not bool(loss.isfinite().all()):
            check_finite(embeddings=embeddings, weight=whole(self.weight))
        return loss

    def _reduced(self, embeddings: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        ranks = self.ranks(embeddings, labels)
        traits = [Trait("weights", "1 if given", int(weights is not None))]
        if self.sampling.is_partial:
            traits.append(Trait("sample", "training steps so far", int(self.sampling.steps)))
        rows = ranks.rows(len(embeddings), traits=traits)[0]
        table = whole(self.weight)
        self.settle_temperature(embeddings, table, ranks)
        if self.sampling.is_partial and self._is_step:
            classes = self.sampling.draw(ranks.gather(labels, rows), len(table))
            table, labels = table[classes], torch.searchsorted(classes, labels)
        table = self.documents(table)
        losses = self._losses(embeddings, table, labels, lambda norms: ranks.gather(norms, rows))
        wide = torch.promote_types(torch.promote_types(embeddings.dtype, table.dtype), torch.float32)
        return self.reduce(losses, wide, weights, rows, ranks)

    def _losses(self, embeddings: Tensor, table: Tensor, targets: Tensor, gather_norms: GatherNorms) -> Tensor:
        """Of this rank's embeddings, ``[n]``."""
        anchors, vectors = self.scaled_queries(embeddings, None), self.similarity.rescale_documents(table)
        wide = torch.promote_types(anchors.dtype, vectors.dtype)
        log_sums, _, scores = log_sum_exp(
            anchors.to(wide), vectors.to(wide), positives=targets, chunk_size=self.chunk_size
        )
        scale = self.scaling.factor
        with torch.no_grad():
            directions = self.similarity.rescale_queries(most_precise(embeddings))
            own = self.similarity.rescale_documents(most_precise(table[targets]))
            precise = (directions * own).sum(1)
        # The gradient goes through the sweep's scores, so that no second table of gradients is made.
        cosines = most_precise(scores) / scale
        cosines = precise + (cosines - cosines.detach())
        norms = safe_norm(most_precise(embeddings))
        losses = softmax_loss(log_sums, scale * self.target_cosines(cosines, norms, gather_norms))
        penalties = self.penalties(norms)
        return losses if penalties is None else losses + penalties

    def _check_fit(self, embeddings: Tensor, labels: Tensor) -> None:
        num_classes, dim = self.weight.shape
        if embeddings.shape[1] != dim:
            raise ValueError(f"embeddings: expected [n, {dim}] as dim says, got {tuple(embeddings.shape)}")
        if embeddings.device != self.weight.device:
            raise ValueError(
                f"embeddings: expected on the device of the class table, {self.weight.device}, got "
                f"{embeddings.device}; move the head there"
            )
        if int(labels.max()) >= num_classes:
            raise ValueError(
                f"labels: expected classes 0 to {num_classes - 1}, got up to {int(labels.max())}; raise num_classes"
            )

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        partial = f", sample={self.sampling.sample:g}" if self.sampling.is_partial else ""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}{partial}"


class NormFace(MarginHead):
    """A softmax over the cosines with class vectors, without a margin: ``f(cos) = cos`` (arXiv 1704.06369).

    The paper learns the scale: ``learnable_temperature=True``. Where norms are to be kept, see :class:`FullSoftmax`.

    Args:
        num_classes: see :class:`MarginHead`.
        dim: width of the embeddings.
        options: see :class:`MarginHead`.

    Example:
        >>> head = NormFace(3, 3, temperature=1.0)
        >>> _ = nn.init.eye_(head.weight)
        >>> head(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).detach()
        tensor(0.5514)
    """

    def __init__(self, num_classes: int, dim: int, **options: Unpack[MarginOptions]) -> None:
        # Written out: jsonargparse up to 4.49 shows no help for the options of a constructor that is inherited.
        super().__init__(num_classes, dim, **options)


class CosFace(MarginHead):
    """The cosine with the own class counts less by a margin: ``f(cos) = cos - m`` (arXiv 1801.09414, eq. 4).

    Args:
        num_classes: see :class:`MarginHead`.
        dim: width of the embeddings.
        margin: ``m``.
        options: see :class:`MarginHead`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> head = CosFace(3, 3, margin=0.5, temperature=1.0)
        >>> _ = nn.init.eye_(head.weight)
        >>> head(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).detach()
        tensor(0.7944)
    """

    def __init__(self, num_classes: int, dim: int, *, margin: float = 0.35, **options: Unpack[MarginOptions]) -> None:
        super().__init__(num_classes, dim, **options)
        check_not_negative(margin=margin, hint="0.35 is common")
        self.margin = float(margin)

    def target_cosines(self, cosines: Tensor, norms: Tensor, gather_norms: GatherNorms) -> Tensor:
        """See :class:`CosFace`."""
        del norms, gather_norms
        return cosines - self.margin


class ArcFace(MarginHead):
    """The angle to the own class counts more by a margin: ``f(cos a) = cos(a + m)`` (arXiv 1801.07698, eq. 3).

    Where ``a + m`` is beyond a half turn the cosine would rise again; there it is ``cos a - m sin m``, as the authors'
    program and others have it.

    Args:
        num_classes: see :class:`MarginHead`.
        dim: width of the embeddings.
        margin: ``m`` in radians.
        options: see :class:`MarginHead`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> head = ArcFace(3, 3, margin=0.5, temperature=1.0)
        >>> _ = nn.init.eye_(head.weight)
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
    head warns if that is all of its first training batch. Choose bounds that the encoder's norms lie between.

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
        >>> _ = nn.init.eye_(head.weight)
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
        if self._is_step and not self._was_compared:
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


class NormStatistics(OwnNumbers):
    """Mean and standard deviation of norms, as exponential averages over training batches, kept in checkpoints.

    The first batch sets them, and an evaluation before it goes by its own batch.

    Args:
        momentum: what an average keeps of itself at each batch.

    Example:
        >>> statistics = NormStatistics(0.5)
        >>> statistics.update(torch.tensor([1.0, 3.0])), statistics.update(torch.tensor([4.0, 4.0]))
        (None, None)
        >>> statistics.mean, statistics.std
        (tensor(3.), tensor(0.7071))
    """

    mean: Tensor
    std: Tensor
    batches: Tensor

    def __init__(self, momentum: float) -> None:
        super().__init__()
        check_not_negative(momentum=momentum, hint="0.99 is common")
        if momentum >= 1:
            raise ValueError(f"momentum: expected a number from 0 to below 1, got {momentum!r}; 0.99 is common")
        self.momentum = float(momentum)
        self.register_buffer("mean", torch.zeros((), dtype=wide_dtype()))
        self.register_buffer("std", torch.zeros((), dtype=wide_dtype()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Forgets all batches."""
        for number in (self.mean, self.std, self.batches):
            number.zero_()

    def update(self, norms: Tensor) -> None:
        """Takes a training batch in, unless some of it is NaN or infinite.

        Args:
            norms: of the embeddings of all ranks, ``[total]``.
        """
        momentum = torch.where(self.batches > 0, self.momentum, 0.0)
        is_finite = norms.isfinite().all()
        for average, value in zip((self.mean, self.std), moments(norms), strict=True):
            average.copy_(torch.where(is_finite, momentum * average + (1 - momentum) * value, average))
        self.batches += is_finite

    def standardise(self, norms: Tensor, batch_norms: Tensor) -> Tensor:
        """How many standard deviations norms ``[n]`` are above the mean.

        Args:
            norms: of this rank.
            batch_norms: of all ranks, which count where no training batch has.
        """
        mean, std = (
            torch.where(self.batches > 0, average, value)
            for average, value in zip((self.mean, self.std), moments(batch_norms), strict=True)
        )
        return (norms - mean) / (std + _SMALLEST_DEVIATION)


def moments(norms: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of norms ``[n]``; a single one has a deviation of 0.

    Example:
        >>> moments(torch.tensor([1.0, 3.0]))
        (tensor(2.), tensor(1.4142))
    """
    return norms.mean(), norms.std(correction=min(1, len(norms) - 1))


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
        >>> _ = nn.init.eye_(head.weight)
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
