"""How well the norms of small encoders are forecast through a schedule, beside 'stays as it is'.

    python benchmarks/forecasts.py [--quick] [--out benchmarks/results]

Trains a fixed suite with NormDynamics as a user would, at default settings; the forecast is made at 40% of each run and
judged at its end. Writes ``forecasts.json`` and a dated table, ``forecasts.md``. Takes about three minutes on one core.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import statistics
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from overhead_table import machine
from small_encoders import Case, Contrast, Views, probe

from lightning_normdyn.callbacks import NormDynamics

SUITE = [
    Case("1 layer", "SGD", 0.5, 2e-3),
    Case("1 layer", "SGD, momentum 0.9", 0.05, 2e-3),
    Case("1 layer", "AdamW", 3e-3, 0.3),
    Case("2 ReLU layers", "SGD", 0.5, 2e-3),
    Case("2 ReLU layers", "SGD, momentum 0.9", 0.05, 2e-3),
    Case("2 ReLU layers", "AdamW", 3e-3, 0.3),
    Case("2 ReLU layers", "AdamW", 3e-3, 0.3, "linear"),
    Case("3 ReLU layers", "SGD", 0.3, 2e-3),
    Case("3 ReLU layers", "SGD, momentum 0.9", 0.03, 2e-3),
    Case("3 ReLU layers", "AdamW", 2e-3, 0.3),
    Case("3 layers, LayerNorm", "SGD, momentum 0.9", 0.05, 1e-3),
    Case("3 layers, LayerNorm", "AdamW", 2e-3, 0.2),
    Case("transformer layer", "SGD, momentum 0.9", 0.05, 1e-3),
    Case("transformer layer", "AdamW", 2e-3, 0.1),
    Case("transformer layer", "AdamW", 1e-3, 0.01),
    Case("2 ReLU layers", "SGD, momentum 0.9", 0.05, 2e-3, "constant"),
    Case("2 ReLU layers", "AdamW", 2e-3, 0.3, "cosine", "dot"),
]
STEPS, SEEDS = 3_000, (0, 1)
FOUND = (
    "forecast_median_error",
    "persistence_median_error",
    "forecast_skill",
    "balance_slope",
    "balance_pearson_r",
    "radial_decay_ratio",
)


def train(case: Case, steps: int, seed: int) -> dict[str, float]:
    """Trains a case; returns what the callback logged of its fit and its forecast."""
    pl.seed_everything(seed, verbose=False)
    callback = NormDynamics(targets=["encoder"], probe=probe(), save_history=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Contrast(case, steps), torch.utils.data.DataLoader(Views(seed + 1), batch_size=None))
    return {name: float(trainer.callback_metrics[f"normdyn/encoder/{name}"]) for name in FOUND}


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware, runs = report["machine"], report["runs"]
    lines = [
        f"# Forecasts of encoder norms, {report['date']}",
        "",
        f"`python benchmarks/forecasts.py{' --quick' if report['quick'] else ''}`; Python {hardware['python']}, torch "
        f"{hardware['torch']}, pytorch-lightning {hardware['pytorch_lightning']}. {report['steps']:,} steps, "
        f"{len(report['seeds'])} seed(s), 64 probe items, default cadence (every 50 steps, windows of a fifth). The "
        "forecast is made at 40% of the run for its end. Errors are medians over items, then over seeds; skill is "
        "1 - error / error of 'stays as it is'. The last two columns are of the transient-corrected fit, an identity.",
        "",
        "| encoder | optimizer | schedule, loss | λ_rad/λ | forecast | stays as it is | skill | slope | r |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        case, found = Case(**run["case"]), run["median"]
        lines.append(
            f"| {case.encoder} | {case.optimizer}, lr {case.lr:g}, λ {case.weight_decay:g} | {case.schedule}, "
            f"{case.loss} | {found['radial_decay_ratio']:.2f} | {found['forecast_median_error']:.1%} | "
            f"{found['persistence_median_error']:.1%} | {found['forecast_skill']:.2f} | {found['balance_slope']:.3f} | "
            f"{found['balance_pearson_r']:.4f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the suite and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two cases, 400 steps, one seed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    suite, steps, seeds = (SUITE[3:5], 400, (0,)) if options.quick else (SUITE, STEPS, SEEDS)
    runs = []
    for case in suite:
        found = [train(case, steps, seed) for seed in seeds]
        median = {name: statistics.median(one[name] for one in found) for name in FOUND}
        runs.append({"case": case._asdict(), "median": median, "seeds": found})
        name = f"{case.encoder:22} {case.optimizer:18} {case.schedule:9} {case.loss:7}"
        print(f"{name} skill {median['forecast_skill']:.2f}", flush=True)
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    report = {"date": date, "machine": machine(), "quick": options.quick, "steps": steps, "seeds": seeds, "runs": runs}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "forecasts.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (options.out / "forecasts.md").write_text(tabulate(report), encoding="utf-8")
    print(tabulate(report))


if __name__ == "__main__":
    main()
