"""A collection of a database that is filled under a fresh name and takes its own once it is whole."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple

from lightning_normdyn.caution import caution
from lightning_normdyn.retrieval.indexes.manifest import Manifest
from lightning_normdyn.retrieval.indexes.refusals import check_index
from lightning_normdyn.retrieval.indexes.search_width import SearchWidth
from lightning_normdyn.retrieval.indexes.writer import Destination

_LONGEST_EXPORT_SECONDS = 24 * 3600
_KEY_LENGTH = 8
_SEARCHED_NODES, _MOST_NODES, _MOST_CANDIDATES = 64, 1024, 4096


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


class FreshCollection:
    """What collections of Qdrant and Milvus have in common: the width of a search, and going on with a killed export.

    Args:
        destination: of the export; ``index`` is ``flat`` or ``hnsw``.
        sign: between the parts of the fresh name.
    """

    target: ClassVar[str]
    owner: ClassVar[str]
    """The library's name in the genitive."""
    batch_rows: ClassVar[int] = 1024
    """How many are sent at once."""

    def __init__(self, destination: Destination, sign: str = "-") -> None:
        check_index(destination.index, ["flat", "hnsw"], target=self.target)
        self.destination, self.name = destination, destination.name
        self.width = SearchWidth()
        self.existing_ids: list[str] = []
        self.rows_done = 0
        self._manifest = Manifest(1.0)
        self._fresh_name = FreshName(self.name, sign)
        self._fresh = self._fresh_name.without_key()
        self._client: Any = None
        self._old_collection: str | None = None
        self._moving = False
        self._is_live = False

    def finish(self, findings: Mapping[str, Any]) -> None:
        """Nothing: the width is the search's own, and what was measured has no place in a collection."""
        del findings

    @property
    def _label(self) -> str:
        """The collection in messages."""
        return f"{self.owner} collection '{self.name}'"

    @property
    def _needs_candidates(self) -> bool:
        """Whether scores are those of the nearest by direction, times a power of the norm that lies beside."""
        return self._manifest.keep_norm and self._manifest.exponent != 0

    def _set_width(self, row_count: int) -> None:
        """Of a search; refuses what the user set and the collection does not have."""
        parameters, is_graph = self.destination.parameters, self.destination.index == "hnsw"
        defaults = {"ef_search": (_SEARCHED_NODES, _MOST_NODES)} if is_graph else {}
        if self._needs_candidates:
            most = min(_MOST_CANDIDATES, row_count)
            defaults["candidates"] = (min(_SEARCHED_NODES, most), most)
        names = ["m", "ef_construction", *defaults] if is_graph else list(defaults)
        parameters.check(names, index=self.destination.index, target=self.target)
        self.width = SearchWidth.of(parameters, defaults, self.destination.first_width)

    def _goes_on(self, resume_key: str | None) -> bool:
        """Whether a killed export of the same key left its collection, which is then filled further."""
        if resume_key is None:
            return False
        # The one in use may be of the same export, made in this very second.
        self._fresh = self._fresh_name.of_key(resume_key, self._names())
        leftover = self._fresh_name.latest_of_key(resume_key, self._unused_names())
        if leftover is None:
            return False
        self._fresh = leftover
        # Of the last batch some rows may be missing; those that are there are written again.
        self.rows_done = max(0, self._rows_of(leftover) - self.batch_rows)
        caution(
            f"out: an export to {self._label} was killed; this one goes on from its row {self.rows_done:,}",
            stacklevel=3,
        )
        return True

    def _remove_leftovers(self, *, shared: bool) -> None:
        """Removes what killed exports left, once the name stands: before, one may be all that there is of it."""
        leftovers = self._fresh_name.leftovers(self._unused_names(), shared=shared)
        for leftover in leftovers:
            self._delete(leftover)
        if leftovers:
            caution(
                f"out: an export to {self._label} was killed; {', '.join(leftovers)}, which it left half-written, was "
                "removed",
                stacklevel=3,
            )

    def _names(self) -> list[str]:
        """All collections."""
        raise NotImplementedError

    def _unused_names(self) -> list[str]:
        """Collections that no alias leads to, apart from the one of the name."""
        raise NotImplementedError

    def _rows_of(self, collection: str) -> int:
        raise NotImplementedError

    def _delete(self, collection: str) -> None:
        raise NotImplementedError
