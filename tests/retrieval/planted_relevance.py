"""Judgements that depend on norms by a known exponent, and a sweep of them by brute force."""

import torch

from lightning_normdyn.retrieval.alpha_sweep import AlphaSweep

ALPHAS = torch.linspace(-2, 2, 21, dtype=torch.float64)


def directions(items, dim, generator):
    x = torch.randn(items, dim, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def planted(
    seed, exponent, *, queries=300, documents=150, relevant=5, temperature=0.05, lengths=None, spread=0.4, dim=16
):
    """Cosines, norms and relevance: each query's documents are drawn by cos·|d|^exponent and Gumbel noise.

    With ``lengths`` (a function of the generator) norms are what it gives.
    """
    generator = torch.Generator().manual_seed(seed)
    cosines = directions(queries, dim, generator) @ directions(documents, dim, generator).T
    normal = torch.randn(documents, generator=generator, dtype=torch.float64)
    norms = (spread * normal).exp() if lengths is None else lengths
    noise = -(-torch.rand(queries, documents, generator=generator, dtype=torch.float64).log()).log()
    utility = cosines * norms.pow(exponent) / temperature + noise
    relevance = torch.zeros_like(utility).scatter_(1, utility.topk(relevant, dim=1).indices, 1.0)
    return cosines, norms, relevance


def brute_sweep(cosines, norms, relevance, alphas=ALPHAS, k=10):
    """NDCG of a full sort at every exponent."""
    discount = 1 / torch.log2(torch.arange(relevance.shape[1], dtype=torch.float64) + 2)
    discount[k:] = 0
    ideal = (relevance.sort(1, descending=True).values * discount).sum(1)
    values = []
    for alpha in alphas:
        order = (cosines * norms.pow(alpha)).argsort(1, descending=True)
        values.append((relevance.gather(1, order) * discount).sum(1) / ideal)
    return AlphaSweep(alphas, torch.stack(values), f"ndcg@{k}")
