"""Dual encoders of images and texts: the base class, and a pair of any two encoders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_normdyn.tasks.encoders.image import ImageEncoder
from lightning_normdyn.tasks.encoders.small_image import SmallImageEncoder
from lightning_normdyn.tasks.encoders.small_text import SmallTextEncoder
from lightning_normdyn.tasks.encoders.text import TextEncoder


class ImageTextTowers(nn.Module):
    """Base of pairs of encoders with embeddings of one length, neither normalised.

    A subclass overrides both methods, and counts in :attr:`truncated_texts` the texts whose end it left out;
    :attr:`texts` counts all.
    """

    texts: int = 0
    truncated_texts: int = 0
    _has_warned: bool = False

    def encode_images(self, images: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` of uint8 RGB images ``[b, 3, height, width]``."""
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts."""
        raise NotImplementedError

    def tell_truncation(self) -> None:
        """Warns, once, if the ends of texts were left out."""
        if self.truncated_texts and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{self.truncated_texts / self.texts:.1%} of the captions are longer than the encoder takes, and their "
                "ends were left out",
                stacklevel=2,
            )


class ApartTowers(ImageTextTowers):
    """Any image encoder beside any text encoder.

    Args:
        image: a :class:`SmallImageEncoder` for colour images of 32 x 32 pixels if left out.
        text: a :class:`SmallTextEncoder` of the same length of embeddings if left out.

    Raises:
        ValueError: if embeddings of the two differ in length.

    Example:
        >>> towers = ApartTowers()
        >>> towers.encode_texts(["red heart"]).shape
        torch.Size([1, 128])
    """

    def __init__(self, image: ImageEncoder | None = None, text: TextEncoder | None = None) -> None:
        super().__init__()
        if image is None:
            image = SmallImageEncoder(size=32, channels=3, width=32, blocks=3, dim=128 if text is None else text.dim)
        self.image = image
        self.text = SmallTextEncoder(dim=image.dim) if text is None else text
        if self.image.dim != self.text.dim:
            raise ValueError(
                f"text: expected embeddings as long as those of images, {self.image.dim}, got {self.text.dim}; set dim"
            )

    def encode_images(self, images: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` of uint8 RGB images ``[b, 3, height, width]``."""
        return self.image.encode(images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts."""
        embeddings = self.text.encode(texts)
        self.texts, self.truncated_texts = self.text.texts, self.text.truncated_texts
        return embeddings
