"""A text encoder that trains in a minute on a CPU and needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from lightning_normdyn.core.number_checks import check_count, check_not_negative
from lightning_normdyn.tasks.encoders.text import TextEncoder
from lightning_normdyn.tasks.encoders.text_words import identifier_words

_PADDING = 0
_STEM = 5
# A rate that suits embeddings moves a logarithm of weights too slowly: rare words weigh some tens of frequent ones.
_WEIGHT_SCALE = 20.0


class SmallTextEncoder(TextEncoder):
    """A weighted sum of word embeddings over the root of their number, then one residual layer.

    Words are those of :func:`~lightning_normdyn.tasks.encoders.text_words.identifier_words` and go to a bucket of a
    hashed table; so does the beginning of each longer word, which stands for its stem. Each bucket has an embedding and
    a weight, both learnt.
    There is no bias and no normalisation at the end, so that norms are free; they begin near one for short and long
    texts alike, so that no similarity begins far from the others. Untrained, it scores by the words that two texts
    share.

    Args:
        dim: length of an embedding.
        buckets: rows of the table; words that share one cannot be told apart.
        hidden: width of the residual layer.
        max_words: of a text, beginnings of words counted too; the rest is left out, and counted.
        dropout: share of the words that a text loses in training.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> encoder = SmallTextEncoder(dim=8, buckets=1000)
        >>> encoder.encode(["Returns the value.", "get_value"]).shape
        torch.Size([2, 8])
    """

    def __init__(
        self, *, dim: int = 256, buckets: int = 20_000, hidden: int = 256, max_words: int = 256, dropout: float = 0.2
    ) -> None:
        super().__init__()
        check_count(dim=dim, buckets=buckets, hidden=hidden, max_words=max_words)
        check_not_negative(dropout=dropout)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a share from 0 to below 1, got {dropout}")
        self.dim = dim
        self.dropout = dropout
        self.buckets = buckets
        self.max_words = max_words
        self.table = nn.Embedding(buckets + 1, dim, padding_idx=_PADDING)
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        self.weight = nn.Embedding(buckets + 1, 1)
        nn.init.zeros_(self.weight.weight)
        last = nn.Linear(hidden, dim, bias=False)
        nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(nn.Linear(dim, hidden, bias=False), nn.ReLU(), last)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Buckets of the words, int64 ``[b, most]``; 0 where a text has ended."""
        numbers_by_text = [self._numbers(text) for text in texts]
        self.texts += len(texts)
        self.truncated_texts += sum(len(numbers) > self.max_words for numbers in numbers_by_text)
        words = torch.full((len(texts), max(1, min(self.max_words, max(map(len, numbers_by_text))))), _PADDING)
        for row, numbers in zip(words, numbers_by_text, strict=True):
            row_numbers = numbers[: self.max_words]
            row[: len(row_numbers)] = torch.tensor(row_numbers, dtype=torch.int64)
        return {"words": words}

    def forward(self, words: Tensor) -> Tensor:  # type: ignore[override]
        """Embeddings ``[b, dim]``; a text without words has a zero vector.

        Args:
            words: as :meth:`tokenize` gives them.
        """
        mask = words != _PADDING
        if self.training and self.dropout:
            mask = mask & (torch.rand(words.shape, device=words.device) >= self.dropout)
        weights = (_WEIGHT_SCALE * self.weight(words).squeeze(-1)).exp() * mask
        weights = weights / mask.sum(1, keepdim=True).clamp(min=1).sqrt()
        # Never makes the embedding of every word of every text, which would take most of a step's time.
        bag = embedding_bag(words, self.table.weight, per_sample_weights=weights, mode="sum")
        embeddings: Tensor = bag + self.residual(bag)
        return embeddings

    def _numbers(self, text: str) -> list[int]:
        return [bucket % self.buckets + 1 for word in identifier_words(text) for bucket in _hashes(word)]


@lru_cache(maxsize=1 << 18)
def _hashes(word: str) -> tuple[int, ...]:
    """Of the word and, if it goes on, of its beginning; the same in every process."""
    word = word.lower()
    code = crc32(word.encode())
    return (code,) if len(word) <= _STEM else (code, crc32(f"{word[:_STEM]}-".encode()))
