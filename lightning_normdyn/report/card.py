"""A figure of the report: a heading, one or two panels and a sentence on how to read them."""

from __future__ import annotations

from html import escape
from typing import NamedTuple


class Card(NamedTuple):
    """What stands in one frame of the page.

    Attributes:
        title: heading.
        caption: how to read it and what healthy looks like; plain text.
        panels: finished HTML or SVG, each with its own short title.
    """

    title: str
    caption: str
    panels: tuple[tuple[str, str], ...]

    def to_html(self) -> str:
        """The card as an HTML figure."""
        panels = "".join(f'<div class="panel">{_subtitle(title)}{body}</div>' for title, body in self.panels)
        wide = " wide" if len(self.panels) > 1 else ""
        return (
            f'<figure class="card{wide}"><h3>{escape(self.title)}</h3><div class="panels">{panels}</div>'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def _subtitle(title: str) -> str:
    return f"<h4>{escape(title)}</h4>" if title else ""
