"""Calls of what is measured of directions, and of clusterings, that make no sense."""

from collections.abc import Iterator
from itertools import chain

import torch
from call_outcomes import INF, NAN, NOT_COUNT, BadCall, each

from lightning_normdyn import core, retrieval
from lightning_normdyn.retrieval import audit

VECTORS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
NOT_NUMBERS = [VECTORS.to_sparse(), VECTORS.to("meta"), VECTORS.to(torch.float8_e4m3fn)]
NOT_VECTORS = [None, "a", VECTORS[0], VECTORS * NAN, VECTORS[:, :, None], *NOT_NUMBERS]
LABELS = torch.arange(40) % 4
TOP = torch.arange(30).reshape(10, 3)


def _directions() -> Iterator[BadCall]:
    kind = "core: directions"
    for function in (core.effective_rank, core.uniformity, core.common_direction):
        yield from each(kind, function, {"vectors": VECTORS}, vectors=NOT_VECTORS)
    yield from each(
        kind,
        core.alignment,
        {"queries": VECTORS, "documents": VECTORS.flip(1)},
        queries=[*NOT_VECTORS, VECTORS[:3]],
        documents=[*NOT_VECTORS, VECTORS[:, :2]],
        groups=["a", LABELS[:3], LABELS[:, None]],
    )


def _neighbours() -> Iterator[BadCall]:
    kind = "retrieval: hubness"
    yield from each(kind, retrieval.hubness, {"vectors": VECTORS}, vectors=NOT_VECTORS, k=NOT_COUNT)
    yield from each(
        kind, audit.direction_health, {"documents": VECTORS}, documents=[*NOT_VECTORS, 3, [VECTORS, VECTORS[:, :2]]]
    )
    for function in (retrieval.k_occurrences, retrieval.popularity_share):
        yield from each(
            kind,
            function,
            {"indices": TOP, "documents": 50},
            indices=[None, "a", TOP.float(), TOP[0, 0], TOP + 40],
            documents=NOT_COUNT,
        )


def _clusterings() -> Iterator[BadCall]:
    kind = "retrieval: clusterings"
    not_exponents = [NAN, INF, "1"]
    yield from each(
        kind, retrieval.norm_weights, {"embeddings": VECTORS}, embeddings=NOT_VECTORS, exponent=not_exponents
    )
    yield from each(
        kind,
        retrieval.cluster_by_norm,
        {"embeddings": VECTORS, "clusters": 3},
        embeddings=NOT_VECTORS,
        clusters=[*NOT_COUNT, 99],
        exponent=not_exponents,
        engine=["scipy", 3],
        seed=[-1, 1.5, "3"],
        restarts=NOT_COUNT,
        iterations=NOT_COUNT,
    )
    yield from each(
        kind,
        retrieval.compare_clusterings,
        {"embeddings": VECTORS, "labels": LABELS, "exponents": [1.0], "seeds": 2, "restarts": 1},
        embeddings=NOT_VECTORS,
        labels=["a", LABELS[:3], torch.zeros(40)],
        clusters=[0, 1.5, "3", 99],
        exponents=[[], [NAN], ["1"], 3],
        engine=["scipy", 3],
        seeds=[0, 1, 1.5, "3"],
        restarts=NOT_COUNT,
        level=[0, 95, NAN],
        generator=[3],
        progress=[3],
    )


DIRECTION_CALLS = list(chain(_directions(), _neighbours(), _clusterings()))
