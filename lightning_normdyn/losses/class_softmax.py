"""A softmax over a table of class vectors, all of them or a sample, in which the own class may score less."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_normdyn.core.contrast.class_log_sum_exp import sum_class_losses
from lightning_normdyn.core.contrast.log_sum_exp import log_sum_exp, softmax_loss
from lightning_normdyn.core.dynamics.geometry import at_least_float32, most_precise, safe_norm
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.losses.batch_checks import check_finite, check_per_query, check_set
from lightning_normdyn.losses.class_sample import ClassSample
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.gather import Trait
from lightning_normdyn.losses.learnt import whole
from lightning_normdyn.losses.options import SharedOptions, StartTemperature, Unpack
from lightning_normdyn.losses.uncompiled import uncompiled

GatherNorms = Callable[[Tensor], Tensor]
"""Hands out the norms of the embeddings of all ranks, given those of this one; ``[n]`` to ``[total]``."""


class MarginHead(ContrastiveLoss):
    """``L = mean_i [log(sum_{j != y} exp(s cos_ij) + exp(s f(cos_iy))) - s f(cos_iy)]``, with ``s = 1/temperature``.

    ``y`` is the class of embedding ``i``, ``cos`` the cosine of embeddings and class vectors, and ``f`` the margin,
    which makes an embedding's own class score less. Scores are made a strip of rows at a time, so that memory for them
    has a bound. The cosine that the margin acts on is computed in float64.

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
            cosines: ``[n]``; what becomes of one may not depend on another.
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
            # Wide before norms and directions are taken of them, or two gradients would be added in half precision.
            loss = self._reduced(at_least_float32(embeddings), labels, weights)
        if self.check_finite and not bool(loss.isfinite().all()):
            check_finite(embeddings=embeddings, weight=whole(self.weight))
        return loss

    def _reduced(self, embeddings: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        ranks = self.ranks(embeddings, labels)
        table = whole(self.weight)
        traits = [Trait("weights", "1 if given", int(weights is not None))]
        traits.append(Trait("num_classes", "rows of the class table", len(table)))
        if self.sampling.is_partial:
            traits.append(Trait("sample", "training steps so far", int(self.sampling.steps)))
        rows = ranks.rows(len(embeddings), traits=traits)[0]
        self.settle_temperature(embeddings, table, ranks)
        if self.sampling.is_partial and self._is_step:
            classes = self.sampling.draw(ranks.gather(labels, rows), len(table))
            table, labels = table[classes], torch.searchsorted(classes, labels)
        table = self.documents(table)
        sweep = self._loss_sum if self.wants_sum(weights) else self._losses
        losses = sweep(embeddings, table, labels, lambda norms: ranks.gather(norms, rows))
        wide = torch.promote_types(torch.promote_types(embeddings.dtype, table.dtype), torch.float32)
        return self.reduce(losses, wide, weights, rows, ranks)

    def _loss_sum(self, embeddings: Tensor, table: Tensor, targets: Tensor, gather_norms: GatherNorms) -> Tensor:
        """Of this rank's embeddings, a scalar: its gradient is made on the way forward."""
        anchors, vectors = self._rescaled(embeddings, table)
        norms, scale = safe_norm(most_precise(embeddings)), self.scaling.factor
        own = self._own_cosines(embeddings, table, targets) * (scale.detach() if isinstance(scale, Tensor) else scale)
        own.requires_grad_(torch.is_grad_enabled())
        scores = scale * self.target_cosines(own / scale, norms, gather_norms)
        slopes = torch.autograd.grad(scores.sum(), own, retain_graph=True)[0] if own.requires_grad else own
        total = sum_class_losses(anchors, vectors, targets, scores, slopes, chunk_size=self.chunk_size)
        penalties = self.penalties(norms)
        return total if penalties is None else total + penalties.sum()

    def _losses(self, embeddings: Tensor, table: Tensor, targets: Tensor, gather_norms: GatherNorms) -> Tensor:
        """Of this rank's embeddings, ``[n]``."""
        anchors, vectors = self._rescaled(embeddings, table)
        log_sums, _, scores = log_sum_exp(anchors, vectors, positives=targets, chunk_size=self.chunk_size)
        norms, scale = safe_norm(most_precise(embeddings)), self.scaling.factor
        # The gradient goes through the sweep's scores, so that no second table of gradients is made.
        cosines = most_precise(scores) / scale
        cosines = self._own_cosines(embeddings, table, targets) + (cosines - cosines.detach())
        losses = softmax_loss(log_sums, scale * self.target_cosines(cosines, norms, gather_norms))
        penalties = self.penalties(norms)
        return losses if penalties is None else losses + penalties

    def _rescaled(self, embeddings: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """As their inner products are the scores over the temperature."""
        anchors, vectors = self.scaled_queries(embeddings, None), self.similarity.rescale_documents(table)
        wide = torch.promote_types(anchors.dtype, vectors.dtype)
        return anchors.to(wide), vectors.to(wide)

    def _own_cosines(self, embeddings: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """With the own class, ``[n]``, without gradient."""
        with torch.no_grad():
            directions = self.similarity.rescale_queries(most_precise(embeddings))
            own = self.similarity.rescale_documents(most_precise(table[targets]))
            return (directions * own).sum(1)

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
