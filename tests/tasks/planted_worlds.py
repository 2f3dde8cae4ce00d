"""Worlds in which it is known whether norms of documents carry relevance: measures of a grid's trainings, made up.

Every query has a relevant document among others. Its cosine is high by the query's luck; where norms carry relevance,
its vector is longer besides. Trainings differ a little as a whole, and each query a little under each.
"""

from typing import NamedTuple

import torch
from torch import Tensor

EXPONENTS = {"cosine": 1.0, "dot": 0.0, "qnorm": 0.0, "dnorm": 1.0, "learnable": 0.5}
"""Of documents' norms, which scores are divided by."""


class World(NamedTuple):
    """Sizes, and what norms know.

    Attributes:
        queries: of the test.
        effect: log of how much longer relevant documents are.
        candidates: that each query ranks.
        training: standard deviation of a training's separation from others.
    """

    queries: int
    effect: float
    candidates: int = 40
    training: float = 0.05


SCIFACT = World(300, 0.0)
UMLS = World(1300, 0.0)


def measures(world: World, *, seeds: int, seed: int) -> dict[str, Tensor]:
    """NDCG@10 of one relevant document, variant to ``[seeds, queries]``."""
    generator = torch.Generator().manual_seed(seed)
    shape = (world.queries, world.candidates)
    shared = torch.randn(shape, generator=generator)
    norms = 0.15 * torch.randn(shape, generator=generator)
    norms[:, 0] += world.effect
    values = {}
    for variant, exponent in EXPONENTS.items():
        separation = 2.0 + world.training * torch.randn(seeds, 1, generator=generator)
        scores = (shared + 0.5 * torch.randn(seeds, *shape, generator=generator)).contiguous()
        scores[:, :, 0] += separation
        scores = scores + 4 * (1 - exponent) * norms
        rank = 1 + (scores[:, :, 1:] > scores[:, :, :1]).sum(2)
        values[variant] = (1 / torch.log2(1.0 + rank)).where(rank <= 10, 0).double()
    return values
