"""The files of an audit of a saved model's tables: a page and the same numbers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.history.origin import Origin
from lightning_normdyn.report.audit.page import NUMBERS, PAGE, as_plain
from lightning_normdyn.report.kit.numbers import plain
from lightning_normdyn.report.kit.page import Page, render, write_page
from lightning_normdyn.report.kit.table import Column, Table
from lightning_normdyn.retrieval.audit.saved_table import LISTED, TableAudit


class CheckpointAudit(NamedTuple):
    """The tables of a saved model.

    Attributes:
        name: of the model.
        tables: what each says.
        notes: what a reader should know about the input.
        command: that made the audit.
    """

    name: str
    tables: Sequence[TableAudit]
    notes: Sequence[str] = ()
    command: str = ""

    @property
    def finding(self) -> str:
        """What matters most: the table with most near-dead rows, or that there are none."""
        return max(self.tables, key=lambda table: table.near_dead).sentence

    @property
    def advice(self) -> str:
        """One paragraph: what to do."""
        if not any(table.near_dead for table in self.tables):
            return "Nothing: every row can be trained on as it is."
        return (
            "Before you train on, call lightning_normdyn.repair_rows(table.weight, output=head.weight), or leave such "
            "rows out of every loss that normalises: the first step that meets one has a gradient as much larger as "
            "its norm is smaller, and clipping by norm then takes that step from all other rows. Rows that no text "
            "can reach (places kept free at the end of a vocabulary) do no harm until something does."
        )


def write_checkpoint_numbers(folder: Path, audit: CheckpointAudit) -> Path:
    """Writes ``audit.json``, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    content = {"name": audit.name, "finding": audit.finding, "advice": audit.advice, "notes": list(audit.notes)}
    file = folder / NUMBERS
    write_json(file, content | {"tables": as_plain(audit.tables)}, indent=1)
    return file


def write_checkpoint_page(folder: Path, audit: CheckpointAudit) -> Path:
    """Writes ``audit.html``, self-contained.

    Raises:
        OSError: if it cannot be written.
    """
    tables = [_near_dead(number, table) for number, table in enumerate(audit.tables) if table.near_dead]
    main = render(
        "checkpoint.html.j2", advice=audit.advice, notes=audit.notes, tables=[_summary(audit.tables), *tables]
    )
    page = Page(
        title=f"Table audit: {audit.name}",
        main=main,
        facts=[f"{len(audit.tables)} table{'s' * (len(audit.tables) > 1)}"],
        lead=audit.finding,
        origin=Origin(data=audit.name, command=audit.command),
    )
    return write_page(folder / PAGE, page)


def _summary(tables: Sequence[TableAudit]) -> Table:
    rows = [
        (
            table.name,
            table.kind,
            f"{table.rows:,} × {table.dim}",
            table.dtype,
            plain(table.median, 4),
            f"{table.near_dead:,} ({table.share:.2%})",
            f"{table.zeros:,}",
        )
        for table in tables
    ]
    headings = ("table", "kind", "size", "dtype", "median norm", "near dead", "zero")
    return Table("tables", "Embedding tables", [Column(heading) for heading in headings], rows, style="wrap")


def _near_dead(number: int, table: TableAudit) -> Table:
    rows = [(row.token, f"{row.row:,}", plain(row.norm, 3), plain(row.ratio, 2), row.meaning) for row in table.listed]
    columns = [Column("row", kind="word"), Column("number"), Column("norm"), Column("of the median")]
    note = f"The shortest {LISTED} of {table.near_dead:,}." if table.near_dead > len(table.listed) else ""
    caption = f"Near-dead rows of {table.name}"
    return Table(f"near-dead-{number}", caption, [*columns, Column("what it means", kind="text")], rows, note, "wide")
