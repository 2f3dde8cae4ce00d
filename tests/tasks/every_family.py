"""One step of every shipped configuration under every normalization, on any number of processes.

Run as ``python -m torch.distributed.run --nproc-per-node 2 every_family.py FOLDER`` to do it on two.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import sys
import warnings
import weakref
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch
from pytorch_lightning import LightningDataModule

sys.path.insert(0, str(Path(__file__).parents[1] / "training_loops"))
from small_transformers import write_bert

from lightning_normdyn.cli.fit import NormdynCLI
from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.losses.euclidean import SquaredEuclidean
from lightning_normdyn.tasks import ContrastiveTask
from lightning_normdyn.tasks.quiet import quiet_lightning

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
FAMILIES = [config.stem for config in CONFIGS]
PRECISIONS = ("32-true", "bf16-mixed")
BATCHES = {
    "clip": "--data.batch_size=8",
    "fewshot": "--data.ways=6",
    "kg": "--data.evaluation_batch_size=64",
    "tokens": "--data.batch_size=16",
}


def train_every_family(devices: int, encoder: Path) -> dict[str, str]:
    """Name of each training to the normalization that its loss had, or to what went wrong."""
    trained = {}
    for config in CONFIGS:
        trained |= train_family(config, devices, encoder)
        gc.unfreeze()
    return trained


def train_family(config: Path, devices: int, encoder: Path) -> dict[str, str]:
    trained, data = {}, None
    for variant, precision in trainings_of(config.stem, devices):
        cli = configured(config, variant, precision, devices, encoder)
        data = cli.datamodule if data is None else data  # read once for all
        outcome = one_step(cli, data, validates=variant == variants_of(config.stem)[0])
        trained[f"{config.stem} {variant} {precision}"] = outcome if freed(cli, data) else "still in memory"
    return trained


def trainings_of(family: str, devices: int) -> list[tuple[str, str]]:
    """Every variant in every precision on one process; on several, in the precisions by turns."""
    if devices == 1:
        return list(itertools.product(variants_of(family), PRECISIONS))
    first = FAMILIES.index(family)
    return [(variant, PRECISIONS[(first + place) % 2]) for place, variant in enumerate(variants_of(family))]


def freed(cli: NormdynCLI, data: LightningDataModule) -> bool:
    """Whether a training is gone; it waits for the cycle collector, which seldom looks by itself."""
    references = [weakref.ref(cli.model), weakref.ref(cli.trainer)]
    data.trainer = None
    vars(cli).clear()  # jsonargparse refers to the last command line
    gc.collect()
    gc.freeze()  # libraries and data, which would be looked through after each training
    return all(reference() is None for reference in references)


def variants_of(family: str) -> tuple[str, ...]:
    return (*ContrastiveTask.variants, "euclidean") if family == "fewshot" else ContrastiveTask.variants


def configured(config: Path, variant: str, precision: str, devices: int, encoder: Path) -> NormdynCLI:
    words = [
        "--config",
        str(config),
        f"--model.normalization={variant}",
        BATCHES.get(config.stem, "--data.batch_size=8"),
    ]
    words += ["--trainer.fast_dev_run=true", f"--trainer.precision={precision}"]
    words += [f"--trainer.devices={devices}", "--trainer.strategy=ddp" if devices > 1 else "--trainer.strategy=auto"]
    words += [f"--model.encoder.model={encoder}"] if config.stem == "finetune" else []
    words += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    return NormdynCLI(words, run=False)


def one_step(cli: NormdynCLI, data: LightningDataModule, *, validates: bool) -> str:
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


def peak_gib() -> float:
    """Largest resident memory of this process so far; on Linux ``getrusage`` counts the process that started it too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**20
    return getrusage(RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)


def main(folder: Path) -> None:
    os.chdir(folder)  # where trainers leave their files
    rank = os.environ.get("RANK", "0")
    encoder = write_bert(folder / f"bert-{rank}", ["return", "the", "file", "list"], max_position_embeddings=64)
    with quiet_lightning():
        trained = train_every_family(int(os.environ.get("WORLD_SIZE", "1")), encoder)
    (folder / f"rank-{rank}.json").write_text(json.dumps({"trained": trained, "peak GiB": peak_gib()}))


if __name__ == "__main__":
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with ended_process_group():
        main(Path(sys.argv[1]))
