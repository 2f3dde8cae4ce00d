"""Splits a text of any script into words, and identifiers such as CamelCase into the words they are made of."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_SPACELESS = r"\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"


def identifier_words(text: str) -> list[str]:
    """Words of letters and numbers of digits, the words of CamelCase apart; Chinese, Japanese and Thai by characters.

    Case stays. Apostrophes end a word; :func:`lightning_normdyn.tasks.tokens.corpus.prose_words` keeps them.

    Example:
        >>> identifier_words("Opens a ZipFile, see os.path2")
        ['Opens', 'a', 'Zip', 'File', 'see', 'os', 'path', '2']
        >>> identifier_words("Äpfel im приветМир, 日本")
        ['Äpfel', 'im', 'привет', 'Мир', '日', '本']
    """
    if text.isascii():
        return _WORD.findall(text)
    runs = _runs().findall(unicodedata.normalize("NFC", text))
    return [word for run in runs for word in (_WORD.findall(run) if run.isascii() else _parts(run))]


@cache
def _runs() -> re.Pattern[str]:
    """Letters with the marks that belong to them, one letter at a time in scripts without spaces; or digits."""
    letters = map(chr, range(0x300, 0x10000))
    marks = "".join(letter for letter in letters if unicodedata.category(letter) in ("Mn", "Mc"))
    return re.compile(rf"[{_SPACELESS}][{marks}]*|(?:(?![{_SPACELESS}])[^\W\d_][{marks}]*)+|\d+")


def _parts(run: str) -> list[str]:
    """A run of letters, cut before each capital that follows a small letter."""
    cuts = [position for position in range(1, len(run)) if run[position].isupper() and run[position - 1].islower()]
    return [run[start:end] for start, end in zip([0, *cuts], [*cuts, len(run)], strict=True)]
