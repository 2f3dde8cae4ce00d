"""What is trained while its overhead is measured: the demo, transformers, and bare tables of any size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from stopwatch import TimedDynamics, memory
from torch import Tensor, nn
from turns import Run

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.tasks import TokenContrast, TokenPairs

CADENCE = 50
PLANNED = 12_000
THREADS = 1
"""As `normdyn demo` trains. Two threads that wait for each other on a busy machine time the other work on it."""
_BATCHES = 32


class Workload(NamedTuple):
    """Builds one training run, with or without NormDynamics; picklable.

    Attributes:
        kind: a key of ``_TASKS``.
        first: step number at which the run starts, as if resumed: windows are then as long as late in a run.
        folder: where its logs go.
        observed: options of NormDynamics; ``None`` to train without it.
        options: of the task.
        timed: whether NormDynamics times its own hooks.
    """

    kind: str
    first: int
    folder: str
    observed: dict[str, Any] | None
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed
    timed: bool = False

    def __call__(self) -> Run:
        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        model, data = _TASKS[self.kind](**self.options)
        dynamics = None
        if self.observed is not None:
            dynamics = (TimedDynamics if self.timed else NormDynamics)(**(_TARGETS[self.kind] | self.observed))
        trainer = Trainer(
            accelerator="cpu",
            max_steps=PLANNED,
            max_epochs=-1,
            log_every_n_steps=CADENCE,
            logger=[CSVLogger(self.folder), TensorBoardLogger(self.folder)],
            callbacks=[TQDMProgressBar(CADENCE), *([] if dynamics is None else [dynamics])],
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        progress.ready = progress.completed = self.first
        return Run(trainer, model, data, lambda: {} if dynamics is None else _facts(dynamics))


def _facts(dynamics: NormDynamics) -> dict[str, Any]:
    own = dynamics.own_seconds if isinstance(dynamics, TimedDynamics) else []
    return {**memory(dynamics), "own_seconds": own}


class SentenceEncoder(nn.Module):
    """A bidirectional transformer that gives a sentence the mean of its words' vectors: ``[n, words] -> [n, width]``.

    Args:
        rows: words that it knows.
        width: of a vector.
        layers: of the transformer.
    """

    def __init__(self, rows: int, width: int, layers: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width)
        layer = nn.TransformerEncoderLayer(width, max(1, width // 32), 4 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, words: Tensor) -> Tensor:
        """One vector a sentence."""
        pooled: Tensor = self.layers(self.table(words)).mean(1)
        return pooled


class EncoderContrast(LightningModule):
    """An encoder as MiniLM's, 11 million parameters as it stands, and a contrast of two views of each sentence.

    Args:
        rows: words that it knows.
        width: of the encoder.
        layers: of the encoder.
    """

    def __init__(self, *, rows: int = 1_000, width: int = 384, layers: int = 6) -> None:
        super().__init__()
        self.rows = rows
        self.encoder = SentenceEncoder(rows, width, layers)

    def training_step(self, batch: Tensor) -> Tensor:
        """InfoNCE over two views: ``[2, sentences, words] -> scalar``."""
        queries, documents = F.normalize(self.encoder(batch.flatten(0, 1)), dim=-1).chunk(2)
        loss = F.cross_entropy(queries @ documents.T / 0.05, torch.arange(len(queries)))
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over everything."""
        return torch.optim.AdamW(self.parameters(), lr=1e-4, weight_decay=0.1)


class SentenceContrast(LightningModule):
    """A transformer that encodes two views of a sentence and contrasts them: 31.8 million parameters as it stands.

    Args:
        rows: words in the table.
        dim: length of a word's embedding.
        width: of the transformer.
        layers: of the transformer.
    """

    def __init__(self, *, rows: int = 50_000, dim: int = 256, width: int = 512, layers: int = 6) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, dim)
        self.widen = nn.Linear(dim, width)
        layer = nn.TransformerEncoderLayer(width, max(1, width // 64), 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def training_step(self, batch: Tensor) -> Tensor:
        """InfoNCE over the pooled views: ``[2, sentences, words] -> scalar``."""
        pooled = self.encoder(self.widen(self.table(batch.flatten(0, 1)))).mean(1)
        queries, documents = F.normalize(pooled, dim=-1).chunk(2)
        loss = F.cross_entropy(queries @ documents.T / 0.05, torch.arange(len(queries)))
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over everything."""
        return torch.optim.AdamW(self.parameters(), lr=1e-4, weight_decay=0.1)


class PairedRows(LightningModule):
    """A bare table whose rows are pulled together in pairs, at next to no cost of its own.

    Args:
        rows: of the table.
        dim: length of an embedding.
        sparse: whether its gradient is sparse.
    """

    def __init__(self, *, rows: int, dim: int = 64, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, dim, sparse=sparse)

    def training_step(self, batch: Tensor) -> Tensor:
        """Mean cosine distance: ``[2, pairs] -> scalar``."""
        queries, documents = F.normalize(self.table(batch), dim=-1)
        loss = 1 - (queries * documents).sum(-1).mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD, which takes no weight decay with sparse gradients."""
        return torch.optim.SGD(self.parameters(), lr=1.0)


class RandomRows(LightningDataModule):
    """Batches of row numbers, drawn beforehand so that drawing costs no step anything.

    Args:
        rows: rows to draw from.
        shape: of a batch.
        distinct: whether no row occurs twice in a batch.
    """

    def __init__(self, rows: int, shape: tuple[int, ...], *, distinct: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        count = torch.Size(shape).numel()
        draws = (
            torch.randperm(rows, generator=generator)[:count].clone()
            if distinct
            else torch.randint(rows, (count,), generator=generator)
            for _ in range(_BATCHES)
        )
        self._batches = [draw.reshape(shape) for draw in draws]

    def train_dataloader(self) -> Any:
        """The batches, over and over."""
        return _Repeated(self._batches)


class _Repeated:
    def __init__(self, batches: list[Tensor]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return 1_000_000

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(len(self)):
            yield self._batches[number % len(self._batches)]


def _demo() -> tuple[LightningModule, LightningDataModule]:
    data = TokenPairs(steps_per_epoch=1_000_000)
    return TokenContrast(data.table_rows), data


def _transformer(*, sentences: int = 4, words: int = 32, **model: Any) -> tuple[LightningModule, LightningDataModule]:
    contrast = SentenceContrast(**model)
    return contrast, RandomRows(contrast.table.num_embeddings, (2, sentences, words), distinct=False)


def _encoder(*, sentences: int = 12, words: int = 16, **model: Any) -> tuple[LightningModule, LightningDataModule]:
    contrast = EncoderContrast(**model)
    return contrast, RandomRows(contrast.rows, (2, sentences, words), distinct=False)


def _table(*, rows: int, touched: int = 4_096, sparse: bool) -> tuple[LightningModule, LightningDataModule]:
    return PairedRows(rows=rows, sparse=sparse), RandomRows(rows, (2, touched // 2), distinct=True)


_TASKS = {"demo": _demo, "transformer": _transformer, "encoder": _encoder, "table": _table}
_TABLE = {"targets": ["table.weight"]}  # as the demo: its loss would publish queries and documents too
_TARGETS = {"demo": _TABLE, "transformer": _TABLE, "encoder": {"targets": ["encoder"]}, "table": _TABLE}
