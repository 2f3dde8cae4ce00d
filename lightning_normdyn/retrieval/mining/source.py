"""What a miner that runs beside a training reads and writes: queries, documents, positives, and the table it fills."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensors
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_callable, check_sequence, check_texts
from lightning_normdyn.datasets.records import MinedRow
from lightning_normdyn.retrieval.mining.hard_negatives import HardNegatives
from lightning_normdyn.retrieval.mining.positives import PositivePairs, Positives, first_of_equals
from lightning_normdyn.retrieval.search.excluded_pairs import ExcludedPairs, as_pairs

_TRIES = 20


class NegativeTable:
    """Hard negatives of each query by position, in memory that data workers share: what is filled in, they see.

    Args:
        queries: how many there are.
        num_negatives: of each.

    Example:
        >>> table = NegativeTable(2, 1)
        >>> table.of(1)
        ()
        >>> table.fill(torch.tensor([[7], [4]]))
        >>> table.of(1)
        (4,)
    """

    def __init__(self, queries: int, num_negatives: int) -> None:
        check_count(queries=queries, num_negatives=num_negatives)
        self.indices = torch.full((queries, num_negatives), -1).share_memory_()

    @property
    def num_negatives(self) -> int:
        """Of each query."""
        return int(self.indices.shape[1])

    @property
    def is_filled(self) -> bool:
        """Whether there are negatives yet."""
        return bool((self.indices >= 0).all())

    def fill(self, indices: ArrayLike) -> None:
        """Puts other negatives into the place of those that were there.

        Args:
            indices: positions of documents, ``[queries, num_negatives]``, 0 or more.

        Raises:
            ValueError: if they have another shape, or one is missing.
        """
        (indices,) = as_tensors(indices=indices)
        if indices.shape != self.indices.shape or bool((indices < 0).any()):
            raise ValueError(
                f"indices: expected positions of documents, 0 or more, {list(self.indices.shape)}, got "
                f"{list(indices.shape)}{' with -1 among them' if indices.shape == self.indices.shape else ''}"
            )
        self.indices.copy_(indices)

    def of(self, query: int) -> tuple[int, ...]:
        """Positions of a query's negatives, closest first; none before the first are filled in."""
        negatives = self.indices[query].tolist()
        return () if negatives[0] < 0 else tuple(negatives)


class MiningSource:
    """Inputs of a model that hard negatives are mined from while it trains, and the table that they go to.

    A collate function, or a data set, looks up :attr:`negatives`; the callback
    :class:`~lightning_normdyn.callbacks.HardNegativeMining` fills it.

    Args:
        queries: inputs of the query encoder; texts, tensors, or what ``collate`` takes.
        documents: inputs of the document encoder; of equal texts the first stands for all.
        positives: as :func:`~lightning_normdyn.retrieval.mine_hard_negatives` takes them.
        num_negatives: of each query.
        excluded_pairs: positions of query and document of further pairs that are neither right nor wrong, ``[p]`` each.
        query_ids: what saved triples call the queries; their positions if left out.
        document_ids: the same of documents.
        collate: makes a batch of a list of inputs; texts stay a list, others are stacked, if left out.

    Raises:
        ValueError: if columns do not fit together, or some query has too few documents that are no positives of it.

    Example:
        >>> source = MiningSource(["open file"], ["opens a file", "shuts it", "paints it"], [0], num_negatives=2)
        >>> source.negatives.of(0)
        ()
        >>> source.update(torch.tensor([[1, -1]]))  # one is missing, and drawn from the others
        1
        >>> source.negatives.of(0)
        (1, 2)
    """

    def __init__(
        self,
        queries: Sequence[Any],
        documents: Sequence[Any],
        positives: Positives,
        *,
        num_negatives: int = 1,
        excluded_pairs: tuple[ArrayLike, ArrayLike] | None = None,
        query_ids: Sequence[str] | None = None,
        document_ids: Sequence[str] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        check_sequence(queries=queries, documents=documents)
        check_count(num_negatives=num_negatives)
        check_callable("makes a batch of a list of inputs", optional=True, collate=collate)
        if not len(queries):
            raise ValueError("queries: expected at least one, got none; check the training split")
        self.queries, self.documents = queries, documents
        self.positives = PositivePairs.of(positives, len(queries), len(documents))
        self.excluded_pairs = None if excluded_pairs is None else as_pairs(excluded_pairs)
        self.query_ids = _names("query_ids", query_ids, len(queries))
        self.document_ids = _names("document_ids", document_ids, len(documents))
        self.collate = collate if collate is not None else _collated
        self.firsts = first_of_equals(_text_ids(documents), len(documents))
        self._forbidden = self._forbidden_pairs()
        most = int(torch.bincount(self._forbidden.queries, minlength=1).max())
        distinct = int((self.firsts == torch.arange(len(documents))).sum())
        if distinct - most < num_negatives:
            raise ValueError(
                f"num_negatives: expected at most {max(0, distinct - most)}, the documents left to some query, "
                f"got {num_negatives}; lower it, or add documents"
            )
        self.negatives = NegativeTable(len(queries), num_negatives)

    def update(self, indices: ArrayLike, *, seed: int = 0) -> int:
        """Fills the table; what is missing, -1, is drawn from all documents that are no positives of the query.

        Args:
            indices: positions ``[queries, num_negatives]``.
            seed: of the draw.

        Returns:
            How many queries something was drawn for.
        """
        (indices,) = as_tensors(indices=indices)
        complete = indices.clone()
        generator = torch.Generator().manual_seed(seed)
        lacking = (indices < 0).any(1).nonzero().flatten().tolist()
        for query in lacking:
            negatives = [place for place in indices[query].tolist() if place >= 0]
            first, last = torch.searchsorted(self._forbidden.queries, torch.tensor([query, query + 1])).tolist()
            taken = {*negatives, *self._forbidden.documents[first:last].tolist()}
            complete[query] = torch.tensor(negatives + self._drawn(indices.shape[1] - len(negatives), taken, generator))
        self.negatives.fill(complete)
        return len(lacking)

    def allowed(self, indices: ArrayLike) -> Tensor:
        """Negatives from elsewhere without what is a positive of its query, a copy of one, or excluded: -1 instead.

        Args:
            indices: positions ``[queries, k]``; -1 for none.
        """
        (indices,) = as_tensors(indices=indices)
        count = len(self.documents)
        keys = torch.arange(len(indices)).unsqueeze(1) * count + self.firsts[indices.clamp(min=0)]
        is_forbidden = torch.isin(keys, self._forbidden.queries * count + self._forbidden.documents)
        return indices.masked_fill(is_forbidden | (indices < 0), -1)

    def rows(self, hard_negatives: HardNegatives) -> Iterator[MinedRow]:
        """Rows of ids to be written, a pair of query and positive each."""
        return hard_negatives.rows(self.query_ids, self.document_ids)

    def indices_of(self, negatives: Mapping[int, Sequence[int]]) -> Tensor:
        """Negatives that were read from a file as a table ``[queries, num_negatives]``; -1 where there are too few.

        Args:
            negatives: of a query's position those of its documents, closest first.
        """
        width = max([self.negatives.num_negatives, *map(len, negatives.values())])
        indices = torch.full((len(self.queries), width), -1)
        for query, places in negatives.items():
            indices[query, : len(places)] = torch.tensor(places, dtype=torch.int64)
        indices = self.allowed(indices)
        order = (indices < 0).sort(dim=1, stable=True).indices
        return indices.gather(1, order)[:, : self.negatives.num_negatives]

    def _forbidden_pairs(self) -> PositivePairs:
        """Pairs that are no negatives, the document being the first of its copies; by query."""
        queries, documents = self.positives
        if self.excluded_pairs is not None:
            ExcludedPairs(self.excluded_pairs, len(self.queries), queries.device)  # checks them
            queries, documents = (
                torch.cat(columns) for columns in zip(self.positives, self.excluded_pairs, strict=True)
            )
        is_known = (documents >= 0) & (documents < len(self.documents))
        keys = (queries[is_known] * len(self.documents) + self.firsts[documents[is_known]]).unique()
        return PositivePairs(keys // len(self.documents), keys % len(self.documents))

    def _drawn(self, number: int, taken: set[int], generator: torch.Generator) -> list[int]:
        """Documents drawn at random, none of them taken or twice or a copy of another."""
        drawn: dict[int, None] = {}
        for place in self._candidates(number, generator):
            if place not in taken and int(self.firsts[place]) == place:
                drawn[place] = None
            if len(drawn) == number:
                break
        return list(drawn)

    def _candidates(self, number: int, generator: torch.Generator) -> Iterator[int]:
        """A few random documents, and all of them in random order for the rare case that these were not enough."""
        yield from torch.randint(len(self.documents), (_TRIES * number,), generator=generator).tolist()
        yield from torch.randperm(len(self.documents), generator=generator).tolist()


def _text_ids(inputs: Sequence[Any]) -> list[bytes] | None:
    """Digests of texts, which take less memory than the texts; nothing of other inputs."""
    if not len(inputs) or not isinstance(inputs[0], str):
        return None
    return [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in inputs]


def _names(name: str, ids: Sequence[str] | None, count: int) -> Sequence[str]:
    if ids is None:
        return [str(place) for place in range(count)]
    check_texts(**{name: ids})
    if len(ids) != count:
        raise ValueError(f"{name}: expected one for each of the {count}, got {len(ids)}")
    if len(set(ids)) != count:
        raise ValueError(f"{name}: expected each once, got {count - len(set(ids))} again; saved triples go by them")
    return ids


def _collated(inputs: list[Any]) -> Any:
    return inputs if isinstance(inputs[0], str) else default_collate(inputs)
