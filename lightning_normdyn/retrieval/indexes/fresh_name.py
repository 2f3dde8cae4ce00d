"""The name of a collection that is being filled: it tells the export, its beginning and what it is to replace."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Collection
from typing import NamedTuple

_LONGEST_EXPORT_SECONDS = 24 * 3600
_KEY_LENGTH = 8


class FreshName(NamedTuple):
    """Names like ``<name>-normdyn-<seconds>-<eight letters>``.

    A collection of such a name that is not in use is what a killed export left. The letters are those of the export's
    key, so that the same one goes on from it; another removes it: at once where one process opens a place at a time,
    after a day on a server, where another export may be filling it.

    Attributes:
        name: of the collection that is to be.
        sign: between the parts, as far as the database has it in names.
    """

    name: str
    sign: str = "-"

    def without_key(self) -> str:
        """For an export that nobody can go on with."""
        return self._made(int(time.time()), uuid.uuid4().hex)

    def of_key(self, key: str, names: Collection[str]) -> str:
        """One that none of these is called.

        Args:
            key: of the export.
            names: that there are.

        Example:
            >>> fresh = FreshName("docs").of_key("0123456789", [])
            >>> fresh.startswith("docs-normdyn-") and fresh.endswith("-01234567")
            True
        """
        seconds = int(time.time())
        while (fresh := self._made(seconds, key)) in names:  # by the same export
            seconds -= 1
        return fresh

    def latest_of_key(self, key: str, names: Collection[str]) -> str | None:
        """The latest of these that an export of this key has begun; ``None`` without one.

        Args:
            key: of the export.
            names: that there are, without those in use.
        """
        matches = [match for match in map(self._match, names) if match is not None and match[2] == key[:_KEY_LENGTH]]
        return max((match[0] for match in matches), default=None)

    def leftovers(self, names: Collection[str], *, shared: bool) -> list[str]:
        """Those of killed exports.

        Args:
            names: that there are, without those in use.
            shared: whether another export may be at work in the same place.

        Example:
            >>> FreshName("docs").leftovers(["docs-normdyn-5f-01234567", "docs"], shared=True)
            ['docs-normdyn-5f-01234567']
        """
        latest = time.time() - (_LONGEST_EXPORT_SECONDS if shared else 0)
        return [name for name in names if (match := self._match(name)) and int(match[1], 16) <= latest]

    def _made(self, seconds: int, key: str) -> str:
        return self.sign.join([self.name, "normdyn", f"{seconds:x}", key[:_KEY_LENGTH]])

    def _match(self, name: str) -> re.Match[str] | None:
        sign = re.escape(self.sign)
        return re.fullmatch(f"{re.escape(self.name)}{sign}normdyn{sign}([0-9a-f]+){sign}([0-9a-f]{{8}})", name)
