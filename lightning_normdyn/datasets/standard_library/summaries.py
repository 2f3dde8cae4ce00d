"""Docstrings parted into the sentence that sums them up and the rest."""

from __future__ import annotations

import re
from typing import NamedTuple

_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
_CALL = re.compile(r"[\w.]+\(.*\)\s*(->.*)?", re.DOTALL)
# "e.g. a" and "file.name" end no sentence: a full stop does if a space and no small letter follow.
_SENTENCE = re.compile(r".+?[.!?:](?=\s+[^\sa-z])", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")


class Parted(NamedTuple):
    """A docstring in two.

    Attributes:
        summary: its first sentence, on one line.
        rest: what follows, as written; empty where nothing does.
    """

    summary: str
    rest: str


def part(docstring: str) -> Parted:
    r"""Parts a docstring after its first sentence, or its first paragraph if that is a heading without a full stop.

    A first paragraph that only says how to call it, ``dup() -> socket``, belongs to neither.

    Example:
        >>> part("Open a\nfile, e.g. a log. Return it.\n\nMore.")
        Parted(summary='Open a file, e.g. a log.', rest='Return it.\n\nMore.')
        >>> part("f(x) -> int\n\nCount")
        Parted(summary='Count', rest='')
    """
    first, *others = _PARAGRAPH_BREAK.split(docstring.strip(), maxsplit=1)
    if others and _CALL.fullmatch(first):
        return part(others[0])
    sentence = _SENTENCE.match(first)
    end = sentence.end() if sentence else len(first)
    return Parted(" ".join(first[:end].split()), "\n\n".join([first[end:].strip(), *others]).strip())


def words_of(text: str) -> tuple[str, ...]:
    r"""The words of a text, lower-cased; two texts with the same words count as one.

    Example:
        >>> words_of("Same  as\nself[i]!")
        ('same', 'as', 'self', 'i')
    """
    return tuple(_WORD.findall(text.lower()))
