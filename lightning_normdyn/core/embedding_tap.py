"""``Published``: an identity module that embeddings pass through, so that callbacks can hook it and watch them."""

from __future__ import annotations

from torch import Tensor, nn


class Published(nn.Module):
    """Hands embeddings on as they are; the callbacks find it by its class and listen to what passes.

    Args:
        name: what the embeddings are called in the logs.

    Example:
        >>> import torch
        >>> Published("queries")(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, embeddings: Tensor) -> Tensor:
        """The embeddings."""
        return embeddings
