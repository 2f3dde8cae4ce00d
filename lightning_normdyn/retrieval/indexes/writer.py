"""The protocol of an index writer, its records, and checks that several index targets share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa
import torch
from torch import Tensor

from lightning_normdyn.passwords import without_passwords
from lightning_normdyn.retrieval.indexes.manifest import Manifest
from lightning_normdyn.retrieval.indexes.search_width import NO_PARAMETERS, IndexParameters, SearchWidth

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
        parameters: of the index, as far as the user sets them.
        append: whether what is there is kept, and rows are added whose ids it does not have.
        first_width: of searches to begin with, as a pilot found it; it may be widened.
        upsert: whether rows of a collection that is in use get their new vectors where they are, and the others stay.
        payload: names of columns that are stored beside the vectors; ``("all",)`` for all there are.
    """

    out: str
    name: str = "embeddings"
    dtype: Storage = "float32"
    index: str = "flat"
    overwrite: bool = False
    parameters: IndexParameters = NO_PARAMETERS
    append: bool = False
    first_width: Mapping[str, int] = field(default_factory=dict)
    upsert: bool = False
    payload: tuple[str, ...] = ()


class Contents(NamedTuple):
    """What is about to be written.

    Attributes:
        dim: numbers a vector.
        metric: what the index compares by.
        ids: all of them, in the order they come.
        sample: some of the vectors, ``[s, dim]``, for indexes that learn from them first.
        same_length: whether all were made equally long.
        manifest: what is written beside the vectors.
        resume_key: tells this export from others, so that one that was killed goes on; ``None`` to begin anew.
        payload: types of the columns that come with the vectors.
    """

    dim: int
    metric: Metric
    ids: Sequence[str]
    sample: Tensor
    same_length: bool = False
    manifest: Manifest = Manifest(1.0)
    resume_key: str | None = None
    payload: pa.Schema = pa.schema([])

    @property
    def norm_power(self) -> float | None:
        """Exponent of the norms that lie beside vectors of length 1; ``None`` where there are none."""
        return self.manifest.exponent if self.manifest.keep_norm else None


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

    Attributes:
        destination: where it writes.
        width: how much :meth:`search` looks at; it may be set to another of the same names.
        existing_ids: once it is open: ids whose vectors stay where rows are appended.
        rows_done: once it is open: rows that a killed export had written and that stay, existing ones included.
    """

    destination: Destination
    width: SearchWidth
    existing_ids: list[str]
    rows_done: int

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

    def add(
        self, ids: Sequence[str], vectors: Tensor, norms: Tensor | None = None, payload: pa.Table | None = None
    ) -> None:
        """Takes the next rows.

        Args:
            ids: ``n``.
            vectors: float32 ``[n, dim]`` on the CPU.
            norms: ``[n]``, where they are kept apart.
            payload: ``n`` rows of further columns, where there are such.
        """
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

    def finish(self, findings: Mapping[str, Any]) -> None:
        """Keeps the width that was measured, and writes what was measured into the manifest, where there are such."""
        ...


@runtime_checkable
class RemovableWriter(Protocol):
    """A writer into a database, which can take back what it put in place."""

    def remove(self) -> None:
        """Removes the collection or table, if it is there."""
        ...


class SearchPlan(NamedTuple):
    """How users search what was written, as it was measured.

    Attributes:
        destination: where it is.
        metric: what it compares by.
        k: nearest vectors to look for.
        width: how much the search looks at.
        norm_power: exponent of the norms beside the vectors; ``None`` where lengths are in the vectors.
        augmented: whether vectors have one dimension more, for which queries need a zero.
        prefix: numbers of a query that count; ``None`` for all.
        has_id_file: whether ids lie in a file beside the vectors.
        dim: numbers a vector as stored.
    """

    destination: Destination
    metric: Metric = "inner_product"
    k: int = 10
    width: Mapping[str, int] = {}
    norm_power: float | None = None
    augmented: bool = False
    prefix: int | None = None
    has_id_file: bool = False
    dim: int = 0

    @property
    def is_reweighted(self) -> bool:
        """Whether scores are made with norms that lie beside the vectors."""
        return self.norm_power not in (None, 0)

    @property
    def weight(self) -> str:
        """``** power`` of the norms, nothing for 1."""
        return "" if self.norm_power == 1 else f" ** {self.norm_power:g}"

    def queries(self) -> list[str]:
        """Lines of Python that make ``queries`` what the index takes, from a numpy array ``[n, d]`` of float32."""
        lines = [] if self.prefix is None else [f"queries = np.ascontiguousarray(queries[:, :{self.prefix}])"]
        return lines + (["queries = np.pad(queries, ((0, 0), (0, 1)))"] if self.augmented else [])


@dataclass(frozen=True)
class Candidate:
    """An index that ``--index auto`` tries.

    Attributes:
        name: in words.
        index: the target's word.
        augment: whether lengths are made equal by one dimension more.
        keep_norm: whether directions are stored, with norms beside them.
        parameters: names of what a user may set of it.
        scan_share: bytes that a search reads of every vector, beside those of float32; 0 for a graph, which reads few.
    """

    name: str
    index: str
    augment: bool = False
    keep_norm: bool = False
    parameters: tuple[str, ...] = ("m", "ef_construction", "ef_search")
    scan_share: float = 0.0


OF_DIRECTIONS = ("m", "ef_construction", "ef_search", "candidates")
"""What a user may set of a graph of directions whose norms are beside it in a file."""
GRAPH_CANDIDATES = (
    Candidate("plain graph", "hnsw"),
    Candidate("graph, one dimension more", "hnsw", augment=True),
    Candidate("graph of directions, norms apart", "hnsw", keep_norm=True, parameters=OF_DIRECTIONS),
)
"""Of an index in a file."""


class IndexTarget(NamedTuple):
    """An index that vectors can be exported to; its module lists it in ``TARGETS``.

    Attributes:
        writer: makes the writer for a destination.
        search: how users search it: words, ``{metric}`` standing for the database's name of the metric, or what makes
            lines that can be run from a plan.
        metric_names: that name for each metric.
        extra: of the installation that brings the package it needs; ``None`` for plain files.
        place: where the vectors are, in words, ``{out}`` and ``{name}`` standing for those of the destination.
        candidates: what ``--index auto`` builds on a sample; it is refused where there are none.
        ending: of the name of the file, where it is one.
        feed: how a server takes in what was written, where that is a feed for one.
    """

    writer: Callable[[Destination], IndexWriter]
    search: str | Callable[[SearchPlan], str]
    metric_names: Mapping[Metric, str] = {}
    extra: str | None = None
    place: str = "{out}"
    candidates: Sequence[Candidate] = ()
    ending: str = ""
    feed: Callable[[SearchPlan], str] | None = None

    def hint(self, plan: SearchPlan) -> str:
        """How it is searched: lines that can be run, or else words.

        Example:
            >>> target = IndexTarget(print, "ORDER BY embedding {metric} query", {"euclidean": "<->"})
            >>> target.hint(SearchPlan(Destination("x"), "euclidean"))
            'ORDER BY embedding <-> query, queries as they are, metric euclidean'
        """
        if not isinstance(self.search, str):
            return self.search(plan)
        words = self.search.replace("{metric}", self.metric_names.get(plan.metric, ""))
        kind = "with a zero at their end" if plan.augmented else "as they are"
        return f"{words}, queries {kind}, metric {plan.metric}"

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
        ModuleNotFoundError: if it is not installed or cannot be loaded, with the extra that brings it.

    Example:
        >>> optional("math", extra="none").pi
        3.141592653589793
    """
    name = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this target needs {name}; install with: pip install 'lightning-normdyn[{extra}]'"
        ) from error
    except ImportError as error:  # one that is there in parts, or for another machine
        raise ModuleNotFoundError(
            f"this target needs {name}, which is installed but cannot be loaded ({in_plain_words(error)}); install it "
            f"anew with: pip install --force-reinstall 'lightning-normdyn[{extra}]'"
        ) from error


def stored_dtype(dtype: Storage) -> torch.dtype:
    """The type of that name."""
    return {"float32": torch.float32, "float16": torch.float16}[dtype]


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
