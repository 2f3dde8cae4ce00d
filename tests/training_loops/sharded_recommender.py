"""A small recommender whose tables TorchRec shards, its data, and the same training by hand in float64."""

from __future__ import annotations

import os
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from lightning_normdyn.cli.process_group import ended_process_group

ROWS, DIM, BATCH, STEPS, LR = 101, 8, 24, 60, 0.1
TABLES = ("whole", "rows", "columns")  # how each is sharded
KINDS = {"rowwise": "EXACT_ROWWISE_ADAGRAD", "adagrad": "EXACT_ADAGRAD", "sgd": "EXACT_SGD"}


def features(steps=STEPS, seed=0):
    """Ids ``[step, table, item, 2]``: a bag of two ids an item; the last ten rows are never looked up."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.rand(steps, len(TABLES), BATCH, 2, generator=generator) ** 2
    return (ranks * (ROWS - 10)).long()


def first_weights():
    generator = torch.Generator().manual_seed(1)
    return {name: 0.3 * torch.randn(ROWS, DIM, generator=generator) for name in TABLES}


class Recommender(nn.Module):
    """Adds up bags of three tables and scores the sum by a linear layer.

    Args:
        is_sequence: whether the tables give each row by itself, which is then added up here.
    """

    def __init__(self, is_sequence=False):
        import torchrec

        super().__init__()
        self._is_sequence = is_sequence
        sizes = {"embedding_dim": DIM, "num_embeddings": ROWS}
        if is_sequence:
            make, make_config, pooling = torchrec.EmbeddingCollection, torchrec.EmbeddingConfig, {}
        else:
            make, make_config = torchrec.EmbeddingBagCollection, torchrec.EmbeddingBagConfig
            pooling = {"pooling": torchrec.PoolingType.SUM}
        configs = [make_config(name=name, feature_names=[f"{name}_id"], **sizes, **pooling) for name in TABLES]
        self.bags = make(tables=configs)
        self.top = nn.Linear(len(TABLES) * DIM, 1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            self.top.weight.copy_(torch.randn(self.top.weight.shape, generator=generator))
            self.top.bias.zero_()

    def forward(self, jagged):
        bags = self.bags(jagged)
        if self._is_sequence:
            rows = torch.cat([bags[f"{name}_id"].values().view(-1, 2, DIM).sum(1) for name in TABLES], 1)
        else:
            rows = bags.values()
        return self.top(rows).squeeze(1)


class Scored(Recommender):
    """Gives the loss too, as TorchRec's pipelines want it."""

    def forward(self, batch):
        scores = super().forward(batch.jagged)
        return loss_of(scores, batch.ids), scores


def jagged_features(ids):
    """A KeyedJaggedTensor of ids ``[table, item, 2]``."""
    import torchrec

    lengths = torch.full((ids.shape[0] * ids.shape[1],), 2)
    return torchrec.KeyedJaggedTensor.from_lengths_sync([f"{name}_id" for name in TABLES], ids.flatten(), lengths)


def loss_of(scores, ids):
    """Depends on the items alone, so that the mean over ranks is the loss of all items together."""
    return (scores - (ids.sum((0, 2)) % 3 - 1.0)).square().mean()


def sharded(kind, *, sharding=None, kernels=None, model=None):
    """The model under DistributedModelParallel on the ranks there are, with the weights that all trainings start from.

    Args:
        kind: name of a fused optimizer in FBGEMM's enumeration.
        sharding: how each table is sharded; table-wise on the last rank, by rows and by columns by default.
        kernels: compute kernels that are not fused, by table.
        model: another one than :class:`Recommender`.
    """
    import torchrec.distributed as trd
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec.distributed import sharding_plan as plans
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.types import ShardingPlan

    size = dist.get_world_size()
    model = model or Recommender()
    make_sharder = EmbeddingCollectionSharder if model._is_sequence else EmbeddingBagCollectionSharder
    sharder = make_sharder(fused_params={"optimizer": EmbOptimType[kind], "learning_rate": LR, "eps": 1e-8})
    by_default = {
        "whole": plans.table_wise(rank=size - 1),
        "rows": plans.row_wise(),
        "columns": plans.column_wise(ranks=[0, size - 1]),
    }
    plan = plans.construct_module_sharding_plan(
        model.bags,
        sharding or by_default,
        sharder=sharder,
        local_size=size,
        world_size=size,
        device_type="cpu",
    )
    for name, entry in plan.items():
        if entry.sharding_type != "data_parallel":
            entry.compute_kernel = (kernels or {}).get(name, "fused")
    parallel = trd.DistributedModelParallel(
        model, device=torch.device("cpu"), plan=ShardingPlan({"bags": plan}), sharders=[sharder]
    )
    set_whole(parallel, first_weights())
    return parallel


def blocks(parallel):
    """Blocks on this rank by name of a table or of what its optimizer has in store: offsets, sizes and the block."""
    optimizer = parallel.fused_optimizer.state_dict()["state"]
    entries = {name.split(".")[-2]: value for name, value in parallel.state_dict().items() if "bags." in name}
    entries |= {name: value for state in optimizer.values() for name, value in state.items()}
    return {
        name: [
            (shard.metadata.shard_offsets, shard.metadata.shard_sizes, shard.tensor) for shard in value.local_shards()
        ]
        for name, value in entries.items()
        if hasattr(value, "local_shards")
    }


def set_whole(parallel, whole):
    """Puts whole tables, or sums of their optimizers, into their blocks."""
    for name, pieces in blocks(parallel).items():
        for offsets, sizes, block in pieces:
            if name in whole:
                place = tuple(slice(first, first + size) for first, size in zip(offsets, sizes, strict=True))
                block.copy_(whole[name][place])


def whole_tables(parallel):
    """All rows of each table and all sums of its optimizer, gathered by all ranks."""
    pieces_here, ranks = blocks(parallel), [None] * dist.get_world_size()
    dist.all_gather_object(ranks, pieces_here)
    whole = {}
    for name in dict.fromkeys(name for pieces in ranks for name in pieces):
        pieces = [piece for rank in ranks for piece in rank.get(name, [])]
        shape = [max(offsets[k] + sizes[k] for offsets, sizes, _ in pieces) for k in range(len(pieces[0][0]))]
        whole[name] = torch.zeros(shape)
        for offsets, sizes, block in pieces:
            place = tuple(slice(first, first + size) for first, size in zip(offsets, sizes, strict=True))
            whole[name][place] = block
    return whole


@contextmanager
def process_group():
    """One process of its own, or what torchrun started."""
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="0")
    dist.init_process_group("gloo")
    with ended_process_group():
        yield


class ByHand:
    """The same training on one process in float64, with gradients by autograd, and sums over all of its steps.

    Args:
        kind: name of the fused optimizer.
        column_blocks: into how many blocks of columns the table of that name is cut, each with sums of its own.

    Attributes:
        weights: of each table, ``[rows, dim]``.
        second_moment: sum over steps of ``|x|²|g|² - <x, g>²``, by table, ``[rows]``.
        touches: steps in which each row got a gradient.
        steps: of each step and table what ought to be logged.
    """

    def __init__(self, kind, column_blocks, lr=LR):
        self._kind, self._blocks = kind, column_blocks
        self.set_lr(lr)
        self.weights = {name: value.double() for name, value in first_weights().items()}
        model_top = torch.Generator().manual_seed(2)
        self._top = torch.randn(1, len(TABLES) * DIM, generator=model_top).double()
        self._sums = {name: torch.zeros(ROWS, DIM, dtype=torch.float64) for name in TABLES}
        self.is_met = {name: torch.zeros(ROWS, dtype=torch.bool) for name in TABLES}
        self.steps = []
        self.forget_sums()

    def set_lr(self, lr):
        """The rate of the steps to come, as the kernels hold it."""
        self._lr = float(torch.tensor(lr, dtype=torch.float32))

    def forget_sums(self):
        """Begins another window."""
        self.second_moment = {name: torch.zeros(ROWS, dtype=torch.float64) for name in TABLES}
        self.touches = {name: torch.zeros(ROWS, dtype=torch.float64) for name in TABLES}

    def step(self, ids):
        """Ids ``[table, item, 2]`` of all ranks."""
        leaves = {name: self.weights[name].clone().requires_grad_() for name in TABLES}
        bags = [leaves[name][ids[place]].sum(1) for place, name in enumerate(TABLES)]
        loss_of((torch.cat(bags, 1) @ self._top.T).squeeze(1), ids).backward()
        self.steps.append({name: self._update(name, leaves[name].grad) for name in TABLES})

    def _update(self, name, gradient):
        rows = self.weights[name]
        square = gradient.square().sum(1)
        radial = (rows * gradient).sum(1)
        self.second_moment[name] += rows.square().sum(1) * square - radial**2
        self.touches[name] += square > 0
        self.is_met[name] |= square > 0
        self._sums[name] += self._growth(name, gradient)
        root = self._sums[name].sqrt() + 1e-8
        self.weights[name] = rows - self._lr * (gradient if self._kind == "EXACT_SGD" else gradient / root)
        norms = self.weights[name].norm(dim=1)[self.is_met[name]]
        norm = rows.norm(dim=1)
        return {
            "norm_mean": norms.mean(),
            "norm_p50": norms.quantile(0.5),
            "norm_cv": norms.std(correction=0) / norms.mean(),
            "gradient_norm": square.sum().sqrt(),
            "radial_fraction": ((radial / norm).square().sum() / square.sum()).sqrt(),
            "untouched_rows": (~self.is_met[name]).sum(),
            "effective_lr": self._lr * norm[square > 0].pow(-2).mean(),
            "budget_growth": ((self.weights[name] - rows).square().sum(1) / norm**2).mean(),
        }

    def _growth(self, name, gradient):
        if self._kind == "EXACT_ADAGRAD":
            return gradient.square()
        blocks = gradient.square().chunk(self._blocks if name == "columns" else 1, dim=1)
        return torch.cat([block.mean(1, keepdim=True).expand_as(block) for block in blocks], 1)
