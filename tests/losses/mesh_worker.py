"""Computes losses on meshes of four ranks and leaves what came out for the test that started it.

Run as ``python -m torch.distributed.run --nproc-per-node 4 mesh_worker.py FOLDER``.
"""

from __future__ import annotations

import copy
import os
import pickle
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import ModelParallelStrategy
from ranks_worker import CASES, D, Towers, everything, run, share
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.utils.data import DataLoader

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.losses import ContrastiveMixin, FullSoftmax, InfoNCE
from lightning_normdyn.metrics import CoefficientOfVariation

STEPS, BATCH = 10, 8


class Retriever(ContrastiveMixin, pl.LightningModule):
    """Two encoders and a loss that learns a temperature and exponents, sharded as ``layout`` says."""

    def __init__(self, layout="", *, chunk_size=None, **contrastive):
        torch.manual_seed(3)
        options = {"normalization": "learnable", "temperature": 0.5, "learnable_temperature": True, "max_scale": 2.0}
        super().__init__(**options | {"symmetric": True} | contrastive)
        self.query, self.document = nn.Linear(D, D), nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, D))
        self.layout, self.chunk_size = layout, chunk_size
        self.is_configured = False

    def configure_model(self):
        if self.is_configured or not self.layout:
            return
        self.is_configured = True
        mesh = self.device_mesh["data_parallel"]
        for unit in (self.query, self.document[0], self.document):
            fully_shard(unit, mesh=mesh)
        if self.layout != "encoders":
            fully_shard(self, mesh=mesh)
        if self.layout == "whole, registered":
            register_fsdp_forward_method(self, "training_step")

    def training_step(self, batch, batch_idx):
        queries, documents = batch.unbind(1)
        if self.chunk_size is None:
            return self.contrastive_loss(self.query(queries), self.document(documents))
        encoders = {"encode_query": self.query, "encode_document": self.document}
        return self.cached_contrastive_loss(queries, documents, **encoders, chunk_size=self.chunk_size)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5)


def batches(steps=STEPS):
    queries = torch.randn(steps, BATCH, D, generator=torch.Generator().manual_seed(1))
    return torch.stack((queries, 3 * queries.sign()), 2)


def train(module, folder, *, rank=0, replicas=1, ckpt_path=None, steps=STEPS, **options):
    """Trains on this rank's part of each batch."""
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        limit_train_batches=steps,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **{"max_epochs": 1} | options,
    )
    mine = [batch[rank::replicas] for batch in batches()]
    trainer.fit(module, DataLoader(mine, batch_size=None), ckpt_path=ckpt_path)
    return trainer


def weights(module):
    """Whole parameters by name; of a mesh, all ranks take part."""
    return {
        name: (p.detach().full_tensor() if hasattr(p, "full_tensor") else p.detach()).flatten().clone()
        for name, p in module.named_parameters()
    }


def in_lightning(folder):
    """Weights after training, by layout and kind of loss, and those of a run that was interrupted."""
    rank, trained = dist.get_rank(), {}
    for layout in ("encoders", "whole", "whole, registered"):
        for chunk_size in (None, 1):
            module = Retriever(layout, chunk_size=chunk_size)
            strategy = ModelParallelStrategy(data_parallel_size=4, tensor_parallel_size=1)
            train(module, folder, rank=rank, replicas=4, devices=4, strategy=strategy)
            trained[layout, "cached" if chunk_size else "plain"] = weights(module)
    module = Retriever("encoders")
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=2)
    train(module, folder, rank=rank // 2, replicas=2, devices=4, strategy=strategy)
    trained["copies", "plain"] = weights(module)
    return trained


def watched(folder, *, rank=0, replicas=1, **options):
    """What is logged of a module that is sharded whole: of an encoder, what the loss was given, and a weight."""
    module, probe = (
        Retriever("whole" if replicas > 1 else ""),
        torch.randn(5, D, generator=torch.Generator().manual_seed(4)),
    )
    callback = NormDynamics(targets=["query", "queries", "query.weight"], every_n_steps=2, window=5, probe=probe)
    trainer = train(module, folder, rank=rank, replicas=replicas, callbacks=[callback], **options)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("normdyn/q")}


def interrupted(folder, *, is_distributed):
    """Weights after two epochs of a module that is sharded whole, in one go and from a checkpoint."""
    rank, trained = dist.get_rank(), []
    for epochs, ckpt_path in ((2, None), (1, None), (2, Path(folder) / f"middle-{is_distributed}")):
        module = Retriever("whole")
        strategy = ModelParallelStrategy(4, 1, save_distributed_checkpoint=is_distributed)
        options = {"devices": 4, "strategy": strategy, "max_epochs": epochs, "ckpt_path": ckpt_path}
        trainer = train(module, folder, rank=rank, replicas=4, **options)
        if epochs == 1:
            trainer.save_checkpoint(Path(folder) / f"middle-{is_distributed}")
        else:
            trained.append(weights(module))
    return trained


def error_of(action):
    """What is said where something is refused."""
    try:
        action()
    except (TypeError, ValueError) as error:
        return str(error)
    return "nothing"


def refusals(mesh, group):
    """What is said of copies that nobody named, and of groups that are none."""
    batch = share(everything({}, 0), 2, mesh["data"].get_local_rank())
    queries, documents = batch["queries"], batch["documents"]
    lost = pickle.loads(pickle.dumps(InfoNCE(process_group=group)))
    return {
        "copies": error_of(lambda: InfoNCE()(queries, documents)),
        "copies of queries": error_of(lambda: FullSoftmax()(queries, documents, torch.arange(len(queries)))),
        "taken as they are": error_of(lambda: InfoNCE(process_group=dist.group.WORLD)(queries, documents)),
        "evaluation": error_of(lambda: InfoNCE().eval()(queries, documents)),
        "own batches": error_of(lambda: InfoNCE()(queries + dist.get_rank(), documents)),
        "two dimensions": error_of(lambda: InfoNCE(process_group=mesh)),
        "no group": error_of(lambda: InfoNCE(process_group="data")),
        "not gathered": error_of(lambda: InfoNCE(process_group=group, gather=False)),
        "pickled": error_of(lambda: lost(queries, documents)),
        "copied": error_of(lambda: copy.deepcopy(InfoNCE(process_group=group))(queries, documents)),
    }


def on_a_mesh(mesh):
    """Losses and gradients where two ranks each have one batch."""
    rank, data = mesh["data"].get_local_rank(), mesh["data"]
    results = {}
    for name, (make, settings, wanted) in CASES.items():
        named = data.get_group() if name == "symmetric" else data
        towers = Towers(make, settings | {"process_group": named})
        results[name] = run(towers, wanted, 2, rank, group=data.get_group())
    towers = Towers(InfoNCE, {"symmetric": True, "process_group": data})
    results["cached"] = run(towers, {"document_ids": True}, 2, rank, chunk_size=4, group=data.get_group())
    return results


def full_softmax(world, rank, group=None):
    """The loss of queries over a table, and the mean gradient over the group."""
    batch = share(everything({"document_ids": True}, 0), world, rank)
    table = torch.randn(18, D, generator=torch.Generator().manual_seed(5)).requires_grad_()
    loss = FullSoftmax(temperature=0.3, process_group=group)(batch["queries"], table, batch["document_ids"])
    loss.backward()
    if group is not None:
        dist.all_reduce(table.grad, group=group.get_group())
        table.grad /= group.size()
    return {"loss": loss.detach(), "gradient": table.grad}


def variation(world, rank, group=None):
    """A metric over the ranks of the group."""
    metric = CoefficientOfVariation(process_group=None if group is None else group.get_group())
    metric.update(share(everything({}, 0), world, rank)["queries"])
    return metric.compute()


def main(folder):
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    rank = mesh["data"].get_local_rank()
    whole = {"devices": 4, "strategy": ModelParallelStrategy(4, 1), "rank": dist.get_rank(), "replicas": 4}
    results = {
        "watched": watched(folder, **whole),
        "interrupted": {kind: interrupted(folder, is_distributed=kind) for kind in (True, False)},
        "mesh": on_a_mesh(mesh),
        "full softmax": full_softmax(2, rank, mesh["data"]),
        "metric": variation(2, rank, mesh["data"]),
        "refusals": refusals(mesh, mesh["data"].get_group()),
        "lightning": in_lightning(folder),
    }
    torch.save(results, Path(folder) / f"rank-{dist.get_rank()}.pt")


if __name__ == "__main__":
    # torch says there that a collective is deprecated.
    warnings.filterwarnings("error", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    with ended_process_group():
        main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # torch's caches of DTensor keep threads of gloo alive, which an ending interpreter would run into
