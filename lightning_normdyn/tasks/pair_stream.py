"""An endless, resumable stream of training batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_normdyn.tasks.skip_grams import SkipGrams


class PairStream:
    """Batches of skip-gram pairs; batch number t of a rank depends on ``(seed, rank, t)`` alone.

    So the position is one integer, every rank draws a stream of its own, and a checkpoint that one rank writes
    restores them all. Lightning takes it as it is: it has a length, needs no worker processes and no sampler.

    Args:
        pairs: what to draw from, uniformly and with replacement.
        batch_size: pairs per batch.
        steps_per_epoch: batches per pass of a ``for`` loop; the next pass goes on where the last one ended.
        seed: chooses the stream.
        rank: chooses the part of it that belongs to one process.
    """

    def __init__(
        self, pairs: SkipGrams, *, batch_size: int = 256, steps_per_epoch: int = 1000, seed: int = 0, rank: int = 0
    ) -> None:
        self.pairs = pairs
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.rank = rank
        self.drawn = 0
        self._generator = torch.Generator()

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.steps_per_epoch):
            self.drawn += 1
            yield self.batch(self.drawn - 1)

    def batch(self, number: int) -> dict[str, Tensor]:
        """Draws one batch.

        Args:
            number: its place in the stream, from 0.

        Returns:
            ``{"queries": ids[batch_size], "documents": ids[batch_size]}``.
        """
        # Hashed, because torch's CPU generator reads 32 bits of a seed and neighbouring seeds start alike.
        digest = hashlib.blake2b(f"{self.seed}/{self.rank}/{number}".encode(), digest_size=4).digest()
        self._generator.manual_seed(int.from_bytes(digest, "little"))
        queries, documents = self.pairs.draw(self.batch_size, self._generator)
        return {"queries": queries, "documents": documents}

    def state_dict(self) -> dict[str, int]:
        """The position: how many batches were drawn."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Moves to a saved position."""
        self.drawn = state_dict["drawn"]
