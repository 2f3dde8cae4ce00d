"""Memory for gathered rows that is kept from step to step."""

from __future__ import annotations

import torch
from torch import Tensor


class RowBuffer:
    """Gathers rows into the same memory every time.

    On a CPU the allocator may hand memory of this size back to the system after each step, and to get it again takes
    longer than to gather. Holds as many rows as were ever asked for at once.

    Example:
        >>> buffer = RowBuffer()
        >>> buffer.gather(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0]))
        tensor([[3.],
                [1.]])
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def gather(self, table: Tensor, rows: Tensor) -> Tensor:
        """``table[rows]``, valid until the next call.

        Args:
            table: ``[n, d]``, without a history of gradients.
            rows: ``[k]``.
        """
        memory = self._memory
        if memory is None or len(memory) < len(rows) or memory.dtype != table.dtype or memory.device != table.device:
            self._memory = memory = table.new_empty(len(rows), table.shape[1])
        room = memory if len(memory) == len(rows) else memory[: len(rows)]
        return torch.index_select(table, 0, rows, out=room)
