"""The terms of the balance, V² and D, of an encoder's outputs sorted by their norm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, seed_everything
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, IterableDataset

from lightning_normdyn.core import fit_log_log, norm_correlations
from lightning_normdyn.core.dynamics.published_fit import PUBLISHED_FIT
from lightning_normdyn.history.experiment import ExperimentRecord, Finding
from lightning_normdyn.history.number import measured
from lightning_normdyn.losses import ContrastiveMixin
from lightning_normdyn.tasks.experiments.watched import Window, watch
from lightning_normdyn.tasks.experiments.words import words

NAME = "encoder_terms"
_DIM, _BATCH, _PROBE_ITEMS = 64, 64, 256


class HalvedTexts(NamedTuple):
    """First and second halves of documents, row i of both being of one document.

    Attributes:
        first: unit vectors, ``[documents, d]``.
        second: unit vectors, ``[documents, d]``.
    """

    first: Tensor
    second: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Pairs of halves, ``[2, count, d]``, of documents drawn with replacement."""
        rows = torch.randint(len(self.first), (count,), generator=generator)
        return torch.stack([self.first[rows], self.second[rows]])


def halve_texts(
    documents: Sequence[Sequence[int]], vocabulary_size: int, *, dim: int, seed: int, least_words: int = 8
) -> HalvedTexts:
    """Sums fixed random word vectors over each half of each document, and normalises.

    Args:
        documents: word ids.
        vocabulary_size: number of different ids.
        dim: length of a word vector.
        seed: chooses the word vectors.
        least_words: shorter documents are left out.

    Raises:
        ValueError: if fewer than two documents are long enough.

    Example:
        >>> halves = halve_texts([[0, 1, 1, 0], [2, 2, 2, 2], [0]], 3, dim=4, seed=0, least_words=4)
        >>> halves.first.shape, torch.allclose(halves.first[0], halves.second[0])
        (torch.Size([2, 4]), True)
    """
    words = torch.randn(vocabulary_size, dim, generator=torch.Generator().manual_seed(seed))
    long = [torch.tensor(document) for document in documents if len(document) >= max(2, least_words)]
    if len(long) < 2:
        raise ValueError(
            f"text: expected two or more documents of at least {least_words} words, got {len(long)}; pass longer ones"
        )
    halves = [torch.tensor_split(document, 2) for document in long]
    first, second = (torch.stack([words[pair[side]].sum(0) for pair in halves]) for side in (0, 1))
    return HalvedTexts(F.normalize(first, dim=1), F.normalize(second, dim=1))


class HalvesContrast(ContrastiveMixin, LightningModule):
    """A bias-free ReLU network of two layers that learns which halves belong to one document."""

    def __init__(self) -> None:
        super().__init__(temperature=0.1)
        self.encoder = nn.Sequential(
            nn.Linear(_DIM, 2 * _DIM, bias=False), nn.ReLU(), nn.Linear(2 * _DIM, _DIM, bias=False)
        )

    def training_step(self, batch: Tensor) -> Tensor:
        """The loss of pairs of halves, ``[2, n, d]``."""
        return self.contrastive_loss(self.encoder(batch[0]), self.encoder(batch[1]))

    def configure_optimizers(self) -> Optimizer:
        """Plain SGD: successive steps carry nothing over."""
        return SGD(self.encoder.parameters(), lr=0.3, weight_decay=3e-3)


class _Batches(IterableDataset[Tensor]):
    def __init__(self, texts: HalvedTexts, steps: int, seed: int) -> None:
        self.texts, self.steps, self.seed = texts, steps, seed

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            yield self.texts.draw(_BATCH, generator)


def encoder_terms(*, steps: int = 3000, seed: int = 0, text: list[str] | None = None) -> ExperimentRecord:
    """Trains a small encoder of docstrings and takes every term of its balance for documents of a probe.

    Drift is what the change of the norm leaves over, so terms of a window give its own norms by construction. Slope and
    r are therefore of norms in the last quarter against the equilibrium under the terms of the quarter before, and
    their error stands beside that of 'stays as it is'.

    Args:
        steps: optimizer steps; terms are of the last quarter.
        seed: of weights, word vectors and batches.
        text: text files in place of the standard library's documentation.
    """
    start_time = time.perf_counter()
    seed_everything(seed, verbose=False)
    data = words(text, seed)
    documents = data.vocabulary.encode(data.corpus.documents)
    texts = halve_texts(documents, data.table_rows, dim=_DIM, seed=seed)
    stride = max(1, len(texts.first) // _PROBE_ITEMS)
    run = watch(
        HalvesContrast(),
        DataLoader(_Batches(texts, steps, seed), batch_size=None),
        steps=steps,
        target="encoder",
        probe=texts.first[::stride][:_PROBE_ITEMS],
        probe_items=_PROBE_ITEMS,
        every_n_steps=max(1, min(10, steps // 100)),
        window=max(1, steps // 4),
    )
    previous, last = run.windows[-2:]
    return ExperimentRecord(
        name=NAME,
        findings=_findings(previous, last),
        arrays=_sorted_by_norm(last),
        settings={"optimizer": "sgd", "steps": steps, "documents": len(texts.first), "corpus": data.corpus.name},
        seconds=time.perf_counter() - start_time,
        verdicts=run.verdicts,
    )


def _findings(previous: Window, window: Window) -> tuple[Finding, ...]:
    norm = window["mean_norm"]
    drift, moment = window["drift"], window["second_moment"]
    ranks = norm_correlations(norm, drift, {"second_moment": moment}, resamples=0)
    balance = fit_log_log(previous["equilibrium_norm"], norm)
    stays = fit_log_log(previous["mean_norm"], norm)
    published_source = f"{PUBLISHED_FIT.source} (a vocabulary)"
    share = (drift / window["radial_decay"] / norm.square()).median()
    return (
        Finding("slope, terms of the window before", PUBLISHED_FIT.slope, published_source, measured(balance.slope)),
        Finding(
            "Pearson r, terms of the window before",
            PUBLISHED_FIT.pearson_r,
            published_source,
            measured(balance.pearson_r),
        ),
        Finding("median error of the same", None, "SRV print none", measured(balance.median_relative_error)),
        Finding("median error of 'stays as it is'", None, "own comparison", measured(stays.median_relative_error)),
        Finding("rank correlation of R and V²", None, "SRV show it as a figure", measured(ranks["second_moment"].r)),
        Finding("rank correlation of R and D", None, "SRV show it as a figure", measured(ranks["length"].r)),
        Finding(
            "D/(λ_rad·R²), median",
            None,
            "1: drift alone; 0: noise alone; below 0: drift shortens",
            measured(float(share)),
        ),
    )


def _sorted_by_norm(window: Window) -> dict[str, list[float]]:
    order = window["mean_norm"].argsort()
    names = ("mean_norm", "second_moment", "drift", "radial_decay", "equilibrium_norm")
    columns = {name: window[name][order].nan_to_num(0.0, posinf=0.0) for name in names}
    return {name: column.tolist() for name, column in columns.items()}
