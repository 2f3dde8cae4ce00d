"""Networks small enough to be trained twice in a blink: each is a plain module that maps a batch to a loss."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

ROWS, DIM, BATCH = 30, 8, 16


class PairTable(nn.Module):
    """Contrasts pairs of rows of one table; ids ``[n, 2]``."""

    def __init__(self, loss="cosine", **options):
        super().__init__()
        self.loss = loss
        self.table = nn.Embedding(options.pop("rows", ROWS), DIM, **options)

    def forward(self, pairs):
        return contrast(self.table(pairs[:, 0]), self.table(pairs[:, 1]), self.loss)


class FunctionalTable(nn.Module):
    """Looks ids up in a table and scores them against all of its rows, past the embedding layer."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)

    def forward(self, pairs):
        return F.cross_entropy(self.table(pairs[:, 0]) @ self.table.weight.T, pairs[:, 1])


class TiedTable(nn.Module):
    """The same with the output layer tied to the table."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.out = nn.Linear(DIM, ROWS, bias=False)
        self.out.weight = self.table.weight

    def forward(self, pairs):
        return F.cross_entropy(self.out(self.table(pairs[:, 0])), pairs[:, 1])


class BagTable(nn.Module):
    """Contrasts bags of rows; ids ``[n, 2 * k]``."""

    def __init__(self, **options):
        super().__init__()
        self.table = nn.EmbeddingBag(ROWS, DIM, mode="mean", **options)

    def forward(self, ids):
        left, right = ids.chunk(2, dim=1)
        return contrast(self.table(left), self.table(right), "cosine")


class Prototypes(nn.Module):
    """A bare parameter whose rows are prototypes; features ``[n, d]`` with a class in the last column."""

    def __init__(self):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(ROWS, DIM))

    def forward(self, batch):
        features, classes = batch
        return F.cross_entropy(features @ F.normalize(self.prototypes, dim=1).T, classes)


class Classifier(nn.Module):
    """A linear head whose weight ``[classes, d]`` is watched like a table."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(DIM, ROWS)

    def forward(self, batch):
        features, classes = batch
        return F.cross_entropy(self.head(features), classes)


class TwoTables(nn.Module):
    """Queries from one table, documents from another."""

    def __init__(self, **options):
        super().__init__()
        self.queries = nn.Embedding(ROWS, DIM, **options)
        self.documents = nn.Embedding(2 * ROWS, DIM, **options)

    def forward(self, pairs):
        return contrast(self.queries(pairs[:, 0]), self.documents(pairs[:, 1]), "dot")


class TwoTowers(nn.Module):
    """One encoder, called once for queries and once for documents."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.encoder = nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh(), nn.Linear(DIM, DIM))

    def forward(self, pairs):
        return contrast(self.encoder(self.table(pairs[:, 0])), self.encoder(self.table(pairs[:, 1])), "dot")


class NoisyModel(nn.Module):
    """Dropout and BatchNorm: whatever touches the random state or a buffer shows in the weights."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.norm = nn.BatchNorm1d(DIM)
        self.linear = nn.Linear(DIM, DIM)
        self.encoder = nn.Sequential(self.table, self.norm, nn.Dropout(0.2), self.linear)

    def forward(self, pairs):
        return contrast(self.encoder(pairs[:, 0]), self.encoder(pairs[:, 1]), "cosine")


class Lit(pl.LightningModule):
    """Trains a network by Lightning's automatic optimisation.

    Args:
        net: maps a batch to a loss; its parameters are named ``net.*``.
        configure: maps the network to what ``configure_optimizers`` returns.
    """

    def __init__(self, net, configure):
        super().__init__()
        self.net = net
        self.configure = configure

    def training_step(self, batch, batch_idx):
        return self.net(batch)

    def configure_optimizers(self):
        return self.configure(self.net)


def contrast(queries, documents, loss):
    """InfoNCE with in-batch negatives, of directions (cosine) or of raw vectors (dot)."""
    if loss == "cosine":
        queries, documents = F.normalize(queries, dim=1) * 5, F.normalize(documents, dim=1)
    return F.cross_entropy(queries @ documents.T, torch.arange(len(queries), device=queries.device))


def seeded(make, seed=0):
    """Builds a network with its own random weights, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


class Batches:
    """The given batches in order, each epoch the same; resumes where it stopped."""

    def __init__(self, batches):
        self.batches = list(batches)
        self._next = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        first, self._next = self._next, 0
        for index in range(first, len(self.batches)):
            self._next = (index + 1) % len(self.batches)
            yield self.batches[index]

    def state_dict(self):
        return {"next": self._next}

    def load_state_dict(self, state):
        self._next = state["next"]


def pair_batches(steps, *, rows=ROWS, columns=2, batch=BATCH, seed=1):
    """Ids ``[batch, columns]`` for each step, low ones more often, the highest rows never."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(steps, batch, columns, generator=generator)
    return list((uniform.square() * (rows - 2)).long())


def feature_batches(steps, seed=1):
    """Features ``[batch, d]`` and classes for each step."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(steps, BATCH, DIM, generator=generator)
    classes = torch.randint(ROWS, (steps, BATCH), generator=generator)
    return list(zip(features, classes, strict=True))
