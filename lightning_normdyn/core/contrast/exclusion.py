"""Which pairs of a score matrix take no part, told by ids and never as a matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NO_ID = -1
"""The id of what has none, which users may write too: it agrees with nothing, not even with itself."""


class Exclusion(NamedTuple):
    """Pairs that a sum over scores leaves out.

    Attributes:
        row_keys: ids of the rows, each ``[n]``; a pair is out if it agrees in any of them.
        column_keys: ids of the columns, each ``[m]``, in the same order.
        positive_columns: columns of each row that stay in all the same, ``[n, k]``: its positives. -1 is none.
        positive_keys: a key of the rows ``[n]`` and of the columns ``[m]``; pairs that agree in it stay in as well.
        self_columns: the column of each row that is out in any case, ``[n]``: itself.
        without_positives: whether columns and keys of positives are out instead: they are summed elsewhere.

    Example:
        >>> ids = torch.tensor([7, 8, 7])
        >>> Exclusion((ids,), (ids,), positive_columns=torch.arange(3)[:, None]).mask(slice(0, 3), slice(0, 3)).int()
        tensor([[0, 0, 1],
                [0, 0, 0],
                [1, 0, 0]], dtype=torch.int32)
    """

    row_keys: tuple[Tensor, ...] = ()
    column_keys: tuple[Tensor, ...] = ()
    positive_columns: Tensor | None = None
    positive_keys: tuple[Tensor, Tensor] | None = None
    self_columns: Tensor | None = None
    without_positives: bool = False

    def mask(self, rows: slice, columns: slice) -> Tensor:
        """What is out among some rows and columns, ``[rows, columns]``, without waiting for a device."""
        width = columns.stop - columns.start
        mask: Tensor | None = None
        for row_key, column_key in zip(self.row_keys, self.column_keys, strict=True):
            agrees = (row_key[rows, None] == column_key[columns]) & (column_key[columns] != NO_ID)
            mask = agrees if mask is None else mask.logical_or_(agrees)
        if mask is None:
            places = self.positive_columns if self.self_columns is None else self.self_columns
            assert places is not None, "an exclusion names pairs"
            mask = torch.zeros(rows.stop - rows.start, width, dtype=torch.bool, device=places.device)
        if self.positive_columns is not None:
            for places in self.positive_columns[rows].unbind(1):
                _mark(mask, places - columns.start, self.without_positives)
        if self.positive_keys is not None:
            row_key, column_key = self.positive_keys
            if self.without_positives:
                mask.logical_or_(row_key[rows, None] == column_key[columns])
            else:
                mask.logical_and_(row_key[rows, None] != column_key[columns])
        if self.self_columns is not None:
            _mark(mask, self.self_columns[rows] - columns.start, True)
        return mask


def _mark(mask: Tensor, places: Tensor, value: bool) -> None:
    """Sets ``mask[i, places[i]]`` wherever that is inside."""
    inside = (places >= 0) & (places < mask.shape[1])
    places = places.clamp(0, mask.shape[1] - 1)[:, None]
    mask_values = mask.gather(1, places)
    mask.scatter_(1, places, torch.where(inside[:, None], value, mask_values))
