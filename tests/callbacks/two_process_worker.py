"""Trains in two processes under DDP and leaves what was found for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node 2 two_process_worker.py FOLDER``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from memory_logger import MemoryLogger
from mining_worker import mining_results
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import BATCH, DIM, ROWS, Batches, Lit, NoisyModel, pair_batches, seeded
from torch import nn

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.losses import InfoNCE

STEPS = 24
LAW_ONE_STEPS = 200
CONTRAST_TARGETS = ["queries", "documents", "net.table.weight"]
NUMBERS_TARGETS = ["net.table.weight", "net.rare.weight", "net.encoder", "net.encoder.0.weight"]


class Separable(nn.Module):
    """Its loss is a mean over pairs, so that the mean over ranks is the loss of all pairs together."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.rare = nn.Embedding(ROWS, DIM, sparse=True)
        self.encoder = nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh(), nn.Linear(DIM, DIM))
        self.bystander = nn.Identity()

    def forward(self, pairs):
        queries = self.encoder(self.table(pairs[:, 0]))
        documents = self.encoder(self.table(pairs[:, 1]) + self.rare(pairs[:, 1]))
        return F.softplus(1 - (queries * documents).sum(1)).mean()


class Contrast(nn.Module):
    """Negatives are the documents of all ranks, so only an exchange makes it the loss of all pairs together."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.loss = InfoNCE(normalization="qnorm", temperature=0.5, learnable_temperature=True, symmetric=True)

    def forward(self, pairs):
        return self.loss(self.table(pairs[:, 0]), self.table(pairs[:, 1]))


class OnOneRank(Separable):
    """A part of it is called on the first rank alone."""

    def forward(self, pairs):
        loss = super().forward(pairs)
        rank = torch.distributed.get_rank()
        return loss + (0 if rank else self.bystander(self.table(pairs[:, 0])).square().mean())


def sgd(net):
    """Decays the encoder alone: sparse gradients allow no decay."""
    encoder = [parameter for name, parameter in net.named_parameters() if name.startswith("encoder")]
    others = [parameter for name, parameter in net.named_parameters() if not name.startswith("encoder")]
    groups = [{"params": others}, {"params": encoder, "weight_decay": 0.01}]
    return torch.optim.SGD([group for group in groups if group["params"]], lr=0.3)


def probe():
    """An odd number of inputs, so that the ranks have unequal shares."""
    return torch.randn(7, DIM, generator=torch.Generator().manual_seed(3))


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)


def share(batches, rank):
    """The half of every batch that a rank trains on: other ids than the other rank's."""
    half = BATCH // 2
    return [batch[rank * half : (rank + 1) * half] for batch in batches]


def strangers():
    """Batches whose halves name the same rows whenever all rows are looked at, and other rows in between."""
    batches, half = pair_batches(LAW_ONE_STEPS), BATCH // 2
    for step, batch in enumerate(batches, 1):
        if step == 1 or step % 10 == 0:
            batch[half:] = batch[:half]
    return batches


def train(folder, net, configure, batches, *callbacks, **options):
    """Trains under DDP; returns the module and what was logged."""
    torch.manual_seed(int(os.environ["RANK"]))
    logger = MemoryLogger()
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        max_epochs=1,
        logger=logger,
        log_every_n_steps=1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    module = Lit(net, configure)
    trainer.fit(module, Batches(share(batches, trainer.global_rank)))
    return module, trainer, logger


def law_one(folder, callbacks, **options):
    """Weights, buffers and random state after training."""
    targets = NormDynamics(targets=["net.table.weight", "net.encoder"], every_n_steps=3, window=40)
    module, _, _ = train(
        folder, seeded(NoisyModel), adamw, pair_batches(LAW_ONE_STEPS), *([targets] if callbacks else []), **options
    )
    return dict(module.state_dict()) | {"random state": torch.random.get_rng_state()}


def half_precision():
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**20))]}


def numbers(folder, net, targets, **options):
    """What is logged for every target, and the callback's own state."""
    callback = NormDynamics(targets=targets, every_n_steps=1, window=STEPS // 2, probe={"net.encoder": probe()})
    batches = pair_batches(STEPS * options.get("accumulate_grad_batches", 1))
    module, trainer, logger = train(folder, net, sgd, batches, callback, **options)
    return {
        "logged": {target: logger.of(target) for target in targets},
        "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
        "state": callback.state_dict(),
        "weights": dict(module.state_dict()),
    }


def seldom_verified(folder):
    """Every step counts for the moments, every tenth shows the whole table."""
    callback = NormDynamics(targets=["net.table.weight"], every_n_steps=10, window=LAW_ONE_STEPS)
    train(folder, seeded(Separable), sgd, strangers(), callback)


def main(folder):
    torch.set_num_threads(1)
    results = {
        "law one": {
            "32": [law_one(folder, callbacks) for callbacks in (False, True)],
            "16-mixed, accumulated": [
                law_one(folder, callbacks, accumulate_grad_batches=2, **half_precision()) for callbacks in (False, True)
            ],
        },
        "numbers": numbers(folder / "numbers", seeded(Separable), NUMBERS_TARGETS),
        "accumulated": numbers(folder / "accumulated", seeded(Separable), NUMBERS_TARGETS, accumulate_grad_batches=2),
        "contrast": numbers(folder / "contrast", seeded(Contrast), CONTRAST_TARGETS),
        "on one rank": numbers(folder / "one", seeded(OnOneRank), ["net.bystander", "net.table.weight"]),
    }
    seldom_verified(folder / "strangers")
    results["mining"] = mining_results(folder / "mining", strategy="ddp")
    torch.save(results, folder / f"rank-{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    with ended_process_group():
        main(Path(sys.argv[1]))
