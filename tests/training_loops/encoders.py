"""Encoders trained on a contrastive loss, by Lightning and by a plain loop that looks at every step."""

from __future__ import annotations

import itertools

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

INPUT, WIDTH, OUT, BATCH = 16, 32, 12, 32


def relu_layers(layers=2, norm=False):
    """A bias-free ReLU network, of degree ``layers`` in its weights."""
    widths = [INPUT, *[WIDTH] * (layers - 1), OUT]
    parts = []
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        parts.append(nn.Linear(before, after, bias=False))
        if index < layers - 1:
            parts += [nn.BatchNorm1d(after)] if norm else []
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)


class Contrast(pl.LightningModule):
    """Two views of each item through one encoder, cosine loss."""

    def __init__(self, encoder, configure, loss="cosine"):
        super().__init__()
        self.encoder, self.configure, self.loss = encoder, configure, loss

    def training_step(self, batch, batch_idx):
        return contrast(self.encoder, batch, self.loss)

    def configure_optimizers(self):
        return self.configure(self.encoder)


def contrast(encoder, batch, loss="cosine"):
    """InfoNCE over a batch of pairs ``[2, n, d]``."""
    queries, documents = encoder(batch[0]), encoder(batch[1])
    if loss == "cosine":
        queries, documents = F.normalize(queries, dim=1) * 10, F.normalize(documents, dim=1)
    return F.cross_entropy(queries @ documents.T, torch.arange(len(queries)))


def views(steps, seed=1):
    """Two noisy views of items that are drawn by Zipf's law, for each step, ``[2, n, d]``."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(100, INPUT, generator=generator)
    weights = 1 / torch.arange(1, 101.0)
    batches = []
    for _ in range(steps):
        items = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        noise = 0.3 * torch.randn(2, BATCH, INPUT, generator=generator)
        batches.append(centres[items] + noise)
    return batches


def watch_plainly(encoder, configure, batches, inputs, loss="cosine"):
    """Trains in a plain loop; returns the inputs' vectors before every step and after the last, in float64."""
    configured = configure(encoder)
    optimizer, scheduler = configured if isinstance(configured, tuple) else (configured, None)
    path = []

    def look():
        encoder.eval()
        with torch.no_grad():
            path.append(encoder(inputs).double())
        encoder.train()

    for batch in batches:
        look()
        optimizer.zero_grad()
        contrast(encoder, batch, loss).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    look()
    return torch.stack(path)
