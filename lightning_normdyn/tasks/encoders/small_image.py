"""An image encoder that trains in a minute on a CPU and needs no download."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.tasks.encoders.image import ImageEncoder


class SmallImageEncoder(ImageEncoder):
    """Blocks of convolution, pooling by two, batch normalisation and ReLU, then one linear map.

    Close to the "Conv4" of few-shot learning (four blocks of 64 channels; Vinyals et al., arXiv 1606.04080), but
    cheaper: pooling comes before normalisation, and maps are narrow where they are large. The map at the end has no
    bias, so that norms are free; in training they start near 1.

    Args:
        size: height and width of the images in pixels.
        channels: of the images, 1 for grey and 3 for colours.
        width: channels of the first half of the blocks; the others, which see small maps, have twice as many.
        blocks: each of which halves the size.
        dim: length of an embedding.

    Raises:
        ValueError: if a number is not positive, or nothing is left after so many blocks.

    Example:
        >>> encoder = SmallImageEncoder(size=8, channels=1, width=4, blocks=2, dim=6)
        >>> encoder.encode(torch.zeros(5, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([5, 6])
    """

    def __init__(self, *, size: int = 28, channels: int = 1, width: int = 32, blocks: int = 4, dim: int = 64) -> None:
        super().__init__()
        check_count(size=size, channels=channels, width=width, blocks=blocks, dim=dim)
        cells = (size >> blocks) ** 2
        if not cells:
            raise ValueError(
                f"blocks: expected at most {size.bit_length() - 1} for images of {size} pixels, got {blocks}"
            )
        self.size, self.channels, self.dim = size, channels, dim
        widths = [channels, *(width * (1 + (2 * place >= blocks)) for place in range(blocks))]
        self.blocks = nn.Sequential(*(_block(*pair) for pair in pairwise(widths)))
        self.last = nn.Linear(widths[-1] * cells, dim, bias=False)
        nn.init.normal_(self.last.weight, std=(widths[-1] * cells * dim) ** -0.5)
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings ``[b, dim]`` of pixels from 0 to 1, ``[b, channels, size, size]``.

        Raises:
            ValueError: if the images are of another size or have other channels.
        """
        expected = (self.channels, self.size, self.size)
        if tuple(pixels.shape[1:]) != expected:
            raise ValueError(
                f"images: expected [b, {', '.join(map(str, expected))}], got {list(pixels.shape)}; set the encoder's "
                "size and channels to those of the data, or have the source give others (grey, size)"
            )
        # Channels last in memory is twice as fast on a CPU.
        features = self.blocks(pixels.contiguous(memory_format=torch.channels_last))
        embeddings: Tensor = self.last(features.flatten(1))
        return embeddings


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()
    )
