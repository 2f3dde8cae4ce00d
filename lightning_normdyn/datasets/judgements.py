"""Relevance judgements: grades of query-document pairs by position."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import as_tensor
from lightning_normdyn.core.number_checks import check_count


class Judgements(NamedTuple):
    """Judged pairs by position, each pair at most once; pairs that are not listed count as irrelevant.

    Attributes:
        queries: position of the query of each pair, int64 ``[p]``.
        documents: position of its document, int64 ``[p]``.
        grades: how relevant it is, float32 ``[p]``; 0 for judged and found irrelevant.
    """

    queries: Tensor
    documents: Tensor
    grades: Tensor

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int, float]]) -> Judgements:
        """Makes them of ``(query, document, grade)``.

        Example:
            >>> Judgements.of([(0, 2, 1.0)]).documents
            tensor([2])
        """
        try:
            rows = list(pairs)
            queries, documents, grades = zip(*rows, strict=True) if rows else ((), (), ())
            return cls(
                torch.tensor(queries, dtype=torch.int64),
                torch.tensor(documents, dtype=torch.int64),
                torch.tensor(grades, dtype=torch.float32),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"pairs: expected (query, document, grade) of each, two positions and a number, got {pairs!r:.80}"
            ) from error

    def check(self, queries: int, documents: int | None = None, name: str = "judgements") -> None:
        """Refuses judgements of what does not exist, and grades that are none.

        Args:
            queries: how many there are.
            documents: how many there are, if known.
            name: what the message calls them.

        Raises:
            ValueError: if columns differ in length, a position is outside of them, or a grade is NaN or infinite.

        Example:
            >>> Judgements.of([(0, 7, 1.0)]).check(queries=1, documents=5)
            Traceback (most recent call last):
            ValueError: judgements: expected documents by position, 0 to 4, ...
        """
        check_count(0, queries=queries)
        if documents is not None:
            check_count(0, documents=documents)
        if not self.queries.shape == self.documents.shape == self.grades.shape or self.queries.ndim != 1:
            shapes = ", ".join(str(list(column.shape)) for column in self)
            raise ValueError(f"{name}: expected query, document and grade of each pair, each [p], got {shapes}")
        for side, column, rows in (("queries", self.queries, queries), ("documents", self.documents, documents)):
            if not column.numel():
                continue
            lowest, highest = int(column.min()), int(column.max())
            if lowest < 0 or (rows is not None and highest >= rows):
                expectation = "from 0 up" if rows is None else f"0 to {rows - 1}"
                raise ValueError(
                    f"{name}: expected {side} by position, {expectation}, got {lowest} to {highest}; number them "
                    f"as the rows of {side}"
                )
        if not self.grades.isfinite().all():
            raise ValueError(f"{name}: expected finite grades, got NaN or infinite ones; leave such pairs out")

    @staticmethod
    def require(judgements: object, name: str = "judgements") -> Judgements:
        """What came, if it is judgements, with tensors where arrays are in it.

        Args:
            judgements: what came.
            name: what the message calls it.

        Raises:
            ValueError: if it is something else.
        """
        if not isinstance(judgements, Judgements):
            raise ValueError(
                f"{name}: expected Judgements, got {type(judgements).__name__}; Judgements.of makes them of triples"
            )
        columns = zip(Judgements._fields, judgements, strict=True)
        return Judgements(*(as_tensor(f"{name}.{field}", column) for field, column in columns))

    def relevant(self) -> Judgements:
        """The pairs with a positive grade."""
        return Judgements(*(column[self.grades > 0] for column in self))
