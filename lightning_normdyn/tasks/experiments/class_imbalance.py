"""Experiment: norms of four classes that are drawn 1 : 2 : 4 : 8 times as often."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn
from torch.optim import SGD

from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.history.experiment import ExperimentRecord, Finding
from lightning_normdyn.history.number import measured
from lightning_normdyn.losses import InfoNCE

NAME = "class_imbalance"
WEIGHTS = (1, 2, 4, 8)
_DIM, _NOISE, _TEMPERATURE = 16, 1.0, 0.5
_ENCODER_TEMPERATURE, _ENCODER_BATCH = 0.2, 32


class _Prototypes(NamedTuple):
    """Norms of four prototypes, ``[4]`` each."""

    observed: Tensor
    predicted: Tensor


class _Classes:
    """Four orthogonal directions, no two nearer than any others, and noisy draws around them."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.centres = torch.linalg.qr(torch.randn(_DIM, _DIM, generator=self.generator))[0][: len(WEIGHTS)]

    def draw(self, count: int) -> Tensor:
        """Classes by their weights, ``[count]``."""
        weights = torch.tensor(WEIGHTS, dtype=torch.float32)
        return torch.multinomial(weights, count, replacement=True, generator=self.generator)

    def near(self, centres: Tensor) -> Tensor:
        """Noisy unit vectors around ``[..., d]``."""
        noise = torch.randn(centres.shape, generator=self.generator) * (_NOISE / _DIM**0.5)
        return F.normalize(centres + noise, dim=-1)


def class_imbalance(*, steps: int = 6000, encoder_steps: int = 1500, seed: int = 0) -> ExperimentRecord:
    """Trains four prototypes by plain SGD, as queries and as a softmax head, and an encoder of the same classes.

    As queries, prototypes seek their class among frozen documents and get a gradient only when drawn, so ``V² ∝ p`` and
    the law gives ``R ∝ p^(1/4)``. In a softmax head they also move as each other's negatives, so V² is not
    proportional to p; the law still holds with the V² that is measured. An encoder shares all its weights among the
    classes, so only the order is expected of it; its norms are means over three seeds, on inputs it was not trained on.

    Args:
        steps: optimizer steps of the prototypes; norms are from the last half.
        encoder_steps: the same of each encoder.
        seed: chooses classes, draws and noise; the encoders take it and the two after it.
    """
    start_time = time.perf_counter()
    queries, softmax = (_prototypes(loss, steps, seed) for loss in (_as_queries, _as_softmax))
    encoders = torch.stack([_encoder_norms(encoder_steps, seed + place) for place in range(3)])
    encoder = encoders.log().mean(0).exp()
    expected = torch.tensor(WEIGHTS, dtype=torch.float64).pow(0.25)
    findings = [
        Finding(
            f"queries: R of weight {weight} / R of weight 1",
            float(expected[place]),
            "own derivation: p^(1/4)",
            measured(float(queries.observed[place] / queries.observed[0])),
        )
        for place, weight in enumerate(WEIGHTS)
        if place
    ]
    ratio = softmax.observed[-1] / softmax.observed[0]
    law = softmax.predicted[-1] / softmax.predicted[0]
    return ExperimentRecord(
        name=NAME,
        findings=(
            *findings,
            Finding(
                "softmax head: R of weight 8 / R of weight 1", measured(float(law)), "own derivation", float(ratio)
            ),
            Finding("encoder: rank correlation of R and p", 1.0, "SRV: norm rises with frequency", _order(encoder)),
        ),
        arrays={
            "weight": [float(weight) for weight in WEIGHTS],
            "queries": queries.observed.tolist(),
            "queries_law": queries.predicted.tolist(),
            "softmax": softmax.observed.tolist(),
            "softmax_law": softmax.predicted.tolist(),
            "encoder": encoder.tolist(),
        },
        settings={"optimizer": "sgd", "steps": steps, "encoder_steps": encoder_steps, "dim": _DIM},
        seconds=time.perf_counter() - start_time,
    )


def _as_queries(classes: _Classes, directions: Tensor, labels: Tensor) -> Tensor:
    """Logits of drawn prototypes against one frozen document of each class, ``[n, 4]``."""
    documents = classes.near(classes.centres.expand(len(labels), -1, -1))
    return torch.einsum("nd,ncd->nc", directions[labels], documents)


def _as_softmax(classes: _Classes, directions: Tensor, labels: Tensor) -> Tensor:
    """Logits of drawn inputs against all prototypes, ``[n, 4]``."""
    return classes.near(classes.centres[labels]) @ directions.T


def _prototypes(
    similarity: Callable[[_Classes, Tensor, Tensor], Tensor], steps: int, seed: int, *, batch: int = 8
) -> _Prototypes:
    classes = _Classes(seed)
    start = torch.randn(len(WEIGHTS), _DIM, generator=classes.generator)
    table = nn.Parameter(F.normalize(start, dim=1))
    optimizer = SGD([table], lr=1.0, weight_decay=1e-3)
    rule = equilibrium_rule(optimizer)
    total, moment = torch.zeros(2, len(WEIGHTS), dtype=torch.float64)
    for step in range(steps):
        labels = classes.draw(batch)
        logits = similarity(classes, F.normalize(table, dim=1), labels) / _TEMPERATURE
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        assert table.grad is not None
        if step >= steps // 2:
            norm = table.detach().double().norm(dim=1)
            total += norm.pow(rule.power)
            moment += (norm * table.grad.double().norm(dim=1)).square()
        optimizer.step()
    count = steps - steps // 2
    return _Prototypes((total / count).pow(1 / rule.power), rule.predict(moment / count, _DIM))


def _encoder_norms(steps: int, seed: int) -> Tensor:
    """Mean norm of each class's vectors over the second half of training, ``[4]``."""
    classes = _Classes(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Linear(_DIM, 64, bias=False), nn.ReLU(), nn.Linear(64, 12, bias=False))
    optimizer = SGD(encoder.parameters(), lr=0.3, weight_decay=1e-2)
    loss = InfoNCE(temperature=_ENCODER_TEMPERATURE)
    test_inputs = classes.near(classes.centres.repeat_interleave(64, 0))
    norms = []
    for step in range(steps):
        labels = classes.draw(_ENCODER_BATCH)
        views = classes.near(classes.centres[labels].expand(2, -1, -1))
        optimizer.zero_grad()
        # Others of the same class are no negatives.
        loss(encoder(views[0]), encoder(views[1]), query_ids=labels).backward()
        optimizer.step()
        if step >= steps // 2 and (step - steps // 2) % 10 == 0:
            with torch.no_grad():
                item_norms = encoder(test_inputs).norm(dim=1)
                norms.append(reduce(item_norms, "(label item) -> label", "mean", label=len(WEIGHTS)))
    return torch.stack(norms).double().mean(0)


def _order(norms: Tensor) -> float:
    """Spearman's correlation with the weights, which rise."""
    ranks = norms.argsort().argsort().double()
    places = torch.arange(len(norms), dtype=torch.float64)
    return float(torch.corrcoef(torch.stack([ranks, places]))[0, 1])
