"""The tables of quantities and rules that the repository holds are the ones that the code makes."""

import runpy

import pytest
from code_blocks import DOCS, ROOT

from lightning_normdyn.instruments import QUANTITIES, RULES

GENERATOR = DOCS / "_ext/registry_tables.py"
QUANTITY_TABLE = "reference/quantity_table.md"
RULE_TABLE = "reference/rule_table.md"


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [QUANTITY_TABLE, RULE_TABLE])
def test_a_table_is_current(page: str) -> None:
    table = runpy.run_path(str(GENERATOR))["TABLES"][page]
    assert text(page) == table(), f"docs/{page} is old; run `python {GENERATOR.relative_to(ROOT)}`"


def test_the_table_has_every_quantity() -> None:
    assert [name for name in QUANTITIES if f"`{name}`" not in text(QUANTITY_TABLE)] == []


def test_every_rule_stands_with_the_quantities_that_it_reads() -> None:
    assert [name for name in RULES if f"| `{name}` |" not in text(RULE_TABLE)] == []
    logged_rules = [name for name, rule in RULES.items() if set(rule.quantities) & QUANTITIES.keys()]
    assert [name for name in logged_rules if f"`{name}`" not in text(QUANTITY_TABLE)] == []
