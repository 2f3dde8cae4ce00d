"""Writes the table of logged quantities from the registry that the code itself reads."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from sphinx.application import Sphinx

from lightning_normdyn.instruments import QUANTITIES

HEADER = "| quantity | meaning | unit | healthy | if it is not |\n| --- | --- | --- | --- | --- |\n"


def table() -> str:
    """A row for each run of quantities that share their words."""
    rows = groupby(QUANTITIES.values(), key=lambda quantity: quantity[1:])
    return HEADER + "".join(_row([quantity.name for quantity in group], words) for words, group in rows)


def write_table(app: Sphinx) -> None:
    """Writes ``reference/quantity_table.md``, which the page of quantities includes."""
    place = Path(app.srcdir) / "reference/quantity_table.md"
    if not place.exists() or place.read_text(encoding="utf-8") != table():
        place.write_text(table(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Hooks the table into the build."""
    app.connect("builder-inited", write_table)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _row(names: list[str], words: tuple[str, ...]) -> str:
    cells = [", ".join(f"`{name}`" for name in names), *(word.replace("|", "\\|") for word in words)]
    return f"| {' | '.join(cells)} |\n"
