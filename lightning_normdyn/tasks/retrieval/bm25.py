"""BM25 ranking, the untrained baseline of retrieval tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_normdyn.tasks.encoders.text_words import identifier_words


class BM25:
    """Scores documents by the words they share with a query, as Lucene does.

    ``score(q, d) = sum over words t of q of idf(t) f / (f + k1 (1 - b + b |d| / mean |d|))`` with ``f`` the count of
    ``t`` in ``d`` and ``idf(t) = ln(1 + (N - n + 1/2) / (n + 1/2))`` for a word that ``n`` of ``N`` documents have
    (Robertson and Zaragoza 2009, equation 3.15; Lucene adds the 1 and leaves out the constant ``k1 + 1``). Words are
    those of :class:`~lightning_normdyn.tasks.encoders.SmallTextEncoder`, in lower case: no stemming, no stop words.

    Args:
        documents: what is searched.
        k1: how much a repeated word still adds.
        b: how much long documents are held back, from 0 to 1.

    Raises:
        ValueError: if there is no document, or a number is out of its range.

    Example:
        >>> BM25(["the open file", "the closed door", "a file"]).rank(["a file"], 2)
        tensor([[2, 0]])
    """

    def __init__(self, documents: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        if not len(documents):
            raise ValueError("documents: expected at least one, got none")
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"k1, b: expected k1 from 0 up and b from 0 to 1, got {k1} and {b}")
        self.documents = len(documents)
        self._places: dict[str, int] = {}
        numbers_by_text = [
            [self._places.setdefault(word, len(self._places)) for word in _lower_words(text)] for text in documents
        ]
        lengths = torch.tensor([len(words) for words in numbers_by_text])
        words = torch.tensor([word for words in numbers_by_text for word in words], dtype=torch.int64)
        owners = torch.arange(self.documents).repeat_interleave(lengths)
        pairs, counts = (words * self.documents + owners).unique(return_counts=True)
        self._postings = pairs % self.documents
        document_frequency = torch.bincount(pairs // self.documents, minlength=len(self._places))
        self._ends = document_frequency.cumsum(0)
        idf = (
            ((self.documents - document_frequency + 0.5) / (document_frequency + 0.5))
            .log1p()
            .repeat_interleave(document_frequency)
        )
        length_penalty = k1 * (1 - b + b * lengths / lengths.float().mean().clamp(min=1e-9))
        self._weights = idf * counts / (counts + length_penalty[self._postings])

    def scores(self, query: str) -> Tensor:
        """Of every document for a text, ``[m]``; 0 where no word is shared."""
        scores = torch.zeros(self.documents)
        for word in _lower_words(query):
            if word in self._places:
                place = self._places[word]
                span = slice(int(self._ends[place - 1]) if place else 0, int(self._ends[place]))
                scores[self._postings[span]] += self._weights[span]
        return scores

    def rank(self, queries: Iterable[str], k: int, *, excluded_pairs: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The best documents of each query.

        Args:
            queries: texts.
            k: how many to find.
            excluded_pairs: positions of query and document in pairs that must not be found, ``[p]`` each.

        Returns:
            Documents by position, best first, the earlier of equals first, int64 ``[n, min(k, m)]``; -1 for ranks left
            over, since a document that shares no word is not found.
        """
        rankings = []
        for place, query in enumerate(queries):
            scores = self.scores(query)
            if excluded_pairs is not None:
                scores[excluded_pairs[1][excluded_pairs[0] == place]] = 0
            best, order = scores.sort(descending=True, stable=True)
            rankings.append(order[:k].where(best[:k] > 0, -1))
        return torch.stack(rankings) if rankings else torch.empty(0, min(k, self.documents), dtype=torch.int64)


def _lower_words(text: str) -> list[str]:
    return [word.lower() for word in identifier_words(text)]
