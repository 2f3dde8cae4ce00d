"""What an audit shows of an item, and lists of the items with the longest and the shortest vectors."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lightning_normdyn.report.kit.numbers import plain

if TYPE_CHECKING:
    from PIL.Image import Image

_LETTERS = 220
_SIDE = 144


class Item(NamedTuple):
    """What can be shown of an item.

    Attributes:
        id: that it goes by.
        text: of it, in plain text; empty where there is none.
        picture: a data URI; empty where there is none.
    """

    id: str
    text: str = ""
    picture: str = ""


def thumbnail(image: Image) -> str:
    """A picture of at most 144 pixels a side as a data URI, so that a page needs no file beside it."""
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


class ItemList(NamedTuple):
    """Items under one heading.

    Attributes:
        title: the heading.
        entries: items, each with its norm in words.
    """

    title: str
    entries: Sequence[tuple[Item, str]]

    @property
    def has_pictures(self) -> bool:
        """Whether any of the items has a picture."""
        return any(item.picture for item, _ in self.entries)


def item_list(title: str, rows: Sequence[int], norms: Sequence[float], items: Mapping[int, Item]) -> ItemList:
    """Items by the rows of their vectors.

    Args:
        title: of the list.
        rows: of the items.
        norms: of the same items.
        items: row to what can be shown; an item that is not among them goes by its row.
    """
    entries = [(items.get(row, Item(f"row {row}")), plain(norm, 4)) for row, norm in zip(rows, norms, strict=True)]
    return ItemList(title, entries)


def shortened(text: str, most: int = _LETTERS) -> str:
    """The beginning of a text on one line, of so many letters at most.

    Example:
        >>> shortened("  two lines "), len(shortened("word " * 100))
        ('two lines', 220)
    """
    line = " ".join("".join(letter if letter.isprintable() or letter.isspace() else "�" for letter in text).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"
