"""Runs that were written before anybody knew how the rules judge them: the held-out group of the planted runs.

Models, losses, sizes, optimizers and mechanisms are others than those of ``planted_runs.py``: a classifier's
prototypes, matrix factorisation, a knowledge graph, skip-grams, two towers, a tied language model. The runs of this
package's own tasks are in ``task_runs.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from planted_runs import Lion, Optimizers, PlantedRun, Training
from torch import Tensor, nn
from torch.optim import lr_scheduler

from lightning_normdyn.losses import InfoNCE

CLASSES, FEATURES = 120, 20
USERS, ITEMS = 150, 240
ENTITIES, RELATIONS = 200, 8
WORDS = 300
VIEWS = 40
Draw = Callable[[torch.Generator], Any]


@dataclass
class World(Training):
    """A training whose batches are drawn by a function of its own.

    Attributes:
        draw: one batch, as the model takes it.
    """

    draw: Draw = field(kw_only=True)

    def _batches(self, seed: int) -> Iterator[list[Any]]:
        generator = torch.Generator().manual_seed(seed + 1_000)
        for _ in range(self.steps):
            yield [self.draw(generator) for _ in range(self.accumulation)]


@torch.no_grad()
def _rescale(weight: Tensor, norm: float | None) -> None:
    if norm is not None:
        weight.copy_(norm * F.normalize(weight, dim=-1))


class Prototypes(nn.Module):
    """A layer over features, and a softmax over cosines with the prototypes of the classes, ``head.weight``."""

    def __init__(
        self, dim: int = 24, *, norm: float | None = 1.0, scale: float = 12.0, eps: float = 0.0, dtype: Any = None
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, dim)
        self.head = nn.Linear(dim, CLASSES, bias=False)
        self.scale, self.eps, self.dtype = scale, eps, dtype
        _rescale(self.head.weight, norm)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = batch
        features, prototypes = self.layer(inputs), self.head.weight
        if self.dtype is not None:
            features, prototypes = features.to(self.dtype), prototypes.to(self.dtype)
        features, prototypes = (
            vectors / (vectors.square().sum(-1, keepdim=True).sqrt() + self.eps) for vectors in (features, prototypes)
        )
        return F.cross_entropy(self.scale * (features @ prototypes.T).float(), labels)


def mixture(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features ``[n, FEATURES]`` of a mixture of Gaussians, and whose they are."""
    means = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(CLASSES, (64,), generator=generator)
    return means[labels] + 0.8 * torch.randn(64, FEATURES, generator=generator), labels


class Factors(nn.Module):
    """Matrix factorisation under the pairwise ranking loss BPR, by dot products or cosines."""

    def __init__(self, dim: int = 24, *, cosine: float = 0.0, spread: float = 0.1, **options: Any) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(USERS, dim), nn.Embedding(ITEMS, dim, **options)
        self.cosine = cosine
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=spread)

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        users, positives, negatives = self.users(batch[0]), self.items(batch[1]), self.items(batch[2])
        if self.cosine:
            users, positives, negatives = (F.normalize(vectors, dim=-1) for vectors in (users, positives, negatives))
        margins = (users * (positives - negatives)).sum(-1)
        return -F.logsigmoid((self.cosine or 1.0) * margins).mean()


def interactions(cold: int = 0) -> Draw:
    """Users who like the items of their own dozen, the first ones more; the last ``cold`` items are never seen."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        users = torch.randint(USERS, (128,), generator=generator)
        seen = ITEMS - cold
        ranks = (torch.rand(128, generator=generator).square() * (seen // 12)).long()
        negatives = torch.randint(seen, (128,), generator=generator)
        return users, (ranks * 12 + users % 12) % seen, negatives

    return draw


class Triples(nn.Module):
    """TransE: head plus relation lies near the tail, by a margin over a corrupted tail."""

    def __init__(self, dim: int = 20, *, margin: float = 1.0, norm: float | None = 1.0, **options: Any) -> None:
        super().__init__()
        self.entities, self.relations = nn.Embedding(ENTITIES, dim, **options), nn.Embedding(RELATIONS, dim)
        self.margin = margin
        _rescale(self.entities.weight, norm)

    def forward(self, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        heads, relations, tails, corrupted = batch
        moved = self.entities(heads) + self.relations(relations)
        distances = [(moved - self.entities(ends)).norm(dim=-1) for ends in (tails, corrupted)]
        return F.relu(self.margin + distances[0] - distances[1]).mean()


def facts(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Heads, relations, tails, and tails at random."""
    heads = torch.randint(ENTITIES, (64,), generator=generator)
    relations = torch.randint(RELATIONS, (64,), generator=generator)
    tails = (heads + 10 * relations + torch.randint(5, (64,), generator=generator)) % ENTITIES
    return heads, relations, tails, torch.randint(ENTITIES, (64,), generator=generator)


class SkipGrams(nn.Module):
    """Skip-grams with negative sampling: a table of words and one of contexts, a logistic loss of dot products."""

    def __init__(self, dim: int = 32, *, spread: float = 0.2, sparse: bool = False, **options: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, dim, sparse=sparse, **options)
        self.contexts = nn.Embedding(WORDS, dim, sparse=sparse)
        for table in (self.words, self.contexts):
            nn.init.normal_(table.weight, std=spread)

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        words, contexts, noise = self.words(batch[0]), self.contexts(batch[1]), self.contexts(batch[2])
        positives = F.logsigmoid((words * contexts).sum(-1))
        negatives = F.logsigmoid(-(words[:, None] * noise).sum(-1)).sum(-1)
        return -(positives + negatives).mean()


def text(unseen: int = 0, reach: int = 5) -> Draw:
    """Words by Zipf's law beside one of ``reach`` neighbours and three others; the last ``unseen`` never occur."""
    frequency = torch.arange(1, WORDS - unseen + 1).double().pow(-0.8)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        words = torch.multinomial(frequency, 96, replacement=True, generator=generator)
        shifts = torch.randint(reach, (96,), generator=generator)
        noise = torch.multinomial(frequency, 288, replacement=True, generator=generator).view(96, 3)
        return words, (words // reach * reach + shifts) % len(frequency), noise

    return draw


class Towers(nn.Module):
    """An encoder of two views of one thing, and a loss of the pair."""

    def __init__(self, loss: Any, dim: int = 24, *, hidden: int = 48) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(VIEWS, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.loss = loss

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        queries, documents = self.encoder(batch[0]), self.encoder(batch[1])
        return self.loss(queries, documents)


def views(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two noisy views ``[n, VIEWS]`` of the same things."""
    things = torch.randn(64, VIEWS, generator=generator)
    return tuple(things + 0.3 * torch.randn(64, VIEWS, generator=generator) for _ in range(2))  # type: ignore[return-value]


class Tied(nn.Module):
    """A language model of one layer whose table is its output layer too."""

    def __init__(self, dim: int = 32, *, spread: float = 0.02, padding: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, dim, padding_idx=padding)
        self.layer = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        nn.init.normal_(self.table.weight, std=spread)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        vectors = self.table(batch[0])
        return F.cross_entropy((vectors + self.layer(vectors)) @ self.table.weight.T, batch[1])


def chain(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Words, and those that follow them."""
    words = torch.randint(1, WORDS, (128,), generator=generator)
    return words, (words * 5 + torch.randint(3, (128,), generator=generator)) % (WORDS - 1) + 1


class Cosines(nn.Module):
    """A table of words under the cosine InfoNCE of this package."""

    def __init__(self, dim: int = 48, *, norm: float | None = None, loss: Any = None) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, dim)
        self.loss = loss or InfoNCE(normalization="cosine", temperature=0.07, symmetric=True)
        _rescale(self.table.weight, norm)

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        loss: Tensor = self.loss(self.table(batch[0]), self.table(batch[1]))
        return loss


# Optimizers -----------------------------------------------------------------------------------------------------------


def _of(build: Callable[..., torch.optim.Optimizer], **options: Any) -> Optimizers:
    return lambda model: build(model.parameters(), **options)


def _groups(
    build: Callable[..., torch.optim.Optimizer], name: str, group: dict[str, Any], **options: Any
) -> Optimizers:
    """The parameters whose name holds a word have settings of their own."""

    def optimizers(model: nn.Module) -> torch.optim.Optimizer:
        named = list(model.named_parameters())
        special = [parameter for key, parameter in named if name in key]
        others = [parameter for key, parameter in named if name not in key]
        return build([{"params": special, **group}, {"params": others}], **options)

    return optimizers


adamw = torch.optim.AdamW
sgd = torch.optim.SGD


# Mechanisms of faults -------------------------------------------------------------------------------------------------


def _wanes(_: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    """A rate that a callback of the user cuts, out of every scheduler's sight."""
    if step > 40:
        optimizer.param_groups[0]["lr"] *= 0.93


def _as_half(model: nn.Module, _: int) -> None:
    """Gradients go through float16, as they do in a backward pass in half precision."""
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.copy_(parameter.grad.half().float())


@torch.no_grad()
def _unit_epochs(model: Any, _: Any, step: int) -> None:
    """Entities go back to the unit sphere after every epoch of 25 steps, as TransE's authors do it."""
    if step % 25 == 0:
        model.entities.weight.copy_(F.normalize(model.entities.weight, dim=-1))


@torch.no_grad()
def _unit_prototypes(model: Any, *_: Any) -> None:
    model.head.weight.div_(model.head.weight.norm(dim=1, keepdim=True))


def _one_bad_batch(model: Any, step: int) -> None:
    if step == 150:
        model.items.weight.grad[5] = math.inf


def _bad_loss(loss: Tensor, step: int) -> Tensor:
    return loss * math.nan if step in (60, 61, 62) else loss


def _mask_words(model: Any, _: Any) -> None:
    """The first half of the words is to stay as it was: its gradient is taken away, and nothing else."""
    mask = (torch.arange(WORDS) >= WORDS // 2).float()[:, None]
    model.table.weight.register_hook(lambda gradient: gradient * mask)


def _kill(model: Any, _: Any) -> None:
    with torch.no_grad():
        model.encoder[0].bias.fill_(-100.0)


def _loud_row(model: Any, _: int) -> None:
    """One word whose gradient is out of all proportion, as that of an end-of-text token in a broken mask."""
    model.words.weight.grad[0] *= 400.0


def _in_bfloat16(model: nn.Module, _: Any) -> None:
    model.to(torch.bfloat16)


def _two_owners(model: Any) -> list[torch.optim.Optimizer]:
    return [adamw(model.parameters(), lr=5e-3, weight_decay=0.2), sgd(model.items.parameters(), lr=0.05)]


def alignment(queries: Tensor, documents: Tensor) -> Tensor:
    """Positives alone, as in a siamese network that lacks its predictor."""
    return (F.normalize(queries, dim=-1) - F.normalize(documents, dim=-1)).square().sum(-1).mean()


def with_length(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosines, and a penalty of length that somebody forgot."""
    scores = F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T / 0.1
    lengths = queries.square().sum(-1).mean() + documents.square().sum(-1).mean()
    return F.cross_entropy(scores, torch.arange(len(scores))) + 0.05 * lengths


def cosines(queries: Tensor, documents: Tensor) -> Tensor:
    """InfoNCE of cosines in plain torch."""
    scores = F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T / 0.1
    return F.cross_entropy(scores, torch.arange(len(scores)))


def _on(*targets: str, **options: Any) -> dict[str, Any]:
    return {"targets": list(targets), **options}


def _probe() -> dict[str, Any]:
    inputs = torch.randn(32, VIEWS, generator=torch.Generator().manual_seed(3))
    return _on("encoder", probe={"encoder": inputs})


HEAD, ITEM_TABLE, ENTITY_TABLE, WORD_TABLE, TABLE = (
    _on(name) for name in ("head.weight", "items.weight", "entities.weight", "words.weight", "table.weight")
)


def _prototypes(
    optimizer: Optimizers, steps: int = 500, *, model: dict[str, Any] | None = None, **options: Any
) -> World:
    return World(lambda: Prototypes(**model or {}), optimizer, steps, draw=mixture, observer=HEAD, **options)


def _factors(
    optimizer: Optimizers, steps: int = 500, *, cold: int = 0, model: dict[str, Any] | None = None, **options: Any
) -> World:
    model_options = model or {}
    return World(
        lambda: Factors(**model_options), optimizer, steps, draw=interactions(cold), observer=ITEM_TABLE, **options
    )


def _triples(optimizer: Optimizers, steps: int = 500, *, model: dict[str, Any] | None = None, **options: Any) -> World:
    return World(lambda: Triples(**model or {}), optimizer, steps, draw=facts, observer=ENTITY_TABLE, **options)


def _skip_grams(
    optimizer: Optimizers, steps: int = 500, *, unseen: int = 0, model: dict[str, Any] | None = None, **options: Any
) -> World:
    return World(lambda: SkipGrams(**model or {}), optimizer, steps, draw=text(unseen), observer=WORD_TABLE, **options)


def _towers(loss: Callable[[], Any], optimizer: Optimizers, steps: int = 400, **options: Any) -> World:
    return World(lambda: Towers(loss()), optimizer, steps, draw=views, observer=_probe(), **options)


def _tied(optimizer: Optimizers, steps: int = 500, *, model: dict[str, Any] | None = None, **options: Any) -> World:
    return World(lambda: Tied(**model or {}), optimizer, steps, draw=chain, observer=TABLE, **options)


def _cosines(
    optimizer: Optimizers,
    steps: int = 500,
    *,
    draw: Draw | None = None,
    model: dict[str, Any] | None = None,
    **options: Any,
) -> World:
    return World(lambda: Cosines(**model or {}), optimizer, steps, draw=draw or text(), observer=TABLE, **options)


def _cosine_infonce(**options: Any) -> Callable[[], nn.Module]:
    return lambda: InfoNCE(normalization="cosine", temperature=0.1, **options)


HELD_OUT_FAULTS = (
    PlantedRun(
        "prototypes, Nesterov and one cycle, no decay",
        _prototypes(
            _of(sgd, lr=2.0, momentum=0.9, nesterov=True),
            scheduler=lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 2.0, 500),
        ),
        ("no_decay",),
    ),
    PlantedRun(
        "prototypes in the group without decay, Lion",
        _prototypes(_groups(Lion, "head", {"weight_decay": 0.0}, lr=3e-3, weight_decay=0.5)),
        ("no_decay",),
    ),
    PlantedRun(
        "a cosine table left out of the decay by the usual recipe",
        _cosines(_groups(adamw, "table", {"weight_decay": 0.0}, lr=2e-2, weight_decay=0.1), model={"norm": 1.0}),
        ("no_decay",),
    ),
    PlantedRun(
        "decay on a learnt logit scale, Lion",
        _towers(_cosine_infonce(learnable_temperature=True), _of(Lion, lr=1e-3, weight_decay=1.0)),
        ("decayed_scalar",),
    ),
    PlantedRun(
        "decay on a learnt logit scale, SGD",
        _towers(_cosine_infonce(learnable_temperature=True), _of(sgd, lr=0.3, momentum=0.9, weight_decay=1e-3)),
        ("decayed_scalar",),
    ),
    PlantedRun(
        "lr·λ far too small, Lion",
        _prototypes(_of(Lion, lr=1e-4, weight_decay=0.01), model={"norm": 5.0}),
        ("slow_relaxation",),
    ),
    PlantedRun(
        "torch's own start and the usual AdamW",
        _cosines(_of(adamw, lr=1e-3, weight_decay=0.01), model={"dim": 96}),
        ("slow_relaxation", "far_start"),
    ),
    PlantedRun("lr·λ far too large, Lion", _prototypes(_of(Lion, lr=2e-2, weight_decay=20.0)), ("fast_decay",)),
    PlantedRun(
        "lr·λ far too large, momentum 0.95 forgotten",
        _cosines(_of(sgd, lr=2.0, momentum=0.95, weight_decay=0.02), model={"norm": 1.0}),
        ("fast_decay",),
    ),
    PlantedRun(
        "a polynomial schedule of a tenth of the run",
        _prototypes(
            _of(adamw, lr=1e-2, weight_decay=0.2),
            1200,
            model={"norm": 4.0},
            scheduler=lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=120),
        ),
        ("freezing_schedule",),
    ),
    PlantedRun(
        "a linear schedule over in sixty steps, SGD",
        _cosines(
            _of(sgd, lr=1.0, momentum=0.9, weight_decay=3e-4),
            1200,
            model={"norm": 4.0},
            scheduler=lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 1e-4, total_iters=60),
        ),
        ("freezing_schedule",),
    ),
    PlantedRun(
        "a rate that a user's callback cuts",
        _prototypes(_of(adamw, lr=1e-2, weight_decay=0.2), 1000, model={"norm": 4.0}, after_step=_wanes),
        ("freezing_schedule", "slow_relaxation"),
    ),
    PlantedRun(
        "a fifth of the items is never seen",
        _factors(_of(adamw, lr=5e-3, weight_decay=0.3), cold=48),
        ("untouched_rows",),
    ),
    PlantedRun(
        "words that never occur, SparseAdam",
        _skip_grams(
            lambda model: torch.optim.SparseAdam(list(model.parameters()), lr=1e-2), unseen=90, model={"sparse": True}
        ),
        ("untouched_rows",),
    ),
    PlantedRun(
        "norms that overflow in float16",
        _prototypes(_of(adamw, lr=1e-2, weight_decay=0.0), 300, model={"norm": 400.0, "dtype": torch.float16}),
        ("half_precision", "nonfinite_gradients", "no_gradient"),
    ),
    PlantedRun(
        "prototypes normalised in bfloat16, a large scale",
        _prototypes(_of(sgd, lr=0.3, momentum=0.9, weight_decay=5e-4), model={"scale": 40.0, "dtype": torch.bfloat16}),
        ("half_precision",),
    ),
    PlantedRun(
        "a normalisation with eps 1",
        _prototypes(_of(adamw, lr=1e-2, weight_decay=0.2), model={"eps": 1.0}),
        ("radial_leak",),
    ),
    PlantedRun(
        "a forgotten penalty of length on an encoder",
        _towers(lambda: with_length, _of(adamw, lr=3e-3, weight_decay=0.1)),
        ("radial_leak",),
    ),
    PlantedRun(
        "exploding norms, Adagrad",
        World(
            lambda: Towers(lambda queries, documents: -(queries * documents).sum(-1).mean()),
            _of(torch.optim.Adagrad, lr=0.1),
            400,
            draw=views,
            observer=_probe(),
        ),
        ("exploding_norms",),
    ),
    PlantedRun(
        "exploding norms, a margin that is never met",
        _triples(_of(torch.optim.Adam, lr=0.1), model={"margin": 1e4}),
        ("exploding_norms",),
    ),
    PlantedRun(
        "clipping that sets the step, prototypes",
        _prototypes(_of(sgd, lr=1.0, momentum=0.9, weight_decay=2e-4), clip=1e-3),
        ("clipping_sets_steps",),
    ),
    PlantedRun(
        "clipping that sets the step, SGD on a tied model",
        _tied(_of(sgd, lr=1.0, weight_decay=1e-3), clip=0.02, model={"spread": 0.1}),
        ("clipping_sets_steps",),
    ),
    PlantedRun(
        "a loss scaler that grows too fast for float16",
        _prototypes(
            _of(sgd, lr=0.5, momentum=0.9, weight_decay=5e-4),
            scaler=lambda: torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2),
            after_backward=_as_half,
        ),
        ("unsettled_scaler",),
    ),
    PlantedRun(
        "an encoder that collapses",
        _towers(lambda: alignment, _of(adamw, lr=3e-3, weight_decay=0.05)),
        ("collapsed_directions",),
    ),
    PlantedRun(
        "a table that collapses, Adagrad",
        _cosines(
            _of(torch.optim.Adagrad, lr=0.1, weight_decay=1e-3),
            400,
            draw=text(reach=WORDS),
            model={"norm": 1.0, "loss": alignment},
        ),
        ("collapsed_directions",),
    ),
    PlantedRun(
        "init at 30 times the equilibrium, Lion",
        _prototypes(_of(Lion, lr=3e-3, weight_decay=0.5), model={"norm": 12.0}),
        ("far_start", "slow_relaxation"),
    ),
    PlantedRun(
        "init at 30 times the equilibrium, prototypes under AdamW",
        _prototypes(_of(adamw, lr=5e-3, weight_decay=0.4), model={"norm": 12.0}),
        ("far_start", "slow_relaxation"),
    ),
    PlantedRun(
        "a reset to the unit sphere after every epoch",
        _triples(_of(sgd, lr=20.0), after_step=_unit_epochs),
        ("reset_norms",),
    ),
    PlantedRun(
        "a table with max_norm", _triples(_of(adamw, lr=1e-2), model={"max_norm": 1.0, "norm": 3.0}), ("reset_norms",)
    ),
    PlantedRun(
        "prototypes reset after every step, AdamW",
        _prototypes(_of(adamw, lr=1e-2, weight_decay=0.1), after_step=_unit_prototypes),
        ("reset_norms",),
    ),
    PlantedRun(
        "one infinite gradient, AdamW",
        _factors(_of(adamw, lr=5e-3, weight_decay=0.3), after_backward=_one_bad_batch),
        ("nonfinite_gradients",),
    ),
    PlantedRun(
        "three losses that are not numbers",
        _prototypes(_of(sgd, lr=0.5, momentum=0.9, weight_decay=5e-4), before_backward=_bad_loss, clip=1.0),
        ("nonfinite_gradients",),
    ),
    PlantedRun(
        "half of a table masked and decayed",
        _cosines(_of(adamw, lr=1e-2, weight_decay=0.3), prepare=_mask_words, model={"norm": 1.0}),
        ("decay_alone", "untouched_rows", "dying_rows", "dead_rows"),
    ),
    PlantedRun(
        "a margin that is always met, with decay",
        _triples(_of(Lion, lr=1e-3, weight_decay=1.0), 300, model={"margin": -1e3}),
        ("decay_alone", "no_gradient"),
    ),
    PlantedRun(
        "an encoder whose units are dead",
        _towers(lambda: cosines, _of(adamw, lr=1e-3, weight_decay=0.1), 300, prepare=_kill),
        ("no_gradient", "collapsed_directions", "decay_alone"),
    ),
    PlantedRun(
        "warm restarts at a hundred times the rate",
        _prototypes(
            _of(sgd, lr=100.0, momentum=0.9, weight_decay=1e-6),
            scheduler=lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 100),
        ),
        ("overshooting_steps",),
    ),
    PlantedRun(
        "Adam with L2 and one cycle",
        _prototypes(
            _of(torch.optim.Adam, lr=1e-2, weight_decay=0.05),
            scheduler=lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1e-2, 500),
        ),
        ("coupled_decay",),
    ),
    PlantedRun(
        "NAdam whose decay is coupled", _factors(_of(torch.optim.NAdam, lr=5e-3, weight_decay=0.1)), ("coupled_decay",)
    ),
    PlantedRun("items with two optimizers", _factors(_two_owners), ("two_owners",)),
    PlantedRun(
        "a row that owns the clipping",
        _skip_grams(_of(sgd, lr=1.0, weight_decay=1e-4), clip=0.05, after_backward=_loud_row),
        ("clip_share", "clipping_sets_steps"),
    ),
    PlantedRun(
        "rare words die in bfloat16",
        _cosines(_of(adamw, lr=2e-2, weight_decay=4.0), 800, draw=text(20), model={"norm": 1.0}, prepare=_in_bfloat16),
        ("dying_rows", "dead_rows", "untouched_rows"),
    ),
    PlantedRun(
        "a learnt temperature at its bound",
        _towers(
            _cosine_infonce(learnable_temperature=True, max_scale=12.0),
            _groups(adamw, "loss", {"weight_decay": 0.0, "lr": 0.02}, lr=2e-3, weight_decay=0.1),
        ),
        ("temperature_at_bound",),
    ),
    PlantedRun(
        "a start near nothing, prototypes",
        _prototypes(_of(torch.optim.Adagrad, lr=0.1), model={"norm": 1e-4}),
        ("overshooting_steps", "far_start"),
    ),
)
"""Runs with a fault in each."""


def _to_a_tenth(total: int) -> Callable[[torch.optim.Optimizer], Any]:
    """A warm-up, then a cosine down to a tenth."""

    def factor(step: int) -> float:
        warmup = total // 20
        return min(1.0, (step + 1) / warmup) * (0.55 + 0.45 * math.cos(math.pi * max(0, step - warmup) / total))

    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, factor)


HELD_OUT_HEALTHY = (
    PlantedRun(
        "prototypes, AdamW, constant rate", _prototypes(_of(adamw, lr=1e-2, weight_decay=0.3), model={"norm": 0.6})
    ),
    PlantedRun(
        "prototypes, Nesterov, one cycle with its momentum",
        _prototypes(
            _of(sgd, lr=1.0, momentum=0.9, nesterov=True, weight_decay=5e-4),
            800,
            scheduler=lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, 800),
        ),
    ),
    PlantedRun(
        "prototypes, Lion, cosine to a tenth",
        _prototypes(_of(Lion, lr=3e-3, weight_decay=1.0), 800, model={"norm": 0.3}, scheduler=_to_a_tenth(800)),
    ),
    PlantedRun(
        "prototypes, AMSGrad, two batches a step",
        _prototypes(_of(adamw, lr=1e-2, weight_decay=0.3, amsgrad=True), 400, accumulation=2, model={"norm": 0.6}),
    ),
    PlantedRun("skip-grams, Adagrad", _skip_grams(_of(torch.optim.Adagrad, lr=0.1), 800)),
    PlantedRun("skip-grams, SGD, a little decay", _skip_grams(_of(sgd, lr=1.0, weight_decay=1e-3), 800)),
    PlantedRun("matrix factorisation, AdamW", _factors(_of(adamw, lr=5e-3, weight_decay=0.5), 800)),
    PlantedRun("matrix factorisation, Adam without decay", _factors(_of(torch.optim.Adam, lr=2e-3), 500)),
    PlantedRun(
        "two towers, AdamW, bfloat16 autocast",
        _towers(_cosine_infonce(), _of(adamw, lr=2e-3, weight_decay=0.1), autocast=torch.bfloat16),
    ),
    PlantedRun(
        "two towers, a learnt temperature without decay, cosine to a tenth",
        _towers(
            _cosine_infonce(learnable_temperature=True, symmetric=True),
            _groups(adamw, "loss", {"weight_decay": 0.0}, lr=2e-3, weight_decay=0.1),
            scheduler=_to_a_tenth(400),
        ),
    ),
    PlantedRun("TransE, AdamW", _triples(_of(adamw, lr=5e-3, weight_decay=0.3), 600)),
    PlantedRun(
        "a tied language model as they are trained",
        _tied(_of(adamw, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1), 800, clip=1.0, scheduler=_to_a_tenth(800)),
    ),
    PlantedRun(
        "a tied language model with padding, SGD",
        _tied(_of(sgd, lr=0.5, momentum=0.9, weight_decay=1e-4), 600, model={"spread": 0.1, "padding": 0}),
    ),
    PlantedRun(
        "a cosine table with a rate of its own",
        _cosines(_groups(adamw, "table", {"lr": 2e-2}, lr=1e-3, weight_decay=0.2), 600, model={"norm": 1.3}),
    ),
)
"""Runs in which nothing is wrong."""
