"""Covariates computed from texts alone: length in letters and mean log frequency of their words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

_WORD = re.compile(r"\w+")


def letters(texts: Iterable[str]) -> Tensor:
    """Length of each text in letters, float64 ``[n]``."""
    return torch.tensor([len(text) for text in texts], dtype=torch.float64)


def word_frequency(texts: Iterable[str]) -> Tensor:
    """Mean over a text's words of the logarithm of how often each occurs in all texts.

    Args:
        texts: iterated twice, so no generator; memory grows with the vocabulary.

    Returns:
        Natural logarithms, float64 ``[n]``; NaN for a text without words.

    Example:
        >>> word_frequency(["the cat", "the dog", "..."])
        tensor([0.3466, 0.3466,    nan], dtype=torch.float64)
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_alphanumeric_words(text))
    logs = {word: math.log(count) for word, count in counts.items()}
    means = []
    for text in texts:
        log_counts = [logs[word] for word in _alphanumeric_words(text)]
        means.append(math.fsum(log_counts) / len(log_counts) if log_counts else math.nan)
    return torch.tensor(means, dtype=torch.float64)


def _alphanumeric_words(text: str) -> list[str]:
    """Lower-case runs of letters, digits and underscores."""
    return _WORD.findall(text.lower())
