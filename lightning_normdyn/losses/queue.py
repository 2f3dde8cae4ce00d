"""A queue of embeddings of past batches' documents, which serve as further negatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_normdyn.core.number_checks import check_count

KEYS = 3
"""Numbers kept with a document: the id of its query, its own, and its label."""


class DocumentQueue(nn.Module):
    """The last ``size`` documents and their ids, first in, first out; part of a checkpoint.

    They are no buffers: those would be averaged with the weights, and exchanged between ranks.

    Args:
        size: documents to keep.

    Raises:
        ValueError: if the size is no positive number.

    Example:
        >>> queue = DocumentQueue(3)
        >>> for value in (1.0, 2.0):
        ...     queue.push(torch.full((2, 1), value), torch.zeros(2, 3, dtype=torch.long))
        >>> queue.documents.flatten().tolist()
        [1.0, 2.0, 2.0]
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        check_count(size=size)
        self.size = size
        # On a device that holds values, whatever the default is: no `to_empty` would move these.
        self.documents = torch.empty(0, 0, device="cpu")
        self.ids = torch.empty(0, KEYS, dtype=torch.int64, device="cpu")

    @property
    def keys(self) -> list[Tensor]:
        """Query ids, document ids and labels of what is kept, each ``[k]``."""
        return list(self.ids.unbind(1))

    def push(self, documents: Tensor, ids: Tensor) -> None:
        """Adds documents ``[k, d]`` and their ids ``[k, 3]``; the oldest go. Nothing is overwritten in place."""
        documents = documents.detach()
        if len(self.documents):
            documents = torch.cat((self.documents.to(documents), documents))
            ids = torch.cat((self.ids.to(ids), ids))
        self.documents, self.ids = documents[-self.size :].clone(), ids[-self.size :].clone()

    def get_extra_state(self) -> dict[str, Tensor]:
        """Documents and ids, for a checkpoint."""
        return {"documents": self.documents, "ids": self.ids}

    def set_extra_state(self, state: Any) -> None:
        """Takes back what :meth:`get_extra_state` gave; the newest, if there is less room now."""
        self.documents, self.ids = state["documents"][-self.size :].clone(), state["ids"][-self.size :].clone()
