"""Audits the embedding tables of a saved model, and writes the page and the JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.table import Table

from lightning_normdyn.cli.audits.audit import AuditRecord, check_place
from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.drawn_page import draw_page
from lightning_normdyn.datasets.checkpoint import Checkpoint, SavedTable, read_checkpoint
from lightning_normdyn.report.audit.checkpoint_page import (
    CheckpointAudit,
    write_checkpoint_numbers,
    write_checkpoint_page,
)
from lightning_normdyn.retrieval.audit.saved_table import TableAudit, audit_saved_table

_PRINTED = 10
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json")


def run_checkpoint_audit(place: str, out: str, *, column: str | None = None, overwrite: bool = False) -> AuditRecord:
    """Audits the tables of a saved model.

    Args:
        place: folder or file of the model.
        out: the folder of the page.
        column: name of the table, where it cannot be told.
        overwrite: whether an audit that is there may be replaced.

    Raises:
        ValueError: if there is no table, or a file cannot be read; nothing is written then.
        OSError: if a file cannot be read or written.
    """
    check_place(Path(out), overwrite=overwrite)
    checkpoint = read_checkpoint(place, column=column)
    name_rows, notes = _namer(checkpoint)
    tables = [_named(audit, name_rows) for audit in _audits(checkpoint)]
    audit = CheckpointAudit(checkpoint.place.name, tables, notes, running_command())
    numbers = write_checkpoint_numbers(Path(out), audit)
    page = draw_page(lambda: write_checkpoint_page(Path(out), audit))
    return AuditRecord(audit.finding, page.path, audit, numbers, page.error, _details(audit))


def _details(audit: CheckpointAudit) -> tuple[str | Table, ...]:
    """What each table says with its shortest rows, and what to do."""
    details: list[str | Table] = []
    for table in audit.tables:
        details += [table.sentence, _shortest(table)] if table.listed else [table.sentence]
    return (*details, audit.advice)


def _shortest(table: TableAudit) -> Table:
    lines = Table("row", "number", "norm", "of the median", "what it means")
    for row in table.listed[:_PRINTED]:
        lines.add_row(repr(row.token), f"{row.row}", f"{row.norm:.3g}", f"{row.ratio:.1e}", row.meaning)
    return lines


def _audits(checkpoint: Checkpoint) -> list[TableAudit]:
    """One for each table; one for an input and an output that are the same."""
    tables = checkpoint.tables
    copies = [(table, twin) for table in tables for twin in tables if _are_tied(table, twin)]
    tied_names = {table.name for table, _ in copies}
    repeated = {twin.name for _, twin in copies}
    return [
        audit_saved_table(
            table.chunks(),
            table.rows,
            name=table.name,
            kind="tied" if table.name in tied_names or checkpoint.is_tied else table.kind,
            dtype=table.dtype,
            padding_row=checkpoint.padding_row,
        )
        for table in tables
        if table.name not in repeated
    ]


def _are_tied(table: SavedTable, twin: SavedTable) -> bool:
    """Whether an output is a copy of an input."""
    if (table.kind, twin.kind) != ("input", "output") or (table.rows, table.dim) != (twin.rows, twin.dim):
        return False
    return all(torch.equal(*pair) for pair in zip(table.chunks(), twin.chunks(), strict=True))


def _namer(checkpoint: Checkpoint) -> tuple[Callable[[Sequence[int]], list[str]], list[str]]:
    """What calls rows by their tokens, and what is to be said about it."""

    def by_number(rows: Sequence[int]) -> list[str]:
        return [f"row {row}" for row in rows]

    folder = checkpoint.place if checkpoint.place.is_dir() else checkpoint.place.parent
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return by_number, []
    if find_spec("transformers") is None:
        return by_number, ["Rows go by number: naming them takes transformers (lightning-normdyn[text])."]
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a stranger's files make it raise; the norms are there without names
        return by_number, [f"Rows go by number: the folder's tokenizer cannot be loaded ({type(error).__name__})."]

    def by_token(rows: Sequence[int]) -> list[str]:
        words = len(tokenizer)
        tokens = [tokenizer.convert_ids_to_tokens(row) if row < words else None for row in rows]
        return [f"row {row}" if token is None else str(token) for row, token in zip(rows, tokens, strict=True)]

    return by_token, []


def _named(audit: TableAudit, name_rows: Callable[[Sequence[int]], list[str]]) -> TableAudit:
    names = name_rows([row.row for row in audit.listed])
    return audit._replace(listed=tuple(row._replace(token=name) for row, name in zip(audit.listed, names, strict=True)))
