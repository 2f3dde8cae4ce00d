"""What a store really ranks by: five planted vectors tell inner products, cosines, distances and precision apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Search = Callable[[Array, list[str], Array, int], Any]
"""Stores vectors ``[5, d]`` under ids and returns, for queries ``[n, d]``, the ids of the ``k`` nearest, best first.

Scores may come with them, as the second of a pair.
"""

IDS = ["101", "102", "103", "104", "105"]
_DIFFERENCE = 2.0**-13  # of two numbers near 1: float32 keeps it, float16 and bfloat16 do not
_PLANTED = [
    [1.0, 0.0, 0.0, 0.0],  # short, straight ahead
    [3.0, 4.0, 0.0, 0.0],  # long, to the side
    [-2.0, 0.0, 0.0, 0.0],  # behind
    [0.5, 1.0, 1.0 + _DIFFERENCE, 0.0],  # two that float16 takes for one
    [0.5, 1.0, 1.0, 0.0],
]
_QUERIES = [[2.0, 0.0, 1.5, 0.0], [2.0, 0.0, -1.5, 0.0], [1.0, 1.5, 0.1, 0.0]]
_TWINS = (IDS[3], IDS[4])
_CLOSE = 1e-3


def planted_vectors(dim: int = 4) -> tuple[Array, Array]:
    """The vectors ``[5, dim]`` and queries ``[3, dim]``, float32.

    Args:
        dim: numbers a vector, 4 or more; those after the fourth are zero.

    Raises:
        ValueError: if there are too few.
    """
    if dim < 4:
        raise ValueError(f"dim: expected 4 or more, got {dim}; the planted vectors need as many")
    padding = ((0, 0), (0, dim - 4))
    vectors, queries = np.array(_PLANTED, np.float32), np.array(_QUERIES, np.float32)
    return np.pad(vectors, padding), np.pad(queries, padding)


def _inner_products(queries: Array, vectors: Array) -> Array:
    products: Array = queries @ vectors.T
    return products


def _unit_products(queries: Array, vectors: Array) -> Array:
    products: Array = _inner_products(queries, vectors) / np.linalg.norm(vectors, axis=1)
    return products


def _cosines(queries: Array, vectors: Array) -> Array:
    cosines: Array = _unit_products(queries, vectors) / np.linalg.norm(queries, axis=1)[:, None]
    return cosines


def _nearness(queries: Array, vectors: Array) -> Array:
    distances: Array = np.linalg.norm(queries[:, None] - vectors, axis=2)
    return -distances


SCORES: Mapping[str, Callable[[Array, Array], Array]] = {
    "inner product": _inner_products,
    "cosine": _cosines,
    "euclidean": _nearness,
}
"""What a store may rank by, larger for the nearer."""

_WAYS_OUT = {
    "inner product": "norms count, and vectors that export folded rank as they should",
    "cosine": (
        "every norm is divided out, and with it the exponent that export folds in; make it compare by inner product "
        "(dot), or export with --augment --metric cosine, whose vectors all have one length"
    ),
    "normalised at upload": (
        "vectors get length 1 on their way in, and with it the exponent that export folds in is lost; switch that off, "
        "or export with --keep-norm and multiply scores by the norm beside them"
    ),
    "euclidean": (
        "long vectors are far away; make it compare by inner product (dot), or export with --augment --metric "
        "euclidean, under which distances rank as inner products do"
    ),
    "negated": "the farthest come first: sort the other way, as scores and distances want it, or negate the query",
    "unknown": "that is no ranking by inner product, cosine or distance; look at how it stores, filters and sorts",
}


class StoreVerdict(NamedTuple):
    """What a store ranks by.

    Attributes:
        computes: ``inner product``, ``cosine``, ``normalised at upload``, ``euclidean`` or ``unknown``.
        is_negated: whether it ranks the other way round.
        is_coarse: whether two vectors that float32 tells apart are one to it; ``None`` where that cannot be seen.
    """

    computes: str
    is_negated: bool = False
    is_coarse: bool | None = False

    @property
    def is_right(self) -> bool:
        """Whether it ranks by inner products of vectors as they are, at whatever precision."""
        return self.computes == "inner product" and not self.is_negated

    def sentence(self, store: str) -> str:
        """The verdict and the way out.

        Args:
            store: its name.

        Example:
            >>> StoreVerdict("inner product").sentence("docs")
            'docs ranks by inner product: norms count, and vectors that export folded rank as they should.'
        """
        kind = "negated" if self.is_negated else self.computes
        named = f"negated {self.computes}" if self.is_negated else self.computes
        verdict = {
            "unknown": f"{store} ranks by something else",
            "normalised at upload": f"{store} ranks by inner product of normalised vectors",
        }.get(named, f"{store} ranks by {named}")
        precision = (
            " It stores less than float32 (numbers 0.0001 apart are one to it), so near ties may change places."
            if self.is_coarse
            else ""
        )
        return f"{verdict}: {_WAYS_OUT[kind]}.{precision}"


def check_store(search: Search, dim: int = 4) -> StoreVerdict:
    """Finds what a store ranks by.

    Args:
        search: stores the planted vectors and searches them.
        dim: numbers a vector, 4 or more.

    Raises:
        ValueError: if it does not answer with all five ids for each query.

    Example:
        >>> def cosine(vectors, ids, queries, k):
        ...     scores = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
        ...     return [[ids[row] for row in rows[:k]] for rows in np.argsort(-scores, axis=1)]
        >>> check_store(cosine)
        StoreVerdict(computes='cosine', is_negated=False, is_coarse=False)
    """
    vectors, queries = planted_vectors(dim)
    answer = search(vectors.copy(), list(IDS), queries.copy(), len(IDS))  # which may normalise them in place
    ids, scores = answer if isinstance(answer, tuple) else (answer, None)
    rankings = [[str(row_id) for row_id in row] for row in ids]
    _check_answer(rankings, len(queries))
    double_vectors, double_queries = vectors.astype(np.float64), queries.astype(np.float64)
    for name, score in SCORES.items():
        exact = score(double_queries, double_vectors)
        for sign in (1, -1):
            coarse = _coarseness(rankings, sign * exact)
            if coarse is not None:
                kind = _by_scores(name, rankings, scores, double_queries, double_vectors)
                return StoreVerdict(kind, sign < 0, coarse)
    return StoreVerdict("unknown", is_coarse=None)


def _check_answer(rankings: Sequence[Sequence[str]], query_count: int) -> None:
    if len(rankings) != query_count or any(sorted(row) != sorted(IDS) for row in rankings):
        raise ValueError(
            f"search: expected all of {', '.join(IDS)} for each of {query_count} queries, best first, got "
            f"{rankings!r}; store what it is given, under the ids that it is given, and return as many as k"
        )


def _coarseness(rankings: Sequence[Sequence[str]], scores: Array) -> bool | None:
    """Whether the twins alone come in another order than scores say; ``None`` if others do, too."""
    exact = [[IDS[row] for row in rows] for rows in np.argsort(-scores, axis=1)]
    if [list(row) for row in rankings] == exact:
        return False
    same = [_merged(row) for row in rankings] == [_merged(row) for row in exact]
    return True if same else None


def _merged(row: Sequence[str]) -> list[str]:
    return ["twin" if row_id in _TWINS else row_id for row_id in row]


def _by_scores(name: str, rankings: Sequence[Sequence[str]], scores: Any, queries: Array, vectors: Array) -> str:
    """Tells normalised vectors from cosines, which rank alike, where scores are at hand."""
    if name != "cosine" or scores is None:
        return name
    places = np.array([[IDS.index(row_id) for row_id in row] for row in rankings])
    expected = np.take_along_axis(_unit_products(queries, vectors), places, axis=1)
    given = np.array([[float(value) for value in row] for row in scores])
    likenesses = [given, -given, 1 - given]  # a score, its negative, a distance
    is_unit = any(np.allclose(likeness, expected, atol=_CLOSE) for likeness in likenesses)
    return "normalised at upload" if is_unit else name
