"""Judgements that depend on norms by a known exponent, and a sweep of them by brute force."""

from typing import NamedTuple

import torch

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.retrieval.exponent.confounds import explain_gain
from lightning_normdyn.retrieval.exponent.residual_norms import (
    length_exponents,
    length_norms,
    predicted_norms,
    residual_norms,
)
from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep, sweep_alpha

ALPHAS = torch.tensor([step / 5 for step in range(-10, 11)], dtype=torch.float64)


def directions(items, dim, generator):
    x = torch.randn(items, dim, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def draw_relevance(weights, cosines, relevant, temperature, generator):
    """The first documents of each query by ``cos · weight / temperature`` and Gumbel noise: 1, all others: 0."""
    noise = -(-torch.rand(cosines.shape, generator=generator, dtype=torch.float64).log()).log()
    first = (cosines * weights / temperature + noise).topk(relevant, dim=1).indices
    return torch.zeros_like(cosines).scatter_(1, first, 1.0)


def planted(seed, exponent, *, queries=300, documents=150, relevant=5, temperature=0.05, spread=0.4, dim=16):
    """Cosines, norms, and relevance that depends on norms by the exponent."""
    generator = torch.Generator().manual_seed(seed)
    cosines = directions(queries, dim, generator) @ directions(documents, dim, generator).T
    norms = (spread * torch.randn(documents, generator=generator, dtype=torch.float64)).exp()
    return cosines, norms, draw_relevance(norms.pow(exponent), cosines, relevant, temperature, generator)


def planted_length(seed, exponent, *, queries=200, documents=150, relevant=5, temperature=0.05, dim=16):
    """Cosines, norms, lengths, and relevance that depends on length alone, which norms follow by its square root."""
    generator = torch.Generator().manual_seed(seed)
    cosines = directions(queries, dim, generator) @ directions(documents, dim, generator).T
    lengths = (3.5 + 0.7 * torch.randn(documents, generator=generator, dtype=torch.float64)).exp().round()
    own = (0.1 * torch.randn(documents, generator=generator, dtype=torch.float64)).exp()
    weights = ((1 + lengths) / 33).pow(exponent)
    return cosines, lengths.sqrt() * own, lengths, draw_relevance(weights, cosines, relevant, temperature, generator)


class LengthWorld(NamedTuple):
    """Documents of known lengths, and what of them is relevant: by length, by norm, or neither."""

    queries: torch.Tensor
    documents: torch.Tensor
    lengths: torch.Tensor
    judgements: Judgements


def length_world(
    seed, *, rows=300, confound=0.5, noise=0.0, by_length=0.0, by_norm=0.0,
    queries=200, relevant=5, temperature=0.05, deviation=0.7,
):  # fmt: skip
    """Norms are ``(1 + length)^confound`` and noise, relevance by ``cos · (1 + length)^by_length · norm^by_norm``."""
    draw = torch.Generator().manual_seed(seed)
    asked, unit = directions(queries, 16, draw), directions(rows, 16, draw)
    lengths = (3.5 + deviation * torch.randn(rows, generator=draw, dtype=torch.float64)).exp().round()
    norms = (1 + lengths).pow(confound) * (noise * torch.randn(rows, generator=draw, dtype=torch.float64)).exp()
    norms = norms / norms.log().mean().exp()
    weights = ((1 + lengths) / 33).pow(by_length) * norms.pow(by_norm)
    pairs = []
    for number, query in enumerate(asked.split(20)):
        relevance = draw_relevance(weights, query @ unit.T, relevant, temperature, draw)
        pairs += [(20 * number + row, document, 1.0) for row, document in relevance.nonzero().tolist()]
    return LengthWorld(asked.float(), unit.float() * norms.float().unsqueeze(1), lengths, Judgements.of(pairs))


def explained(world, resamples=300):
    """The report on a world, by the library's own sweeps, as an audit makes them."""
    norms = world.documents.double().norm(dim=1)
    unit = world.documents / norms.float().unsqueeze(1)

    def swept(column, alphas=ALPHAS):
        return sweep_alpha(world.queries, unit * column.float().unsqueeze(1), world.judgements, alphas=alphas)

    return explain_gain(
        swept(norms),
        swept(residual_norms(norms, world.lengths)),
        swept(length_norms(world.lengths), length_exponents(world.lengths, ALPHAS)),
        predicted=swept(predicted_norms(norms, world.lengths)),
        resamples=resamples,
    )


def brute_sweep(cosines, norms, relevance, alphas=ALPHAS, k=10):
    """NDCG at every exponent, all documents scored again for each."""
    discount = 1 / torch.log2(torch.arange(k, dtype=torch.float64) + 2)
    ideal = (relevance.sort(1, descending=True).values[:, :k] * discount).sum(1)
    values = []
    for alpha in alphas:
        best = (cosines * norms.pow(alpha)).topk(k, dim=1).indices
        values.append((relevance.gather(1, best) * discount).sum(1) / ideal)
    return AlphaSweep(alphas, torch.stack(values), f"ndcg@{k}")
