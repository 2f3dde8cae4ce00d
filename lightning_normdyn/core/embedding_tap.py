"""``Published``: an identity module that embeddings pass through, so that callbacks can hook it and watch them."""

from __future__ import annotations

from torch import Tensor, nn


class Published(nn.Module):
    """Hands embeddings on as they are; the callbacks find it by its class and listen to what passes.

    Args:
        name: what the embeddings are called in the logs.

    Attributes:
        repeats: whether a call from inside of the backward pass may repeat one that was made before it, as of a
            checkpointed module; a cached loss shows there what it has shown nobody.

    Example:
        >>> import torch
        >>> Published("queries")(torch.ones(2))
        tensor([1., 1.])
    """

    repeats = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, embeddings: Tensor) -> Tensor:
        """The embeddings."""
        return embeddings
