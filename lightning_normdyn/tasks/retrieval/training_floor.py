"""What is found by words and by memory of the training judgements: floors of retrieval that train nothing.

Splits of a set often share relevant documents. A model that trains then gains by knowing which documents are asked for
at all, and what was asked that led to them; these floors know the same and nothing besides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.ranking import grade_ranking, ranking_ndcg
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.retrieval.bm25 import BM25

WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Of memory beside words, from which validation chooses."""
_DEPTH = 10


class TrainingMemory:
    """BM25, and what the training judgements add to it.

    Per query ``score(d) = bm25(q, d) / max_d bm25(q, d) + w m(q, d)``. The memory ``m`` is 1 for documents that some
    training query wants (``documents``), or the likeness of the likest training query that wants the document, by BM25
    among training queries, over the likeness of the likest of all (``queries``).

    Args:
        documents: that are searched.
        train_queries: texts of all queries that the judgements may name.
        train: judgements by which one trains.
    """

    def __init__(self, documents: Sequence[str], train_queries: Sequence[str], train: Judgements) -> None:
        self._by_words = BM25(documents)
        relevant = train.relevant()
        places, self._numbers = relevant.queries.unique(return_inverse=True)
        self._wanted = relevant.documents
        self._by_queries = BM25([train_queries[place] for place in places.tolist()]) if len(places) else None

    def ranks(self, split: EvaluationSplit) -> Iterator[tuple[str, float, Tensor]]:
        """What is found under each memory and weight: its name, the weight, and documents ``[n, 10]``, -1 for none.

        Args:
            split: whose queries seek.
        """
        by_weight: dict[tuple[str, float], list[Tensor]] = {}
        for place, query in enumerate(split.queries):
            words = _share(self._by_words.scores(query))
            for name, memory in (("documents", self._of_documents()), ("queries", self._of_queries(query))):
                for weight in WEIGHTS:
                    scores = words + weight * memory
                    if split.excluded_pairs is not None:
                        pairs = split.excluded_pairs
                        scores[pairs.documents[pairs.queries == place]] = 0
                    best, order = scores.topk(min(_DEPTH, len(scores)))
                    by_weight.setdefault((name, weight), []).append(order.where(best > 0, -1))
        for (name, weight), rows in by_weight.items():
            yield name, weight, torch.stack(rows)

    def _of_documents(self) -> Tensor:
        memory = torch.zeros(self._by_words.documents)
        memory[self._wanted] = 1.0
        return memory

    def _of_queries(self, query: str) -> Tensor:
        memory = torch.zeros(self._by_words.documents)
        if self._by_queries is None:
            return memory
        likeness = _share(self._by_queries.scores(query))
        return memory.scatter_reduce(0, self._wanted, likeness[self._numbers], "amax")

    def measure(self, split: EvaluationSplit) -> dict[tuple[str, float], float]:
        """NDCG@10 by memory and weight."""
        measures = {}
        for name, weight, ranking in self.ranks(split):
            ranked = grade_ranking(ranking, split.judgements, len(split.queries))
            measures[name, weight] = float(ranking_ndcg(ranked, _DEPTH).nanmean())
        return measures


def memory_floors(memory: TrainingMemory, validation: EvaluationSplit, split: EvaluationSplit) -> dict[str, float]:
    """NDCG@10 of a split under each memory, at the weight that validation likes best.

    Args:
        memory: of the training judgements.
        validation: that chooses weights.
        split: that is measured.
    """
    tuned = memory.measure(validation)
    measured = tuned if split is validation else memory.measure(split)
    floors = {}
    for name in ("documents", "queries"):
        weight = max(WEIGHTS, key=lambda weight: tuned[name, weight])
        floors[f"bm25 + training {name}"] = measured[name, weight]
    return floors


def _share(scores: Tensor) -> Tensor:
    """Scores over the largest of them."""
    return scores / scores.max().clamp(min=1e-9)
