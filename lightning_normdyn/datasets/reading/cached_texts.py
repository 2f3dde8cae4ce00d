"""Loads ids and texts into memory or into an Arrow cache that later runs open again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.arrow_column import ArrowColumn, write_columns
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.records import Texts


def load_texts(
    pairs: Iterable[tuple[str, str]],
    *,
    source: Iterable[File],
    kind: str,
    problems: Problems,
    cache: File | None = None,
) -> Texts:
    """Takes ``(id, text)`` pairs, whose reader has refused repeated ids, and counts empty texts.

    Args:
        pairs: iterated once, and not at all where the cache has them already.
        source: the files that the pairs come from; the cache is made anew when one changes.
        kind: what a text is, for names and messages: ``"documents"``.
        problems: where empty texts are counted; they are kept.
        cache: a folder for an Arrow file of them; ids are held in memory all the same.
    """
    if cache is None:
        rows = list(pairs)
        texts = Texts([id for id, _ in rows], [text for _, text in rows])
        empty = [place for place, (_, text) in enumerate(rows) if not text]
    else:
        file = Path(cache) / f"{kind}-{fingerprint(source)}.arrow"
        if not file.exists():
            write_columns(file, pairs, id=str, text=str)
        column = ArrowColumn[str](file, "text")
        texts, empty = Texts(list(ArrowColumn[str](file, "id")), column), column.empty_places()
    for place in empty:
        problems.count(f"empty {kind}, kept as empty texts", line=f"id {texts.ids[place]}")
    return texts


def refuse_repeated(rows: Iterable[tuple[File, int, str, str]]) -> Iterator[tuple[str, str]]:
    """Passes ``(id, text)`` of rows ``(file, line, id, text)`` on while no id comes twice.

    Raises:
        MalformedFileError: while reading, if one does.
    """
    earlier = set()
    for file, line, id, text in rows:
        if id in earlier:
            raise MalformedFileError(
                file, line, "an id that occurs once", f"'{id}' again", "keep one of the two or rename it"
            )
        earlier.add(id)
        yield id, text


_LAYOUT = "1"
"""Changes when the same source would come out otherwise, so that old caches are not taken for new ones."""


def fingerprint(files: Iterable[File], *options: str) -> str:
    """Sixteen hexadecimal digits of where files are, how long and how old, and of what was asked of them."""
    lines = [_LAYOUT, *options]
    for file in files:
        path = Path(file).resolve()
        state = path.stat()
        lines.append(f"{path}|{state.st_size}|{state.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
