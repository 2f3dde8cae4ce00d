"""The cards that long tables become on a phone have the names of their own columns."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "table", "style"),
    [("quantities", "quantity_table", "quantities"), ("verdicts", "rule_table", "rules")],
)
def test_labels_of_cards_are_the_headings_of_the_table(page: str, table: str, style: str) -> None:
    head = (DOCS / "reference" / f"{table}.md").read_text(encoding="utf-8").splitlines()[0]
    headings = [heading.strip() for heading in head.strip("|").split("|")]
    sheet = (DOCS / "_static" / "page.css").read_text(encoding="utf-8")
    labels = dict(re.findall(rf'\.{style} td:nth-child\((\d)\)::before {{ content: "(.+): "; }}', sheet))
    assert labels == {str(place): heading for place, heading in enumerate(headings[1:], start=2)}
    assert f"{{container}} stacked {style}" in (DOCS / "reference" / f"{page}.md").read_text(encoding="utf-8")
