"""A memory of past documents, which serve as negatives after their batch is gone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KEYS = 3
"""Numbers kept with a document: the id of its query, its own, and its label."""


class DocumentQueue(nn.Module):
    """The last ``size`` documents and their ids, first in, first out; part of a checkpoint.

    Args:
        size: documents to keep; 0 keeps none.

    Raises:
        ValueError: if the size is negative.

    Example:
        >>> queue = DocumentQueue(3)
        >>> for value in (1.0, 2.0):
        ...     queue.push(torch.full((2, 1), value), torch.zeros(2, 3, dtype=torch.long))
        >>> queue.documents.flatten().tolist()
        [2.0, 1.0, 2.0]
    """

    vectors: Tensor
    ids: Tensor
    pushed: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"queue_size: expected a number of documents, 0 or more, got {size!r}")
        self.size = size
        self.register_buffer("vectors", torch.empty(0, 0), persistent=size > 0)
        self.register_buffer("ids", torch.empty(0, KEYS, dtype=torch.int64), persistent=size > 0)
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64), persistent=size > 0)

    @property
    def documents(self) -> Tensor:
        """What is kept, ``[k, d]`` with k up to the size; in no order that matters."""
        return self.vectors[: self._filled]

    @property
    def keys(self) -> list[Tensor]:
        """Query ids, document ids and labels of what is kept, each ``[k]``."""
        return list(self.ids[: self._filled].unbind(1))

    @property
    def _filled(self) -> int:
        # As long as the queue is not full, its buffers are as long as what is in it: no need to ask the device.
        return len(self.vectors)

    def push(self, documents: Tensor, ids: Tensor) -> None:
        """Puts documents ``[k, d]`` and their ids ``[k, 3]`` in place of the oldest."""
        documents, ids = documents.detach()[-self.size :], ids[-self.size :]
        if self.vectors.shape[1] != documents.shape[1]:
            self.vectors = documents.new_empty(0, documents.shape[1])
            self.ids = ids.new_empty(0, KEYS)
        room = self.size - len(self.vectors)
        if room:
            self.vectors = torch.cat((self.vectors, documents[:room].to(self.vectors.dtype)))
            self.ids = torch.cat((self.ids, ids[:room]))
            self.pushed.fill_(len(self.vectors) % self.size)
            documents, ids = documents[room:], ids[room:]
        places = (self.pushed + torch.arange(len(documents), device=documents.device)) % self.size
        self.vectors[places] = documents.to(self.vectors.dtype)
        self.ids[places] = ids
        self.pushed.copy_((self.pushed + len(documents)) % self.size)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("vectors", "ids"):  # as long as they were when saved
            if self.size and prefix + name in state_dict:
                saved = state_dict[prefix + name]
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
