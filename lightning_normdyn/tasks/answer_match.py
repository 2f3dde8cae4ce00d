"""Whether an answer in words is right: SQuAD's measures (arXiv 1606.05250)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces, in that order.

    Example:
        >>> normalize_answer("The  abc.ABC!")
        'abcabc'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 if the answer is one of the right ones after :func:`normalize_answer`, else 0.

    Example:
        >>> exact_match("a dict", ["Dict", "mapping"])
        1.0
    """
    return float(normalize_answer(answer) in {normalize_answer(one) for one in right})


def token_f1(answer: str, right: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the answer's words, against the best of the right ones.

    Example:
        >>> token_f1("ordered dict", ["dict"])
        0.6666666666666666
    """
    return max((_f1(normalize_answer(answer).split(), normalize_answer(one).split()) for one in right), default=0.0)


def _f1(answer: list[str], right: list[str]) -> float:
    if not answer or not right:
        return float(answer == right)
    shared = sum((Counter(answer) & Counter(right)).values())
    return 2 * shared / (len(answer) + len(right))
