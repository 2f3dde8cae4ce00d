"""A small model of two towers that trains with mined hard negatives, looked up by its collate function."""

from __future__ import annotations

import copy

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_normdyn.losses import ContrastiveMixin
from lightning_normdyn.retrieval import MiningSource, mine_hard_negatives

QUERIES, DOCUMENTS, DIM = 30, 47, 6


def inputs(seed=0):
    """Features of queries and documents; query i asks for document i, and every third for another one too."""
    generator = torch.Generator().manual_seed(seed)
    documents = torch.randn(DOCUMENTS, DIM, generator=generator)
    queries = documents[:QUERIES] + 0.7 * torch.randn(QUERIES, DIM, generator=generator)
    positives = [[query, QUERIES + query // 3] if query % 3 == 0 else [query] for query in range(QUERIES)]
    return queries, documents, positives


def mining_source(num_negatives=2):
    queries, documents, positives = inputs()
    names = [f"q{n}" for n in range(QUERIES)], [f"d{n}" for n in range(DOCUMENTS)]
    return MiningSource(
        list(queries),
        list(documents),
        positives,
        num_negatives=num_negatives,
        query_ids=names[0],
        document_ids=names[1],
    )


class Towers(ContrastiveMixin, pl.LightningModule):
    """Dropout and a frozen part that stays in evaluation mode, so that a miner could leave traces."""

    def __init__(self, source, *, ignores_negatives=False, workers=0, batch_size=10, lr=0.05, **options):
        super().__init__(**options)
        self.source, self.ignores_negatives, self.workers = source, ignores_negatives, workers
        self.batch_size, self.lr = batch_size, lr
        self.net = nn.Sequential(nn.Linear(DIM, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 4))
        self.frozen = nn.Dropout(0.9)
        self.seen = []

    def encode_queries(self, batch):
        assert self.training == torch.is_grad_enabled()
        return self.net(self.frozen(batch))

    encode_documents = encode_queries

    def mining_source(self):
        return self.source

    def on_train_start(self):
        self.frozen.eval()

    def collate(self, queries):
        """The negatives of each query, as they are when its batch is made."""
        negatives = [self.source.negatives.of(query) for query in queries]
        sides = [
            torch.stack([side[query] for query in queries]) for side in (self.source.queries, self.source.documents)
        ]
        documents = [self.source.documents[place] for row in negatives for place in row]
        return torch.tensor(queries), *sides, torch.tensor(negatives), torch.stack(documents) if documents else None

    def train_dataloader(self):
        return DataLoader(
            range(QUERIES), self.batch_size, shuffle=True, collate_fn=self.collate, num_workers=self.workers
        )

    def training_step(self, batch, batch_idx):
        numbers, queries, documents, negatives, hard = batch
        self.seen.append((numbers.tolist(), negatives.tolist()))
        options = {"query_ids": numbers, "document_ids": numbers}
        if hard is not None and not self.ignores_negatives:
            options["hard_negatives"] = self.encode_documents(hard).unflatten(0, (len(numbers), -1))
            options["hard_negative_ids"] = negatives
        return self.contrastive_loss(self.encode_queries(queries), self.encode_documents(documents), **options)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def expected_negatives(model, width=None, **options):
    """By the function, from embeddings that a copy of the model makes in evaluation mode, one input at a time.

    ``width`` is how many of their coordinates count.
    """
    frozen = copy.deepcopy(model.net).float().eval()
    queries, documents, positives = inputs()
    with torch.no_grad():
        sides = [torch.stack([frozen(row)[:width] for row in side]) for side in (queries, documents)]
    return mine_hard_negatives(*sides, positives, num_negatives=2, **options)


class Snapshots(pl.Callback):
    """What each mining should have found, with the model as it was when it was made."""

    def __init__(self, **options):
        self.options, self.expected, self.tables = options, {}, {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        step = trainer.global_step
        self.tables[step] = pl_module.source.negatives.indices.clone()
        self.expected[step] = expected_negatives(pl_module, **self.options)
