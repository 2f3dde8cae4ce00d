"""The table of rules that the repository holds is the one that the code makes."""

import runpy
from collections.abc import Callable

from code_blocks import DOCS, ROOT

from lightning_normdyn.instruments import QUANTITIES, RULES

GENERATOR = DOCS / "_ext/rule_table.py"
TABLE = DOCS / "reference/rule_table.md"


def test_the_table_of_rules_is_current() -> None:
    table: Callable[[], str] = runpy.run_path(str(GENERATOR))["table"]
    command = f"python {GENERATOR.relative_to(ROOT)}"
    assert TABLE.read_text(encoding="utf-8") == table(), f"docs/reference/rule_table.md is old; run `{command}`"


def test_every_rule_stands_with_the_quantities_that_it_reads() -> None:
    rules, quantities = (
        (DOCS / "reference" / name).read_text(encoding="utf-8") for name in ("rule_table.md", "quantity_table.md")
    )
    assert [name for name in RULES if f"| `{name}` |" not in rules] == []
    logged_rules = [name for name, rule in RULES.items() if set(rule.quantities) & QUANTITIES.keys()]
    assert [name for name in logged_rules if f"`{name}`" not in quantities] == []
