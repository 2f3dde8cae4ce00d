"""Audits the norms of one embedding table of a saved model: which of its rows are near dead, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.trainable_norm import smallest_trainable_norm
from lightning_normdyn.core.statistics.near_dead import near_dead_rows
from lightning_normdyn.retrieval.audit.scan import scan_norms

LISTED = 50


class SavedRow(NamedTuple):
    """One near-dead row.

    Attributes:
        row: its number.
        token: its name; ``row N`` where there is none.
        norm: R.
        ratio: R over the median norm of the bulk; a normalised loss gives the row 1/ratio of the usual gradient.
        meaning: what that is: zero, out of the dtype's range, or near dead.
    """

    row: int
    token: str
    norm: float
    ratio: float
    meaning: str


class TableAudit(NamedTuple):
    """What the norms of a table say.

    Attributes:
        name: of the tensor.
        kind: ``input``, ``output`` or ``tied``: both at once.
        rows: of the table, without the padding row.
        dim: numbers in a row.
        dtype: as it is saved.
        median: norm of the bulk.
        limit: norm below which a row is near dead.
        near_dead: how many rows are.
        zeros: how many of them are zero.
        share: of the table that they are.
        spike: squared gradient norm that the least of them that is not zero gets from a normalised loss, over that of a
            row of the bulk: ``(median/R)²``; 1 where there is none.
        listed: the shortest, 50 at most.
        near_dead_rows: numbers of them all, shortest first.
    """

    name: str
    kind: str
    rows: int
    dim: int
    dtype: str
    median: float
    limit: float
    near_dead: int
    zeros: int
    share: float
    spike: float
    listed: tuple[SavedRow, ...]
    near_dead_rows: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """The finding."""
        table = f"'{self.name}' ({self.kind}, {self.rows:,} rows of {self.dim})"
        if not self.near_dead:
            return f"{table}: no row is near dead; the norms lie about {self.median:.3g}."
        count = f"{self.near_dead:,} row{'s are' if self.near_dead > 1 else ' is'} near dead ({self.share:.2%})"
        zeros = f", {self.zeros:,} of them zero" if self.zeros else ""
        if self.zeros == self.near_dead:
            return f"{table}: {count}{zeros}, of norms about {self.median:.3g}; a zero row has no direction to train."
        return (
            f"{table}: {count}{zeros}, below {self.limit:.2g} where the others lie about {self.median:.3g}; a "
            f"normalised loss gives the shortest {self.spike**0.5:.1e} times the gradient of another row."
        )


def audit_saved_table(
    chunks: Iterable[Tensor], rows: int, *, name: str, kind: str, dtype: torch.dtype, padding_row: int | None = None
) -> TableAudit:
    """Audits a table that is read a chunk at a time.

    Args:
        chunks: ``[some, d]`` in order.
        rows: of all chunks together.
        name: of the table.
        kind: what it is.
        dtype: as it is saved.
        padding_row: a row that is never trained, left out if it is zero.

    Returns:
        The record, rows going by their numbers.

    Raises:
        ValueError: if a row is not finite.

    Example:
        >>> table = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
        >>> table[7] *= 1e-6
        >>> audit = audit_saved_table([table], 200, name="wte.weight", kind="input", dtype=table.dtype)
        >>> audit.near_dead, audit.listed[0].row
        (1, 7)
    """
    scan = scan_norms(chunks, rows, name=name)
    norms, numbers = scan.norms, torch.arange(rows)
    if padding_row is not None and padding_row < rows and not norms[padding_row]:
        numbers = numbers[numbers != padding_row]
    found = near_dead_rows(norms[numbers], scan.dim)
    near_dead = numbers[found.rows]
    lengths = norms[near_dead]
    range_end = float(smallest_trainable_norm(dtype, scan.dim))
    shortest = float(lengths[lengths > 0].min()) if bool((lengths > 0).any()) else found.median
    return TableAudit(
        name=name,
        kind=kind,
        rows=len(numbers),
        dim=scan.dim,
        dtype=str(dtype).removeprefix("torch."),
        median=found.median,
        limit=found.limit,
        near_dead=len(near_dead),
        zeros=found.zeros,
        share=len(near_dead) / max(1, len(numbers)),
        spike=(found.median / shortest) ** 2 if shortest else 1.0,
        listed=tuple(
            SavedRow(row, f"row {row}", norm, norm / found.median if found.median else 0.0, _meaning(norm, range_end))
            for row, norm in zip(near_dead[:LISTED].tolist(), lengths[:LISTED].tolist(), strict=True)
        ),
        near_dead_rows=tuple(near_dead.tolist()),
    )


def _meaning(norm: float, range_end: float) -> str:
    if not norm:
        return "zero: without a direction, no normalised loss trains it"
    if norm < range_end:
        return "out of the range of its dtype: its next steps round to zero"
    return "near dead: decay alone, or never trained; its next gradient fills the clipped norm"
