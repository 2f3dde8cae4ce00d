"""Base class of image encoders: uint8 images to embeddings."""

from __future__ import annotations

from torch import Tensor, nn


class ImageEncoder(nn.Module):
    """Images of one size to embeddings.

    A subclass overrides :meth:`forward` and sets :attr:`dim`.
    """

    dim: int

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings ``[b, dim]``, not normalised, of pixels from 0 to 1, ``[b, channels, height, width]``."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings ``[b, dim]`` of uint8 images ``[b, channels, height, width]``, on the encoder's own device."""
        parameter = next(self.parameters())
        embeddings: Tensor = self(images.to(parameter.device).to(parameter.dtype) / 255)
        return embeddings
