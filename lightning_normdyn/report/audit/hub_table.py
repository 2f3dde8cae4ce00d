"""The hubs of an audit's rankings by name: a table for the page, entries for its JSON and sentences."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.report.audit.item import Item, shortened
from lightning_normdyn.report.kit.numbers import percent, plain
from lightning_normdyn.report.kit.table import Cell, Column, Table
from lightning_normdyn.retrieval.audit.hubs import Hub, Hubs

_NAMED = 3
_LETTERS = 90


def hub_entries(hubs: Hubs, items: Mapping[int, Item]) -> list[dict[str, object]]:
    """The listed hubs with ids and texts.

    Args:
        hubs: of the rankings.
        items: document to what can be shown of it.
    """
    return [_named(hub, items) | hub._asdict() for hub in hubs.listed]


def _named(hub: Hub, items: Mapping[int, Item]) -> dict[str, object]:
    item = _item(hub, items)
    name: dict[str, object] = {"id": item.id}
    return name | {"text": item.text} if item.text else name


def hub_sentences(hubs: Hubs, items: Mapping[int, Item]) -> list[str]:
    """How many hubs there are, the first of them by name; then whether norms have a part in it.

    Args:
        hubs: of the rankings.
        items: document to what can be shown of it.

    Example:
        >>> nowhere = Interval(0.5, 0.4, 0.6)
        >>> hubs = Hubs(10, 300, 5000, "", "", 7, 1, (Hub(4, 2.5, 0.9, 12, 12, 1),), nowhere, None)
        >>> for sentence in hub_sentences(hubs, {4: Item("d4")}):
        ...     print(sentence)
        Hubs: 1 of 5,000 documents is in the top 10 of 7 or more of 300 queries, which chance gives none: d4 in 12 (norm
        2.5, longer than 90% of all).
        Documents in top lists are longer than 50% (40% to 60%) of all by cosine, where 50% is even.
    """
    lists = _lists(hubs)
    if not hubs.listed:
        if hubs.k >= hubs.documents:
            all_of = "the only document is" if hubs.documents == 1 else f"all {hubs.documents:,} documents are"
            return [f"No hubs: {all_of} in the top {hubs.k} of every query."]
        return [f"No hubs: none of {hubs.documents:,} documents is in {lists}, so that chance explains every count."]
    are = "is" if hubs.hub_count == 1 else "are"
    names = ", ".join(_in_words(hub, hubs, items) for hub in hubs.listed[:_NAMED])
    names += f" and {hubs.hub_count - _NAMED:,} more" if hubs.hub_count > _NAMED else ""
    advised = hubs.advised_norm_rank
    by_advice = "" if advised is None else f", and than {_shares(advised)} by {hubs.score}"
    note = f"; {hubs.score} has {hubs.score_note}" if hubs.score_note else ""
    return [
        f"Hubs: {hubs.hub_count:,} of {hubs.documents:,} documents {are} in {lists}, which chance gives none: {names}.",
        f"Documents in top lists are longer than {_shares(hubs.norm_rank)} of all by cosine{by_advice}, where 50% is "
        f"even{note}.",
    ]


def hub_table(hubs: Hubs, items: Mapping[int, Item]) -> Table:
    """The listed hubs; without rows where there are none.

    Args:
        hubs: of the rankings.
        items: document to what can be shown of it.
    """
    scores = ["by cosine", *([f"by {hubs.score}"] if hubs.score else [])]
    columns = [
        Column("document", kind="text"),
        Column("norm"),
        Column("longer than", "of all documents"),
        *(Column(score, "queries") for score in scores),
        Column("relevant to", "queries"),
    ]
    rows = [_row(hub, hubs, items) for hub in hubs.listed]
    shown = f"; {len(hubs.listed)} of {hubs.hub_count:,} are shown" if hubs.hub_count > len(hubs.listed) else ""
    caption = f"Hubs: in {_lists(hubs)}{shown}"
    note = f"{hubs.score} has {hubs.score_note}." if hubs.score_note else ""
    return Table("table-hubs", caption, columns, rows, note, style="wide")


def _row(hub: Hub, hubs: Hubs, items: Mapping[int, Item]) -> list[str | Cell]:
    item = _item(hub, items)
    counts = [hub.by_cosine, *([hub.by_advice] if hubs.score else []), hub.relevant]
    return [
        Cell(shortened(item.id), shortened(item.text, _LETTERS)),
        plain(hub.norm, 4),
        percent(hub.longer_than),
        *(f"{count:,}" for count in counts),
    ]


def _in_words(hub: Hub, hubs: Hubs, items: Mapping[int, Item]) -> str:
    by_advice = f" by cosine and {hub.by_advice:,} by {hubs.score}" if hubs.score else ""
    length = f"norm {plain(hub.norm)}, longer than {hub.longer_than:.0%} of all"
    return f"{shortened(_item(hub, items).id)} in {hub.by_cosine:,}{by_advice} ({length})"


def _lists(hubs: Hubs) -> str:
    scores = " by one score or the other" if hubs.score else ""
    return f"the top {hubs.k} of {hubs.least:,} or more of {hubs.queries:,} queries{scores}"


def _item(hub: Hub, items: Mapping[int, Item]) -> Item:
    return items.get(hub.document, Item(f"row {hub.document}"))


def _shares(interval: Interval) -> str:
    value, low, high = (f"{end:.0%}" for end in interval)
    return f"{value} ({low} to {high})"
