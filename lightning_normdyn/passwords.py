"""Texts without the passwords of the URLs and connection strings in them, for whatever is printed or kept."""

from __future__ import annotations

import re

_MASK = "***"
_OF_URL = re.compile(r"(:/+[^\s/:@'\"]*):(\S*)@")  # a Path makes one slash of two; a password may hold another @
_OF_KEYWORD = re.compile(
    r"((?:password|passwd|pwd|api[_-]?key|access[_-]?token|secret|[?&]sig|x-(?:amz|goog)-(?:signature|security-token))"
    r"\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&,;'\"]+)",
    re.IGNORECASE,
)
_OF_OPTION = re.compile(r"(--?[\w.-]*(?:key|token|passw|secret|credential)[\w.-]*[= ])\s*[^\s&,;'\"]+", re.IGNORECASE)
_PIECES = re.compile(r"[@:/?#]")


def without_passwords(text: str, *sources: str) -> str:
    """The text with stars in the place of passwords.

    Args:
        text: what is to be shown.
        sources: URLs or connection strings whose passwords it may hold by themselves, as a library that read them
            wrongly says them, or parts of them.

    Example:
        >>> without_passwords("cannot reach http://me:secret@localhost:6333")
        'cannot reach http://me:***@localhost:6333'
        >>> without_passwords("host=a password='my secret' port=1")
        'host=a password=*** port=1'
        >>> without_passwords("cannot resolve 'ss@localhost'", "postgresql://me:p@ss@localhost/x")
        "cannot resolve '***@localhost'"
        >>> without_passwords("https://host/x.npy?X-Amz-Date=1&X-Amz-Signature=abc")
        'https://host/x.npy?X-Amz-Date=1&X-Amz-Signature=***'
        >>> without_passwords("train.py --api-key abc --steps 3")
        'train.py --api-key *** --steps 3'
    """
    text = _OF_KEYWORD.sub(rf"\g<1>{_MASK}", _OF_URL.sub(rf"\g<1>:{_MASK}@", text))
    text = _OF_OPTION.sub(rf"\g<1>{_MASK}", text)
    for word in sorted((word for source in sources for word in _secrets(source)), key=len, reverse=True):
        text = text.replace(word, _MASK)
    return text


def _secrets(source: str) -> set[str]:
    """The passwords in a source, and the parts that a wrong reading makes of one with ``@``, ``:`` or ``/`` in it."""
    passwords = [match.group(2).strip("'") for pattern in (_OF_URL, _OF_KEYWORD) for match in pattern.finditer(source)]
    return {word for password in passwords for word in (password, *_PIECES.split(password)) if len(word) > 1}
