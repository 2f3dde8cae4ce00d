"""Small encoders on a contrastive loss, for forecasts of their norms: items by Zipf's law, two noisy views of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT, WIDTH, OUT, BATCH, ITEMS, PROBED = 32, 64, 16, 64, 200, 64


class Case(NamedTuple):
    """One training.

    Attributes:
        encoder: key of :data:`ENCODERS`.
        optimizer: key of :data:`OPTIMIZERS`.
        lr: learning rate at the start.
        weight_decay: as the optimizer takes it.
        schedule: ``cosine`` or ``linear`` to a hundredth, or ``constant``.
        loss: ``cosine`` or ``dot``.
    """

    encoder: str
    optimizer: str
    lr: float
    weight_decay: float
    schedule: str = "cosine"
    loss: str = "cosine"


class Attention(nn.Module):
    """One transformer layer over four tokens, with LayerNorm, biases and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(INPUT // 4, INPUT)
        self.layer = nn.TransformerEncoderLayer(INPUT, 4, WIDTH, dropout=0.1, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(INPUT)
        self.write = nn.Linear(INPUT, OUT, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors ``[n, OUT]`` of inputs ``[n, INPUT]``."""
        vectors: Tensor = self.write(self.norm(self.layer(self.read(x.view(len(x), 4, -1)))).mean(1))
        return vectors


def relu_layers(layers: int) -> nn.Sequential:
    """A bias-free ReLU network."""
    widths = [INPUT, *[WIDTH] * (layers - 1), OUT]
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        parts += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def normed() -> nn.Sequential:
    """Three layers with biases and a LayerNorm."""
    return nn.Sequential(
        nn.Linear(INPUT, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.LayerNorm(WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, OUT),
    )


ENCODERS = {
    "1 layer": lambda: relu_layers(1),
    "2 ReLU layers": lambda: relu_layers(2),
    "3 ReLU layers": lambda: relu_layers(3),
    "3 layers, LayerNorm": normed,
    "transformer layer": Attention,
}
OPTIMIZERS = {
    "SGD": lambda case, weights: torch.optim.SGD(weights, lr=case.lr, weight_decay=case.weight_decay),
    "SGD, momentum 0.9": lambda case, weights: torch.optim.SGD(
        weights, lr=case.lr, momentum=0.9, weight_decay=case.weight_decay
    ),
    "AdamW": lambda case, weights: torch.optim.AdamW(weights, lr=case.lr, weight_decay=case.weight_decay),
}


class Contrast(pl.LightningModule):
    """Trains an encoder to tell the two views of each item from those of the others."""

    def __init__(self, case: Case, steps: int) -> None:
        super().__init__()
        self.case, self.steps = case, steps
        self.encoder = ENCODERS[case.encoder]()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """InfoNCE within the batch, ``[2, n, INPUT]``."""
        queries, documents = self.encoder(batch[0]), self.encoder(batch[1])
        if self.case.loss == "cosine":
            queries, documents = F.normalize(queries, dim=1) / 0.1, F.normalize(documents, dim=1)
        else:
            queries = queries / 4
        return F.cross_entropy(queries @ documents.T, torch.arange(BATCH))

    def configure_optimizers(self) -> Any:
        """The case's optimizer and schedule."""
        optimizer = OPTIMIZERS[self.case.optimizer](self.case, self.encoder.parameters())
        schedules = torch.optim.lr_scheduler
        schedule = {
            "cosine": lambda: schedules.CosineAnnealingLR(optimizer, self.steps, eta_min=self.case.lr / 100),
            "linear": lambda: schedules.LinearLR(optimizer, 1.0, 0.01, self.steps),
            "constant": lambda: schedules.ConstantLR(optimizer, 1.0),
        }[self.case.schedule]()
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Views(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Batches without end, the same for each seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[Tensor]:
        """Two noisy views of items, ``[2, n, INPUT]``."""
        generator, centres = torch.Generator().manual_seed(self.seed), _centres()
        frequency = 1 / torch.arange(1, ITEMS + 1.0)
        while True:
            items = torch.multinomial(frequency, BATCH, replacement=True, generator=generator)
            yield centres[items] + 0.3 * torch.randn(2, BATCH, INPUT, generator=generator)


def probe() -> Tensor:
    """One view of each of the most frequent items, ``[PROBED, INPUT]``."""
    generator = torch.Generator().manual_seed(10)
    return _centres()[:PROBED] + 0.3 * torch.randn(PROBED, INPUT, generator=generator)


def _centres() -> Tensor:
    return torch.randn(ITEMS, INPUT, generator=torch.Generator().manual_seed(9))
