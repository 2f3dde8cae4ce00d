"""Encodes many inputs with the model that trains, a share on each rank, and leaves no trace in the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.callbacks.lightning import LightningModule, Trainer
from lightning_normdyn.callbacks.trainer_run import shares_batches
from lightning_normdyn.capture.evaluation import evaluating

Encode = Callable[[Any], Tensor]


class RankShares:
    """Cuts inputs into consecutive shares, one a rank, and gathers what ranks made of theirs.

    Ranks that are given the same batches, as under tensor parallelism, call the model together and so encode all.

    Args:
        trainer: whose ranks.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        is_shared = trainer.world_size > 1 and not shares_batches(trainer)
        self.rank, self.ranks = (trainer.global_rank, trainer.world_size) if is_shared else (0, 1)

    def places(self, count: int) -> range:
        """The positions of this rank's share."""
        return range(count * self.rank // self.ranks, count * (self.rank + 1) // self.ranks)

    def largest(self, count: int) -> int:
        """How many the largest share has."""
        return -(-count // self.ranks)

    def gather(self, tensor: Tensor) -> Tensor:
        """Of every rank, ``[ranks, ...]``; all have the same shape."""
        if self.ranks == 1:
            return tensor.unsqueeze(0)
        tensors = self._trainer.strategy.all_gather(tensor.contiguous())
        assert isinstance(tensors, Tensor)
        return tensors

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """All rows ``[count, ...]`` of which each rank has its share."""
        missing = self.largest(count) - len(rows)
        padded = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
        sizes = [count * (rank + 1) // self.ranks - count * rank // self.ranks for rank in range(self.ranks)]
        return torch.cat([part[:size] for part, size in zip(self.gather(padded), sizes, strict=True)])


def encode_share(
    trainer: Trainer,
    pl_module: LightningModule,
    encode: Encode,
    inputs: Sequence[Any],
    *,
    collate: Callable[[list[Any]], Any],
    batch_size: int,
    shares: RankShares,
    description: str,
) -> Tensor:
    """Embeddings of this rank's share of the inputs, in their order, on the CPU.

    The model evaluates, without gradients, in the trainer's precision; modes and random states are put back. Every
    rank calls it equally often, as sharded models must be, and texts are encoded from long to short.

    Args:
        trainer: in the midst of a fit.
        pl_module: what it trains.
        encode: a method of it, from a batch to ``[b, d]``.
        inputs: of all ranks, one or more.
        collate: makes a batch of a list of inputs.
        batch_size: inputs that are encoded at once.
        shares: which of them are this rank's.
        description: beside the progress bar.

    Raises:
        ValueError: if the model gives no ``[b, d]``.
    """
    places = list(shares.places(len(inputs)))
    if isinstance(inputs[0], str):
        places.sort(key=lambda place: -len(inputs[place]))
    calls = -(-shares.largest(len(inputs)) // batch_size)
    vectors: list[Tensor] = []
    device: torch.device = trainer.strategy.root_device
    with evaluating(pl_module, device), trainer.precision_plugin.val_step_context():
        for call in _progress(trainer, range(calls), description):
            batch_places = places[call * batch_size : (call + 1) * batch_size]
            batch = collate([inputs[place] for place in batch_places] or [inputs[0]])
            batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch), device)
            embeddings = encode(batch)
            size = max(1, len(batch_places))
            if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or len(embeddings) != size:
                came = list(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
                raise ValueError(f"{description}: expected embeddings [{size}, d] of the model, got {came}")
            vectors.append(embeddings[: len(batch_places)].detach().cpu())
    encoded = torch.cat(vectors)
    order = torch.empty(len(places), dtype=torch.int64)
    order[torch.tensor(places, dtype=torch.int64) - (min(places) if places else 0)] = torch.arange(len(places))
    return encoded[order]


def _progress(trainer: Trainer, calls: range, description: str) -> Any:
    """A bar where the trainer shows one, on the first rank."""
    is_shown = trainer.is_global_zero and trainer.progress_bar_callback is not None and len(calls) > 1
    return import_module("tqdm").tqdm(calls, desc=description, leave=False, disable=not is_shown)
