"""Gathers the embeddings of an evaluation from the batches of all ranks."""

from __future__ import annotations

import torch
from einops import rearrange
from pytorch_lightning import LightningModule
from torch import Tensor

_PADDING = -1


class EmbeddingTable:
    """Rows that batches bring in any order; a row that comes twice, as samplers pad with, counts once."""

    def __init__(self) -> None:
        self._places: list[Tensor] = []
        self._vectors: list[Tensor] = []

    def add(self, places: Tensor, vectors: Tensor) -> None:
        """Keeps a batch.

        Args:
            places: the row of each vector, int64 ``[b]``.
            vectors: ``[b, d]``.
        """
        self._places.append(places.detach())
        self._vectors.append(vectors.detach().float())

    def gathered(self, module: LightningModule, rows: int) -> tuple[Tensor, Tensor]:
        """All rows, the same on every rank.

        Args:
            module: whose ranks to ask.
            rows: how many there could be.

        Returns:
            The table ``[rows, d]`` on the CPU, zero where nothing came, and which rows came, bool ``[rows]``.

        Raises:
            ValueError: if no batch came.
        """
        if not self._places:
            raise ValueError("evaluation: expected at least one batch of each side, got none; check limit_val_batches")
        places, vectors = torch.cat(self._places), torch.cat(self._vectors)
        if module.trainer.world_size > 1:
            places, vectors = self._of_all_ranks(module, places, vectors)
        places, vectors = places.cpu(), vectors.cpu()
        table = torch.zeros(rows, vectors.shape[1])
        has_row = torch.zeros(rows, dtype=torch.bool)
        table[places], has_row[places] = vectors, True
        return table, has_row

    @staticmethod
    def _of_all_ranks(module: LightningModule, places: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        longest = int(module.trainer.strategy.reduce(torch.tensor(len(places), device=module.device), reduce_op="max"))
        missing = longest - len(places)
        places = torch.nn.functional.pad(places, (0, missing), value=_PADDING)
        vectors = torch.nn.functional.pad(vectors, (0, 0, 0, missing))
        places, vectors = (rearrange(x, "rank row ... -> (rank row) ...") for x in module.all_gather((places, vectors)))
        return places[places != _PADDING], vectors[places != _PADDING]
