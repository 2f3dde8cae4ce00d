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

    @property
    def wide(self) -> bool:
        """Whether it takes the page's whole width."""
        return len(self.panels) > 1

    def to_html(self, *, beside: bool = False) -> str:
        """The card as an HTML figure.

        Args:
            beside: give it the whole width and set the caption beside its only panel.
        """
        panels = "".join(f'<div class="panel">{_subtitle(title)}{body}</div>' for title, body in self.panels)
        width = " wide" if self.wide else " wide beside" if beside else ""
        return (
            f'<figure class="card{width}"><h3>{escape(self.title)}</h3><div class="panels">{panels}</div>'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def arrange(cards: list[Card]) -> str:
    """Cards in a grid of two columns: narrow ones in pairs, one that is left over with its caption beside it."""
    waiting, placed = False, []
    for index, card in enumerate(cards):
        waiting = not waiting and not card.wide
        last_of_run = index + 1 == len(cards) or cards[index + 1].wide
        placed.append(card.to_html(beside=waiting and last_of_run))
    return f'<div class="grid">{"".join(placed)}</div>'


def _subtitle(title: str) -> str:
    return f"<h4>{escape(title)}</h4>" if title else ""
