"""``Block``: the tile sizes, warps and pipeline stages with which the Triton kernels multiply matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch

_GROUP = 8  # blocks of rows that take turns on the same columns, to find them in the cache


class Block(NamedTuple):
    """How much of a product one program makes, and with what."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    @classmethod
    def of(cls, dtype: torch.dtype, *, terms: int = 1) -> Block:
        """What suits a precision, and a factor of so many terms.

        All stages lie in the memory that programs share on a processor, of which the smallest devices have 99 KiB.
        """
        if dtype == torch.float32:
            return cls(64, 64, 32, 4, 3)
        return cls(128, 128, 64, 8, 3) if terms == 1 else cls(128, 128, 32, 8, 4)

    def arguments(self) -> dict[str, int]:
        """As the kernels are given it; that products and sums may be fused, newer Tritons want to be told."""
        return {
            "block_m": self.rows,
            "block_n": self.columns,
            "block_k": self.depth,
            "group": _GROUP,
            "num_warps": self.warps,
            "num_stages": self.stages,
            "enable_fp_fusion": True,
        }


def blocks(length: int, size: int) -> int:
    """How many it takes to cover a length."""
    return -(-length // size)


def whole_blocks(length: int, size: int, most: int) -> int:
    """About ``length``, but a whole number of blocks, and no more than hold ``most``."""
    return size * min(max(1, length // size), blocks(most, size))
