"""The norm of words under one weight decay after another (Su, Ren, Veitch 2026, Fig. 2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pytorch_lightning import seed_everything
from torch import Tensor

from lightning_normdyn.core import fit_log_log
from lightning_normdyn.history.experiment import ExperimentRecord, Finding
from lightning_normdyn.history.number import measured
from lightning_normdyn.tasks.experiments.vocabulary_norms import unit_rows
from lightning_normdyn.tasks.experiments.watched import watch
from lightning_normdyn.tasks.experiments.words import words
from lightning_normdyn.tasks.tokens.token_contrast import TokenContrast
from lightning_normdyn.tasks.tokens.token_pairs import TokenPairs

NAME = "weight_decay_sweep"
_WEIGHT_DECAYS = (6e-3, 3.4e-3, 1.9e-3, 1.07e-3, 6e-4)
_LEAST_GRADIENTS = 2
"""Gradients that a word needs in a relaxation time: a rarer one mostly decays from one gradient to the next."""
_DRAWN = 250
"""Words per weight decay that the figure draws: the fits go over all."""


class _WindowMeans(NamedTuple):
    """What the last window under one weight decay said about every word, ``[words]`` each."""

    weight_decay: float
    norm: Tensor
    second_moment: Tensor
    update_probability: Tensor

    @property
    def predictor(self) -> Tensor:
        """``V²/lambda``."""
        return self.second_moment / self.weight_decay


def weight_decay_sweep(
    *,
    steps: int = 1600,
    seed: int = 0,
    weight_decays: Sequence[float] = _WEIGHT_DECAYS,
    text: list[str] | None = None,
) -> ExperimentRecord:
    """Trains the token table by plain SGD at a constant rate, once per weight decay.

    Each run goes on from where the one before, under a stronger decay, left the table; the first starts from norm 1.
    Norms and V² are from the last half of a run, from two relaxation times on even under the weakest decay. The law is
    of means over many gradients, so the words are those with two or more of them in a relaxation time of every run.

    Args:
        steps: optimizer steps per weight decay.
        seed: of initial directions and of the data.
        weight_decays: falling.
        text: text files in place of the standard library's documentation.
    """
    start_time = time.perf_counter()
    seed_everything(seed, verbose=False)
    data = words(text, seed)
    lr = 1.0
    all_runs, verdicts = _sweep(data, weight_decays, steps)
    runs = _frequent(all_runs, relaxation=1 / (4 * lr * max(weight_decays)))
    pooled = fit_log_log(torch.cat([run.predictor for run in runs]), torch.cat([run.norm.pow(4) for run in runs]))
    decays = torch.tensor([run.weight_decay for run in runs], dtype=torch.float64)
    typical = torch.stack([_typical(run.norm) for run in runs])
    predictor = torch.stack([_typical(run.predictor) for run in runs])
    across = fit_log_log(predictor, typical.pow(4))
    on_decay = fit_log_log(decays, typical)
    moment = fit_log_log(decays, predictor * decays)
    constant = torch.cat([run.norm.pow(4) / run.predictor for run in runs]).median()
    sample = [_every_nth(run) for run in runs]
    return ExperimentRecord(
        name=NAME,
        findings=(
            Finding("slope of log R⁴ on log V²/λ, geometric means", 1.0, "SRV Fig. 2", measured(across.slope)),
            Finding("slope of log R⁴ on log V²/λ, all words", 1.0, "SRV Fig. 2", measured(pooled.slope)),
            Finding("Pearson r of the same, all words", 1.0, "SRV Fig. 2", measured(pooled.pearson_r)),
            Finding("R⁴·λ/V²", lr / 2, "own derivation: lr/2", measured(float(constant))),
            Finding(
                "slope of log R on log λ",
                measured((moment.slope - 1) / 4),
                "own derivation: (slope of V² − 1)/4",
                measured(on_decay.slope),
            ),
        ),
        arrays={
            "weight_decay": decays.tolist(),
            "norm": typical.tolist(),
            "predictor": predictor.tolist(),
            "word_weight_decay": [run.weight_decay for run in sample for _ in run.norm],
            "word_norm": [float(norm) for run in sample for norm in run.norm],
            "word_predictor": [float(value) for run in sample for value in run.predictor],
        },
        settings={"optimizer": "sgd", "lr": lr, "steps": steps, "words": len(runs[0].norm), "corpus": data.corpus.name},
        seconds=time.perf_counter() - start_time,
        verdicts=verdicts,
    )


def _sweep(
    data: TokenPairs, weight_decays: Sequence[float], steps: int
) -> tuple[list[_WindowMeans], list[dict[str, Any]]]:
    """The last windows of the runs, and what the rules said of each."""
    runs: list[_WindowMeans] = []
    verdicts: list[dict[str, Any]] = []
    table: Tensor | None = None
    for weight_decay in weight_decays:
        module = TokenContrast(data.table_rows, schedule="constant", weight_decay=weight_decay)
        if table is None:
            unit_rows(module.table.weight)
        else:
            module.table.weight.data.copy_(table)
        run = watch(module, data, steps=steps, target="table.weight", fit_every_n_steps=1, window=max(1, steps // 2))
        last = run.windows[-1]
        verdicts += [
            {**verdict, "target": f"{verdict['target']} under λ = {weight_decay:g}"} for verdict in run.verdicts
        ]
        table = module.table.weight.detach()
        runs.append(_WindowMeans(weight_decay, last["mean_norm"], last["second_moment"], last["update_probability"]))
    return runs, verdicts


def _frequent(runs: list[_WindowMeans], *, relaxation: float) -> list[_WindowMeans]:
    """The same runs, of the words that are frequent enough in all of them."""
    is_frequent = torch.stack([run.update_probability * relaxation >= _LEAST_GRADIENTS for run in runs]).all(0)
    return [_WindowMeans(run.weight_decay, *(column[is_frequent] for column in run[1:])) for run in runs]


def _typical(values: Tensor) -> Tensor:
    """Geometric mean."""
    return values.log().mean().exp()


def _every_nth(run: _WindowMeans) -> _WindowMeans:
    stride = max(1, len(run.norm) // _DRAWN)
    return _WindowMeans(run.weight_decay, *(column[::stride] for column in run[1:]))
