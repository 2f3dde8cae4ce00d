"""Small runs with a fault planted in each, and healthy ones, over optimizers, schedules, precisions and losses.

Every run trains a table of a few hundred rows for some hundred steps on a CPU and gives all verdicts that were passed
on. The table's items fall into clusters; a batch pairs items of a cluster, so gradients go on for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_normdyn import equilibrium_rule
from lightning_normdyn.instruments import NormObserver, Verdict
from lightning_normdyn.levers import equilibrium_init
from lightning_normdyn.losses import InfoNCE, SigmoidContrastive

ROWS, DIM, BATCH = 160, 16, 40
STEPS = 600
Loss = Callable[[Tensor, Tensor], Tensor]
Optimizers = Callable[[nn.Module], Any]


class Lion(torch.optim.Optimizer):
    """Evolved sign momentum (Chen et al. 2023, arXiv 2302.06675), which torch does not have."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every number by lr, along the sign of the interpolated momentum."""
        if closure is not None:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            first_beta, second_beta = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                direction = torch.lerp(parameter.grad, momentum, first_beta).sign()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * direction)
                momentum.lerp_(parameter.grad, 1 - second_beta)


class Pairs(nn.Module):
    """A table, or a table and layers above it, and a loss of pairs.

    Args:
        loss: of queries and documents ``[n, d]``.
        scale: norm at which rows start.
        layers: between the table and the loss.
        sparse: whether the table's gradient is.
    """

    def __init__(
        self, loss: Loss | nn.Module, *, scale: float = 1.0, layers: nn.Module | None = None, sparse: bool = False
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM, sparse=sparse)
        self.layers = layers if layers is not None else nn.Identity()
        self.loss = loss
        with torch.no_grad():
            self.table.weight.copy_(scale * F.normalize(self.table.weight, dim=-1))

    def forward(self, pairs: Tensor) -> Tensor:
        """The loss of pairs of rows, ``[n, 2]``."""
        vectors = self.layers(self.table(pairs))
        loss: Tensor = self.loss(vectors[:, 0], vectors[:, 1])
        return loss


class Outcome(NamedTuple):
    """What was said of a run.

    Attributes:
        alerts: every verdict that was passed on.
        verdicts: those that stood at the end.
    """

    alerts: list[Verdict]
    verdicts: list[Verdict]


@dataclass
class Training:
    """How one run trains.

    Attributes:
        model: makes the model.
        optimizer: makes its optimizer, or several.
        steps: to make.
        scheduler: makes the schedule of the first optimizer.
        zipf: how steeply frequencies fall with the row's number.
        unmet: share of the rows that the data never names.
        clusters: into which the items fall.
        clip: the norm to clip at.
        scaler: the loss scaler.
        autocast: number format of the forward pass.
        accumulation: batches a step.
        prepare: is called with model and optimizer before the run.
        before_backward: turns the loss of a step into another.
        after_backward: is called with model and step when gradients are there.
        after_step: is called with model and optimizer and step.
        observer: further options of the observer.
    """

    model: Callable[[], Pairs]
    optimizer: Optimizers
    steps: int = STEPS
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    zipf: float = 0.0
    unmet: float = 0.0
    clusters: int = 20
    clip: float | None = None
    scaler: Callable[[], Any] | None = None
    autocast: torch.dtype | None = None
    accumulation: int = 1
    prepare: Callable[[Pairs, Any], None] | None = None
    before_backward: Callable[[Tensor, int], Tensor] | None = None
    after_backward: Callable[[Pairs, int], None] | None = None
    after_step: Callable[[Pairs, Any, int], None] | None = None
    observer: dict[str, Any] = field(default_factory=dict)

    def run(self, seed: int = 0) -> Outcome:
        """Trains, and what was said of it."""
        torch.manual_seed(seed)
        model = self.model()
        optimizers = self.optimizer(model)
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        scheduler = self.scheduler(optimizers[0]) if self.scheduler else None
        scaler = self.scaler() if self.scaler else None
        if self.prepare is not None:
            self.prepare(model, optimizers[0])
        verdicts: list[Verdict] = []
        options = {"targets": ["table.weight"], "every_n_steps": 20} | self.observer
        observer = NormObserver(
            model,
            optimizers,
            total_steps=self.steps,
            scheduler=scheduler,
            scaler=scaler,
            on_alert=verdicts.append,
            **options,
        )
        with observer:
            for step, batches in enumerate(self._batches(seed), start=1):
                self._step(model, optimizers, scheduler, scaler, observer, batches, step)
        return Outcome(verdicts, observer.verdicts)

    def _step(
        self,
        model: Pairs,
        optimizers: list[torch.optim.Optimizer],
        scheduler: Any,
        scaler: Any,
        observer: NormObserver,
        batches: list[Tensor],
        step: int,
    ) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        for pairs in batches:
            with torch.autocast("cpu", self.autocast or torch.bfloat16, enabled=self.autocast is not None):
                loss = model(pairs) / len(batches)
            loss = loss if self.before_backward is None else self.before_backward(loss, step)
            (loss if scaler is None else scaler.scale(loss)).backward()
        if self.after_backward is not None:
            self.after_backward(model, step)
        if scaler is not None:
            scaler.unscale_(optimizers[0])
            observer.before_step(optimizers[0])
        if self.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        for optimizer in optimizers:
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        if scheduler is not None:
            scheduler.step()
        if self.after_step is not None:
            self.after_step(model, optimizers[0], step)

    def _batches(self, seed: int) -> Iterator[list[Tensor]]:
        """Batches of pairs ``[n, 2]`` of items of a cluster."""
        generator = torch.Generator().manual_seed(seed)
        met_rows = round(ROWS * (1 - self.unmet))
        frequency = torch.arange(1, met_rows + 1).double().pow(-self.zipf)
        for _ in range(self.steps):
            yield [self._pairs(frequency, generator) for _ in range(self.accumulation)]

    def _pairs(self, frequency: Tensor, generator: torch.Generator) -> Tensor:
        queries = torch.multinomial(frequency, BATCH, replacement=True, generator=generator)
        shifts = torch.randint(len(frequency) // self.clusters, queries.shape, generator=generator)
        documents = (queries + shifts * self.clusters) % len(frequency)
        return torch.stack((queries, documents), dim=1)


def cosine_loss(temperature: float = 0.1) -> Loss:
    """InfoNCE of cosines in plain torch."""

    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        scores = F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T / temperature
        return F.cross_entropy(scores, torch.arange(len(scores)))

    return loss


def cosine_table(scale: float = 1.0) -> Callable[[], Pairs]:
    """Makes a table under the cosine InfoNCE of this package."""
    return lambda: Pairs(InfoNCE(normalization="cosine", temperature=0.1), scale=scale)


def sgd(lr: float = 1.0, weight_decay: float = 2e-4, momentum: float = 0.9, **options: Any) -> Optimizers:
    """SGD whose rows relax in 125 steps, unless said otherwise."""
    return lambda model: torch.optim.SGD(
        model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, **options
    )


def adamw(lr: float = 1e-2, weight_decay: float = 0.2, **options: Any) -> Optimizers:
    """AdamW whose rows relax in 250 steps, unless said otherwise."""
    return lambda model: torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, **options)


class PlantedRun(NamedTuple):
    """A run with a fault, or a healthy one.

    Attributes:
        name: what was planted, or what is tried.
        training: the run.
        rules: that find the fault, any of them; none for a healthy run.
    """

    name: str
    training: Training
    rules: tuple[str, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Whether nothing was planted."""
        return not self.rules


class Half(nn.Module):
    """Cosines of vectors that are normalised in bfloat16."""

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        """The loss of queries and documents ``[n, d]``."""
        queries, documents = (
            vectors / vectors.norm(dim=-1, keepdim=True) for vectors in (queries.bfloat16(), documents.bfloat16())
        )
        return F.cross_entropy((queries @ documents.T).float() / 0.1, torch.arange(len(queries)))


class Leaky(InfoNCE):
    """Cosine InfoNCE with a term that rewards length."""

    def forward(self, queries: Tensor, documents: Tensor, **options: Any) -> Tensor:
        """The loss of queries and documents ``[n, d]``."""
        return (
            super().forward(queries, documents, **options)
            - 0.02 * (queries.norm(dim=-1) + documents.norm(dim=-1)).mean()
        )


class LearntScale(nn.Module):
    """Cosines times a learnt scale."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        """The loss of queries and documents ``[n, d]``."""
        scores = self.logit_scale * (F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T)
        return F.cross_entropy(scores, torch.arange(len(scores)))


def alignment(queries: Tensor, documents: Tensor) -> Tensor:
    """Pulls pairs together and nothing apart."""
    return -F.cosine_similarity(queries, documents).mean()


def unbounded(queries: Tensor, documents: Tensor) -> Tensor:
    """A loss that longer rows lower without end."""
    return -(queries * documents).sum(-1).mean()


def dead(queries: Tensor, documents: Tensor) -> Tensor:
    """A loss that a saturated function cut off."""
    return F.relu((queries * documents).sum(-1) - 1e6).mean()


def _zero_gradient(model: Pairs, _: int) -> None:
    assert model.table.weight.grad is not None
    model.table.weight.grad.zero_()


@torch.no_grad()
def _reset(model: Pairs, *_: Any) -> None:
    model.table.weight.copy_(F.normalize(model.table.weight, dim=-1))


def _burst(model: Pairs, step: int) -> None:
    assert model.table.weight.grad is not None
    if step % 10 == 0:
        model.table.weight.grad[3] = math.nan


@torch.no_grad()
def _heal(model: Pairs, optimizer: torch.optim.Optimizer, _: int) -> None:
    """Takes the NaN of a burst out of weights and momentum, so that the rest of the run goes on."""
    model.table.weight.nan_to_num_(0.1)
    for value in (value for state in optimizer.state.values() for value in state.values()):
        if isinstance(value, Tensor):
            value.nan_to_num_(0.0)


def _two_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [sgd(lr=0.5)(model), sgd(lr=0.5)(model)]


def _spike(_: Pairs, optimizer: torch.optim.Optimizer, step: int) -> None:
    if step == 300:
        optimizer.param_groups[0]["lr"] *= 3000


def _multiplier(change: Callable[[int], float]) -> Callable[[torch.optim.Optimizer], Any]:
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, change)


def _plain(scale: float = 1.0, loss: Loss | None = None) -> Callable[[], Pairs]:
    return lambda: Pairs(loss or cosine_loss(), scale=scale)


FAULTS = (
    PlantedRun("no weight decay, SGD", Training(cosine_table(), sgd(weight_decay=0.0)), ("no_decay",)),
    PlantedRun("no weight decay, AdamW", Training(cosine_table(), adamw(lr=0.03, weight_decay=0.0)), ("no_decay",)),
    PlantedRun("decay on a learnt temperature", Training(lambda: Pairs(LearntScale()), adamw()), ("decayed_scalar",)),
    PlantedRun(
        "lr·λ far too small, SGD", Training(cosine_table(14.0), sgd(lr=0.1, weight_decay=1e-5)), ("slow_relaxation",)
    ),
    PlantedRun(
        "lr·λ far too small, AdamW",
        Training(cosine_table(4.0), adamw(lr=1e-3, weight_decay=0.01)),
        ("slow_relaxation",),
    ),
    PlantedRun("lr·λ far too large, SGD", Training(cosine_table(), sgd(weight_decay=0.01)), ("fast_decay",)),
    PlantedRun("lr·λ far too large, AdamW", Training(cosine_table(0.1), adamw(weight_decay=20.0)), ("fast_decay",)),
    PlantedRun(
        "a schedule that freezes",
        Training(cosine_table(4.0), adamw(), 2000, _multiplier(lambda step: max(1e-3, 0.97**step))),
        ("freezing_schedule",),
    ),
    PlantedRun(
        "a schedule by epoch stepped by batch",
        Training(
            cosine_table(3.5), sgd(), 2000, lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        ),
        ("freezing_schedule",),
    ),
    PlantedRun(
        "a warm-up that never ends",
        Training(cosine_table(3.5), adamw(), STEPS, _multiplier(lambda step: step / 1e6)),
        ("slow_relaxation", "freezing_schedule"),
    ),
    PlantedRun("rows never met, 3%", Training(cosine_table(), adamw(), unmet=0.03), ("untouched_rows",)),
    PlantedRun("rows never met, half", Training(cosine_table(), sgd(), unmet=0.5), ("untouched_rows",)),
    PlantedRun("a loss that normalises in half precision", Training(lambda: Pairs(Half()), sgd()), ("half_precision",)),
    PlantedRun(
        "a radial leak",
        Training(lambda: Pairs(Leaky(normalization="cosine", temperature=0.1)), sgd()),
        ("radial_leak",),
    ),
    PlantedRun(
        "exploding norms, SGD", Training(_plain(loss=unbounded), sgd(lr=0.3, weight_decay=0.0)), ("exploding_norms",)
    ),
    PlantedRun(
        "exploding norms, AdamW", Training(_plain(0.3, unbounded), adamw(weight_decay=0.0)), ("exploding_norms",)
    ),
    PlantedRun("clipping that sets the step", Training(cosine_table(), sgd(), clip=0.01), ("clipping_sets_steps",)),
    PlantedRun(
        "a scaler that never settles",
        Training(
            cosine_table(),
            sgd(),
            scaler=lambda: torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=4),
            before_backward=lambda loss, step: loss * (math.inf if step % 6 == 0 else 1.0),
        ),
        ("unsettled_scaler",),
    ),
    PlantedRun(
        "collapsed directions", Training(_plain(loss=alignment), adamw(), clusters=1), ("collapsed_directions",)
    ),
    PlantedRun("init at 30 times the equilibrium, AdamW", Training(cosine_table(18.0), adamw()), ("far_start",)),
    PlantedRun(
        "init at 30 times the equilibrium, SGD",
        Training(cosine_table(40.0), sgd(), 1500),
        ("far_start", "slow_relaxation"),
    ),
    PlantedRun("a reset to the unit sphere", Training(_plain(), sgd(), after_step=_reset), ("reset_norms",)),
    PlantedRun(
        "a reset to the unit sphere, no decay",
        Training(_plain(), adamw(lr=0.03, weight_decay=0.0), after_step=_reset),
        ("reset_norms",),
    ),
    PlantedRun(
        "NaN bursts",
        Training(cosine_table(), sgd(), after_backward=_burst, after_step=_heal),
        ("nonfinite_gradients",),
    ),
    PlantedRun(
        "a frozen table that is decayed",
        Training(cosine_table(), adamw(), after_backward=_zero_gradient),
        ("decay_alone",),
    ),
    PlantedRun("a dead loss", Training(_plain(loss=dead), sgd(weight_decay=0.0)), ("no_gradient",)),
    PlantedRun("a dead loss with decay", Training(_plain(loss=dead), adamw()), ("decay_alone", "no_gradient")),
    PlantedRun(
        "huge lr without momentum",
        Training(cosine_table(), sgd(lr=300.0, momentum=0.0, weight_decay=1e-6)),
        ("overshooting_steps",),
    ),
    PlantedRun("a tiny init, SGD", Training(cosine_table(1e-3), sgd()), ("overshooting_steps",)),
    PlantedRun("a tiny init, AdamW", Training(cosine_table(1e-3), adamw()), ("overshooting_steps",)),
    PlantedRun(
        "a learning rate that leaps",
        Training(cosine_table(), sgd(), after_step=_spike),
        ("overshooting_steps", "fast_decay"),
    ),
    PlantedRun(
        "Adam's decay taken for AdamW's",
        Training(cosine_table(), lambda model: torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1)),
        ("coupled_decay",),
    ),
    PlantedRun("a table with two optimizers", Training(cosine_table(), _two_optimizers), ("two_owners",)),
)
"""Runs with a fault in each."""


def _settled(model: Pairs, optimizer: torch.optim.Optimizer) -> None:
    equilibrium_init(model.table.weight, equilibrium_rule(optimizer), second_moment=0.002)


def _split_groups(model: nn.Module) -> torch.optim.Optimizer:
    tables = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    numbers = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return torch.optim.AdamW(
        [{"params": tables, "weight_decay": 0.2}, {"params": numbers, "weight_decay": 0.0}], lr=1e-2
    )


def _in_bfloat16(model: Pairs, _: Any) -> None:
    model.to(torch.bfloat16)


def _layers() -> nn.Module:
    return nn.Sequential(nn.Linear(DIM, 32, bias=False), nn.ReLU(), nn.Linear(32, DIM, bias=False))


def _normalized(normalization: Any, **options: Any) -> Callable[[], Pairs]:
    return lambda: Pairs(InfoNCE(normalization=normalization, temperature=0.3, **options))


HEALTHY = (
    PlantedRun("SGD with momentum", Training(cosine_table(1.0), sgd())),
    PlantedRun("SGD without momentum", Training(cosine_table(1.5), sgd(lr=10.0, momentum=0.0))),
    PlantedRun("SGD with Nesterov's momentum", Training(cosine_table(1.0), sgd(nesterov=True))),
    PlantedRun("SGD from its equilibrium", Training(cosine_table(), sgd(), prepare=_settled)),
    PlantedRun(
        "SGD, cosine schedule",
        Training(
            cosine_table(1.0),
            sgd(),
            scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
        ),
    ),
    PlantedRun(
        "SGD, steps of the rate",
        Training(
            cosine_table(1.0),
            sgd(),
            scheduler=lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [300, 450]),
        ),
    ),
    PlantedRun(
        "SGD, one cycle",
        Training(
            cosine_table(1.0),
            sgd(),
            scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 1.0, STEPS, cycle_momentum=False
            ),
        ),
    ),
    PlantedRun("SGD, frequencies by Zipf", Training(cosine_table(1.0), sgd(), 1000, zipf=1.0)),
    PlantedRun("SGD, four batches a step", Training(cosine_table(1.0), sgd(), accumulation=4)),
    PlantedRun("SGD, clipped now and then", Training(cosine_table(1.0), sgd(), clip=0.5)),
    PlantedRun("AdamW", Training(cosine_table(), adamw())),
    PlantedRun("AdamW from its equilibrium", Training(cosine_table(), adamw(), prepare=_settled)),
    PlantedRun(
        "AdamW, cosine schedule",
        Training(
            cosine_table(), adamw(), 1500, lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
        ),
    ),
    PlantedRun(
        "AdamW, warm-up", Training(cosine_table(), adamw(), scheduler=_multiplier(lambda step: min(1.0, step / 100)))
    ),
    PlantedRun(
        "AdamW, warm-up and linear decay",
        Training(cosine_table(), adamw(), 1500, _multiplier(lambda step: min(step / 150, (1500 - step) / 1350))),
    ),
    PlantedRun("AdamW, frequencies by Zipf", Training(cosine_table(0.5), adamw(), 1000, zipf=1.0)),
    PlantedRun(
        "NAdam, decoupled",
        Training(
            cosine_table(),
            lambda model: torch.optim.NAdam(model.parameters(), lr=1e-2, weight_decay=0.2, decoupled_weight_decay=True),
        ),
    ),
    PlantedRun(
        "RAdam, decoupled",
        Training(
            cosine_table(),
            lambda model: torch.optim.RAdam(model.parameters(), lr=1e-2, weight_decay=0.2, decoupled_weight_decay=True),
        ),
    ),
    PlantedRun(
        "Adam with a little L2",
        Training(cosine_table(), lambda model: torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-4)),
    ),
    PlantedRun(
        "RMSprop with a little L2",
        Training(cosine_table(), lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-2, weight_decay=1e-4)),
    ),
    PlantedRun("Lion", Training(cosine_table(), lambda model: Lion(model.parameters(), lr=3e-3, weight_decay=0.5))),
    PlantedRun("bfloat16 autocast", Training(cosine_table(1.0), sgd(), autocast=torch.bfloat16)),
    PlantedRun("bfloat16 weights", Training(cosine_table(1.0), sgd(), prepare=_in_bfloat16)),
    PlantedRun(
        "a loss scaler that settles",
        Training(cosine_table(1.0), sgd(), scaler=lambda: torch.amp.GradScaler("cpu", init_scale=2.0**16)),
    ),
    PlantedRun("dot product", Training(_normalized("dot"), adamw())),
    PlantedRun("dot product, SGD", Training(_normalized("dot"), sgd(lr=0.3, weight_decay=1e-3))),
    PlantedRun("QNorm", Training(_normalized("qnorm"), adamw())),
    PlantedRun("DNorm", Training(_normalized("dnorm"), adamw())),
    PlantedRun("learnt exponents", Training(_normalized("learnable"), _split_groups)),
    PlantedRun("learnt temperature", Training(_normalized("cosine", learnable_temperature=True), _split_groups)),
    PlantedRun(
        "sigmoid loss", Training(lambda: Pairs(SigmoidContrastive(normalization="cosine"), scale=1.0), _split_groups)
    ),
    PlantedRun("two views, both directions", Training(_normalized("cosine", symmetric=True), adamw())),
    PlantedRun(
        "a table below an encoder",
        Training(lambda: Pairs(InfoNCE(normalization="cosine", temperature=0.1), layers=_layers()), adamw()),
    ),
    PlantedRun(
        "an encoder above a table",
        Training(
            lambda: Pairs(InfoNCE(normalization="cosine", temperature=0.1), layers=_layers()),
            adamw(),
            observer={"targets": ["table.weight", "layers"], "probe": {"layers": torch.randn(32, DIM)}},
        ),
    ),
    PlantedRun(
        "a sparse table without decay",
        Training(lambda: Pairs(cosine_loss(), scale=4.0, sparse=True), sgd(lr=0.5, weight_decay=0.0, momentum=0.0)),
    ),
)
"""Runs in which nothing is wrong."""
