"""Supervised contrastive loss of one set of embeddings, or of several views of it: classes tell what is positive."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.caution import caution
from lightning_normdyn.core.contrast.exclusion import Exclusion
from lightning_normdyn.core.contrast.log_sum_exp import target_log_sum_exp
from lightning_normdyn.core.contrast.positive_pairs import PositivePairs
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.losses.batch_checks import check_finite, check_set, scores_error
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.gather import Ranks, Trait
from lightning_normdyn.losses.options import SoftmaxOptions, Unpack
from lightning_normdyn.losses.positives import counts_of_class
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.uncompiled import uncompiled


class SupCon(ContrastiveLoss):
    """``L = mean_i [log sum_{j != i} exp(s_ij/tau) - mean_p s_ip/tau]``, ``p`` all others of i's class.

    The supervised contrastive loss (arXiv 2004.11362, eq. 2, "L_out") of a single set: every embedding is an anchor and
    meets all others, of its class or not. What is alone in its class is a negative of the others and no anchor. Two
    views are a set of twice as many, ``loss(torch.cat((first, second)), labels.repeat(2))``, which is the value of
    ``InfoNCE(symmetric=True, same_side="both")(first, second, labels=labels)`` too; with a label for each pair and no
    other of its class that is SimCLR's. Scores are made a tile at a time, and on several ranks the set is that of all.

    Both sides of a score are the same embeddings, of which ``qnorm`` and ``dnorm`` keep the length on one side alone.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`. The mean, and weights of
            a sum, are over anchors.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss, labels = SupCon(temperature=1.0), torch.tensor([0, 0, 1])
        >>> loss(torch.eye(3), labels)
        tensor(0.6931)
    """

    def __init__(self, *, normalization: Normalization = "cosine", **options: Unpack[SoftmaxOptions]) -> None:
        # Written out: jsonargparse up to 4.49 shows no help for the options of a constructor that is inherited.
        super().__init__(normalization=normalization, **options)

    @uncompiled
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of a set.

        Args:
            embeddings: ``[n, d]``, not normalised; callbacks see them as ``queries``.
            labels: class of each, whole numbers from 0 up, ``[n]``.

        Returns:
            A scalar, the mean over the anchors of all ranks; with ``reduction="none"`` ``[n]``, 0 for what is none.

        Raises:
            ValueError: naming the argument that does not fit, or if embeddings are NaN or infinite.
        """
        check_set(embeddings, labels)
        embeddings = self.queries(embeddings)
        if self.training:
            self.scaling.hold_in_training()
        with torch.autocast(embeddings.device.type, enabled=False):
            # Wide before they serve on both sides: two gradients in half precision would be rounded three times.
            ranks = self.ranks(embeddings, labels)
            loss = self._reduced(at_least_float32(embeddings), labels.to(embeddings.device, torch.int64), ranks)
        if self.check_finite and not bool(loss.isfinite().all()):
            check_finite(embeddings=embeddings)
            raise ValueError(scores_error("embeddings", loss.dtype, ranks.count, remedy="normalise them"))
        return loss

    def _reduced(self, embeddings: Tensor, labels: Tensor, ranks: Ranks) -> Tensor:
        """Over the anchors of all ranks."""
        self.settle_temperature(embeddings, embeddings, ranks)
        gradient = Trait("embeddings", "1 if they carry gradient", int(embeddings.requires_grad))
        rows = ranks.rows(len(embeddings), traits=[gradient, Trait("embeddings", "dimension", embeddings.shape[1])])[0]
        anchors = self.scaled_queries(embeddings, None)
        vectors, all_labels = (
            ranks.gather(values, rows) for values in (self.similarity.rescale_documents(embeddings), labels)
        )
        columns = torch.arange(rows.local_slice.start, rows.local_slice.stop, device=labels.device)
        exclusion = Exclusion(self_columns=columns)
        targets = PositivePairs(labels.new_empty(len(labels), 0), (labels, all_labels))
        sums, *_, of_targets = target_log_sum_exp(
            anchors, vectors, targets, exclusion=exclusion, chunk_size=self.chunk_size
        )
        numbers = counts_of_class(labels, all_labels) - 1
        is_anchor = numbers > 0
        losses = (sums - of_targets.rows / numbers.clamp(min=1)).where(is_anchor, 0.0)
        if self.reduction != "none" and not bool(ranks.sum(is_anchor.sum()[None].to(sums.dtype))):
            caution(
                "labels: no two embeddings have the same, so that there is no positive and the loss is 0; draw batches "
                "with several of a class, or two views of each",
                stacklevel=4,
            )
            return ranks.whole(losses.sum().to(anchors.dtype))
        weights = None if self.reduction == "none" else is_anchor.to(sums.dtype)
        return self.reduce(losses, anchors.dtype, weights, rows, ranks)
