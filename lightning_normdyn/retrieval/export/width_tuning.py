"""Raises how much a search of an index looks at until it finds the share of the exact best that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lightning_normdyn.retrieval.indexes import IndexWriter, SearchResult, SearchWidth
from lightning_normdyn.retrieval.search.top_k import TopK

_NO_GAIN = 0.002


class WidthStep(NamedTuple):
    """A width and what was found with it.

    Attributes:
        width: of the search.
        recall: share of the exact best that it finds.
    """

    width: SearchWidth
    recall: float


def tune_width(
    writer: IndexWriter, queries: Tensor, best: TopK, ids: Sequence[str], k: int, recall: float
) -> WidthStep:
    """Doubles the writer's width until recall is met or nothing may be widened.

    The width that is left is the least that met it, or the least that is within 0.002 of the best recall of all.

    Args:
        writer: closed; its width is set.
        queries: as the index gets them, ``[n, d]``.
        best: of an exact search, by place in ``ids``.
        ids: of the documents.
        k: nearest vectors to look for.
        recall: that is asked for.
    """
    steps: list[WidthStep] = []
    while True:
        steps.append(WidthStep(writer.width, recall_of(writer.search(queries, k), best, ids)))
        wider = writer.width.widened()
        if steps[-1].recall >= recall or wider is None:
            break
        writer.width = wider
    bar = recall if steps[-1].recall >= recall else max(step.recall for step in steps) - _NO_GAIN
    final = next(step for step in steps if step.recall >= bar)
    writer.width = final.width
    return final


def recall_of(neighbours: SearchResult, exact_best: TopK, ids: Sequence[str]) -> float:
    """Share of the exact best that were found.

    Args:
        neighbours: by the index, as many as the best are.
        exact_best: of the documents as they should be ranked, in float32.
        ids: of the documents.
    """
    best = exact_best.indices.tolist()
    hits = sum(
        len({ids[row] for row in rows} & set(neighbour_ids))
        for rows, neighbour_ids in zip(best, neighbours.ids, strict=True)
    )
    return hits / max(1, sum(map(len, best)))
