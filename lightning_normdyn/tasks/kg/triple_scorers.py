"""Triple scorers (DistMult, ComplEx, RotatE, dual encoder) as inner products of a query and an entity."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class TripleScorer(nn.Module, ABC):
    """Makes a query of (head, relation) and a document of each entity.

    Rows start with norms near 1 on both sides, so that scores of any similarity over a temperature of 0.05 start small
    enough to train.

    Args:
        entities: how many there are.
        relations: how many there are, each direction counted as one.
        dim: length of an embedding.
    """

    def __init__(self, entities: int, relations: int, dim: int) -> None:
        super().__init__()
        self.entities = nn.Embedding(entities, dim)
        nn.init.normal_(self.entities.weight, std=dim**-0.5)
        self._add_queries(entities, relations, dim)

    @abstractmethod
    def _add_queries(self, entities: int, relations: int, dim: int) -> None:
        """Makes what queries need beside the entities."""

    @abstractmethod
    def queries(self, heads: Tensor, relations: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` of heads ``[b]`` with relations ``[b]``."""

    def documents(self, entities: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` of entities ``[b]``."""
        embeddings: Tensor = self.entities(entities)
        return embeddings

    @abstractmethod
    def moduli(self, heads: Tensor, relations: Tensor, tails: Tensor) -> list[Tensor]:
        """Absolute values of the factors of each fact's score, which a regulariser holds small, each ``[b, ...]``."""


class DistMult(TripleScorer):
    """``<h * r, t>`` (arXiv 1412.6575): for a fixed relation, head and tail score alike either way.

    Example:
        >>> DistMult(5, 2, 8).queries(torch.tensor([0]), torch.tensor([1])).shape
        torch.Size([1, 8])
    """

    def _add_queries(self, entities: int, relations: int, dim: int) -> None:
        self.relations = nn.Embedding(relations, dim)

    def queries(self, heads: Tensor, relations: Tensor) -> Tensor:
        """``h * r``."""
        product: Tensor = self.entities(heads) * self.relations(relations)
        return product

    def moduli(self, heads: Tensor, relations: Tensor, tails: Tensor) -> list[Tensor]:
        """``|h|``, ``|r|`` and ``|t|``."""
        return [self.entities(heads).abs(), self.relations(relations).abs(), self.entities(tails).abs()]


class ComplEx(TripleScorer):
    """``Re <h * r, conj(t)>`` (arXiv 1606.06357), the real inner product of ``h * r`` and ``t``.

    The first half of a row is the real part, the second the imaginary part.
    """

    def _add_queries(self, entities: int, relations: int, dim: int) -> None:
        if dim % 2:
            raise ValueError(f"dim: expected an even number, a real and an imaginary part for each factor, got {dim}")
        self.relations = nn.Embedding(relations, dim)
        nn.init.normal_(self.relations.weight, std=0.5**0.5)

    def queries(self, heads: Tensor, relations: Tensor) -> Tensor:
        """``h * r`` as complex numbers."""
        return _complex_product(self.entities(heads), self.relations(relations))

    def moduli(self, heads: Tensor, relations: Tensor, tails: Tensor) -> list[Tensor]:
        """Complex moduli of ``h``, ``r`` and ``t``."""
        return [_modulus(x) for x in (self.entities(heads), self.relations(relations), self.entities(tails))]


class RotatE(TripleScorer):
    """``h`` turned by the relation's angles (arXiv 1902.10197), so that a query has its head's norm.

    The score of the paper, ``-|h * r - t|``, orders tails as the inner product does if all tails have one norm.
    """

    def _add_queries(self, entities: int, relations: int, dim: int) -> None:
        if dim % 2:
            raise ValueError(f"dim: expected an even number, a real and an imaginary part for each factor, got {dim}")
        self.angles = nn.Embedding(relations, dim // 2)
        nn.init.uniform_(self.angles.weight, -math.pi, math.pi)

    def queries(self, heads: Tensor, relations: Tensor) -> Tensor:
        """``h * r`` as complex numbers, ``r`` of modulus 1."""
        angles = self.angles(relations)
        return _complex_product(self.entities(heads), torch.cat((angles.cos(), angles.sin()), -1))

    def moduli(self, heads: Tensor, relations: Tensor, tails: Tensor) -> list[Tensor]:
        """Complex moduli of ``h`` and ``t``; those of ``r`` are 1."""
        del relations
        return [_modulus(self.entities(heads)), _modulus(self.entities(tails))]


class DualEncoder(TripleScorer):
    """A query tower of its own beside the entities' table: ``h + r + MLP(h, r)``, all of them rows of the query side.

    No row serves both sides, so that the norms of queries and of documents are free of each other.
    """

    def _add_queries(self, entities: int, relations: int, dim: int) -> None:
        self.heads = nn.Embedding(entities, dim)
        self.relations = nn.Embedding(relations, dim)
        for table in (self.heads, self.relations):
            nn.init.normal_(table.weight, std=(2 * dim) ** -0.5)
        last = nn.Linear(2 * dim, dim, bias=False)
        nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(nn.Linear(2 * dim, 2 * dim, bias=False), nn.ReLU(), last)

    def queries(self, heads: Tensor, relations: Tensor) -> Tensor:
        """What the tower makes of both."""
        head, relation = self.heads(heads), self.relations(relations)
        embeddings: Tensor = head + relation + self.residual(torch.cat((head, relation), -1))
        return embeddings

    def moduli(self, heads: Tensor, relations: Tensor, tails: Tensor) -> list[Tensor]:
        """``|h|``, ``|r|`` and ``|t|``."""
        return [self.heads(heads).abs(), self.relations(relations).abs(), self.entities(tails).abs()]


SCORERS: dict[str, type[TripleScorer]] = {
    "distmult": DistMult,
    "complex": ComplEx,
    "rotate": RotatE,
    "dual": DualEncoder,
}
"""Word in a config to class."""


def _complex_product(a: Tensor, b: Tensor) -> Tensor:
    a_real, a_imaginary = a.chunk(2, -1)
    b_real, b_imaginary = b.chunk(2, -1)
    return torch.cat((a_real * b_real - a_imaginary * b_imaginary, a_real * b_imaginary + a_imaginary * b_real), -1)


def _modulus(x: Tensor) -> Tensor:
    # hypot has no gradient at zero, where a row may well be once decay has its way.
    real, imaginary = x.chunk(2, -1)
    return (real.square() + imaginary.square()).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
