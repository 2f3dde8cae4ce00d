"""Items with the longest and the shortest vectors, side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
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


def item_list(title: str, rows: Sequence[int], norms: Sequence[float], items: Mapping[int, Item]) -> str:
    """One list of items as HTML.

    Args:
        title: of the list.
        rows: of the items.
        norms: of the same items.
        items: row to what can be shown.
    """
    shown = "".join(_item(items.get(row, Item(f"row {row}")), norm) for row, norm in zip(rows, norms, strict=True))
    kind = " pictures" if any(items[row].picture for row in rows if row in items) else ""
    return f'<div><h3>{escape(title)}</h3><ol class="items{kind}">{shown}</ol></div>'


def shortened(text: str) -> str:
    """The beginning of a text on one line.

    Example:
        >>> shortened("  two lines "), len(shortened("word " * 100))
        ('two lines', 220)
    """
    line = " ".join("".join(letter if letter.isprintable() or letter.isspace() else "�" for letter in text).split())
    return line if len(line) <= _LETTERS else line[: _LETTERS - 1].rstrip() + "…"


def _item(item: Item, norm: float) -> str:
    picture = f'<img src="{escape(item.picture)}" alt="{escape(item.id)}" loading="lazy">' if item.picture else ""
    text = f"<p>{escape(shortened(item.text))}</p>" if item.text.strip() else ""
    blank = '<p class="note">(no text)</p>' if not text and not picture else ""
    return (
        f'<li>{picture}<div><span class="id">{escape(shortened(item.id))}</span> '
        f'<span class="norm">{plain(norm, 4)}</span>{text}{blank}</div></li>'
    )
