"""Encoders of a user's history: a row of a table, the mean of past items, or a causal transformer."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

PADDING = 0
START = 1
FIRST_ITEM = 2
"""Codes of a history: nothing, where it begins, and item k as ``FIRST_ITEM + k``."""


class HistoryEncoder(nn.Module, ABC):
    """Makes a query of every prefix of a history, without sight of what comes after it.

    There is no bias and no normalisation at the end, so that norms are free.
    """

    @abstractmethod
    def forward(self, users: Tensor, codes: Tensor) -> Tensor:
        """Embeddings ``[b, l, d]`` of users ``[b]`` after each of the codes ``[b, l]``, which are padded on the left.

        What stands at padding is of no meaning.
        """


class UserTable(HistoryEncoder):
    """A row a user, whatever the history: matrix factorisation.

    Args:
        users: how many there are.
        items: how many there are.
        dim: length of an embedding.
    """

    def __init__(self, *, users: int, items: int, dim: int) -> None:
        super().__init__()
        del items
        self.users = nn.Embedding(users, dim)
        nn.init.normal_(self.users.weight, std=dim**-0.5)

    def forward(self, users: Tensor, codes: Tensor) -> Tensor:
        """The same row at every place."""
        rows: Tensor = self.users(users)
        return rows.unsqueeze(1).expand(-1, codes.shape[1], -1)


class MeanHistory(HistoryEncoder):
    """The mean of the items so far, then one residual layer; the table is not that of the items to be found.

    Args:
        users: how many there are, of which nothing is kept.
        items: how many there are.
        dim: length of an embedding.
    """

    def __init__(self, *, users: int, items: int, dim: int) -> None:
        super().__init__()
        del users
        self.table = _history_table(items, dim)
        last = nn.Linear(2 * dim, dim, bias=False)
        nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(nn.Linear(dim, 2 * dim, bias=False), nn.ReLU(), last)

    def forward(self, users: Tensor, codes: Tensor) -> Tensor:
        """Means of prefixes. Their norm falls with what they mix, so they are scaled by the root of their number."""
        del users
        is_item = (codes != PADDING).unsqueeze(-1)
        count = is_item.cumsum(1).clamp(min=1)
        mean = self.table(codes).cumsum(1) / count.sqrt()
        embeddings: Tensor = mean + self.residual(mean)
        return embeddings


class CausalTransformer(HistoryEncoder):
    """A small transformer over the last items, as in SASRec (arXiv 1808.09781), without its last normalisation.

    Places are counted from the end of what is given, so that a short history and the end of a long one look alike.

    Args:
        users: how many there are, of which nothing is kept.
        items: how many there are.
        dim: length of an embedding.
        length: the longest history.
        layers: blocks of attention and a feed-forward layer, normalised before each.
        heads: of the attention.
        dropout: of embeddings, attention and layers.
    """

    def __init__(
        self, *, users: int, items: int, dim: int, length: int, layers: int = 2, heads: int = 2, dropout: float = 0.2
    ) -> None:
        super().__init__()
        del users
        self.table = _history_table(items, dim)
        self.places = nn.Embedding(length, dim)
        nn.init.normal_(self.places.weight, std=0.1 * dim**-0.5)
        self.dropout = nn.Dropout(dropout)
        block = nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout, batch_first=True, norm_first=True, activation="gelu"
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)

    def forward(self, users: Tensor, codes: Tensor) -> Tensor:
        """What the last block gives."""
        del users
        length = codes.shape[1]
        if length > self.places.num_embeddings:
            raise ValueError(
                f"history_length: expected at most {self.places.num_embeddings}, as the model was made for, got "
                f"{length}"
            )
        places = torch.arange(length, device=codes.device)
        x = self.dropout(self.table(codes) + self.places(places))
        later = places[:, None] < places
        # A padded place sees itself: a row of nothing but masks would be NaN.
        attention_mask = (later | (codes == PADDING).unsqueeze(1)) & (places[:, None] != places)
        heads = self.blocks.layers[0].self_attn.num_heads
        embeddings: Tensor = self.blocks(x, mask=attention_mask.repeat_interleave(heads, 0))
        return embeddings


def _history_table(items: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(FIRST_ITEM + items, dim, padding_idx=PADDING)
    nn.init.normal_(table.weight, std=dim**-0.5)
    with torch.no_grad():
        table.weight[PADDING].zero_()
    return table
