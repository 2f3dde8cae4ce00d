"""Writes the table of rules from the registry that judges runs.

The table is in the repository, so that its page can be read unbuilt; ``python docs/_ext/rule_table.py`` renews it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_normdyn.instruments import RULES, Rule

if TYPE_CHECKING:  # a table is made without Sphinx too
    from sphinx.application import Sphinx

PAGE = "reference/rule_table.md"
HEADER = "| rule | severity | speaks when | likely cause | lever | reads |\n| --- | --- | --- | --- | --- | --- |\n"


def table() -> str:
    """A row for each rule."""
    return HEADER + "".join(_row(rule) for rule in RULES.values())


def renew_table(docs: Path) -> None:
    """Writes ``reference/rule_table.md`` where it is old or missing; it is what the page of verdicts includes."""
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


def _row(rule: Rule) -> str:
    quantities = ", ".join(f"`{name}`" for name in rule.quantities)
    cells = (f"`{rule.name}`", rule.severity, rule.condition, rule.cause, rule.remedy, quantities)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


if __name__ == "__main__":
    renew_table(Path(__file__).parents[1])
