"""Judgements that depend on norms by a known exponent, and a sweep of them by brute force."""

import torch

from lightning_normdyn.retrieval.exponent.sweep import AlphaSweep

ALPHAS = torch.linspace(-2, 2, 21, dtype=torch.float64)


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


def brute_sweep(cosines, norms, relevance, alphas=ALPHAS, k=10):
    """NDCG at every exponent, all documents scored again for each."""
    discount = 1 / torch.log2(torch.arange(k, dtype=torch.float64) + 2)
    ideal = (relevance.sort(1, descending=True).values[:, :k] * discount).sum(1)
    values = []
    for alpha in alphas:
        best = (cosines * norms.pow(alpha)).topk(k, dim=1).indices
        values.append((relevance.gather(1, best) * discount).sum(1) / ideal)
    return AlphaSweep(alphas, torch.stack(values), f"ndcg@{k}")
