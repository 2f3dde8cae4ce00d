"""Predicted against observed norm, one point per vocabulary position (Su, Ren, Veitch 2026, Fig. 3a)."""

from __future__ import annotations

import time

import torch
from pytorch_lightning import seed_everything
from torch import Tensor

from lightning_normdyn.core import LogLogFit, equilibrium_rule, fit_log_log
from lightning_normdyn.core.dynamics.published_fit import PUBLISHED_FIT
from lightning_normdyn.history.experiment import ExperimentRecord, Finding
from lightning_normdyn.history.number import measured
from lightning_normdyn.tasks.experiments.watched import Window, watch
from lightning_normdyn.tasks.experiments.words import words
from lightning_normdyn.tasks.tokens.token_contrast import TokenContrast

NAME = "vocabulary_norms"


def vocabulary_norms(*, steps: int = 4000, seed: int = 0, text: list[str] | None = None) -> ExperimentRecord:
    """Trains the token table with plain SGD at a constant rate and holds every word's norm against the law.

    All words start with norm 1, so no length is put in. Su, Ren and Veitch feed their full balance equation with
    moments of the run itself; here there is no radial term: the law takes the size of the gradients and two
    hyper-parameters. The stricter findings take that size from one window and the norms from the next.

    Args:
        steps: optimizer steps; the last quarter is the window that is held against the law.
        seed: of initial directions and of the data.
        text: text files in place of the standard library's documentation.
    """
    start_time = time.perf_counter()
    seed_everything(seed, verbose=False)
    data = words(text, seed)
    module = TokenContrast(data.table_rows, schedule="constant")
    unit_rows(module.table.weight)
    run = watch(module, data, steps=steps, target="table.weight", fit_every_n_steps=1, window=max(1, steps // 4))
    previous, last = run.windows[-2:]
    law = fit_log_log(last["equilibrium_norm"], last["mean_norm"])
    forecast = fit_log_log(_from_the_window_before(module, previous), last["mean_norm"])
    counts = torch.tensor(data.vocabulary.counts, dtype=torch.float64)
    share = (counts / counts.sum())[last["row"].long()]
    norm_on_share, moment_on_share = (fit_log_log(share, last[name]) for name in ("mean_norm", "second_moment"))
    return ExperimentRecord(
        name=NAME,
        findings=(
            *_slope_and_r(law, "equilibrium law"),
            Finding("median error, equilibrium law", None, "SRV print none", measured(law.median_relative_error)),
            *_slope_and_r(forecast, "V² from the window before"),
            Finding(
                "slope of log R on log word share",
                measured(moment_on_share.slope / 4),
                "own derivation: a quarter of V²'s slope",
                measured(norm_on_share.slope),
            ),
        ),
        arrays=_finite(
            predicted=last["equilibrium_norm"],
            observed=last["mean_norm"],
            share=share,
            update_probability=last["update_probability"],
        ),
        settings={"optimizer": "sgd", "steps": steps, "words": data.table_rows, "corpus": data.corpus.name},
        seconds=time.perf_counter() - start_time,
        verdicts=run.verdicts,
    )


@torch.no_grad()
def unit_rows(table: Tensor) -> None:
    """Gives all rows of a table norm 1, in place; directions stay."""
    table.div_(table.norm(dim=1, keepdim=True))


def _from_the_window_before(module: TokenContrast, previous: Window) -> Tensor:
    optimizer = module.configure_optimizers()
    return equilibrium_rule(optimizer).predict(previous["second_moment"], module.table.embedding_dim)


def _slope_and_r(fit: LogLogFit, how: str) -> tuple[Finding, Finding]:
    return (
        Finding(f"slope, {how}", PUBLISHED_FIT.slope, PUBLISHED_FIT.source, measured(fit.slope)),
        Finding(f"Pearson r, {how}", PUBLISHED_FIT.pearson_r, PUBLISHED_FIT.source, measured(fit.pearson_r)),
    )


def _finite(**columns: Tensor) -> dict[str, list[float]]:
    """The rows in which every column is a positive number: those that the fits go over."""
    usable = torch.stack([column.isfinite() & (column > 0) for column in columns.values()]).all(0)
    return {name: column[usable].tolist() for name, column in columns.items()}
