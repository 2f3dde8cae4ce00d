"""Measures of scores that libraries give, written apart from the package's own: plain loops over the judged items.

What both sides of ``family_peers.py`` are measured by is made twice: the package's side by the measures of its tasks,
the other side by these. ``tests/benchmarks/test_family_peers.py`` holds the two to be equal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_normdyn.datasets import Judgements
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.fewshot.episodes import EpisodeSplit
from lightning_normdyn.tasks.sts import spearman_shares


def ndcg_at_10(scores: Tensor, split: EvaluationSplit) -> list[float]:
    """NDCG at 10 of each query, gains being the grades; what is excluded is not found.

    Args:
        scores: of every document for every query, ``[n, m]``.
        split: what is relevant, and what no ranking may show.
    """
    relevant, excluded = _by_query(split.judgements.relevant()), _by_query(split.excluded_pairs)
    values = []
    for query, row in enumerate(scores.double()):
        row = row.clone()
        row[list(excluded.get(query, {}))] = -math.inf
        grades = relevant.get(query, {})
        ranking = row.argsort(descending=True, stable=True)[:10].tolist()
        gain = sum(grades.get(document, 0.0) / math.log2(place + 2) for place, document in enumerate(ranking))
        best = sum(
            grade / math.log2(place + 2) for place, grade in enumerate(sorted(grades.values(), reverse=True)[:10])
        )
        values.append(gain / best if best else math.nan)
    return values


def filtered_reciprocal_ranks(scores: Tensor, split: EvaluationSplit) -> list[float]:
    """Reciprocal of the rank of each query's one answer among the entities that do not answer it too.

    Args:
        scores: ``[n, m]``; of equal ones half come before the answer.
        split: of :class:`~lightning_normdyn.tasks.kg.kg.KnowledgeGraphData`.
    """
    answers, others = _by_query(split.judgements), _by_query(split.excluded_pairs)
    values = []
    for query, row in enumerate(scores.double()):
        (answer,) = answers[query]
        row = row.clone()
        score = float(row[answer])
        row[list(others.get(query, {}))] = -math.inf
        row[answer] = -math.inf
        values.append(1 / (1 + int((row > score).sum()) + int((row == score).sum()) / 2))
    return values


def recall_at_1(scores: Tensor, split: EvaluationSplit) -> list[float]:
    """Mean of whether an image's first caption is its own and whether its caption's first image has that caption.

    Args:
        scores: of captions for images, ``[n, m]``.
        split: of :class:`~lightning_normdyn.tasks.clip.clip.ImageTextData`.
    """
    captions = _by_query(split.judgements)
    first_caption, first_image = scores.argmax(1).tolist(), scores.argmax(0).tolist()
    values = []
    for image in range(len(scores)):
        (caption,) = captions[image]
        values.append(((first_caption[image] == caption) + (caption in captions[first_image[caption]])) / 2)
    return values


def episode_accuracies(items: Tensor, split: EpisodeSplit) -> list[float]:
    """Share of an episode's queries that lie nearest to the mean of their own class's shots.

    Args:
        items: embeddings of the split's items, ``[n, d]``.
        split: with its episodes.
    """
    values = []
    for supports, queries in zip(*split.episodes, strict=True):
        prototypes = items[supports].double().mean(1)
        nearest = torch.cdist(items[queries].double(), prototypes).argmin(-1)  # [ways, queries]
        values.append(float((nearest == torch.arange(len(supports))[:, None]).double().mean()))
    return values


def spearman_values(scores: Tensor, split: EvaluationSplit) -> list[float]:
    """What each pair adds to Spearman's correlation of scores ``[n]`` with grades; the mean is the correlation."""
    shares: list[float] = spearman_shares(scores, split.judgements.grades).tolist()
    return shares


def _by_query(judgements: Judgements | None) -> dict[int, dict[int, float]]:
    """Documents of each query with their grades."""
    documents: dict[int, dict[int, float]] = {}
    if judgements is not None:
        for query, document, grade in zip(*(column.tolist() for column in judgements), strict=True):
            documents.setdefault(query, {})[document] = grade
    return documents
