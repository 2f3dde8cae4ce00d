"""Writes the tables of logged quantities and of rules from the registries that the code itself reads.

The tables are in the repository, so that their pages can be read unbuilt. To renew them, run
``python docs/_ext/registry_tables.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_normdyn.instruments import QUANTITIES, RULES
from lightning_normdyn.instruments.verdicts.rules import rules_of

if TYPE_CHECKING:  # a table is made without Sphinx too
    from sphinx.application import Sphinx


def quantity_table() -> str:
    """A row for each run of quantities that share their words."""
    runs = groupby(QUANTITIES.values(), key=attrgetter("meaning", "unit", "healthy", "remedy"))
    rows = (_quantity_cells([quantity.name for quantity in run], words) for words, run in runs)
    return _table(("quantity", "meaning", "unit", "healthy", "if it is not", "rules"), rows)


def rule_table() -> str:
    """A row for each rule."""
    rows: Iterator[list[str]] = (
        [_codes([rule.name]), rule.severity, rule.condition, rule.cause, rule.remedy, _codes(rule.quantities)]
        for rule in RULES.values()
    )
    return _table(("rule", "severity", "speaks when", "likely cause", "lever", "reads"), rows)


TABLES = {"reference/quantity_table.md": quantity_table, "reference/rule_table.md": rule_table}


def renew_tables(docs: Path) -> None:
    """Writes each table where it is old or missing; the pages of quantities and of verdicts include them."""
    for page, table in TABLES.items():
        place = docs / page
        if not place.exists() or place.read_text(encoding="utf-8") != table():
            place.write_text(table(), encoding="utf-8")


def renew_before_build(app: Sphinx) -> None:
    """Renews the tables of the pages that are about to be read."""
    renew_tables(Path(app.srcdir))


def setup(app: Sphinx) -> dict[str, bool]:
    """Hooks the tables into the build."""
    app.connect("builder-inited", renew_before_build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _quantity_cells(names: list[str], words: tuple[str, ...]) -> list[str]:
    return [_codes(names), *words, _codes(dict.fromkeys(rule for name in names for rule in rules_of(name)))]


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(columns: tuple[str, ...], rows: Iterable[list[str]]) -> str:
    lines = [_line(columns), _line(["---"] * len(columns))]
    return "".join([*lines, *(_line([cell.replace("|", "\\|") for cell in cells]) for cells in rows)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    renew_tables(Path(__file__).parents[1])
