"""``Case``: the inputs of the fused log-sum-exp kernels as contiguous tensors of the types that the kernels read."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.exclusion import NO_ID, Exclusion
from lightning_normdyn.core.fused.block import Block


class Case(NamedTuple):
    """Vectors, factors, and what tells positives and excluded pairs; numbers are int64, and ``None`` is left out."""

    a: Tensor
    b: Tensor
    row_factors: Tensor | None
    column_factors: Tensor | None
    positives: Tensor | None
    row_keys: Tensor | None
    column_keys: Tensor | None
    positive_columns: Tensor | None
    kept_row_key: Tensor | None
    kept_column_key: Tensor | None
    self_columns: Tensor | None

    @classmethod
    def of(
        cls,
        a: Tensor,
        b: Tensor,
        row_factors: Tensor | None,
        column_factors: Tensor | None,
        exclusion: Exclusion | None,
        positives: Tensor | None,
    ) -> Case:
        """As :func:`log_sum_exps` is given it."""
        factors = (None if x is None else x.detach().float().contiguous() for x in (row_factors, column_factors))
        exclusion = Exclusion() if exclusion is None else exclusion
        row_keys, column_keys, positive_columns, positive_keys, self_columns = exclusion[:5]
        ids = (
            positives,
            torch.stack(row_keys) if row_keys else None,
            torch.stack(column_keys) if column_keys else None,
            positive_columns,
            *(positive_keys or (None, None)),
            self_columns,
        )
        laid_out = (None if x is None else x.to(torch.int64).contiguous() for x in ids)
        return cls(a.detach().contiguous(), b.detach().contiguous(), *factors, *laid_out)

    @property
    def block(self) -> Block:
        """How its scores are cut up."""
        return Block.of(self.a.dtype)

    def arguments(self) -> dict[str, Any]:
        """As the kernels are given it."""
        return {
            **self._asdict(),
            "n": len(self.a),
            "m": len(self.b),
            "d": self.a.shape[1],
            "no_id": NO_ID,
            "keys": 0 if self.row_keys is None else len(self.row_keys),
            "kept_count": 0 if self.positive_columns is None else self.positive_columns.shape[1],
            **self.block.arguments(),
        }
