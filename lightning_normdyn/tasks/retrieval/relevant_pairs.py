"""Training pairs of a retrieval set: relevant pairs with hard negatives, or streamed triples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from torch.utils.data import IterableDataset

from lightning_normdyn.datasets import JudgedTexts, Judgements
from lightning_normdyn.datasets.formats import MsMarcoTriples
from lightning_normdyn.tasks.contrast.contrast_data import TrainingPair
from lightning_normdyn.tasks.retrieval.bm25 import BM25


class RelevantPairs:
    """The relevant pairs of a split.

    Args:
        texts: the set.
        judgements: of the split.
        hard_negatives: documents that go with every pair: those that BM25 ranks first among all that were not judged
            relevant to the query.
    """

    def __init__(self, texts: JudgedTexts, judgements: Judgements, *, hard_negatives: int = 0) -> None:
        self.texts = texts
        self.relevant = judgements.relevant()
        self.hard_negatives = _negatives_by_words(texts, self.relevant, hard_negatives) if hard_negatives else {}

    def __len__(self) -> int:
        return len(self.relevant.grades)

    def __getitem__(self, place: int) -> TrainingPair:
        query, document = int(self.relevant.queries[place]), int(self.relevant.documents[place])
        documents = self.texts.documents.texts
        negatives = tuple(documents[negative] for negative in self.hard_negatives.get(query, ()))
        return TrainingPair(self.texts.queries.texts[query], documents[document], query, document, negatives)


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
            yield TrainingPair(query, positive, _text_id(query), _text_id(positive), (negative,))


def _text_id(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _negatives_by_words(texts: JudgedTexts, relevant: Judgements, number: int) -> Mapping[int, Sequence[int]]:
    relevant_by_query: dict[int, set[int]] = {}
    for query, document in zip(relevant.queries.tolist(), relevant.documents.tolist(), strict=True):
        relevant_by_query.setdefault(query, set()).add(document)
    most_relevant = max(map(len, relevant_by_query.values()), default=0)
    documents = len(texts.documents)
    if documents < most_relevant + number:
        raise ValueError(
            f"hard_negatives: expected at most {documents - most_relevant}, the documents that are left to some query, "
            f"got {number}"
        )
    rankings = BM25(texts.documents.texts).rank(
        (texts.queries.texts[query] for query in relevant_by_query), most_relevant + number
    )
    return {
        # A query that shares few words is filled up with the first documents there are.
        query: _first_others(chain(ranked, range(documents)), relevant_to, number)
        for (query, relevant_to), ranked in zip(relevant_by_query.items(), rankings.tolist(), strict=True)
    }


def _first_others(candidates: Iterable[int], left_out: set[int], number: int) -> list[int]:
    candidates_left = (place for place in candidates if place >= 0 and place not in left_out)
    return list(islice(dict.fromkeys(islice(candidates_left, 2 * number + len(left_out))), number))


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
