"""Embedding tables whose optimizer is fused into backward, in plain torch, with the members that TorchRec's have.

For what its CPU kernels do not offer (Adam, weight decay) and where it is not installed. The arithmetic is that of
FBGEMM's documentation, in float32: a step moves the rows that were looked up and no others.
"""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn

L2, DECOUPLED = 1, 2


class Features(NamedTuple):
    """Ids of one table, as a KeyedJaggedTensor gives them."""

    ids: torch.Tensor

    def values(self):
        return self.ids.flatten()

    def offset_per_key(self):
        return [0, self.ids.numel()]


class Kind(Enum):
    SGD = "exact_sgd"
    ROWWISE = "exact_row_wise_adagrad"
    ADAGRAD = "exact_adagrad"
    ADAM = "adam"
    LAMB = "lamb"


class Block:
    """A table and its optimizer.

    Args:
        weight: the first rows, ``[rows, dim]``.
        kind: of the optimizer.
    """

    def __init__(self, weight, kind, *, lr=0.1, weight_decay=0.0, mode=0, use_cpu=False, dtype=torch.float32):
        self.weight, self.optimizer, self.lr, self.use_cpu = weight.to(dtype), kind, lr, use_cpu
        self.optimizer_args = SimpleNamespace(
            eps=1e-8,
            beta1=0.9,
            beta2=0.99,
            weight_decay=weight_decay,
            weight_decay_mode=mode,
            gradient_clipping=False,
            max_norm=0.0,
        )
        rowwise = torch.zeros(len(weight))
        shapes = {
            Kind.SGD: [],
            Kind.ROWWISE: [rowwise],
            Kind.ADAM: [torch.zeros_like(weight), torch.zeros_like(weight)],
        }
        self.states = shapes.get(kind, [torch.zeros_like(weight)])
        self.steps = 0

    def split_embedding_weights(self):
        return [self.weight]

    def split_optimizer_states(self):
        return [self.states]

    def get_learning_rate(self):
        return self.lr

    def step(self, ids, gradients):
        """Moves the rows of ``ids``, each once."""
        rows, gradient = ids.unique(), torch.zeros_like(self.weight, dtype=torch.float32)
        gradient.index_add_(0, ids, gradients.float())
        self.steps += 1
        settings = self.optimizer_args
        decay, mode = (0.0, 0) if self.use_cpu else (settings.weight_decay, settings.weight_decay_mode)
        x, g = self.weight[rows].float(), gradient[rows]
        if self.optimizer is Kind.SGD:
            moved = x - self.lr * g
        elif self.optimizer is Kind.ADAM:
            first, second = self.states
            first[rows] = settings.beta1 * first[rows] + (1 - settings.beta1) * g
            second[rows] = settings.beta2 * second[rows] + (1 - settings.beta2) * g**2
            first_mean = first[rows] / (1 - settings.beta1**self.steps)
            second_mean = second[rows] / (1 - settings.beta2**self.steps)
            moved = x - self.lr * (first_mean / (second_mean.sqrt() + settings.eps) + decay * x)
        else:
            square = (g + decay * x if mode == L2 else g) ** 2
            self.states[0][rows] += square if self.optimizer is Kind.ADAGRAD else square.mean(1)
            root = self.states[0][rows].sqrt() + settings.eps
            rate = self.lr / (root if root.dim() == 2 else root[:, None])
            share_left = 1 - (rate * decay if mode == L2 else self.lr * decay if mode == DECOUPLED else 0)
            moved = share_left * x - rate * g
        self.weight[rows] = moved.to(self.weight.dtype)


class LookUp(torch.autograd.Function):
    @staticmethod
    def forward(context, anchor, block, ids):
        del anchor  # through which autograd comes by
        context.block, context.ids = block, ids
        return block.weight[ids].float()

    @staticmethod
    def backward(context, gradient):
        context.block.step(context.ids, gradient)
        return None, None, None


class Kernel(nn.Module):
    """Looks rows up."""

    def __init__(self, block, name="words"):
        super().__init__()
        self.emb_module, self._feature_table_map = block, [0]
        rows, dim = block.weight.shape
        table = SimpleNamespace(name=name, local_metadata=None, local_rows=rows, local_cols=dim)
        self.config = SimpleNamespace(embedding_tables=[table])
        self._anchor = torch.zeros((), requires_grad=True)

    def forward(self, features):
        return LookUp.apply(self._anchor, self.emb_module, features.values())


class Table(nn.Module):
    """What a sharded collection of one table looks like, and the model around it: its loss is a mean over pairs."""

    def __init__(self, block, *, compute_kernel="fused", sharding_type="row_wise"):
        super().__init__()
        rows, dim = block.weight.shape
        shard = SimpleNamespace(shard_offsets=[0, 0], shard_sizes=[rows, dim])
        plan = SimpleNamespace(
            sharding_type=sharding_type, compute_kernel=compute_kernel, sharding_spec=SimpleNamespace(shards=[shard])
        )
        folder = nn.Module()
        folder.weight = nn.Parameter(block.weight)
        self.embeddings = nn.ModuleDict({"words": folder})
        self.kernel = Kernel(block)
        self.module_sharding_plan = {"words": plan}
        self._lookups = [SimpleNamespace(_emb_modules=[self.kernel])]
        self._env = SimpleNamespace(process_group=None)

    def forward(self, pairs):
        left, right = self.kernel(Features(pairs)).view(*pairs.shape, -1).unbind(1)
        return ((left * right).sum(1) - (pairs.sum(1) % 3 - 1.0)).square().mean()


class Pairs(nn.Module):
    """The model."""

    def __init__(self, block, **plan):
        super().__init__()
        self.table = Table(block, **plan)

    def forward(self, pairs):
        return self.table(pairs)


NAME = "table.embeddings.words.weight"


def first_rows(rows=31, dim=8):
    return 0.5 * torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))


def pair_ids(steps, batch=16, rows=31):
    """Low numbers far more often, and the last three never."""
    uniform = torch.rand(steps, batch, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ((rows - 3) * uniform**3).long()
