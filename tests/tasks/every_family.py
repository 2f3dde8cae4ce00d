"""One step of every shipped configuration under every normalization, on any number of processes.

Run as ``python -m torch.distributed.run --nproc-per-node 2 every_family.py FILE`` to do it on two.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from pathlib import Path

import torch

from lightning_normdyn.cli.fit import NormdynCLI
from lightning_normdyn.losses.euclidean import SquaredEuclidean
from lightning_normdyn.tasks import ContrastiveTask
from lightning_normdyn.tasks.quiet import quiet_lightning

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
PRECISIONS = ("32-true", "bf16-mixed")
BATCHES = {
    "clip": "--data.batch_size=8",
    "fewshot": "--data.ways=6",
    "kg": "--data.evaluation_batch_size=64",
    "tokens": "--data.batch_size=16",
}


def train_every_family(devices: int) -> dict[str, str]:
    """Name of each training to the normalization that its loss had, or to what went wrong."""
    found = {}
    for config in CONFIGS:
        data = None
        for place, variant in enumerate(variants_of(config.stem)):
            for precision in PRECISIONS:
                cli = configured(config, variant, precision, devices)
                data = cli.datamodule if data is None else data  # read once for all
                found[f"{config.stem} {variant} {precision}"] = one_step(cli, data, validates=place == 0)
    return found


def variants_of(family: str) -> tuple[str, ...]:
    return (*ContrastiveTask.variants, "euclidean") if family == "fewshot" else ContrastiveTask.variants


def configured(config: Path, variant: str, precision: str, devices: int) -> NormdynCLI:
    words = [
        "--config",
        str(config),
        f"--model.normalization={variant}",
        BATCHES.get(config.stem, "--data.batch_size=8"),
    ]
    words += ["--trainer.fast_dev_run=true", f"--trainer.precision={precision}"]
    words += [f"--trainer.devices={devices}", "--trainer.strategy=ddp" if devices > 1 else "--trainer.strategy=auto"]
    words += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    return NormdynCLI(words, run=False)


def one_step(cli: NormdynCLI, data: object, *, validates: bool) -> str:
    if not validates:  # what validation does depends on the family alone
        cli.trainer.limit_val_batches = 0
    cli.trainer.fit(cli.model, datamodule=data)
    loss = float(cli.trainer.callback_metrics["train_loss"])
    if not math.isfinite(loss) or cli.trainer.global_step != 1:
        return f"loss {loss} after {cli.trainer.global_step} steps"
    if not all(parameter.isfinite().all() for parameter in cli.model.parameters()):
        return "weights that are not finite"
    similarity = cli.model.contrast.similarity
    return "euclidean" if isinstance(similarity, SquaredEuclidean) else similarity.normalization


if __name__ == "__main__":
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with quiet_lightning():
        trained = train_every_family(int(os.environ.get("WORLD_SIZE", "1")))
    if int(os.environ.get("RANK", "0")) == 0:
        Path(sys.argv[1]).write_text(json.dumps(trained))
