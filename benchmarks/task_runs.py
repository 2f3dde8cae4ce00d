"""This package's own tasks, shortened, with a fault or without: the other half of the held-out group.

Each trains what ``normdyn fit --config NAME`` trains, on data made of the Python installation.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from planted_runs import Lion, Outcome, PlantedRun
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, lr_scheduler

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.cli.fit import WITHOUT_RUN, UnloggedCLI
from lightning_normdyn.instruments import Verdict
from lightning_normdyn.tasks.quiet import quiet_lightning

CONFIGS = Path(__file__).parents[1] / "configs"
_DATA: dict[str, LightningDataModule] = {}
"""Data of the families, read once for all runs."""


Optimizers = Callable[[nn.Module, int], Any]


class _Preparation(Callback):
    """Changes the model once it has its tables, which some tasks make when they know their data."""

    def __init__(self, prepare: Callable[[Any], None]) -> None:
        self.prepare = prepare

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.prepare(pl_module)


@dataclass
class TaskTraining:
    """A short run of a shipped configuration.

    Attributes:
        family: the configuration's name.
        words: of the command line, besides.
        steps: to make.
        optimizers: of the model and the number of steps, what ``configure_optimizers`` gives in place of the task's.
        prepare: is called with the model before the run.
    """

    family: str
    words: tuple[str, ...] = ()
    steps: int = 300
    optimizers: Optimizers | None = None
    prepare: Callable[[Any], None] | None = None

    def run(self, seed: int = 0) -> Outcome:
        """Trains, and what was said of it."""
        verdicts: list[Verdict] = []
        with quiet_lightning():
            cli = UnloggedCLI(["--config", str(CONFIGS / f"{self.family}.yaml"), *self._settings(seed)], run=False)
            data = _DATA.setdefault(self.family, cli.datamodule)
            (monitor,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, NormDynamics))
            monitor.options["on_alert"], monitor.save_history = verdicts.append, False
            if self.optimizers is not None:
                model, optimizers = cli.model, self.optimizers
                model.configure_optimizers = lambda: optimizers(model, self.steps)
            if self.prepare is not None:
                cli.trainer.callbacks.insert(0, _Preparation(self.prepare))
            cli.trainer.fit(cli.model, datamodule=data)
        outcome = Outcome(verdicts, monitor.verdicts)
        data.trainer = None
        vars(cli).clear()
        gc.collect()
        return outcome

    def _settings(self, seed: int) -> tuple[str, ...]:
        return (
            *WITHOUT_RUN,
            "--trainer.enable_progress_bar=false",
            "--trainer.limit_val_batches=0",
            "--trainer.num_sanity_val_steps=0",
            "--trainer.max_epochs=-1",
            f"--trainer.max_steps={self.steps}",
            f"--seed_everything={seed}",
            *self.words,
        )


def _optimizer(
    build: Callable[..., torch.optim.Optimizer],
    schedule: Callable[[torch.optim.Optimizer, int], Any] | None = None,
    **options: Any,
) -> Optimizers:
    """All parameters under one optimizer, as ``--optimizer`` has it; a schedule is stepped with every step."""

    def optimizers(model: nn.Module, steps: int) -> Any:
        optimizer = build(model.parameters(), **options)
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule(optimizer, steps), "interval": "step"}}

    return optimizers


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, optimizer.param_groups[0]["lr"], steps + 1)


def _cosine(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=optimizer.param_groups[0]["lr"] / 10)


def _by_epoch(optimizer: torch.optim.Optimizer, _: int) -> Any:
    return lr_scheduler.ExponentialLR(optimizer, 0.95)


BFLOAT16 = ("--trainer.precision=bf16-mixed",)


def _row_norms(name: str, norm: float = 1.0) -> Callable[[nn.Module], None]:
    """Lets the rows of a table start at a norm."""

    @torch.no_grad()
    def prepare(model: nn.Module) -> None:
        weight = model.get_parameter(name)
        weight.mul_(norm / weight.norm(dim=-1, keepdim=True))

    return prepare


def _normalization(name: str) -> tuple[str, ...]:
    return (f"--model.normalization={name}",)


TASK_FAULTS = (
    PlantedRun(
        "kg, cosine, no decay", TaskTraining("kg", ("--model.weight_decay=0", "--model.lr=0.03"), 400), ("no_decay",)
    ),
    PlantedRun(
        "recsys, gradient_clip_val of 1e-3 under SGD",
        TaskTraining(
            "recsys",
            ("--trainer.gradient_clip_val=1e-3", *_normalization("cosine")),
            200,
            _optimizer(SGD, lr=0.5, momentum=0.9, weight_decay=1e-4),
        ),
        ("clipping_sets_steps",),
    ),
    PlantedRun(
        "kg, Adam's decay taken for AdamW's",
        TaskTraining("kg", (), 300, _optimizer(Adam, lr=0.01, weight_decay=0.1)),
        ("coupled_decay",),
    ),
    PlantedRun(
        "tokens, a rate by epoch stepped by batch",
        TaskTraining("tokens", (), 1500, _optimizer(SGD, _by_epoch, lr=1.0, weight_decay=1e-3)),
        ("freezing_schedule",),
    ),
    PlantedRun(
        "tokens, torch's start and the usual AdamW",
        TaskTraining("tokens", (), 800, _optimizer(AdamW, lr=1e-3, weight_decay=0.01)),
        ("slow_relaxation", "far_start"),
    ),
    PlantedRun(
        "tokens, a learnt temperature that is decayed",
        TaskTraining(
            "tokens",
            ("--model.learnable_temperature=true",),
            500,
            _optimizer(AdamW, lr=1e-2, weight_decay=0.5),
        ),
        ("decayed_scalar",),
    ),
    PlantedRun(
        "tokens, a rate that is far too high",
        TaskTraining(
            "tokens", ("--model.lr=3000", "--model.weight_decay=1e-7"), 400, prepare=_row_norms("table.weight")
        ),
        ("overshooting_steps",),
    ),
)
"""The tasks with a fault in each."""

TASK_HEALTHY = (
    PlantedRun("retrieval, as shipped", TaskTraining("retrieval", steps=40)),
    PlantedRun("rag, as shipped", TaskTraining("rag", steps=40)),
    PlantedRun("sts, as shipped", TaskTraining("sts", steps=150)),
    PlantedRun("clip, as shipped", TaskTraining("clip", steps=100)),
    PlantedRun("fewshot, as shipped", TaskTraining("fewshot", steps=150)),
    PlantedRun("kg, as shipped", TaskTraining("kg", steps=400)),
    PlantedRun("recsys, as shipped", TaskTraining("recsys", steps=300)),
    PlantedRun(
        "tokens, as shipped but from norm 1", TaskTraining("tokens", steps=1500, prepare=_row_norms("table.weight"))
    ),
    PlantedRun(
        "retrieval, SGD, one cycle",
        TaskTraining("retrieval", (), 60, _optimizer(SGD, _one_cycle, lr=0.05, momentum=0.9, weight_decay=1e-4)),
    ),
    PlantedRun("retrieval, qnorm, bfloat16", TaskTraining("retrieval", (*_normalization("qnorm"), *BFLOAT16), 60)),
    PlantedRun(
        "rag, AdamW, one cycle, bfloat16",
        TaskTraining("rag", BFLOAT16, 60, _optimizer(AdamW, _one_cycle, lr=2e-3, weight_decay=0.01)),
    ),
    PlantedRun("sts, Lion", TaskTraining("sts", (), 150, _optimizer(Lion, lr=2e-4, weight_decay=0.1))),
    PlantedRun("sts, Adam, cosine", TaskTraining("sts", (), 150, _optimizer(Adam, _cosine, lr=2e-3))),
    PlantedRun("clip, dnorm, bfloat16", TaskTraining("clip", (*_normalization("dnorm"), *BFLOAT16), 80)),
    PlantedRun(
        "fewshot, SGD, cosine",
        TaskTraining("fewshot", (), 150, _optimizer(SGD, _cosine, lr=3e-3, momentum=0.9, weight_decay=5e-4)),
    ),
    PlantedRun(
        "kg, AdamW with decay enough",
        TaskTraining("kg", ("--model.weight_decay=0.5",), 600, prepare=_row_norms("scorer.entities.weight")),
    ),
    PlantedRun(
        "kg, Lion, constant, bfloat16",
        TaskTraining(
            "kg",
            BFLOAT16,
            600,
            _optimizer(Lion, lr=1e-3, weight_decay=2.0),
            _row_norms("scorer.entities.weight", 0.5),
        ),
    ),
    PlantedRun("kg, dot, Adagrad", TaskTraining("kg", _normalization("dot"), 400, _optimizer(Adagrad, lr=0.1))),
    PlantedRun("recsys, dot, Adam, no decay", TaskTraining("recsys", (), 300, _optimizer(Adam, lr=1e-3))),
    PlantedRun(
        "recsys, qnorm, AdamW, cosine",
        TaskTraining("recsys", _normalization("qnorm"), 400, _optimizer(AdamW, _cosine, lr=3e-3, weight_decay=0.3)),
    ),
    PlantedRun(
        "tokens, AdamW, one cycle",
        TaskTraining(
            "tokens",
            (),
            1500,
            _optimizer(AdamW, _one_cycle, lr=1e-2, weight_decay=0.2),
            _row_norms("table.weight"),
        ),
    ),
    PlantedRun(
        "tokens, Lion, constant, bfloat16",
        TaskTraining("tokens", BFLOAT16, 1200, _optimizer(Lion, lr=2e-3, weight_decay=1.0), _row_norms("table.weight")),
    ),
    PlantedRun(
        "tokens, SGD with momentum, cosine",
        TaskTraining(
            "tokens",
            (),
            1200,
            _optimizer(SGD, _cosine, lr=0.3, momentum=0.9, weight_decay=1e-3),
            _row_norms("table.weight"),
        ),
    ),
    PlantedRun(
        "tokens, learnt exponents",
        TaskTraining(
            "tokens",
            (*_normalization("learnable"), "--model.optimizer=adamw", "--model.weight_decay=0.2"),
            1000,
            prepare=_row_norms("table.weight"),
        ),
    ),
)
"""The tasks with nothing wrong."""
