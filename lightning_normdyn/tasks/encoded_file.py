"""Embeddings written to disk as they are made, so that a million of them need no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

Input = TypeVar("Input")


def encode_to_file(
    file: Path,
    inputs: Sequence[Input],
    encode: Callable[[Sequence[Input]], Tensor],
    *,
    batch_size: int = 32,
    size_of: Callable[[Input], int] | None = None,
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] | None = None,
) -> None:
    """Encodes a batch at a time into ``.npy``, float32 ``[n, d]``; the file is there whole or not at all.

    Args:
        file: where it goes.
        inputs: one at least; a batch of them is taken at a time.
        encode: embeddings of a batch, ``[b, d]``.
        batch_size: b.
        size_of: of an input; those of about one size then share a batch, which spares padding.
        progress: wraps the batches, each a list of places, as ``tqdm`` does.

    Raises:
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> file = Path(tempfile.mkdtemp()) / "lengths.npy"
        >>> encode_to_file(file, ["a", "bcd"], lambda texts: torch.tensor([[float(len(text))] for text in texts]))
        >>> np.load(file).tolist()
        [[1.0], [3.0]]
    """
    order = list(range(len(inputs)))
    if size_of is not None:
        sizes = [size_of(one) for one in inputs]
        # The largest first: what does not fit into memory fails at once.
        order.sort(key=sizes.__getitem__, reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.tmp")
    try:
        stored: np.memmap[tuple[int, int], np.dtype[np.float32]] | None = None
        for places in progress(batches) if progress is not None else batches:
            vectors = encode([inputs[place] for place in places]).float().cpu().numpy()
            if stored is None:
                stored = np.lib.format.open_memmap(
                    unfinished, mode="w+", dtype=np.float32, shape=(len(inputs), vectors.shape[1])
                )
            stored[places] = vectors
        if stored is not None:
            stored.flush()
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
