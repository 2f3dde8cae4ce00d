"""All trainings of one side of a case of ``family_peers.py``, in a process and an environment of its own.

    python benchmarks/family_side.py CASE SIDE DATA RUNS [--seeds 3]

Trains at every rate with the first seed, then at the one that validation likes best with the others, and writes what
each came to as JSON, with every query of the test split. What is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
from family_cases import CASES, Case
from peer_outcome import Outcome

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.cli.fit import WITHOUT_RUN, UnloggedCLI
from lightning_normdyn.tasks.fewshot.fewshot import FewShot, nearest_accuracy
from lightning_normdyn.tasks.quiet import quiet_lightning

CONFIGS = Path(__file__).parents[1] / "configs"


def command_line(case: Case, data: Path | None, seed: int, rate: float | None = None) -> UnloggedCLI:
    """The case's configuration, read and not run."""
    words = [word.format(folder=data) for word in case.words]
    if rate is not None:
        words.append(f"--model.lr={rate}")
    fixed = ["--trainer.logger=false", "--trainer.callbacks=[]", "--trainer.enable_progress_bar=false"]
    fixed += ["--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0", f"--seed_everything={seed}"]
    with quiet_lightning():
        return UnloggedCLI(["--config", str(CONFIGS / f"{case.config}.yaml"), *words, *fixed, *WITHOUT_RUN], run=False)


def ours(cli: UnloggedCLI, *, measures_shapes: bool = True) -> Outcome:
    """The task as it is configured, by its own measures; few-shot models also in episodes of other shapes."""
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    model.measures_floors = False
    with quiet_lightning():
        started = time.process_time()
        trainer.fit(model, datamodule=data)
        seconds = time.process_time() - started
        trainer.limit_val_batches = 1.0
        validation = trainer.validate(model, datamodule=data, verbose=False)[0][f"val/{model.headline}"]
        trainer.test(model, datamodule=data, verbose=False)
    if isinstance(model, FewShot) and measures_shapes:
        return Outcome(validation, _episodes(model, data), seconds)
    return Outcome(
        validation, {model.headline: model.trained_measures(model.encoded)[model.headline].tolist()}, seconds
    )


@torch.no_grad()
def _episodes(model: FewShot, data: Any) -> dict[str, list[float]]:
    """Accuracy of the test episodes of every shape, the items encoded once."""
    from peers_images import FewShotTests

    tests = FewShotTests(data.source)
    model.eval()
    items = torch.cat([model.encode_queries(batch) for batch in tests.items("test").split(512)])
    has_item = torch.ones(len(items), dtype=torch.bool)
    return {
        f"accuracy, {ways}-way {shots}-shot": nearest_accuracy(shape.evaluation("test").assemble(items, has_item))[
            "accuracy"
        ].tolist()
        for (ways, shots), shape in tests.by_shape.items()
    }


def run(case: Case, side: str, data: Path | None, *, seed: int, rate: float | None) -> dict[str, Any]:
    """One training of one side, measured, as JSON has it."""
    if side == "ours":
        outcome, packages = ours(command_line(case, data, seed, rate)), ("lightning_normdyn",)
    else:
        peer = case.peers[side]
        module, _, name = peer.function.partition(":")
        sides = command_line(case, data, seed).datamodule
        sides.setup("fit")
        outcome = getattr(import_module(module), name)(sides, seed=seed, rate=rate, **peer.options)
        packages = peer.packages
    versions = {package: _version(package) for package in packages}
    return {**asdict(outcome), "seed": seed, "rate": rate, "versions": versions}


def run_all(name: str, side: str, data: Path, runs: Path, seeds: int) -> None:
    """Every rate with the first seed, then the best with the others."""
    case = CASES[name]
    folder = data / case.data if case.data else None
    rates = case.rates if side == "ours" else case.peers[side].rates
    validation = {}
    for rate in rates:
        result = _result(runs / name / side / f"rate{rate}-seed0.json", case, side, folder, seed=0, rate=rate)
        validation[rate] = result["validation"]
    best = max(validation, key=validation.__getitem__)
    has_seeds = side == "ours" or case.peers[side].seeds
    for seed in range(1, seeds if has_seeds else 1):
        _result(runs / name / side / f"rate{best}-seed{seed}.json", case, side, folder, seed=seed, rate=best)


def _result(file: Path, case: Case, side: str, data: Path | None, *, seed: int, rate: float | None) -> dict[str, Any]:
    """What a file holds, made first where there is none."""
    if not file.is_file():
        result = run(case, side, data, seed=seed, rate=rate)
        write_json(file, result)
        print(f"{case.config}, {side}, seed {seed}, rate {rate}: validation {result['validation']:.4f}", flush=True)
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _version(package: str) -> str:
    if package == "lightning_normdyn":
        return str(import_module("lightning_normdyn").__version__)
    return metadata.version(package)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("side")
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    run_all(arguments.case, arguments.side, arguments.data, arguments.runs, arguments.seeds)


if __name__ == "__main__":
    main()
