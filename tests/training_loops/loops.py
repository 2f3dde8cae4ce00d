"""One training by three loops, on the same batches: Lightning's, a plain one and that of transformers."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from memory_logger import MemoryLogger
from small_models import DIM, ROWS, Batches, contrast
from torch import nn

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.instruments import NormObserver

TABLE = "net.encoder.0.weight"
SETTINGS = {"targets": [TABLE, "net.encoder"], "every_n_steps": 5, "window": 20, "probe_items": 8}


class Contrasted(nn.Module):
    """An encoder that begins with a table of ids, on a cosine loss."""

    def __init__(self):
        super().__init__()
        layers = [nn.Embedding(ROWS, DIM), nn.Linear(DIM, DIM), nn.Tanh(), nn.Linear(DIM, DIM, bias=False)]
        self.encoder = nn.Sequential(*layers)

    @property
    def table(self):
        return self.encoder[0]

    def forward(self, pairs):
        return contrast(self.encoder(pairs[:, 0]), self.encoder(pairs[:, 1]), "cosine")


class Named(nn.Module):
    """Gives the network's parameters the names that they have in a LightningModule, and its loss as a mapping."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, pairs):
        return {"loss": self.net(pairs)}


def falling(optimizer, steps):
    """The linear schedule of transformers."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, (steps - step) / max(1, steps)))


def by_lightning(net, configure, batches, folder, *, accumulate=1, clip=None, steps=None, **options):
    """Trains with NormDynamics; what it logged, in order."""

    class Trained(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, batch_idx):
            return self.net(batch)

        def configure_optimizers(self):
            optimizer = configure(net)
            return [optimizer], [{"scheduler": falling(optimizer, steps), "interval": "step"}]

    logger = MemoryLogger()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=logger,
        log_every_n_steps=1,
        callbacks=[NormDynamics(**SETTINGS | options)],
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Trained(), Batches(batches))
    return [metrics for _, metrics in logger.calls if any(key.startswith("normdyn/") for key in metrics)]


def plainly(
    net, configure, batches, folder, *, accumulate=1, clip=None, steps=None, scaler=None, announce=False, **options
):
    """Trains in a plain loop under a NormObserver; what it logged, in order.

    Args:
        announce: whether the loop calls ``before_step``, and ahead of clipping.
    """
    optimizer = configure(net)
    scheduler, logged = falling(optimizer, steps), []
    scaling = scaler or torch.amp.GradScaler("cpu", enabled=False)
    observer = NormObserver(
        Named(net),
        optimizer,
        total_steps=steps,
        scheduler=scheduler,
        scaler=scaler,
        log=lambda metrics, _: logged.append(metrics),
        log_dir=folder,
        **SETTINGS | options,
    )
    with observer:
        for index, batch in enumerate(batches, 1):
            scaling.scale(net(batch) / accumulate).backward()
            if index % accumulate:
                continue
            scaling.unscale_(optimizer)
            if announce:
                observer.before_step()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            scaling.step(optimizer)
            scaling.update()
            scheduler.step()
            optimizer.zero_grad()
    return logged


def assert_alike(found, expected, rel=1e-6):
    """The same keys in the same order of calls, and values that differ by rounding at most."""
    assert [sorted(metrics) for metrics in found] == [sorted(metrics) for metrics in expected]
    for call, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        for key, value in theirs.items():
            assert abs(mine[key] - value) <= rel * abs(value) + 1e-12, (call, key, mine[key], value)
