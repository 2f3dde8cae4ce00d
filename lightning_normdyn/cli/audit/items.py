"""The items that an audit names, as they can be shown."""

from __future__ import annotations

from lightning_normdyn.cli.audit.input import AuditInput
from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats.picture import open_image
from lightning_normdyn.report.audit.item import Item, thumbnail
from lightning_normdyn.retrieval.audit import Audit


def shown_items(audit: Audit, given: AuditInput) -> dict[int, Item]:
    """Ids with texts or thumbnails of the longest, the shortest and the zero vectors; no other text is read."""
    return {row: _item(row, given) for row in (*audit.longest, *audit.shortest, *audit.zeros)}


def _item(row: int, given: AuditInput) -> Item:
    text = "" if given.items.texts is None else given.items.texts[row]
    file = None if given.items.images is None else given.items.images[row]
    picture = ""
    if file is not None:
        try:
            picture = thumbnail(open_image(file, name=file))
        except MalformedFileError:
            # All is measured by now, and one picture less takes nothing from it.
            text = "cannot be opened"
    return Item(given.items.ids[row], text, picture)
