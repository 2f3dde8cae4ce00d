"""The table of quantities that the repository holds is the one that the code makes."""

import runpy
from collections.abc import Callable

from code_blocks import DOCS, ROOT

from lightning_normdyn.instruments import QUANTITIES

GENERATOR = DOCS / "_ext/quantity_table.py"
TABLE = DOCS / "reference/quantity_table.md"


def test_the_table_is_current() -> None:
    table: Callable[[], str] = runpy.run_path(str(GENERATOR))["table"]
    command = f"python {GENERATOR.relative_to(ROOT)}"
    assert TABLE.read_text(encoding="utf-8") == table(), f"docs/reference/quantity_table.md is old; run `{command}`"


def test_the_table_has_every_quantity() -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert [name for name in QUANTITIES if f"`{name}`" not in text] == []
