"""Training pairs of a retrieval set: relevant pairs with hard negatives, or streamed triples."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lightning_normdyn.datasets import JudgedTexts, Judgements
from lightning_normdyn.datasets.formats import MsMarcoTriples
from lightning_normdyn.datasets.formats.hard_negatives import negatives_by_query
from lightning_normdyn.retrieval.mining.source import MiningSource
from lightning_normdyn.tasks.contrast.contrast_data import TrainingPair
from lightning_normdyn.tasks.retrieval.bm25 import BM25


class RelevantPairs:
    """The relevant pairs of a split, and hard negatives of each query.

    Args:
        texts: the set.
        judgements: of the split.
        excluded_pairs: of the split: neither relevant nor hard negatives.
        hard_negatives: documents that go with every pair.
        hard_negatives_from: ``bm25``: those that BM25 ranks first among all that were not judged relevant to the query;
            ``mining``: those that are put into :attr:`source`, none before; or a file of mined ones, see
            :func:`~lightning_normdyn.datasets.formats.read_hard_negatives`.

    Attributes:
        source: the queries of the split and all documents, for a miner, with the table of hard negatives; ``None``
            without hard negatives.

    Raises:
        ValueError: if there are too few documents.
        MalformedFileError: if the file does not hold what it should.
    """

    def __init__(
        self,
        texts: JudgedTexts,
        judgements: Judgements,
        *,
        excluded_pairs: Judgements | None = None,
        hard_negatives: int = 0,
        hard_negatives_from: str = "bm25",
    ) -> None:
        self.texts = texts
        self.relevant = judgements.relevant()
        self._places, self._numbers = self.relevant.queries.unique(return_inverse=True)
        self.source = self._make_source(hard_negatives, excluded_pairs) if hard_negatives and len(self) else None
        if self.source is None or hard_negatives_from == "mining":
            return
        if hard_negatives_from == "bm25":
            self.source.update(self.source.allowed(self._ranked_by_words(hard_negatives)))
            return
        query_places, document_places = (
            {id: place for place, id in enumerate(ids)} for ids in (self.source.query_ids, texts.documents.ids)
        )
        indices = self.source.indices_of(negatives_by_query(hard_negatives_from, query_places, document_places))
        drawn = self.source.update(indices)
        if drawn:
            warnings.warn(
                f"{hard_negatives_from}: {drawn} of {len(indices)} queries have fewer than {hard_negatives} hard "
                "negatives there; what is missing is drawn from all documents that do not answer them",
                stacklevel=4,
            )

    def __len__(self) -> int:
        return len(self.relevant.grades)

    def __getitem__(self, place: int) -> TrainingPair:
        query, document = int(self.relevant.queries[place]), int(self.relevant.documents[place])
        documents = self.texts.documents.texts
        negatives = () if self.source is None else self.source.negatives.of(int(self._numbers[place]))
        return TrainingPair(
            self.texts.queries.texts[query],
            documents[document],
            query,
            document,
            tuple(documents[negative] for negative in negatives),
            negatives,
        )

    def _make_source(self, hard_negatives: int, excluded: Judgements | None) -> MiningSource:
        queries, places = self.texts.queries, self._places.tolist()
        excluded_pairs = None
        if excluded is not None:
            is_here = torch.isin(excluded.queries, self._places)
            numbers = torch.searchsorted(self._places, excluded.queries[is_here])
            excluded_pairs = numbers, excluded.documents[is_here]
        try:
            return MiningSource(
                [queries.texts[place] for place in places],
                self.texts.documents.texts,
                self.relevant._replace(queries=self._numbers),
                num_negatives=hard_negatives,
                excluded_pairs=excluded_pairs,
                query_ids=[queries.ids[place] for place in places],
                document_ids=self.texts.documents.ids,
            )
        except ValueError as error:
            raise ValueError(str(error).replace("num_negatives", "hard_negatives", 1)) from None

    def _ranked_by_words(self, number: int) -> Tensor:
        """The best documents by BM25, ``[queries, number]``; -1 where a query shares words with too few."""
        assert self.source is not None
        ranked = BM25(self.texts.documents.texts).rank(
            self.source.queries, number, excluded_pairs=(self.source.positives.queries, self.source.positives.documents)
        )
        return torch.nn.functional.pad(ranked, (0, number - ranked.shape[1]), value=-1)


class TriplePairs(IterableDataset[TrainingPair]):
    """Streamed triples, as pairs with one hard negative each; equal texts have equal ids.

    Args:
        triples: of a query, a passage that answers it and one that does not.
    """

    def __init__(self, triples: MsMarcoTriples) -> None:
        super().__init__()
        self.triples = triples

    def __iter__(self) -> Iterator[TrainingPair]:
        for query, positive, negative in self.triples:
            yield TrainingPair(query, positive, _text_id(query), _text_id(positive), (negative,), (_text_id(negative),))


def _text_id(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def with_validation(judgements: Mapping[str, Judgements], share: float) -> dict[str, Judgements]:
    """Judgements with a validation split, taken from the training queries at even distances if there was none.

    Args:
        judgements: split to pairs.
        share: of the training queries, which then are judged by ``validation`` alone; the nearest of 1/2, 1/3, ....

    Example:
        >>> train = Judgements.of([(0, 5, 1.0), (1, 6, 1.0), (1, 7, 1.0), (2, 8, 1.0)])
        >>> split = with_validation({"train": train}, 0.5)
        >>> split["train"].documents, split["validation"].documents
        (tensor([5, 8]), tensor([6, 7]))
    """
    if "validation" in judgements or "train" not in judgements:
        return dict(judgements)
    train = judgements["train"]
    places = train.queries.unique(return_inverse=True)[1]
    period = round(1 / share)
    is_validation = places % period == period - 1
    masks = {"train": ~is_validation, "validation": is_validation}
    return {**judgements, **{name: Judgements(*(column[mask] for column in train)) for name, mask in masks.items()}}
