"""A figure of a page: a heading, one or more panels and a sentence on how to read them."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from lightning_normdyn.report.kit.page import render


class Card(NamedTuple):
    """What stands in one frame of the page.

    Attributes:
        title: heading.
        caption: how to read it and what healthy looks like; plain text.
        panels: finished markup, each with its own short title.
    """

    title: str
    caption: str
    panels: tuple[tuple[str, Markup], ...]

    @property
    def wide(self) -> bool:
        """Whether it takes the page's whole width."""
        return len(self.panels) > 1


def arrange(cards: list[Card]) -> Markup:
    """Cards in a grid of two columns: narrow ones in pairs, one that is left over with its caption to the right."""
    waiting, layouts = False, []
    for index, card in enumerate(cards):
        waiting = not waiting and not card.wide
        last_of_run = index + 1 == len(cards) or cards[index + 1].wide
        layouts.append(" wide" if card.wide else " wide beside" if waiting and last_of_run else "")
    return render("cards.html.j2", cards=zip(cards, layouts, strict=True))
