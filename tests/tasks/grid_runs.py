"""Trainings of a grid, made up: what a variant is worth is known."""

import torch

from lightning_normdyn.history.grid_findings import GridRun

SIMILARITIES = ("cosine", "dot", "qnorm", "dnorm")


def a_run(variant: str, *, gain: float = 0.0, lr: float = 1e-3, seed: int = 0, **other) -> GridRun:
    """A training whose queries are worth 0.5 and the gain, give or take."""
    generator = torch.Generator().manual_seed(seed * 7 + sum(map(ord, variant)))
    shared = torch.rand(80, generator=torch.Generator().manual_seed(0)) * 0.4
    values = (0.3 + gain + shared + torch.randn(80, generator=generator) * 0.02).tolist()
    content = {
        "variant": variant,
        "lr": lr,
        "seed": seed,
        "headline": "ndcg@10",
        "validation": 0.5 + gain,
        "measures": {"ndcg@10": sum(values) / 80},
        "values": dict.fromkeys(("trained", *SIMILARITIES), values),
        "diagnosis": {
            "cohens_d": 0.8,
            "query_cv": 0.1,
            "document_cv": 0.2,
            "kappa_qnorm": 1.0,
            "kappa_dnorm": 2.0,
            "kappa_qnorm_share": 0.99,
        },
        "learnt": {"gamma_query": 0.4, "gamma_document": 0.6} if variant == "learnable" else {},
        "course": {
            "step": [10.0, 20.0, 30.0],
            "headline": [0.1, 0.3, 0.5],
            "relevant_norm": [1.0, 1.1, 1.3],
            "irrelevant_norm": [1.0, 1.0, None],
        },
        "dynamics": {"normdyn/queries/norm_mean": 1.5},
        "seconds": 12.0,
    }
    return GridRun(**content | other)


def a_grid(gains: dict[str, float], *, seeds: int = 3) -> list[GridRun]:
    """Every variant at one rate."""
    return [a_run(name, gain=gain, seed=seed) for name, gain in gains.items() for seed in range(seeds)]
