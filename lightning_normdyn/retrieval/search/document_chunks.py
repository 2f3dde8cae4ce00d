"""Iterates over documents in chunks of a fixed size, and makes passes over them, in one part or spread over many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, is_array
from lightning_normdyn.core.embedding_codes import as_embeddings, check_no_codes
from lightning_normdyn.core.tensor_checks import check_dense


class Array(Protocol):
    """What has rows and gives slices of them, such as a numpy array or memmap."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size along each dimension."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Some of its rows."""
        ...


Documents: TypeAlias = "ArrayLike | Array | Iterable[ArrayLike]"
"""``[m, d]``: a tensor, an array or memmap of any library, a data frame, or an iterable of chunks of rows of any."""


def as_documents(documents: Documents) -> Tensor | Array | Iterable[ArrayLike]:
    """Documents that chunks can be read of: what has rows stays where it is, on disk too.

    Args:
        documents: ``[m, d]``.

    Returns:
        The same, but a tensor of what gives no slices of rows, or gives them by label.

    Raises:
        ValueError: if they are codes, or an array of something else than numbers.

    Example:
        >>> as_documents(torch.ones(1, 2))
        tensor([[1., 1.]])
    """
    check_dense(documents=documents)
    check_no_codes(documents=documents)
    has_rows = all(hasattr(documents, name) for name in ("shape", "dtype", "__getitem__"))
    if isinstance(documents, Tensor) or not is_array(documents) or has_rows:
        return cast("Tensor | Array | Iterable[ArrayLike]", documents)
    return as_embeddings(documents=cast("ArrayLike", documents))[0]


def document_chunks(documents: Documents, chunk_size: int, d: int) -> Iterator[Tensor]:
    """Chunks of ``chunk_size`` rows, the last of what is left, however the documents come.

    Args:
        documents: ``[m, d]``.
        chunk_size: rows of a chunk.
        d: their dimension.

    Yields:
        Tensors ``[size, d]``; of a tensor they are views.

    Raises:
        ValueError: if something is no ``[rows, d]``.

    Example:
        >>> [len(chunk) for chunk in document_chunks(iter([torch.zeros(2, 4), torch.zeros(3, 4)]), 4, 4)]
        [4, 1]
    """
    documents = as_documents(documents)
    if not isinstance(documents, Tensor | Iterable) and not hasattr(documents, "shape"):
        raise ValueError(
            f"documents: expected [m, {d}], or chunks of it, got {type(documents).__name__}; pass a tensor, an array "
            "or an iterable of either"
        )
    if isinstance(documents, Tensor) or hasattr(documents, "shape"):
        array = cast("Tensor | Array", documents)
        check_rows(array, d)
        for start in range(0, array.shape[0], chunk_size):
            yield _tensor(array[start : start + chunk_size])
        return
    pending: list[Tensor] = []
    for piece in cast("Iterable[ArrayLike]", documents):
        block = _tensor(piece) if is_array(piece) else piece
        check_rows(block, d)
        pending.append(cast("Tensor", block))
        while sum(map(len, pending)) >= chunk_size:
            rows = pending[0] if len(pending) == 1 else torch.cat(pending)
            yield rows[:chunk_size]
            pending = [rows[chunk_size:]]
    remainder = [piece for piece in pending if len(piece)]
    if remainder:
        yield torch.cat(remainder)


R = TypeVar("R")


class Spread(Protocol):
    """Makes a pass over embeddings in parts, on whatever machines; results come in the order of the rows."""

    def __call__(self, work: Callable[[Iterable[Tensor], range], R], *, by_chunk: bool = False) -> Iterator[R]:
        """Makes one pass.

        Args:
            work: called with the chunks of a part, in order, and the rows that they are; pickled where a part goes to
                another process.
            by_chunk: whether a part may be no more than one chunk, as where results are as large as what is read.
        """
        ...


def in_one_part(open_chunks: Callable[[], Iterable[Tensor]], rows: int) -> Spread:
    """Passes that are made here, over all rows at once.

    Args:
        open_chunks: opens the embeddings anew and gives their chunks, in order.
        rows: of all of them.

    Example:
        >>> spread = in_one_part(lambda: [torch.ones(3, 2), torch.ones(1, 2)], 4)
        >>> list(spread(lambda chunks, rows: (sum(map(len, chunks)), rows)))
        [(4, range(0, 4))]
        >>> list(spread(lambda chunks, rows: rows, by_chunk=True))
        [range(0, 3), range(3, 4)]
    """

    def spread(work: Callable[[Iterable[Tensor], range], R], *, by_chunk: bool = False) -> Iterator[R]:
        if not by_chunk:
            yield work(open_chunks(), range(rows))
            return
        first_row = 0
        for chunk in open_chunks():
            yield work([chunk], range(first_row, first_row + len(chunk)))
            first_row += len(chunk)

    return spread


def row_count(documents: Documents) -> int | None:
    """How many documents there are, if that can be told without reading them."""
    shape = getattr(documents, "shape", None)
    return int(shape[0]) if shape else None


def check_rows(rows: Any, d: int) -> None:
    """Refuses documents that are no ``[m, d]``.

    Args:
        rows: the documents, or some of them.
        d: of the queries.

    Raises:
        ValueError: if they are something else.
    """
    if not hasattr(rows, "shape") or len(rows.shape) != 2 or rows.shape[1] != d:
        shape = tuple(rows.shape) if hasattr(rows, "shape") else type(rows).__name__
        raise ValueError(
            f"documents: expected [m, {d}] with the d of queries, got {shape}; pass embeddings of one model"
        )


def _tensor(rows: ArrayLike) -> Tensor:
    return as_embeddings(documents=rows)[0].detach()
