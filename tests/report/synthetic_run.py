"""A run that never was: Zipf frequencies, SGD with weight decay on a scale-invariant loss, and its history on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from written_history import history_of


class Setting(NamedTuple):
    rows: int = 2000
    steps: int = 12_000
    lr: float = 0.5
    weight_decay: float = 1e-3
    snapshot_every: int = 100
    window: int = 1200
    seed: int = 0

    def schedule(self) -> np.ndarray:
        progress = np.arange(self.steps) / self.steps
        return self.lr * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * progress)))


class Table:
    """Norms that move by the balance equation, step by step, and what a monitor would have counted meanwhile."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.rng = setting, np.random.default_rng(setting.seed)
        rank = np.arange(1, setting.rows + 1)
        self.probability = 1 - (1 - (1 / rank) / (1 / rank).sum()) ** 64
        self.source = self.rng.lognormal(0.0, 0.25, setting.rows)
        self.norm = self.rng.normal(1.0, 0.05, setting.rows).clip(0.5)
        self.schedule = setting.schedule()
        self.open_window()

    def open_window(self) -> None:
        self.start, self.hits, self.heat = self.norm.copy(), np.zeros(self.setting.rows), np.zeros(self.setting.rows)
        self.norm_sum = np.zeros(self.setting.rows)

    def advance(self, step: int) -> dict[str, float]:
        lr, decay = self.schedule[step], self.setting.weight_decay
        hit = self.rng.random(self.setting.rows) < self.probability
        heat = hit * self.source**2 * self.rng.gamma(4.0, 0.25, self.setting.rows)
        before = self.norm**2
        growth = lr**2 * heat / before
        drift = self.rng.normal(0, 0.02, self.setting.rows) * growth
        self.norm = np.sqrt(before * (1 - lr * decay) ** 2 + growth + drift)
        self.hits, self.heat, self.norm_sum = self.hits + hit, self.heat + heat, self.norm_sum + self.norm
        shares = {"decay": (1 - lr * decay) ** 2 - 1.0, "growth": (growth / before).mean()}
        return {**shares, "drift": (drift / before).mean()}

    def fit_columns(self, step: int, size: int) -> dict[str, np.ndarray]:
        noise = self.rng.lognormal(0.0, 0.08, self.setting.rows)
        moment, lrs = self.heat / size * noise, self.schedule
        at_end, at_close = (
            self._roll(self.norm, moment, lrs[step:]),
            self._roll(self.start, moment, lrs[step - size : step]),
        )
        return {
            "second_moment": moment,
            "update_probability": self.hits / size,
            "mean_norm": self.norm_sum / size,
            "equilibrium_norm": (lrs[step - size : step].mean() * moment / (2 * self.setting.weight_decay)) ** 0.25,
            "transient_norm": at_close,
            "forecast_norm": at_end,
        }

    def _roll(self, norm: np.ndarray, moment: np.ndarray, lrs: np.ndarray) -> np.ndarray:
        fourth = norm**4
        for lr in lrs:
            keep = 1 - lr * self.setting.weight_decay
            fourth = keep**4 * fourth + 2 * keep**2 * lr**2 * moment
        return fourth**0.25


def write_run(log_dir: Path, setting: Setting, *, until: int | None = None, target: str = "embedding.weight") -> Table:
    """Trains the synthetic table (up to ``until``) and leaves its history under ``log_dir``."""
    table, history = Table(setting), history_of(log_dir, target)
    history.describe(description(setting, target))
    rows = np.arange(setting.rows)
    for step in range(until or setting.steps):
        if step % setting.snapshot_every == 0 and step % setting.window:
            history.append_rows({"step": np.full(setting.rows, step), "row": rows, "norm": table.norm})
        if step == 0:
            history.append_rows({"step": np.zeros(setting.rows), "row": rows, "norm": table.norm})
        budget = table.advance(step)
        done = step + 1
        if step % setting.snapshot_every == 0:
            history.append_quantities(step, quantities(table, budget))
        if done % setting.window == 0:
            fit = table.fit_columns(done, setting.window)
            history.append_rows({"step": np.full(setting.rows, done), "row": rows, "norm": table.norm, **fit})
            history.append_quantities(done, fit_quantities(fit, table.norm, table.start))
            table.open_window()
    history.flush()
    return table


def write_output(log_dir: Path, setting: Setting, target: str = "encoder") -> None:
    """Leaves the history of a module's output: quantities alone, some of them not finite."""
    history, rng = history_of(log_dir, target), np.random.default_rng(1)
    history.describe(
        {"target": target, "kind": "output", "dim": 64, "optimizer": "AdamW", "total_steps": setting.steps}
    )
    for step in range(0, setting.steps, setting.snapshot_every):
        middle = 4.0 - 2.0 * np.exp(-step / (0.3 * setting.steps)) + rng.normal(0, 0.02)
        history.append_quantities(
            step,
            {
                "norm_mean": middle,
                "norm_p05": 0.8 * middle,
                "norm_p50": middle,
                "norm_p95": 1.3 * middle,
                "norm_cv": 0.15,
                "radial_fraction": float("nan") if step == 0 else 0.2 + 0.05 * rng.random(),
                "gradient_norm": float("inf") if step == 0 else 0.1,
            },
        )
    history.flush()


def description(setting: Setting, target: str) -> dict[str, Any]:
    return {
        "target": target,
        "kind": "table",
        "rows": setting.rows,
        "dim": 64,
        "tracked_rows": setting.rows,
        "row_stride": 1,
        "optimizer": "SGD",
        "law": "SGD with weight decay: R⁴ = lr·V²/(2·weight_decay)",
        "lr": setting.lr,
        "weight_decay": setting.weight_decay,
        "total_steps": setting.steps,
        "version": "0.1.0",
    }


def quantities(table: Table, budget: dict[str, float]) -> dict[str, float]:
    p05, p50, p95 = np.quantile(table.norm, [0.05, 0.5, 0.95])
    return {
        "norm_mean": table.norm.mean(),
        "norm_cv": table.norm.std() / table.norm.mean(),
        "norm_p05": p05,
        "norm_p50": p50,
        "norm_p95": p95,
        "radial_fraction": 10 ** table.rng.normal(-7.4, 0.15),
        "update_radial_fraction": 10 ** table.rng.normal(-2.6, 0.2),
        "gradient_norm": table.rng.lognormal(-3, 0.2),
        "budget_residual": 10 ** table.rng.normal(-7, 0.2),
        "effective_lr": float("nan"),
        **{f"budget_{name}": value for name, value in budget.items()},
    }


def fit_quantities(fit: dict[str, np.ndarray], norm: np.ndarray, start: np.ndarray) -> dict[str, float]:
    found: dict[str, float] = {"stationarity": 0.9, "relaxation_steps": 500.0}
    for law, observed in (("equilibrium", fit["mean_norm"]), ("transient", norm)):
        predicted = fit[f"{law}_norm"]
        usable = (predicted > 0) & (fit["update_probability"] > 0)
        x, y = np.log(predicted[usable]), np.log(observed[usable])
        found[f"{law}_slope"] = float(np.polyfit(x, y, 1)[0])
        found[f"{law}_pearson_r"] = float(np.corrcoef(x, y)[0, 1])
        found[f"{law}_median_error"] = float(np.median(np.abs(predicted[usable] / observed[usable] - 1)))
    stays = float(np.median(np.abs(start / norm - 1)))
    found["transient_persistence_error"] = stays
    found["transient_skill"] = 1 - found["transient_median_error"] / stays
    return found
