"""Trains in two processes with parameters sharded by FSDP2 and leaves what was found for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node 2 sharded_worker.py FOLDER [gpu]``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from memory_logger import MemoryLogger
from pytorch_lightning.strategies import ModelParallelStrategy
from small_models import Batches, seeded
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.cli.process_group import ended_process_group

STEPS, INPUT, WIDTH, BATCH = 40, 16, 33, 8
ACCELERATOR = "gpu" if "gpu" in sys.argv[2:] else "cpu"
SHARDED = {
    "a unit": lambda net: [net.encoder[4], net.encoder, net.head],
    "inside a unit": lambda net: [net.encoder[4], net],
    "around units": lambda net: [net.encoder[0], net.encoder[2], net.encoder[4], net.head],
    "among units": lambda net: [net.encoder[0], net.encoder[4], net.encoder, net],
}
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.3),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-2),
}


class Pairs(nn.Module):
    """Its loss is a mean over pairs, so that the mean over ranks is the loss of all pairs together."""

    def __init__(self):
        super().__init__()
        body = [nn.Linear(INPUT, WIDTH), nn.Dropout(0.0), nn.LayerNorm(WIDTH), nn.Tanh()]
        self.encoder = nn.Sequential(*body, nn.Linear(WIDTH, WIDTH, bias=False))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, pairs):
        queries, documents = (self.head(self.encoder(view)) for view in pairs.unbind(1))
        return F.mse_loss((queries * documents).sum(1), 4 * pairs.prod(1).mean(1))


class Whole(pl.LightningModule):
    """Trains pairs."""

    def __init__(self, configure):
        super().__init__()
        self.net, self.configure = seeded(Pairs), configure

    def training_step(self, batch, batch_idx):
        return self.net(batch)

    def configure_optimizers(self):
        return self.configure(self.net.parameters())


class Sharded(Whole):
    """The same, sharded where ``units`` says."""

    def __init__(self, configure, units, *, dropout=0.0, **options):
        super().__init__(configure)
        self.units, self.options = units, options
        self.net.encoder[1].p = dropout

    def configure_model(self):
        for unit in self.units(self.net):
            fully_shard(unit, mesh=self.device_mesh["data_parallel"], **self.options)

    def validation_step(self, batch, batch_idx):
        return self.net(batch)


def batches(steps=STEPS):
    return list(torch.randn(steps, BATCH, 2, INPUT, generator=torch.Generator().manual_seed(1)))


def probe():
    """An odd number of inputs, so that the ranks have unequal shares."""
    return torch.randn(7, INPUT, generator=torch.Generator().manual_seed(3))


def dynamics():
    return NormDynamics(targets=["net.encoder"], every_n_steps=5, window=20, probe=probe())


def train(folder, module, *callbacks, ckpt_path=None, **options):
    """Trains on this rank's half of each batch, after a look at validation data; returns what was logged."""
    torch.manual_seed(5)
    logger = MemoryLogger()
    trainer = pl.Trainer(
        accelerator=ACCELERATOR,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        devices=2,
        logger=logger,
        log_every_n_steps=1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"max_epochs": 1, "num_sanity_val_steps": 1, "limit_val_batches": 1} | options,
    )
    share = [batch[trainer.global_rank :: 2] for batch in batches()]
    trainer.fit(module, Batches(share), Batches(share[:1]), ckpt_path=ckpt_path)
    return trainer, logger


def local(module):
    """This rank's shards."""
    return {
        name: p.detach().to_local() if hasattr(p, "to_local") else p.detach() for name, p in module.named_parameters()
    }


def whole(module):
    """All of every parameter."""
    return {name: p.detach().full_tensor() if hasattr(p, "full_tensor") else p for name, p in module.named_parameters()}


def numbers(folder, units, configure):
    module = Sharded(configure, units)
    _, logger = train(folder, module, dynamics())
    return {"logged": logger.of("net.encoder"), "weights": whole(module)}


def law_one(folder, units):
    """Shards and random state, with dropout, with and without the observer, and with validation in between."""
    left = []
    for callbacks in ([], [dynamics()]):
        module = Sharded(OPTIMIZERS["adamw"], units, dropout=0.3)
        train(folder, module, *callbacks, val_check_interval=7)
        left.append(local(module) | {"random state": torch.random.get_rng_state()})
    return left


def resumed(folder):
    """What is logged in a second epoch, in one go and from a checkpoint, where the probe comes before any step."""
    units, configure = SHARDED["among units"], OPTIMIZERS["adamw"]
    _, in_one_go = train(folder, Sharded(configure, units), dynamics(), max_epochs=2)
    trainer, _ = train(folder, Sharded(configure, units), dynamics())
    trainer.save_checkpoint(folder / "middle.ckpt")
    options = {"max_epochs": 2, "num_sanity_val_steps": 0, "ckpt_path": folder / "middle.ckpt"}
    _, resumed = train(folder, Sharded(configure, units), dynamics(), **options)
    return [
        {step: logged for step, logged in logger.of("net.encoder").items() if step > STEPS}
        for logger in (in_one_go, resumed)
    ]


class WithTable(Sharded):
    """Units behind a table that is in none."""

    def __init__(self, *, is_averaged):
        super().__init__(OPTIMIZERS["sgd"], lambda net: [net.encoder, net.head])
        self.table = seeded(lambda: nn.Embedding(ROWS, INPUT))
        if is_averaged:
            self.table.weight.register_post_accumulate_grad_hook(average)

    def training_step(self, batch, batch_idx):
        return self.net(self.table(ids_of(batch)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, weight_decay=1e-2)


ROWS = 12


def ids_of(batch):
    """Rows of the table that a batch stands for, ``[n, 2]``."""
    return (batch[..., 0].abs() * 1e3).long() % ROWS


def average(weight):
    """What docs/howto/fsdp.md advises for a table that FSDP does not hold."""
    if dist.is_initialized():
        dist.all_reduce(weight.grad)
        weight.grad /= dist.get_world_size()


def whole_tables(folder):
    """The table outside of all units, on this rank, and what was logged of it: left alone, and averaged by hand."""
    results = {}
    for is_averaged in (False, True):
        module = WithTable(is_averaged=is_averaged)
        callback = NormDynamics(targets=["table.weight"], every_n_steps=5, window=20)
        _, logger = train(folder / f"table {is_averaged}", module, callback)
        results[is_averaged] = {"table": module.table.weight.detach(), "logged": logger.of("table.weight")}
    return results


def head_dynamics():
    return NormDynamics(targets=["net.head.weight"], every_n_steps=5, window=20)


def tables(folder):
    """What is logged of a table that is sharded itself, by how the module is."""
    logged = {}
    for name in ("a unit", "among units"):
        _, logger = train(folder / f"head {name}", Sharded(OPTIMIZERS["adamw"], SHARDED[name]), head_dynamics())
        logged[name] = logger.of("net.head.weight")
    return logged


def refusals(folder):
    """The sentences that wrong targets and policies get."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    cases = {
        "policy": (Sharded(OPTIMIZERS["sgd"], SHARDED["among units"], mp_policy=policy), dynamics()),
    }
    return {name: _refusal(folder, *case) for name, case in cases.items()}


def _refusal(folder, module, callback):
    try:
        train(folder, module, callback)
    except ValueError as error:
        return str(error)
    return ""


def main(folder):
    torch.set_num_threads(1)
    results = {
        "numbers": {
            f"{name}, {optimizer}": numbers(folder / name / optimizer, units, configure)
            for name, units in SHARDED.items()
            for optimizer, configure in OPTIMIZERS.items()
        },
        "law one": {name: law_one(folder, units) for name, units in SHARDED.items()},
        "resumed": resumed(folder),
        "refusals": refusals(folder),
        "whole tables": whole_tables(folder),
        "tables": tables(folder),
    }
    torch.save(results, folder / f"rank-{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    with ended_process_group():
        main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # torch's caches of DTensor refer to the mesh until the interpreter ends, so that the threads of its groups live on
    # and would abort an ending that they run into. There is nothing left to do.
    os._exit(0)
