"""Asks in an error message whether a similar word was meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LEAST_SIMILARITY = 0.66


def nearest(word: str, words: Iterable[str]) -> str:
    """Asks whether the most similar word was meant; empty where none is similar.

    Example:
        >>> nearest("qnrom", ("cosine", "qnorm")), nearest("xyz", ("cosine",))
        ("; did you mean 'qnorm'?", '')
    """
    similar = get_close_matches(word, list(words), n=1, cutoff=_LEAST_SIMILARITY)
    return f"; did you mean '{similar[0]}'?" if similar else ""
