"""Refusals of what a contrastive loss cannot take: shapes, kinds and ranges of its inputs, and what is not finite."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from lightning_normdyn.nearest_word import nearest

_COLDEST = 1e-30  # float32 still holds its inverse


def check_per_query(queries: Tensor, *, weights: Tensor | None, temperatures: Tensor | None) -> None:
    """Refuses weights and temperatures that are not one for each query, or no such numbers.

    Raises:
        ValueError: naming the argument, what came, and the likely fix.
    """
    for name, values in {"weights": weights, "temperatures": temperatures}.items():
        if values is None:
            continue
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.shape != queries.shape[:1]:
            came = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{name}: expected a floating-point number for each of {len(queries)} queries, got {came}")
        if values.device != queries.device:
            raise ValueError(f"{name}: expected on the device of queries, {queries.device}, got {values.device}")
        lowest, highest = (float(value) for value in values.detach().aminmax())
        if name == "weights" and not 0 <= lowest <= highest < torch.inf:
            raise ValueError(f"weights: expected finite numbers from 0 up, got {lowest:g} to {highest:g}")
        if name == "temperatures" and not _COLDEST <= lowest <= highest < torch.inf:
            raise ValueError(
                f"temperatures: expected finite numbers of at least {_COLDEST:g}, got {lowest:g} to {highest:g}; 0.05 "
                "is common"
            )


def check_names(options: Iterable[str], names: Collection[str]) -> None:
    """Refuses an option that a loss does not know.

    Args:
        options: names of those that came.
        names: of those there are.

    Raises:
        TypeError: naming it, and the one that may be meant.
    """
    for name in options:
        if name not in names:
            raise TypeError(f"{name}: expected one of {', '.join(names)}{nearest(name, tuple(names))}")


def check_set(embeddings: Tensor, labels: Tensor) -> None:
    """Refuses a set of embeddings and their classes that do not fit together.

    Raises:
        ValueError: naming the argument, what came, and the likely fix.
    """
    _check_side("embeddings", embeddings)
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels: expected a tensor, got {type(labels).__name__}; number what has names")
    _check_whole_numbers("labels", labels, {(len(embeddings),)})
    _check_range("labels", labels.to(torch.int64), 0, None, "number the classes from 0 up")


def check_finite(**sides: Tensor) -> None:
    """Names the side and counts the rows that are NaN or infinite.

    Raises:
        ValueError: if there is any.
    """
    for name, embeddings in sides.items():
        wrong = int((~embeddings.isfinite().all(-1)).sum())
        if wrong:
            raise ValueError(
                f"{name}: {wrong} of {len(embeddings)} embeddings are NaN or infinite; look at the learning rate, the "
                "inputs and the encoder's precision"
            )


def scores_error(
    name: str, dtype: torch.dtype, ranks: int, *, reach: str = "", remedy: str = "normalise a side"
) -> str:
    """What is said of a loss that is no number although this rank's embeddings are.

    Args:
        name: of the argument to look at.
        dtype: of the loss.
        ranks: how many ranks gave embeddings; those of another one may be at fault.
        reach: how large the embeddings are, in words.
        remedy: what to do, beside looking at the encoder.
    """
    elsewhere = ", or at another rank's error, if one names NaN" if ranks > 1 else ""
    return f"{name}: scores leave {dtype}{reach}; {remedy}, or look at the encoder{elsewhere}"


def _check_side(name: str, side: object) -> None:
    if isinstance(side, Tensor) and side.ndim == 2 and not side.is_floating_point():
        raise ValueError(f"{name}: expected floating-point embeddings, got {side.dtype}; write {name}.float()")
    if not isinstance(side, Tensor) or side.ndim != 2:
        came = f"{side.dtype} {tuple(side.shape)}" if isinstance(side, Tensor) else type(side).__name__
        raise ValueError(f"{name}: expected floating-point embeddings [n, d], got {came}; pool to one vector each")
    if not side.numel():
        raise ValueError(f"{name}: expected at least one embedding, got {tuple(side.shape)}; skip empty batches")


def check_embeddings(queries: Tensor, documents: Tensor) -> None:
    """Refuses sides that are no embeddings of one width and device, or fewer documents than queries.

    Raises:
        ValueError: naming the argument, what came, and the likely fix.
    """
    for name, side in {"queries": queries, "documents": documents}.items():
        _check_side(name, side)
    if queries.shape[1] != documents.shape[1]:
        raise ValueError(
            f"documents: expected the d of queries, {queries.shape[1]}, got {documents.shape[1]}; project both sides "
            "to one space"
        )
    if len(documents) < len(queries):
        raise ValueError(
            f"documents: expected at least as many as queries, {len(queries)}, got {len(documents)}; document i is the "
            "positive of query i; where queries share documents, FullSoftmax(share_documents=True) takes their rows"
        )
    if queries.device != documents.device:
        raise ValueError(f"documents: expected on the device of queries, {queries.device}, got {documents.device}")


def check_labels(labels: Tensor | None, n: int, m: int) -> None:
    """Refuses what does not number the classes of ``m`` documents, of which the first ``n`` are the queries'.

    Raises:
        ValueError: naming what came, and the likely fix.
    """
    if labels is None:
        return
    _check_whole_numbers("labels", labels, {(n,), (m,)})
    if len(labels) < m:
        raise ValueError(
            f"labels: expected one for each of the {m} documents, got {n}; the first {n} are the queries' too"
        )
    _check_range("labels", labels.to(torch.int64), 0, None, "number the classes from 0 up")


def check_positives(positives: Tensor | None, n: int, m: int) -> None:
    """Refuses what does not name columns of ``m`` documents for each of ``n`` queries.

    Raises:
        ValueError: naming what came, and the likely fix.
    """
    if positives is None:
        return
    if positives.ndim != 2:
        raise ValueError(f"positives: expected [{n}, p], got {tuple(positives.shape)}")
    if positives.dtype == torch.bool:
        raise ValueError(
            "positives: expected the columns of each query's positives, got a mask (torch.bool); pass "
            f"torch.where(mask, torch.arange({m}), -1)"
        )
    _check_whole_numbers("positives", positives, {(n, positives.shape[1])})
    advice = f"there are {m} documents, and -1 stands for none"
    _check_range("positives", positives.to(torch.int64), -1, m - 1, advice)


def check_ids(ids: Sequence[Tensor | None], n: int, m: int, hard_per_query: int) -> None:
    """Refuses ids of queries, documents and hard negatives that are no whole numbers, one for each."""
    shapes = {"query_ids": (n,), "document_ids": (m,), "hard_negative_ids": (n, hard_per_query)}
    for (name, shape), values in zip(shapes.items(), ids, strict=True):
        if values is not None:
            _check_whole_numbers(name, values, {shape})


def _check_whole_numbers(name: str, values: Tensor, shapes: set[tuple[int, ...]]) -> None:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{name}: expected whole numbers, got {values.dtype}; use torch.long")
    if tuple(values.shape) not in shapes:
        shapes_in_words = " or ".join(str(list(shape)) for shape in sorted(shapes))
        raise ValueError(f"{name}: expected {shapes_in_words}, got {list(values.shape)}")


def _check_range(name: str, values: Tensor, minimum: int, maximum: int | None, advice: str) -> None:
    if not values.numel():
        return
    lowest, highest = (int(value) for value in values.aminmax())
    if lowest < minimum or (maximum is not None and highest > maximum):
        wrong = lowest if lowest < minimum else highest
        raise ValueError(f"{name}: {wrong} is out of range; {advice}")
