"""The protocol of an index writer, its records, and checks that several index targets share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_normdyn.passwords import without_passwords

Metric = Literal["inner_product", "euclidean", "cosine"]
Storage = Literal["float32", "float16"]


@dataclass(frozen=True)
class Destination:
    """Where vectors go, and how they are kept.

    Attributes:
        out: a file, a folder or a URL, as the target has it.
        name: of the collection or table, where a target holds several.
        dtype: the precision they are stored in.
        index: how they are searched: ``flat`` for exactly; what else there is depends on the target.
        overwrite: whether what is there may be replaced.
    """

    out: str
    name: str = "embeddings"
    dtype: Storage = "float32"
    index: str = "flat"
    overwrite: bool = False


class Contents(NamedTuple):
    """What is about to be written.

    Attributes:
        dim: numbers a vector.
        metric: what the index compares by.
        ids: all of them, in the order they come.
        sample: some of the vectors, ``[s, dim]``, for indexes that learn from them first.
        same_length: whether all were made equally long.
    """

    dim: int
    metric: Metric
    ids: Sequence[str]
    sample: Tensor
    same_length: bool = False


class SearchResult(NamedTuple):
    """The nearest vectors of each query, best first.

    Attributes:
        ids: theirs, ``n`` lists of at most ``k``.
        scores: as the index gives them, larger for the nearer.
    """

    ids: list[list[str]]
    scores: list[list[float]]


class IndexWriter(Protocol):
    """A place that vectors can be written to and searched in.

    What is written shows at :meth:`close`, all at once; until then, and after :meth:`discard`, the place is as it was.
    """

    @property
    def approximate(self) -> bool:
        """Whether a search may miss a nearest vector, apart from rounding."""
        ...

    def open(self, contents: Contents) -> None:
        """Looks whether the contents may go there, and makes ready.

        Raises:
            ValueError: if what is there may not be replaced by them, or would rank otherwise.
            OSError: if it cannot be written.
        """
        ...

    def add(self, ids: Sequence[str], vectors: Tensor) -> None:
        """Takes the next vectors, float32 ``[n, dim]`` on the CPU."""
        ...

    def close(self) -> None:
        """Puts everything in its place."""
        ...

    def discard(self) -> None:
        """Removes whatever was written, after an error."""
        ...

    def search(self, queries: Tensor, k: int) -> SearchResult:
        """Searches what was put in place, as its users will."""
        ...


class IndexTarget(NamedTuple):
    """An index that vectors can be exported to; its module lists it in ``TARGETS``.

    Attributes:
        writer: makes the writer for a destination.
        search: how users search it, ``{metric}`` standing for the database's name of the metric.
        metric_names: that name for each metric.
        extra: of the installation that brings the package it needs; ``None`` for plain files.
        place: where the vectors are, in words, ``{out}`` and ``{name}`` standing for those of the destination.
    """

    writer: Callable[[Destination], IndexWriter]
    search: str
    metric_names: Mapping[Metric, str] = {}
    extra: str | None = None
    place: str = "{out}"

    def hint(self, metric: Metric) -> str:
        """How it is searched where vectors are compared by the metric.

        Example:
            >>> IndexTarget(print, "ORDER BY embedding {metric} query", {"euclidean": "<->"}).hint("euclidean")
            'ORDER BY embedding <-> query'
        """
        return self.search.replace("{metric}", self.metric_names.get(metric, ""))

    def place_of(self, destination: Destination) -> str:
        """Where the vectors of a destination are.

        Example:
            >>> IndexTarget(print, "", place="{name} in {out}").place_of(Destination("folder", "docs"))
            'docs in folder'
        """
        return self.place.format(out=without_passwords(destination.out), name=destination.name)


def optional(module: str, *, extra: str) -> Any:
    """Imports a package that a plain installation leaves out.

    Raises:
        ModuleNotFoundError: if it is not installed, with the extra that brings it.

    Example:
        >>> optional("math", extra="none").pi
        3.141592653589793
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        raise ModuleNotFoundError(
            f"this target needs {name}; install with: pip install 'lightning-normdyn[{extra}]'"
        ) from error


def stored_dtype(dtype: Storage) -> torch.dtype:
    """The type of that name."""
    return {"float32": torch.float32, "float16": torch.float16}[dtype]


def check_index(index: str, choices: Sequence[str], *, target: str) -> None:
    """Refuses an index that a target does not have.

    Raises:
        ValueError: if it is none of ``choices``.
    """
    if index not in choices:
        raise ValueError(f"index: expected {' or '.join(choices)} for {target}, got {index!r}")


def check_existing_ids(existing_ids: Sequence[str], new_ids: Sequence[str], *, place: str, overwrite: bool) -> None:
    """Refuses to replace vectors unless that was asked for and every id of theirs gets a new one.

    Args:
        existing_ids: ids that are there.
        new_ids: ids that are to come.
        place: what holds them, in words.
        overwrite: whether it was asked for.

    Raises:
        ValueError: if one is missing, or it was not.
    """
    extra_ids = sorted(set(existing_ids).difference(new_ids))
    if extra_ids:
        raise ValueError(
            f"out: {place} holds {len(extra_ids):,} other ids, '{extra_ids[0]}' among them, which keep vectors of "
            "another kind; export all that it holds, or choose another name"
        )
    if not overwrite:
        raise ValueError(f"out: {place} exists already; pass --overwrite to replace it, or choose another name")


_NUMBER_OF_THE_SYSTEM = re.compile(r"\[Errno -?\d+\] ")


def in_plain_words(error: Exception) -> str:
    """What a library says of a place that it cannot reach, on one line and without the system's numbers.

    Args:
        error: the library's.

    Example:
        >>> in_plain_words(OSError("[Errno 111] Connection refused"))
        'Connection refused'
    """
    return _NUMBER_OF_THE_SYSTEM.sub("", " ".join(str(error).split()))
