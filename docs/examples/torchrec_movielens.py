"""
Under TorchRec: MovieLens on two processes
==========================================

A table of users and one of films, sharded by rows over two processes, which FBGEMM's fused row-wise Adagrad trains
inside of ``backward()``: weights move, and no gradient is ever there. ``TorchRecObserver`` reads gradients off the
optimizer's accumulator. This page is not run when the documentation is built, but by a test: it needs TorchRec and the
ratings of MovieLens (``ratings.tsv.gz``: user, item, rating, timestamp), and is started as::

    python -m torch.distributed.run --standalone --nproc-per-node 2 torchrec_movielens.py ratings.tsv.gz
"""

import gzip
import sys

import torch
import torch.distributed as dist
import torchrec
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingPlan

from lightning_normdyn.integrations.torchrec import TorchRecObserver

DIM, BATCH, EPOCHS = 16, 512, 2


# %%
# Ratings
# -------
# Users and films are numbered from zero; films by popularity, so that the number of a row tells how often it is met.


def read_ratings(file: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Users and films ``[2, n]``, and ratings about their mean ``[n]``."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        columns = [line.split("\t")[:3] for line in lines][1:]
    users = torch.tensor([int(user) for user, _, _ in columns]).unique(return_inverse=True)[1]
    _, films, counts = torch.tensor([int(film) for _, film, _ in columns]).unique(
        return_inverse=True, return_counts=True
    )
    place = counts.argsort(descending=True, stable=True).argsort()
    ratings = torch.tensor([float(rating) for _, _, rating in columns])
    return torch.stack((users, place[films])), ratings - ratings.mean()


# %%
# The model
# ---------


class Ratings(nn.Module):
    """The rating is the inner product of a user and a film."""

    def __init__(self, users: int, films: int) -> None:
        super().__init__()
        sizes = {"user": users, "film": films}
        self.tables = torchrec.EmbeddingBagCollection(
            tables=[
                torchrec.EmbeddingBagConfig(name=name, embedding_dim=DIM, num_embeddings=rows, feature_names=[name])
                for name, rows in sizes.items()
            ]
        )

    def forward(self, pairs: torchrec.KeyedJaggedTensor) -> torch.Tensor:
        vectors = self.tables(pairs)
        return (vectors["user"] * vectors["film"]).sum(1)


def shard(model: Ratings) -> DistributedModelParallel:
    """Both tables by rows, with a fused optimizer."""
    ranks = dist.get_world_size()
    sharder = EmbeddingBagCollectionSharder(
        fused_params={"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.05, "eps": 1e-8}
    )
    plan = construct_module_sharding_plan(
        model.tables,
        {"user": row_wise(), "film": row_wise()},
        sharder=sharder,
        local_size=ranks,
        world_size=ranks,
        device_type="cpu",
    )
    for table in plan.values():
        table.compute_kernel = "fused"  # on a CPU, row-wise would be dense otherwise
    return DistributedModelParallel(
        model, device=torch.device("cpu"), plan=ShardingPlan({"tables": plan}), sharders=[sharder]
    )


# %%
# The loop
# --------
# It is the loop that it would be without: the observer is a context around it, on every rank.


def train(file: str) -> None:
    torch.manual_seed(0)
    ids, ratings = read_ratings(file)
    users, films = (int(number) + 1 for number in ids.amax(1))
    model = shard(Ratings(users, films))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    batches = [order for _ in range(EPOCHS) for order in torch.randperm(len(ratings)).split(ranks * BATCH)]
    course: dict[str, list[float]] = {}

    def log(metrics: dict[str, float], _: int) -> None:
        for key, value in metrics.items():
            course.setdefault(key, []).append(value)

    with TorchRecObserver(model, total_steps=len(batches), log=log, every_n_steps=25):
        for batch in batches:
            mine = batch[rank::ranks]
            lengths = torch.ones(2 * len(mine), dtype=torch.long)
            pairs = torchrec.KeyedJaggedTensor.from_lengths_sync(["user", "film"], ids[:, mine].flatten(), lengths)
            (model(pairs) - ratings[mine]).square().mean().backward()
    if rank == 0:
        show(course)


# %%
# What was logged
# ---------------
# On the first rank, of whole tables. ``gradient_error`` says how well gradients could be read off the accumulator.
# Row-wise Adagrad has no equilibrium: R² of a row grows with the logarithm of what was accumulated for it.


def show(course: dict[str, list[float]]) -> None:
    for table in ("user", "film"):
        quantities = {key.rpartition("/")[2]: values for key, values in course.items() if f".{table}.weight/" in key}
        first, last = (quantities["norm_p50"][place] for place in (0, -1))
        spread, unmet = quantities["norm_cv"][-1], quantities["untouched_rows"][-1]
        error = max(quantities["gradient_error"])
        print(
            f"{table}: median norm {first:.3f} -> {last:.3f}, spread {spread:.0%}, {unmet:.0f} rows never met, "
            f"gradients read to {error:.0e}"
        )
        assert error < 1e-4
        assert last > 1.5 * first


if __name__ == "__main__":
    dist.init_process_group("gloo")
    try:
        train(sys.argv[1])
        dist.barrier()
    finally:
        dist.destroy_process_group()
