"""InfoNCE as people write it for several ranks, right and with the mistakes that verify_loss has to name."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from lightning_normdyn.losses import CoSENT, DistillKLDiv, GradedContrastive, InfoNCE, MarginMSE

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


def teacher_of(queries, documents):
    """Embeddings that both sides of a comparison make alike, constant to the gradient."""
    return {"teacher_queries": queries.detach().roll(1, 1), "teacher_documents": documents.detach()}


def unit_scores(queries, documents):
    return F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T


class Distilled(DistillKLDiv):
    """By embeddings that are the loss's own, turned around."""

    def compute(self, queries, documents, **options):
        return super().compute(queries, documents, **teacher_of(queries, documents), **options)


class Margins(MarginMSE):
    """Of each document and the same turned around."""

    def compute(self, queries, documents, **options):
        hard = documents.roll(1, 1)[:, None]
        teacher = teacher_of(queries, documents) | {"teacher_hard_negatives": hard.detach()}
        return super().compute(queries, documents, hard_negatives=hard, **teacher, **options)


class Ordered(CoSENT):
    """By a number of the query."""

    def forward(self, queries, documents):
        return super().forward(queries, documents, queries.detach()[:, 0])


class Graded(GradedContrastive):
    """By how near the documents are, of the pair's and of the one before."""

    def compute(self, queries, documents, **options):
        places = torch.arange(len(queries))
        options |= {"positives": (places // 2 * 2 + 1 - places % 2)[:, None]}
        grades = queries.detach()[:, :2].abs().to(torch.float32) + 0.5
        return super().compute(queries, documents, grades=grades, **options)


def distilled(queries, documents):
    """Both ways, at temperatures of 0.05 and 0.3."""
    log_p = SCALE * unit_scores(queries, documents)
    log_t = unit_scores(*teacher_of(queries, documents).values()) / 0.3
    return sum(
        F.kl_div(log_p.log_softmax(dim), log_t.log_softmax(dim), reduction="sum", log_target=True) for dim in (0, 1)
    ) / (2 * len(queries))


def margins(queries, documents):
    teacher_queries, teacher_documents = teacher_of(queries, documents).values()
    hard = documents.roll(1, 1)
    margin = SCALE * (unit_scores(queries, documents) - unit_scores(queries, hard)).diagonal()
    of_teacher = unit_scores(teacher_queries, teacher_documents) - unit_scores(teacher_queries, hard.detach())
    return F.mse_loss(margin, of_teacher.diagonal())


def ordered(queries, documents):
    scores, grades = SCALE * unit_scores(queries, documents).diagonal(), queries.detach()[:, 0]
    gaps = (scores[None, :] - scores[:, None])[grades[:, None] > grades[None, :]]
    return torch.cat((gaps.new_zeros(1), gaps)).logsumexp(0)


def graded(queries, documents):
    places, grades = torch.arange(len(queries)), queries.detach()[:, :2].abs() + 0.5
    targets = torch.zeros(len(queries), len(queries), dtype=queries.dtype)
    targets[places, places], targets[places, places // 2 * 2 + 1 - places % 2] = grades[:, 0], grades[:, 1]
    logits = SCALE * unit_scores(queries, documents)
    return F.cross_entropy(logits, targets / targets.sum(1, keepdim=True))


SOFT = {
    "distilled": (Distilled(candidates="in_batch", symmetric=True, teacher_temperature=0.3), distilled),
    "margins": (Margins(), margins),
    "graded": (Graded(), graded),
    "ordered": (Ordered(), ordered),
}
