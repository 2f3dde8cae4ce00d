"""Writes the table of logged quantities from the registry that the code itself reads.

The table is in the repository, so that its page can be read unbuilt; ``python docs/_ext/quantity_table.py`` renews it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_normdyn.instruments import QUANTITIES
from lightning_normdyn.instruments.verdicts.rules import rules_of

if TYPE_CHECKING:  # a table is made without Sphinx too
    from sphinx.application import Sphinx

PAGE = "reference/quantity_table.md"
HEADER = "| quantity | meaning | unit | healthy | if it is not | rules |\n| --- | --- | --- | --- | --- | --- |\n"


def table() -> str:
    """A row for each run of quantities that share their words."""
    rows = groupby(QUANTITIES.values(), key=attrgetter("meaning", "unit", "healthy", "remedy"))
    return HEADER + "".join(_row([quantity.name for quantity in group], words) for words, group in rows)


def renew_table(docs: Path) -> None:
    """Writes ``reference/quantity_table.md`` where it is old or missing; it is what the page of quantities includes."""
    place = docs / PAGE
    if not place.exists() or place.read_text(encoding="utf-8") != table():
        place.write_text(table(), encoding="utf-8")


def renew_before_build(app: Sphinx) -> None:
    """Renews the table of the pages that are about to be read."""
    renew_table(Path(app.srcdir))


def setup(app: Sphinx) -> dict[str, bool]:
    """Hooks the table into the build."""
    app.connect("builder-inited", renew_before_build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _row(names: list[str], words: tuple[str, ...]) -> str:
    rules = dict.fromkeys(rule for name in names for rule in rules_of(name))
    cells = [_codes(names), *(word.replace("|", "\\|") for word in words), _codes(rules)]
    return f"| {' | '.join(cells)} |\n"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    renew_table(Path(__file__).parents[1])
