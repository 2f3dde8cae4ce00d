"""A text encoder that trains in a minute on a CPU and needs no download."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from lightning_normdyn.core.number_checks import check_count, check_flag, check_not_negative
from lightning_normdyn.tasks.encoders.text import TextEncoder
from lightning_normdyn.tasks.encoders.text_words import identifier_words

_PADDING = 0
_STEM = 5
# A rate that suits embeddings moves a logarithm of weights too slowly: rare words weigh some tens of frequent ones.
_WEIGHT_SCALE = 20.0


class SmallTextEncoder(TextEncoder):
    """A weighted sum of word embeddings over the root of their number, then one residual layer.

    Words are those of :func:`~lightning_normdyn.tasks.encoders.text_words.identifier_words` and go to a bucket of a
    hashed table; so does the beginning of each longer word, which stands for its stem, and, where asked for, each of
    its n-grams of letters with its ends marked (Bojanowski et al., arXiv 1607.04606, section 3.2), so that words that
    training seldom or never showed are near those that they are spelt like. Each bucket has an embedding and a weight,
    both learnt.
    There is no bias and no normalisation at the end, so that norms are free; they begin near one for short and long
    texts alike, so that no similarity begins far from the others. Untrained, it scores by the words that two texts
    share.

    Args:
        dim: length of an embedding.
        buckets: rows of the table; words that share one cannot be told apart.
        hidden: width of the residual layer.
        max_words: of a text, beginnings and n-grams of words counted too; the rest is left out, and counted.
        dropout: share of the words that a text loses in training.
        ngram_letters: of each n-gram; 0 for none.
        sublinear_tf: whether what a text repeats c times weighs ``1 + ln c`` and not c, as in scikit-learn's
            ``TfidfVectorizer``.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> encoder = SmallTextEncoder(dim=8, buckets=1000)
        >>> encoder.encode(["Returns the value.", "get_value"]).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        buckets: int = 20_000,
        hidden: int = 256,
        max_words: int = 256,
        dropout: float = 0.2,
        ngram_letters: int = 0,
        sublinear_tf: bool = False,
    ) -> None:
        super().__init__()
        check_count(dim=dim, buckets=buckets, hidden=hidden, max_words=max_words)
        check_count(0, ngram_letters=ngram_letters)
        check_flag(sublinear_tf=sublinear_tf)
        check_not_negative(dropout=dropout)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a share from 0 to below 1, got {dropout}")
        self.dim = dim
        self.dropout = dropout
        self.buckets = buckets
        self.max_words = max_words
        self.ngram_letters = ngram_letters
        self.sublinear_tf = sublinear_tf
        self.table = nn.Embedding(buckets + 1, dim, padding_idx=_PADDING)
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        self.weight = nn.Embedding(buckets + 1, 1)
        nn.init.zeros_(self.weight.weight)
        last = nn.Linear(hidden, dim, bias=False)
        nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(nn.Linear(dim, hidden, bias=False), nn.ReLU(), last)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Buckets of the words, int64 ``[b, most]``; 0 where a text has ended.

        With ``sublinear_tf`` each bucket of a text once, and ``counts`` of the same shape.
        """
        numbers_by_text = [self._numbers(text) for text in texts]
        self.texts += len(texts)
        self.truncated_texts += sum(len(numbers) > self.max_words for numbers in numbers_by_text)
        rows = [numbers[: self.max_words] for numbers in numbers_by_text]
        if not self.sublinear_tf:
            return {"words": _padded(rows)}
        counters = [Counter(numbers) for numbers in rows]
        return {"words": _padded([list(c) for c in counters]), "counts": _padded([list(c.values()) for c in counters])}

    def forward(self, words: Tensor, counts: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Embeddings ``[b, dim]``; a text without words has a zero vector.

        Args:
            words: as :meth:`tokenize` gives them.
            counts: how often each occurs, likewise; ``None`` for once a place.
        """
        mask = words != _PADDING
        if self.training and self.dropout:
            mask = mask & (torch.rand(words.shape, device=words.device) >= self.dropout)
        frequencies = mask if counts is None else mask * (1 + counts.clamp(min=1).log())
        weights = (_WEIGHT_SCALE * self.weight(words).squeeze(-1)).exp() * frequencies
        weights = weights / frequencies.sum(1, keepdim=True).clamp(min=1).sqrt()
        # Never makes the embedding of every word of every text, which would take most of a step's time.
        table = self.table.weight
        bag = embedding_bag(words, table, per_sample_weights=weights.to(table.dtype), mode="sum")
        embeddings: Tensor = bag + self.residual(bag)
        return embeddings

    def _numbers(self, text: str) -> list[int]:
        hashes = (code for word in identifier_words(text) for code in _hashes(word, self.ngram_letters))
        return [code % self.buckets + 1 for code in hashes]


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """The rows as one tensor, filled up with padding, ``[b, most]``; of one column at least."""
    table = torch.full((len(rows), max(1, *map(len, rows))) if rows else (0, 1), _PADDING)
    for row, numbers in zip(table, rows, strict=True):
        row[: len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
    return table


@lru_cache(maxsize=1 << 18)
def _hashes(word: str, ngram_letters: int) -> tuple[int, ...]:
    """Of the word and, if it goes on, of its beginning, then of its n-grams; the same in every process."""
    return tuple(crc32(part.encode()) for part in word_parts(word.lower(), ngram_letters))


def word_parts(word: str, ngram_letters: int = 0) -> list[str]:
    """A word, its beginning if it is longer than that, and its n-grams, of which a whole word is none.

    Args:
        word: in small letters.
        ngram_letters: of each n-gram, the marks of the word's ends counted; 0 for none.

    Example:
        >>> word_parts("returns", 4)
        ['returns', 'retur-', '#<ret', '#retu', '#etur', '#turn', '#urns', '#rns>']
        >>> word_parts("is", 4)
        ['is']
    """
    parts = [word] if len(word) <= _STEM else [word, f"{word[:_STEM]}-"]
    if ngram_letters and len(word) + 2 > ngram_letters:
        marked = f"<{word}>"
        parts += [f"#{marked[at : at + ngram_letters]}" for at in range(len(marked) - ngram_letters + 1)]
    return parts
