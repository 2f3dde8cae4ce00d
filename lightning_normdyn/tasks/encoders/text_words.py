"""The words of a text, in any script."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# Characters of scripts without spaces are words of their own.
_RUN = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\d_]+|\d+")


def split_words(text: str) -> list[str]:
    """What letters and digits form, the parts of CamelCase apart; Chinese, Japanese and Thai by characters.

    Example:
        >>> split_words("Opens a ZipFile, see os.path2")
        ['Opens', 'a', 'Zip', 'File', 'see', 'os', 'path', '2']
        >>> split_words("Äpfel im приветМир, 日本")
        ['Äpfel', 'im', 'привет', 'Мир', '日', '本']
    """
    if text.isascii():
        return _WORD.findall(text)
    runs = _RUN.findall(unicodedata.normalize("NFC", text))
    return [word for run in runs for word in (_WORD.findall(run) if run.isascii() else _parts(run))]


def _parts(run: str) -> list[str]:
    """A run of letters, cut before each capital that follows a small letter."""
    cuts = [at for at in range(1, len(run)) if run[at].isupper() and run[at - 1].islower()]
    return [run[start:end] for start, end in zip([0, *cuts], [*cuts, len(run)], strict=True)]
