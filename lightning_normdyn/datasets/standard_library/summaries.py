"""Splits docstrings into their summary sentence and their body."""

from __future__ import annotations

import re
from typing import NamedTuple

_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_CALL = re.compile(r"[\w.]+\(.*\)\s*(->.*)?", re.DOTALL)
# "e.g. a" and "file.name" end no sentence: a full stop does if a space and no small letter follow.
_SENTENCE = re.compile(r".+?[.!?:](?=\s+[^\sa-z])", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")


class SplitDocstring(NamedTuple):
    """A docstring in two.

    Attributes:
        summary: its first sentence, on one line.
        body: what follows, as written; empty where nothing does.
    """

    summary: str
    body: str


def split_summary(docstring: str) -> SplitDocstring:
    r"""Splits a docstring after its first sentence, or its first paragraph if that is a heading without a full stop.

    A first paragraph that only says how to call it, ``dup() -> socket``, belongs to neither.

    Example:
        >>> split_summary("Open a\nfile, e.g. a log. Return it.\n\nMore.")
        SplitDocstring(summary='Open a file, e.g. a log.', body='Return it.\n\nMore.')
        >>> split_summary("f(x) -> int\n\nCount")
        SplitDocstring(summary='Count', body='')
    """
    first, *remainder = _PARAGRAPH_BREAK.split(docstring.strip(), maxsplit=1)
    if remainder and _CALL.fullmatch(first):
        return split_summary(remainder[0])
    sentence = _SENTENCE.match(first)
    end = sentence.end() if sentence else len(first)
    return SplitDocstring(" ".join(first[:end].split()), "\n\n".join([first[end:].strip(), *remainder]).strip())


def words_of(text: str) -> tuple[str, ...]:
    r"""The words of a text, lower-cased; two texts with the same words count as one.

    Example:
        >>> words_of("Same  as\nself[i]!")
        ('same', 'as', 'self', 'i')
    """
    return tuple(_WORD.findall(text.lower()))
