"""The most frequent words of a corpus, in an order that depends on the corpus alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lightning_normdyn.core.number_checks import check_count


class Vocabulary(NamedTuple):
    """Words by falling frequency; a word's place is its id, and its row in an embedding table.

    Attributes:
        words: most frequent first, ties in alphabetical order.
        counts: how often each word occurs in the corpus.
    """

    words: list[str]
    counts: list[int]

    def encode(self, documents: Iterable[Sequence[str]]) -> list[list[int]]:
        """Replaces words by ids; words outside the vocabulary are dropped and their neighbours close up.

        Example:
            >>> Vocabulary(["a", "b"], [2, 1]).encode([["a", "x", "b"], ["a"]])
            [[0, 1], [0]]
        """
        ids = {word: place for place, word in enumerate(self.words)}
        return [[ids[word] for word in document if word in ids] for document in documents]


def count_vocabulary(documents: Iterable[Sequence[str]], *, size: int) -> Vocabulary:
    """Counts words and keeps the most frequent ones.

    Args:
        documents: lists of words.
        size: how many words to keep; a corpus with fewer gives all it has.

    Raises:
        ValueError: if ``size`` is not positive.

    Example:
        >>> count_vocabulary([["b", "a", "c"], ["c"]], size=2)
        Vocabulary(words=['c', 'a'], counts=[2, 1])
    """
    check_count(vocabulary_size=size)
    counts = Counter(word for document in documents for word in document)
    most_frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]
    return Vocabulary([word for word, _ in most_frequent], [count for _, count in most_frequent])
