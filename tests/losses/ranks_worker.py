"""Computes losses on several ranks and leaves what came out for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node W ranks_worker.py FOLDER``; without torchrun it is the single
process that everything is compared with.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.losses import (
    AdaFace,
    ArcFace,
    CoSENT,
    CosFace,
    DistillKLDiv,
    FullSoftmax,
    GradedContrastive,
    InfoNCE,
    MagFace,
    MarginMSE,
    MaxSim,
    NormFace,
    SigmoidContrastive,
    SummedLoss,
    SupCon,
    cached_loss,
)

D = 6
IN_BATCH = {"candidates": "in_batch", "teacher_temperature": 0.3}
LARGEST = 4
PAIRS = {1: (20,), 2: (7, 13), 3: (9, 1, 10), 4: (5, 4, 8, 3)}
"""How the same twenty pairs are dealt out; unevenly."""


class Views(SupCon):
    """Of both sides as two views of one set."""

    def forward(self, queries, documents, *, labels):
        return super().forward(torch.cat((queries, documents)), labels.repeat(2))


class Shared(FullSoftmax):
    """Over the documents of all ranks, each query's own being its target."""

    def forward(self, queries, documents, *, document_ids):
        return super().forward(queries, documents, torch.arange(len(queries)), document_ids=document_ids)


class Late(MaxSim):
    """Of three tokens cut out of each embedding, of which documents have one to three, packed."""

    def forward(self, queries, documents, *, document_ids, **options):
        lengths = document_ids % 3 + 1
        tokens = documents.unflatten(1, (3, -1))[torch.arange(3) < lengths[:, None]]
        options |= {"document_lengths": lengths, "document_ids": document_ids}
        return super().forward(queries.unflatten(1, (3, -1)), tokens, **options)


class Taught:
    """By a teacher whose embeddings are the loss's own, turned around, or by the logarithms of a matrix."""

    def compute(self, queries, documents, **options):
        grades = options.pop("grades", None)
        if grades is not None:
            return super().compute(queries, documents, teacher_scores=grades.log(), **options)
        options |= {"teacher_queries": queries.roll(1, 1), "teacher_documents": documents}
        if "hard_negatives" in options:
            options["teacher_hard_negatives"] = options["hard_negatives"]
        return super().compute(queries, documents, **options)


class Distilled(Taught, DistillKLDiv):
    pass


class Margins(Taught, MarginMSE):
    pass


class Ordered(CoSENT):
    """By labels."""

    def forward(self, queries, documents, *, labels):
        return super().forward(queries, documents, labels)


CASES = {
    "one direction": (InfoNCE, {}, {}),
    "backwards": (InfoNCE, {"direction": "document_to_query"}, {}),
    "auto": (InfoNCE, {"temperature": "auto", "symmetric": True}, {}),
    "symmetric": (InfoNCE, {"symmetric": True, "chunk_size": 3}, {}),
    "SimCLR": (InfoNCE, {"symmetric": True, "same_side": "both"}, {}),
    "joint": (InfoNCE, {"symmetric": True, "same_side": "both", "joint": True}, {}),
    "joint, of all documents": (
        InfoNCE,
        {"symmetric": True, "same_side": "both", "joint": "sentence_transformers"},
        {"hard": True, "document_ids": True},
    ),
    "ids": (InfoNCE, {"symmetric": True}, {"query_ids": True, "document_ids": True}),
    "labels": (InfoNCE, {"symmetric": True}, {"labels": True}),
    "labels backwards": (InfoNCE, {"direction": "document_to_query"}, {"labels": True, "document_ids": True}),
    "hard negatives": (InfoNCE, {"symmetric": True}, {"hard": True, "extra": True}),
    "smoothed": (
        InfoNCE,
        {"symmetric": True, "label_smoothing": 0.1, "margin": 0.1},
        {"document_ids": True, "hard": True},
    ),
    "decoupled": (InfoNCE, {"decoupled": True, "symmetric": True, "reduction": "sum"}, {"labels": True}),
    "weighted": (InfoNCE, {"symmetric": True}, {"weights": True}),
    "sigmoid weighted": (SigmoidContrastive, {}, {"weights": True}),
    "guided": (InfoNCE, {"symmetric": True, "guide_margin": 0.05}, {"guides": True, "document_ids": True}),
    "bounded": (InfoNCE, {"symmetric": True, "same_side": "both", "negative_share": 0.9}, {"hard": True}),
    "hard": (InfoNCE, {"hardness": "hard_negatives"}, {"hard": True, "extra": True}),
    "debiased": (InfoNCE, {"symmetric": True, "prior": 0.1}, {}),
    "hard negatives of one's own": (InfoNCE, {"shared_hard_negatives": False}, {"hard": True}),
    "SupCon": (Views, {}, {"labels": True}),
    "same side with labels": (InfoNCE, {"symmetric": True, "same_side": "both"}, {"labels": True}),
    "late interaction": (Late, {"chunk_size": 3}, {"document_ids": True, "weights": True}),
    "symmetric late interaction": (Late, {"symmetric": True, "temperature": "auto"}, {"document_ids": True}),
    "shared documents": (Shared, {"share_documents": True}, {"document_ids": True}),
    "distilled": (Distilled, IN_BATCH | {"chunk_size": 3}, {"hard": True, "extra": True}),
    "distilled both ways": (Distilled, IN_BATCH | {"symmetric": True}, {"document_ids": True, "weights": True}),
    "distilled backwards, of a matrix": (Distilled, IN_BATCH | {"direction": "document_to_query"}, {"grades": True}),
    "distilled lists": (Distilled, {"temperature": "auto"}, {"hard": True, "weights": True}),
    "margins": (Margins, {"reduction": "sum"}, {"hard": True}),
    "graded": (GradedContrastive, {"symmetric": True}, {"grades": True, "query_ids": True}),
    "ordered by grade": (Ordered, {}, {"labels": True}),
    "queue of positives": (InfoNCE, {"queue_size": 30, "queue_positives": True}, {"labels": True}),
    "prefixes": (InfoNCE, {"prefixes": [2, 5, 6]}, {"document_ids": True, "hard": True}),
    "symmetric prefixes": (InfoNCE, {"prefixes": [3, 6], "prefix_weights": [0.5, 1.0], "symmetric": True}, {}),
    "queue": (InfoNCE, {"queue_size": 30}, {"document_ids": True}),
    "sigmoid": (SigmoidContrastive, {}, {}),
    "sigmoid with labels": (SigmoidContrastive, {}, {"labels": True, "hard": True, "document_ids": True}),
}


class Summed(SummedLoss):
    """Of a softmax and a sigmoid loss, of which the former takes what further options there are."""

    def __init__(self, *, normalization, temperature, learnable_temperature, **options):
        softmax = InfoNCE(
            normalization=normalization,
            temperature=temperature,
            learnable_temperature=learnable_temperature,
            **options,
        )
        super().__init__({"softmax": (1.0, softmax), "sigmoid": (0.2, SigmoidContrastive())})


SUMS = {
    "sum": (Summed, {"symmetric": True}, {"document_ids": True, "hard": True}),
    "sum by labels": (Summed, {"symmetric": True, "same_side": "both", "chunk_size": 3}, {"labels": True}),
    "sum of prefixes": (Summed, {"prefixes": [3, 6]}, {"weights": True, "extra": True}),
    "sum apart": (Summed, {"queue_size": 30}, {}),
}

HEADS = {
    "NormFace": (NormFace, {"reduction": "sum"}),
    "CosFace": (CosFace, {"temperature": "auto"}),
    "ArcFace": (ArcFace, {"sample": 0.5}),
    "MagFace": (MagFace, {"lower_norm": 0.5, "upper_norm": 2.0, "sample": 0.5}),
    "AdaFace": (AdaFace, {"momentum": 0.5}),
}


class Classifier(nn.Module):
    """An encoder and a margin head over nine classes, of which a batch has some."""

    def __init__(self, make, settings):
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Linear(D, D)
        self.loss = make(9, D, **{"temperature": 0.1, "learnable_temperature": True} | settings)

    def forward(self, batch, *, chunk_size=None):
        assert chunk_size is None
        return self.loss(self.query(batch["queries"]), batch["labels"], weights=batch.get("weights"))


class Towers(nn.Module):
    """Two encoders and the loss, one module as DistributedDataParallel wants it."""

    def __init__(self, make, settings):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.document = nn.Linear(D, D), nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, D))
        learnt = {"normalization": "learnable", "temperature": 0.3, "learnable_temperature": True}
        self.loss = make(**learnt | settings)

    def forward(self, batch, *, chunk_size=None):
        options = dict(batch)
        queries, documents, hard = (options.pop(name, None) for name in ("queries", "documents", "hard"))
        if chunk_size:
            encoders = {"encode_query": self.query, "encode_document": self.document, "module": self}
            return cached_loss(self.loss, queries, documents, **encoders, chunk_size=chunk_size, **options)
        if hard is not None:
            options["hard_negatives"] = self.document(hard)
        return self.loss(self.query(queries), self.document(documents), **options)


def everything(wanted, seed):
    """All pairs, and for each an extra document and two hard negatives."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(PAIRS[1])

    def integers(high):
        return torch.randint(0, high, (n,), generator=generator)

    made = {name: torch.randn(n, D, generator=generator) for name in ("queries", "documents", "extra")}
    made |= {"hard": torch.randn(n, 2, D, generator=generator), "query_ids": integers(15), "labels": integers(4)}
    made |= {"document_ids": integers(18), "weights": torch.rand(n, generator=generator)}
    made["grades"] = torch.rand(n, n, generator=generator)
    if wanted.get("guides"):
        guides = {"query_guides": torch.randn(n, 4, generator=generator), "document_guides": made["documents"][:, :4]}
        return everything(wanted | {"guides": False}, seed) | guides
    return {name: x for name, x in made.items() if name in ("queries", "documents") or wanted.get(name)}


def share(batch, world, rank):
    """What one rank gets of it; extra documents go behind the others."""
    first = sum(PAIRS[world][:rank])
    mine = {name: x[first : first + PAIRS[world][rank]] for name, x in batch.items()}
    if "extra" in mine:
        mine["documents"] = torch.cat((mine["documents"], mine.pop("extra")))
    return mine


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def run(model, wanted, world, rank, *, steps=2, chunk_size=None, accumulate=1, group=None):
    """Losses of a few steps, and the gradient after the last; parameters stay."""
    wrapped = DistributedDataParallel(model, process_group=group) if world > 1 else model
    losses = []
    for step in range(steps):
        model.zero_grad()
        for micro in range(accumulate):
            waits = wrapped.no_sync() if world > 1 and micro + 1 < accumulate else nullcontext()
            with waits:
                loss = wrapped(share(everything(wanted, 10 * step + micro), world, rank), chunk_size=chunk_size)
                (loss / accumulate).backward()
            losses.append(loss.detach())
    return {"losses": torch.stack(losses), "gradients": gradients(model)}


def disagree(world, rank, what):
    """What a rank is told when one of them is given something else than the others, or has another loss."""
    generator = torch.Generator().manual_seed(rank)
    queries, documents = torch.randn(2, 5, D, generator=generator)
    differs = rank == 0
    options = {what: torch.arange(5)} if differs and what in ("labels", "document_ids") else {}
    if what == "double" and differs:
        queries, documents = queries.double(), documents.double()
    if not (what == "detached" and differs):
        documents.requires_grad_()
    settings = {"prefixes": [2, 4 + rank]} if what == "prefixes" else {}
    try:
        if what == "num_classes":
            CosFace(5 + rank, D)(queries, torch.arange(5))
        else:
            InfoNCE(symmetric=True, **settings)(queries.requires_grad_(), documents, **options)
    except ValueError as error:
        return str(error)
    return "nothing"


FINITE = ((InfoNCE, {"symmetric": True}), (CoSENT, {}), (Late, {}), (Shared, {"share_documents": True}), (Views, {}))


def of_nan(rank, make, settings):
    """What a rank is told when the queries of the first are NaN."""
    generator = torch.Generator().manual_seed(rank)
    queries, documents = torch.randn(2, 5, D, generator=generator)
    numbers = {"document_ids" if make in (Late, Shared) else "labels": torch.arange(5) + 5 * rank}
    options = {"grades": torch.arange(5.0)} if make is CoSENT else {} if make is InfoNCE else numbers
    try:
        make(**settings)(queries * (torch.nan if rank == 0 else 1), documents, **options)
    except ValueError as error:
        return str(error)
    return "nothing"


DISAGREEMENTS = {
    "labels": "labels",
    "document_ids": "document_ids",
    "documents": "detached",
    "queries": "double",
    "prefixes": "prefixes",
    "num_classes": "num_classes",
}
"""What one rank has otherwise, by the argument that is to be named."""


def main(folder):
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if world > 1 else 0
    torch.set_num_threads(1)
    found = {name: run(Towers(make, kw), wanted, world, rank) for name, (make, kw, wanted) in (CASES | SUMS).items()}
    for name, (make, kw) in HEADS.items():
        wanted = {"labels": True, "weights": name == "ArcFace"}
        found[name] = run(Classifier(make, kw), wanted, world, rank)
    symmetric = {"symmetric": True}
    found["accumulated"] = run(Towers(InfoNCE, symmetric), {}, world, rank, accumulate=2)
    found["cached"] = run(Towers(InfoNCE, symmetric), {"document_ids": True}, world, rank, chunk_size=4)
    found["cached sum"] = run(Towers(Summed, symmetric), {"document_ids": True}, world, rank, chunk_size=4)
    found["cached, accumulated"] = run(Towers(InfoNCE, symmetric), {}, world, rank, chunk_size=3, accumulate=2)
    settings = IN_BATCH | symmetric
    found["cached, distilled"] = run(Towers(Distilled, settings), {}, world, rank, chunk_size=4)
    found["metrics"] = []
    for make, kw, wanted in ((Distilled, IN_BATCH, {}), (Distilled, {}, {"hard": True}), (Margins, {}, {"hard": True})):
        model = Towers(make, kw | {"with_metrics": True})
        run(model, wanted, world, rank, steps=1)
        found["metrics"].append(model.loss.metrics())
    for direction in ("query_to_document", "document_to_query"):
        model = Towers(InfoNCE, {"with_metrics": True, "direction": direction})
        run(model, {}, world, rank, steps=1)
        found["metrics"].append(model.loss.metrics())
    with torch.no_grad():
        found["evaluation"] = Towers(InfoNCE, symmetric).eval()(share(everything({}, 0), world, rank))
    alone = Towers(InfoNCE, {"gather": False})
    found["not gathered"] = alone(share(everything({}, 0), world, rank)).detach()
    found["disagreeing"] = [disagree(world, rank, name) for name in DISAGREEMENTS.values()]
    found["not finite"] = [of_nan(rank, *case) for case in FINITE]
    torch.save(found, Path(folder) / f"world-{world}-rank-{rank}.pt")


if __name__ == "__main__":
    with ended_process_group():
        main(sys.argv[1])
