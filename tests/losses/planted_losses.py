"""InfoNCE as people write it for several ranks, right and with the mistakes that verify_loss has to name."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from lightning_normdyn.losses import InfoNCE

SCALE = 20.0


def cross_entropy(queries, documents, first=0):
    """Each query picks the document as far down as it, after the first ones."""
    logits = SCALE * F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T
    return F.cross_entropy(logits, torch.arange(len(queries)) + first)


def gathered(embeddings, *, own=True):
    """Of all ranks, as plain all_gather gives them: without a graph, the own ones put back or not."""
    sides = [torch.empty_like(embeddings) for _ in range(dist.get_world_size())]
    dist.all_gather(sides, embeddings.detach().contiguous())
    if own:
        sides[dist.get_rank()] = embeddings
    return torch.cat(sides)


def local(queries, documents):
    """Negatives of the own rank alone."""
    return cross_entropy(queries, documents)


def constants(queries, documents):
    """Own queries against all documents, of which those of others are constants."""
    return cross_entropy(queries, gathered(documents), dist.get_rank() * len(queries))


def of_everybody(queries, documents):
    """The whole loss on each rank, where DDP halves what each has of its own embeddings."""
    return cross_entropy(gathered(queries), gathered(documents))


def of_everybody_scaled(queries, documents):
    """The same, mended."""
    value = of_everybody(queries, documents)
    return value + (dist.get_world_size() - 1) * (value - value.detach())


def times_ranks(queries, documents):
    """Right, but for a factor that DDP does not take back."""
    return dist.get_world_size() * InfoNCE()(queries, documents)


def in_parts(queries, documents):
    """A mean over microbatches, taken for the loss of the batch."""
    parts = zip(queries.chunk(2), documents.chunk(2), strict=True)
    return torch.stack([cross_entropy(*part) for part in parts]).mean()


def summed(queries, documents):
    return len(queries) * cross_entropy(queries, documents)


def shown_wrong(queries, documents):
    """Right to the gradient, and a mean over ranks forgotten in what is shown."""
    value = cross_entropy(queries, documents)
    return value + value.detach()


def blind(queries, documents):
    return cross_entropy(queries.detach(), documents.detach()) + 0 * queries.sum()


def infinite(queries, documents):
    return cross_entropy(queries, documents) + (queries - queries).norm().log()


def float32_only(queries, documents):
    """Its matrix product takes no two dtypes."""
    logits = SCALE * F.normalize(queries) @ F.normalize(documents.float()).T
    return F.cross_entropy(logits, torch.arange(len(queries)))


def a_row_a_pair(queries, documents):
    return (queries * documents).sum(1)


class Clip(nn.Module):
    """open_clip's loss, in each of its ways to gather."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, queries, documents):
        from open_clip.loss import ClipLoss

        loss = ClipLoss(rank=dist.get_rank(), world_size=dist.get_world_size(), **self.options)
        return loss(F.normalize(queries, dim=-1), F.normalize(documents, dim=-1), SCALE)
