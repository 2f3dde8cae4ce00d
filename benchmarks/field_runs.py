"""Runs with the mistakes that people report, and with the recipes that they publish: the third group of planted runs.

Written, as the second group was, before anybody had seen how the rules judge them: the models are those of
``field_models.py``, mistakes and recipes those of issue trackers and papers. Each run takes some seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from field_models import (
    Clicks,
    Codes,
    Cooccurrence,
    Faces,
    Masked,
    Retriever,
    Signs,
    Triplets,
    blobs,
    clicks,
    cooccurrences,
    faces,
    graph_task,
    histories,
    infonce,
    neighbours,
    recommendation_task,
    rescale,
    sentence_task,
    sentences,
    texts,
    triples,
    triplets,
)
from held_out_runs import Draw, World
from planted_runs import Lion, Optimizers, PlantedRun
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, Adamax, AdamW, Muon, RAdam, RMSprop, lr_scheduler

EPOCH = 50
"""Steps."""
Factor = Callable[[int], float]


def _run(
    target: str,
    model: Callable[[], nn.Module],
    draw: Draw,
    optimizer: Optimizers,
    steps: int = 400,
    **options: Any,
) -> World:
    return World(model, optimizer, steps, draw=draw, observer={"targets": [target]}, **options)


def _retriever(
    optimizer: Optimizers,
    steps: int = 400,
    *,
    loss: Callable[[], Any] = infonce,
    draw: Draw | None = None,
    model: dict[str, Any] | None = None,
    **options: Any,
) -> World:
    settings = model or {}
    return _run(
        "table.weight", lambda: Retriever(loss(), **settings), draw or neighbours(), optimizer, steps, **options
    )


def _masked(
    optimizer: Optimizers,
    steps: int = 400,
    *,
    target: str = "tokens.weight",
    draw: Draw | None = None,
    model: dict[str, Any] | None = None,
    **options: Any,
) -> World:
    settings = model or {}
    return _run(target, lambda: Masked(**settings), draw or texts(), optimizer, steps, **options)


def _faces(optimizer: Optimizers, steps: int = 500, **options: Any) -> World:
    return _run("head", Faces, faces, optimizer, steps, **options)


def _graph(optimizer: Optimizers, steps: int = 400, *, task: dict[str, Any] | None = None, **options: Any) -> World:
    settings = task or {}
    return _run("task.scorer.entities.weight", lambda: graph_task(**settings), triples, optimizer, steps, **options)


def _recommendation(
    optimizer: Optimizers, steps: int = 400, *, offered: int | None = None, task: dict[str, Any], **options: Any
) -> World:
    draw = histories() if offered is None else histories(offered)
    return _run("task.items.weight", lambda: recommendation_task(**task), draw, optimizer, steps, **options)


def _triplets(
    distance: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizers,
    steps: int = 400,
    *,
    is_normalized: bool,
    draw: Draw | None = None,
    **options: Any,
) -> World:
    return _run(
        "items.weight",
        lambda: Triplets(distance, is_normalized=is_normalized),
        draw or triplets(),
        optimizer,
        steps,
        **options,
    )


# Optimizers and schedules ---------------------------------------------------------------------------------------------


def _of(build: Callable[..., torch.optim.Optimizer], **options: Any) -> Optimizers:
    return lambda model: build(model.parameters(), **options)


def _tables_apart(build: Callable[..., torch.optim.Optimizer], table: dict[str, Any], **options: Any) -> Optimizers:
    """Matrices in a group of their own, the rest in another."""

    def optimizers(model: nn.Module) -> torch.optim.Optimizer:
        matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
        others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
        return build([{"params": matrices, **table}, {"params": others}], **options)

    return optimizers


def _tokens_at(table_lr: float, **options: Any) -> Optimizers:
    """The table of tokens has a learning rate of its own."""

    def optimizers(model: Any) -> torch.optim.Optimizer:
        others = [parameter for name, parameter in model.named_parameters() if name != "tokens.weight"]
        return AdamW([{"params": [model.tokens.weight], "lr": table_lr}, {"params": others}], **options)

    return optimizers


def _muon(model: Any) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for the rest, as Muon's authors advise."""
    head, layers = [model.head], [model.backbone[0].weight, model.backbone[2].weight]
    biases = [model.backbone[0].bias, model.backbone[2].bias]
    return [
        Muon([{"params": head}, *({"params": [layer]} for layer in layers)], lr=0.02, weight_decay=0.3),
        AdamW(biases, lr=1e-3),
    ]


def _by(factor: Factor) -> Callable[[torch.optim.Optimizer], Any]:
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, factor)


def _cosine(total: int, least: float = 0.1) -> Factor:
    return lambda step: least + (1 - least) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2


def _one_cycle(total: int) -> Factor:
    """From a twenty-fifth to the peak at three tenths, and down to nothing."""

    def factor(step: int) -> float:
        peak = 0.3 * total
        if step < peak:
            return 0.52 - 0.48 * math.cos(math.pi * step / peak)
        return (1 + math.cos(math.pi * (step - peak) / (total - peak))) / 2

    return factor


def _stable_then_down(total: int) -> Factor:
    """A warm-up, a constant rate, and a last fifth that goes down to a tenth."""
    return lambda step: min(1.0, (step + 1) / (0.05 * total), 0.1 + 0.9 * max(0.0, total - step) / (0.2 * total))


def _inverse_root(warmup: int) -> Factor:
    return lambda step: min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


@dataclass
class _Plateau:
    """``ReduceLROnPlateau`` on the mean loss of so many steps.

    Attributes:
        every: steps from look to look.
        options: of the scheduler.
    """

    every: int
    options: dict[str, Any]
    scheduler: Any = None
    losses: list[float] = field(default_factory=list)

    def prepare(self, _: Any, optimizer: torch.optim.Optimizer) -> None:
        """Makes the scheduler."""
        self.losses, self.scheduler = [], lr_scheduler.ReduceLROnPlateau(optimizer, **self.options)

    def hear(self, loss: Tensor, _: int) -> Tensor:
        """Takes down a loss."""
        self.losses.append(float(loss.detach()))
        return loss

    def step(self, *_: Any) -> None:
        """Lets the scheduler see the mean of the losses when it is time."""
        if len(self.losses) == self.every:
            self.scheduler.step(sum(self.losses) / self.every)
            self.losses.clear()


def _plateau(every: int, **options: Any) -> dict[str, Any]:
    plateau = _Plateau(every, options)
    return {"prepare": plateau.prepare, "before_backward": plateau.hear, "after_step": plateau.step}


# Mistakes -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _nearly_zero_rows(model: Any, _: Any) -> None:
    """Special tokens that pretraining never met, as they ship in checkpoints."""
    model.tokens.weight[-16:] *= 1e-16


@torch.no_grad()
def _new_rows(model: Any, _: Any) -> None:
    """Tokens that were added later, at torch's own start beside rows of a trained model."""
    rescale(model.tokens.weight, 0.3)
    model.tokens.weight[-16:].normal_()


def _without_zero_grad(_: Any, optimizer: Any) -> None:
    optimizer.zero_grad = lambda *_, **__: None


def _to(dtype: torch.dtype) -> Callable[[nn.Module, Any], None]:
    def convert(model: nn.Module, _: Any) -> None:
        model.to(dtype)

    return convert


@torch.no_grad()
def _zero_row(model: Any, _: Any) -> None:
    model.table.weight[0] = 0.0


@torch.no_grad()
def _unit_entities(model: Any, _: Any) -> None:
    rescale(model.task.scorer.entities.weight, 1.0)


def _clip_values(model: nn.Module, _: int) -> None:
    nn.utils.clip_grad_value_(model.parameters(), 1e-5)


def _clip_while_scaled(model: nn.Module, _: int) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def _summed(queries: Tensor, documents: Tensor) -> Tensor:
    return len(queries) * infonce()(queries, documents)


def _multiplied(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosines times a temperature that should have divided them."""
    scores = 0.07 * F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T
    return F.cross_entropy(scores, torch.arange(len(scores)))


def _divided_by_norms(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosines without anything that keeps a norm of zero from the denominator."""
    queries, documents = (vectors / vectors.norm(dim=-1, keepdim=True) for vectors in (queries, documents))
    return F.cross_entropy(queries @ documents.T / 0.1, torch.arange(len(queries)))


class _Ridge(Retriever):
    """A retriever whose loss holds the L2 penalty of its table."""

    def forward(self, pairs: Tensor) -> Tensor:
        """The loss of pairs of rows ``[n, 2]`` and the penalty."""
        return super().forward(pairs) + 1e-3 * self.table.weight.square().sum()


def root_of_squares(first: Tensor, second: Tensor) -> Tensor:
    """The Euclidean distance as it is written down, whose gradient at nothing is none."""
    return (first - second).square().sum(-1).sqrt()


def euclidean(first: Tensor, second: Tensor) -> Tensor:
    """The Euclidean distance as torch has it."""
    return F.pairwise_distance(first, second)


FIELD_FAULTS = (
    PlantedRun(
        "rows of a checkpoint that are nearly zero, fine-tuned",
        _masked(
            _of(AdamW, lr=1e-3, weight_decay=0.01),
            300,
            draw=texts(rare=0.3),
            model={"is_normalized": True},
            prepare=_nearly_zero_rows,
            clip=1.0,
        ),
        ("dead_rows", "clip_share", "clipping_sets_steps"),
    ),
    PlantedRun(
        "tokens added at torch's own start to a trained table",
        _masked(_of(AdamW, lr=1e-3, weight_decay=0.01), 300, draw=texts(rare=0.3), prepare=_new_rows),
        ("outlying_rows",),
    ),
    PlantedRun(
        "AdamW's decay copied to SGD", _retriever(_of(SGD, lr=0.5, momentum=0.9, weight_decay=0.1)), ("fast_decay",)
    ),
    PlantedRun(
        "SGD's decay copied to AdamW, torch's own start",
        _retriever(_of(AdamW, lr=1e-4, weight_decay=5e-4), model={"norm": None}),
        ("slow_relaxation", "far_start"),
    ),
    PlantedRun(
        "LambdaLR given rates in place of factors",
        _retriever(_of(AdamW, lr=1e-2, weight_decay=0.2), scheduler=_by(lambda step: 1e-2 * _cosine(400)(step))),
        ("slow_relaxation", "freezing_schedule"),
    ),
    PlantedRun(
        "one cycle stepped by epoch",
        _faces(_of(AdamW, lr=1e-2, weight_decay=0.3), scheduler=_by(lambda step: _one_cycle(500)(step // EPOCH))),
        ("slow_relaxation", "freezing_schedule"),
    ),
    PlantedRun(
        "a plateau looked for in every batch",
        _faces(_of(SGD, lr=0.5, momentum=0.9, weight_decay=1e-3), 600, **_plateau(1, patience=2, factor=0.5)),
        ("freezing_schedule", "slow_relaxation"),
    ),
    PlantedRun(
        "zero_grad forgotten",
        _retriever(_of(SGD, lr=0.5), 300, prepare=_without_zero_grad),
        ("exploding_norms", "overshooting_steps"),
    ),
    PlantedRun(
        "a loss summed over the batch",
        _retriever(_of(SGD, lr=1.0, momentum=0.9, weight_decay=1e-5), loss=lambda: _summed),
        ("overshooting_steps", "exploding_norms"),
    ),
    PlantedRun(
        "float16 weights under Adam's eps",
        _retriever(_of(AdamW, lr=1e-3), 300, loss=lambda: _divided_by_norms, prepare=_to(torch.float16)),
        ("nonfinite_gradients", "exploding_norms"),
    ),
    PlantedRun(
        "steps below the rounding of bfloat16 weights",
        _retriever(_of(AdamW, lr=1e-4, weight_decay=0.1), model={"norm": 4.0}, prepare=_to(torch.bfloat16)),
        ("lost_steps",),
    ),
    PlantedRun(
        "an L2 penalty in the loss under Adam",
        _run("table.weight", lambda: _Ridge(infonce()), neighbours(), _of(Adam, lr=1e-2)),
        ("radial_leak", "coupled_decay", "collapsing_norms"),
    ),
    PlantedRun(
        "scores multiplied by the temperature",
        _retriever(_of(SGD, lr=1.0, momentum=0.9, weight_decay=4e-4), 600, loss=lambda: _multiplied),
        ("far_start", "collapsing_norms", "slow_relaxation"),
    ),
    PlantedRun(
        "places beyond the end of every text",
        _masked(_of(AdamW, lr=1e-2, weight_decay=0.2), target="places.weight", model={"places": 96}),
        ("untouched_rows", "dying_rows"),
    ),
    PlantedRun(
        "a codebook of which few codes are chosen",
        _run("codebook.weight", Codes, blobs, _of(AdamW, lr=1e-2, weight_decay=0.2), 500),
        ("untouched_rows", "dying_rows"),
    ),
    PlantedRun(
        "recsys, items that are never offered",
        _recommendation(
            _of(AdamW, lr=5e-3, weight_decay=0.5),
            offered=110,
            task={"encoder": "user", "negatives": "sampled", "uniform_negatives": 0},
        ),
        ("untouched_rows", "dying_rows"),
    ),
    PlantedRun(
        "kg, a regulariser a thousand times too strong",
        _graph(
            _of(Adagrad, lr=0.1),
            task={"normalization": "dot", "temperature": 1.0, "regularizer": "n3", "regularization": 5.0},
            prepare=_unit_entities,
        ),
        ("collapsing_norms",),
    ),
    PlantedRun(
        "kg, the weight of the loss by whole division",
        _graph(_of(AdamW, lr=1e-2, weight_decay=0.1), 300, before_backward=lambda loss, step: loss * (step // 1000)),
        ("decay_alone", "no_gradient"),
    ),
    PlantedRun("kg, RAdam whose decay is coupled", _graph(_of(RAdam, lr=1e-2, weight_decay=1e-2)), ("coupled_decay",)),
    PlantedRun(
        "gradients clipped by value at 1e-5",
        _faces(_of(SGD, lr=0.5, momentum=0.9, weight_decay=5e-4), after_backward=_clip_values),
        ("clipping_sets_steps",),
    ),
    PlantedRun(
        "a loss scale that nobody takes back, clipped",
        _retriever(
            _of(SGD, lr=0.1, momentum=0.9, weight_decay=1e-4),
            clip=1.0,
            before_backward=lambda loss, _: 2.0**16 * loss,
        ),
        ("clipping_sets_steps",),
    ),
    PlantedRun(
        "gradients clipped before they are unscaled",
        _retriever(
            _of(SGD, lr=0.5, momentum=0.9, weight_decay=5e-4),
            scaler=lambda: torch.amp.GradScaler("cpu", init_scale=2.0**16),
            after_backward=_clip_while_scaled,
        ),
        ("clipping_sets_steps", "far_start", "collapsing_norms", "slow_relaxation"),
    ),
    PlantedRun(
        "a zero row that is divided by its norm",
        _retriever(_of(AdamW, lr=1e-3), 300, loss=lambda: _divided_by_norms, prepare=_zero_row),
        ("nonfinite_gradients",),
    ),
    PlantedRun(
        "the root of a distance of nothing",
        _triplets(root_of_squares, _of(Adam, lr=1e-3), 300, is_normalized=False, draw=triplets(may_coincide=True)),
        ("nonfinite_gradients",),
    ),
    PlantedRun(
        "a table at a hundred times the rate of its model",
        _masked(_tokens_at(1.0, lr=1e-2, weight_decay=0.01)),
        ("overshooting_steps", "exploding_norms", "fast_decay"),
    ),
    PlantedRun(
        "decay on SigLIP's scale and bias",
        _retriever(_of(AdamW, lr=1e-2, weight_decay=0.2), loss=Signs),
        ("decayed_scalar",),
    ),
    PlantedRun(
        "an eps beside which gradients are small",
        _retriever(_of(AdamW, lr=1e-2, weight_decay=0.2, eps=0.1), 600),
        ("swamped_gradients", "off_the_law", "collapsing_norms"),
    ),
)
"""Runs with a fault in each."""


def _trained() -> Retriever:
    """A table that was trained before, some rows more often than others."""
    model, draw = Retriever(infonce(), norm=1.0), neighbours(steepness=1.0)
    optimizer, generator = SGD(model.parameters(), lr=1.0, momentum=0.9), torch.Generator().manual_seed(5)
    for _ in range(300):
        optimizer.zero_grad()
        model(draw(generator)).backward()
        optimizer.step()
    return model


FIELD_HEALTHY = (
    PlantedRun(
        "kg, ComplEx with N3 under Adagrad",
        _graph(
            _of(Adagrad, lr=0.1),
            task={"normalization": "dot", "temperature": 1.0, "regularizer": "n3", "regularization": 1e-3},
        ),
    ),
    PlantedRun(
        "kg, RotatE by distance under Adam",
        _graph(
            _of(Adam, lr=5e-3),
            task={"scorer": "rotate", "similarity": "distance", "temperature": 1.0, "normalization": "dot"},
        ),
    ),
    PlantedRun(
        "kg, DistMult of cosines under Lion",
        _graph(_of(Lion, lr=1e-3, weight_decay=1.0), 500, task={"scorer": "distmult"}, prepare=_unit_entities),
    ),
    PlantedRun(
        "recsys, matrix factorisation, cosine schedule",
        _recommendation(
            _of(AdamW, lr=5e-3, weight_decay=0.2),
            scheduler=_by(_cosine(400)),
            task={"encoder": "user", "normalization": "dot", "temperature": 1.0},
        ),
    ),
    PlantedRun(
        "recsys, a causal transformer under Adam",
        _recommendation(
            _of(Adam, lr=1e-3, betas=(0.9, 0.98)), 250, task={"encoder": "sequential", "normalization": "dot"}
        ),
    ),
    PlantedRun(
        "sts, a bag of words, warm-up and cosine",
        _run(
            "task.towers.document.table.weight",
            sentence_task,
            sentences,
            _of(AdamW, lr=2e-3, weight_decay=0.01),
            300,
            scheduler=_by(lambda step: min(1.0, (step + 1) / 30) * _cosine(300)(step)),
        ),
    ),
    PlantedRun(
        "faces, ArcFace under SGD with steps of the rate",
        _faces(
            _of(SGD, lr=0.2, momentum=0.9, weight_decay=1e-3),
            800,
            scheduler=lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [500, 700]),
        ),
    ),
    PlantedRun("faces, ArcFace under Muon", _faces(_muon)),
    PlantedRun(
        "faces, ArcFace under SGD, the rate cut at plateaus",
        _faces(_of(SGD, lr=0.2, momentum=0.9, weight_decay=1e-3), 800, **_plateau(2 * EPOCH, patience=2, factor=0.3)),
    ),
    PlantedRun("clicks, bags under Adagrad", _run("bags.weight", Clicks, clicks, _of(Adagrad, lr=0.05))),
    PlantedRun("clicks, bags under RMSprop", _run("bags.weight", Clicks, clicks, _of(RMSprop, lr=1e-3))),
    PlantedRun("triplets of distances under Adam", _triplets(euclidean, _of(Adam, lr=1e-3), is_normalized=False)),
    PlantedRun(
        "triplets on the sphere, stable rate and a last fall",
        _triplets(
            euclidean,
            _of(AdamW, lr=1e-2, weight_decay=0.1),
            800,
            is_normalized=True,
            scheduler=_by(_stable_then_down(800)),
            prepare=lambda model, _: rescale(model.items.weight, 1.0),
        ),
    ),
    PlantedRun("GloVe under Adagrad", _run("words.weight", Cooccurrence, cooccurrences, _of(Adagrad, lr=0.05))),
    PlantedRun(
        "SigLIP, scale and bias left out of decay",
        _retriever(_tables_apart(AdamW, {"weight_decay": 0.2}, lr=1e-2, weight_decay=0.0), loss=Signs),
    ),
    PlantedRun(
        "a queue of negatives, warm restarts",
        _retriever(
            _of(SGD, lr=1.0, momentum=0.9, weight_decay=3e-4),
            600,
            loss=lambda: infonce(queue_size=256),
            scheduler=lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 200, eta_min=0.1),
        ),
    ),
    PlantedRun(
        "float64, a cyclic rate",
        _retriever(
            _of(SGD, lr=0.3, momentum=0.9, weight_decay=5e-4),
            600,
            prepare=_to(torch.float64),
            scheduler=lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.3, 1.5, 100, cycle_momentum=False),
        ),
    ),
    PlantedRun(
        "bfloat16 weights under AdamW",
        _retriever(_of(AdamW, lr=1e-2, weight_decay=0.2), prepare=_to(torch.bfloat16), model={"norm": 0.8}),
    ),
    PlantedRun(
        "float16 autocast under a scaler, AdamW",
        _retriever(
            _of(AdamW, lr=1e-2, weight_decay=0.2),
            autocast=torch.float16,
            scaler=lambda: torch.amp.GradScaler("cpu", init_scale=2.0**10),
        ),
    ),
    PlantedRun("a cosine table under Adamax", _retriever(_of(Adamax, lr=5e-3, weight_decay=1e-4))),
    PlantedRun(
        "a masked language model, inverse root of the step",
        _masked(
            _of(AdamW, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01),
            clip=1.0,
            accumulation=2,
            scheduler=_by(_inverse_root(60)),
        ),
    ),
    PlantedRun("a masked language model under Adafactor", _masked(_of(Adafactor, lr=1e-2))),
    PlantedRun(
        "a masked language model, its table of places",
        _masked(_of(AdamW, lr=3e-3, weight_decay=0.1), target="places.weight", model={"places": 8}),
    ),
    PlantedRun(
        "a trained table, fine-tuned at a small rate",
        _run("table.weight", _trained, neighbours(steepness=1.0), _of(AdamW, lr=1e-4, weight_decay=0.01), 300),
    ),
)
"""Runs in which nothing is wrong."""
