"""A penalty on the spread of norms, which draws embeddings onto one sphere and leaves its radius to the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_normdyn.core.dynamics.geometry import safe_norm
from lightning_normdyn.core.number_checks import check_finite_number
from lightning_normdyn.core.tensor_checks import check_real_tensors


class NormVariance(nn.Module):
    """The variance of the norms of a batch, to be added to a contrastive loss.

    ``weight · mean over i of (|x_i| - m)²`` with ``m`` the mean norm of the batch (Zhang, Li, Zhang 2020, "Deep metric
    learning with spherical embedding", arXiv 2011.02785). Embeddings of one length turn equally fast under a cosine
    loss. Its gradients are radial and add up to zero along the embeddings' directions, so it levels norms and does not
    move their mean.

    With ``momentum``, ``m`` is a running mean over batches instead and carries no gradient: small batches then pull
    towards one radius. It is kept in float32 whatever the module is cast to, goes into the ``state_dict``, moves in
    training alone and is of this rank alone.

    Args:
        weight: factor before the variance; the unit of the variance is that of a squared norm.
        momentum: share of the running mean that a batch leaves; ``None`` for the mean of the batch alone.

    Raises:
        ValueError: if the weight is negative or the momentum is outside [0, 1).

    Example:
        >>> penalty = NormVariance(weight=0.5)
        >>> penalty(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))  # norms 5 and 1 about 3
        tensor(2.)
    """

    def __init__(self, weight: float = 1.0, *, momentum: float | None = None) -> None:
        super().__init__()
        check_finite_number(weight=weight)
        if not weight >= 0:
            raise ValueError(f"weight: expected 0 or more, got {weight}")
        if momentum is not None:
            check_finite_number(momentum=momentum)
        if momentum is not None and not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected 0 to below 1, got {momentum}; 0.99 averages over 100 batches")
        self.weight = weight
        self.momentum = momentum
        self._running = torch.zeros(2)  # mean and batches; no buffer, whose updates bfloat16 would swallow

    def forward(self, *embeddings: Tensor) -> Tensor:
        """The penalty.

        Args:
            embeddings: one or more batches of vectors, ``[..., d]``, all held to one mean.

        Returns:
            A scalar, in float32 at least.

        Raises:
            ValueError: if there is no vector, or something else than vectors of floating-point numbers.
        """
        check_real_tensors(**{f"embeddings[{place}]": vectors for place, vectors in enumerate(embeddings)})
        if any(not vectors.ndim for vectors in embeddings):
            raise ValueError(
                "embeddings: expected vectors [..., d], got a single number; pass the embeddings themselves"
            )
        if not sum(vectors.numel() for vectors in embeddings):
            raise ValueError(
                "embeddings: expected at least one vector, got none; leave the penalty out of empty batches"
            )
        norms = torch.cat([safe_norm(vectors).reshape(-1) for vectors in embeddings])
        return self.weight * (norms - self._centre(norms)).square().mean()

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        return f"weight={self.weight}, momentum={self.momentum}"

    def get_extra_state(self) -> Tensor:
        """The running mean and the batches it has seen, for ``state_dict``."""
        return self._running

    def set_extra_state(self, state: Tensor) -> None:
        """Takes back what :meth:`get_extra_state` gave."""
        self._running = state.clone()

    def _centre(self, norms: Tensor) -> Tensor:
        if self.momentum is None:
            return norms.mean()
        mean = norms.detach().mean()
        if self.training and bool(mean.isfinite()):
            self._remember(mean, self.momentum)
        running, batches = self._running.to(norms.device).unbind()
        return running.where(batches > 0, mean)

    def _remember(self, mean: Tensor, momentum: float) -> None:
        """Plain averaging until the batches are as many as the running mean remembers."""
        running, batches = self._running.to(mean.device).unbind()
        share = (1 / (batches + 1)).clamp(min=1 - momentum)
        self._running = torch.stack((running + share * (mean - running), batches + 1)).float()
