"""Pairs of document halves as fixed vectors, the training data of the encoder experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class HalvedTexts(NamedTuple):
    """First and second halves of documents, row i of both being of one document.

    Attributes:
        first: unit vectors, ``[documents, d]``.
        second: unit vectors, ``[documents, d]``.
    """

    first: Tensor
    second: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Pairs of halves, ``[2, count, d]``, of documents drawn with replacement."""
        rows = torch.randint(len(self.first), (count,), generator=generator)
        return torch.stack([self.first[rows], self.second[rows]])


def halve_texts(
    documents: Sequence[Sequence[int]], vocabulary_size: int, *, dim: int, seed: int, least_words: int = 8
) -> HalvedTexts:
    """Sums fixed random word vectors over each half of each document, and normalises.

    Args:
        documents: word ids.
        vocabulary_size: number of different ids.
        dim: length of a word vector.
        seed: chooses the word vectors.
        least_words: shorter documents are left out.

    Raises:
        ValueError: if fewer than two documents are long enough.

    Example:
        >>> halves = halve_texts([[0, 1, 1, 0], [2, 2, 2, 2], [0]], 3, dim=4, seed=0, least_words=4)
        >>> halves.first.shape, torch.allclose(halves.first[0], halves.second[0])
        (torch.Size([2, 4]), True)
    """
    words = torch.randn(vocabulary_size, dim, generator=torch.Generator().manual_seed(seed))
    long = [torch.tensor(document) for document in documents if len(document) >= max(2, least_words)]
    if len(long) < 2:
        raise ValueError(
            f"text: expected two or more documents of at least {least_words} words, got {len(long)}; pass longer ones"
        )
    halves = [torch.tensor_split(document, 2) for document in long]
    first, second = (torch.stack([words[pair[side]].sum(0) for pair in halves]) for side in (0, 1))
    return HalvedTexts(F.normalize(first, dim=1), F.normalize(second, dim=1))
