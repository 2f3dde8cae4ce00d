"""Trains on several nodes, is killed, or raises, and leaves what came of it for the test that started it.

Run as ``torchrun ... nodes_worker.py PART FOLDER``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from memory_logger import MemoryLogger
from pytorch_lightning.callbacks import ModelCheckpoint
from small_models import DIM, ROWS, Batches, Lit, pair_batches, seeded
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments import Instrument, NormObserver
from lightning_normdyn.losses import InfoNCE

STEPS, SAVE_EVERY, FATAL_STEP = 40, 10, 17
TARGETS = ["table.weight", "encoder"]
OPTIONS = {"every_n_steps": 5, "window": 20}
RESUMED = "resumed"
WHOLE = "whole"


class Contrast(nn.Module):
    """Negatives are the documents of all ranks, so only an exchange makes it the loss of all pairs together."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.encoder = nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh(), nn.Linear(DIM, DIM))
        self.loss = InfoNCE(normalization="qnorm", temperature=0.5, learnable_temperature=True)

    def forward(self, pairs):
        return self.loss(self.encoder(self.table(pairs[:, 0])), self.encoder(self.table(pairs[:, 1])))


class KeepsLosses(Lit):
    """Keeps the loss of every step."""

    def __init__(self, net, configure):
        super().__init__(net, configure)
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


class FirstRankLines(MemoryLogger):
    """Writes what is logged on the first rank into a file, a line each time."""

    def __init__(self, file):
        super().__init__()
        self.write = line_writer(file)

    def log_metrics(self, metrics, step=None):
        metrics = {key: value for key, value in metrics.items() if key.startswith("normdyn")}
        if dist.get_rank() == 0 and metrics:
            self.write(metrics, step + 1)


class Accident(pl.Callback):
    """Something happens before an optimizer step."""

    def __init__(self, happen):
        self.happen = happen

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.happen(trainer.global_step + 1)


class Spoilt(Instrument):
    """One of the user's own, which fails on the second rank."""

    quantities = ("mean_square",)

    def measure(self, look):
        if dist.get_rank() == 1 and look.step >= 10:
            raise ZeroDivisionError("planted in a measurement")
        return {"mean_square": look.vectors.square().mean()}


class PlantedError(Exception):
    """The user's own code failed."""


def nothing_happens(_):
    pass


def line_writer(file):
    """Appends metrics to a file, at once; a float is read back bit for bit."""
    file.parent.mkdir(parents=True, exist_ok=True)

    def write(metrics, step):
        with file.open("a") as lines:
            lines.write(json.dumps([step, {key: float(value) for key, value in metrics.items()}]) + "\n")

    return write


def probe():
    """An odd number of inputs, so that the ranks have unequal shares."""
    return torch.randn(7, DIM, generator=torch.Generator().manual_seed(3))


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def shares(rank, size):
    return [batch.chunk(size)[rank] for batch in pair_batches(STEPS)]


def train_plain(folder, rank=0, size=1, *, happen=nothing_happens, checkpoint=None, **options):
    """Trains by a loop of one's own, on from the checkpoint if it is there; returns losses, weights and log."""
    net, losses, logged = seeded(Contrast), [], []
    model = net if size == 1 else DistributedDataParallel(net)
    optimizer = adamw(net)
    scheduler = cosine(optimizer)
    write = line_writer(folder / "lines")

    def log(metrics, step):
        write(metrics, step)
        logged.append((step, metrics))

    observer = NormObserver(
        net, optimizer, targets=TARGETS, probe=probe(), total_steps=STEPS, scheduler=scheduler, log=log,
        log_dir=folder, **OPTIONS | options,
    )  # fmt: skip
    parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler, "observer": observer}
    first = 0
    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        first = saved.pop("steps")
        for name, state in saved.items():
            parts[name].load_state_dict(state)
    with observer:
        for step, batch in enumerate(shares(rank, size)[first:], first + 1):
            optimizer.zero_grad()
            loss = model(batch)
            loss.backward()
            losses.append(loss.item())
            happen(step)
            observer.before_step()
            optimizer.step()
            scheduler.step()
            if checkpoint is not None and step % SAVE_EVERY == 0:
                save(checkpoint, {name: part.state_dict() for name, part in parts.items()} | {"steps": step}, rank)
    return {"losses": losses, "weights": net.state_dict(), "logged": logged}


def save(file, state, rank):
    """The first rank writes, under another name first, and nobody goes on before it is there."""
    if rank == 0:
        torch.save(state, file.with_suffix(".new"))
        file.with_suffix(".new").rename(file)
    dist.barrier()


def train_by_lightning(folder, rank=0, size=1, *, happen=nothing_happens, checkpoint=None, logger=None, **options):
    """The same by Lightning's Trainer."""
    callbacks = [
        NormDynamics(
            targets=[f"net.{target}" for target in TARGETS], probe={"net.encoder": probe()}, **OPTIONS | options
        ),
        Accident(happen),
    ]
    if checkpoint is not None:
        callbacks.append(
            ModelCheckpoint(checkpoint.parent, checkpoint.stem, every_n_train_steps=SAVE_EVERY, save_top_k=1)
        )
        callbacks[-1].FILE_EXTENSION, callbacks[-1]._enable_version_counter = checkpoint.suffix, False
    logger = MemoryLogger() if logger is None else logger
    nodes = {} if size == 1 else {"strategy": "ddp", "devices": int(os.environ["LOCAL_WORLD_SIZE"])}
    nodes["num_nodes"] = size // nodes.get("devices", 1)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=STEPS, logger=logger, log_every_n_steps=1, callbacks=callbacks,
        default_root_dir=folder, enable_checkpointing=checkpoint is not None, enable_progress_bar=False,
        enable_model_summary=False, **{"devices": 1} | nodes,
    )  # fmt: skip
    module = KeepsLosses(seeded(Contrast), configure)
    resumed = checkpoint if checkpoint is not None and checkpoint.exists() else None
    trainer.fit(module, Batches(shares(rank, size)), ckpt_path=resumed)
    logged = [(step + 1, {key.replace("/net.", "/"): value for key, value in metrics.items()})
              for step, metrics in logger.calls]  # fmt: skip
    return {"losses": module.losses, "weights": module.net.state_dict(), "logged": logged}


def configure(net):
    optimizer = adamw(net)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine(optimizer), "interval": "step"}}


LOOPS = {"plain": train_plain, "lightning": train_by_lightning}


def received_bytes():
    """Of each network device of this node."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return {line.split(":")[0].strip(): int(line.split(":")[1].split()[0]) for line in lines}


def two_nodes(folder):
    """Trains by either loop, with a folder of its own on each node."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    here = folder / f"node-{rank}"
    results = {name: train(here / name, rank, size) for name, train in LOOPS.items()}
    results |= {"received": received_bytes(), "namespace": str(Path("/proc/self/ns/net").readlink())}
    torch.save(results, folder / f"rank-{rank}.pt")


def restart(loop, folder):
    """Kills the second rank once, resumes when torchrun has started all again, and trains undisturbed besides."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])

    def kill(step):
        if (rank, attempt, step) == (1, 0, FATAL_STEP):
            os.kill(os.getpid(), signal.SIGKILL)

    results = {"attempt": attempt}
    for name, happen in ((RESUMED, kill), (WHOLE, nothing_happens)):
        here = folder / name
        options = {"checkpoint": here / "checkpoint.ckpt"}
        if loop == "lightning":
            options["logger"] = FirstRankLines(here / "lines")
        here.mkdir(exist_ok=True)
        results[name] = LOOPS[loop](here, rank, size, happen=happen, every_n_steps=1, **options)["weights"]
    torch.save(results, folder / f"rank-{rank}.pt")


def one_raises(loop, folder):
    """A measurement fails on the second rank, which costs a sentence; then the user's code does, which ends the run."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def fail(step):
        if rank == 1 and step == FATAL_STEP:
            (folder / "raised").write_text(str(time.time()))
            raise PlantedError("planted in the loop")

    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        results = LOOPS[loop](folder / f"node-{rank}", rank, size, every_n_steps=1, instruments=[Spoilt()])
    results["said"] = [str(warning.message) for warning in record]
    torch.save(results, folder / f"rank-{rank}.pt")
    LOOPS[loop](folder / f"failing-{rank}", rank, size, every_n_steps=1, happen=fail)


PARTS = {
    "two_nodes": two_nodes,
    **{f"restart_{loop}": lambda folder, loop=loop: restart(loop, folder) for loop in LOOPS},
    **{f"one_raises_{loop}": lambda folder, loop=loop: one_raises(loop, folder) for loop in LOOPS},
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ended_process_group():
        dist.init_process_group("gloo")
        PARTS[sys.argv[1]](Path(sys.argv[2]))
