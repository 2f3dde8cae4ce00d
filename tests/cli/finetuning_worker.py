"""Fine-tunes by the shipped configuration in two processes and leaves the runs for the test that started it.

Started by ``rank_starter.run_ranks`` as ``finetuning_worker.py FOLDER PORTS CASE...``; two more ports than cases let
the first one go on from a checkpoint, too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from torch.utils.data import DataLoader, DistributedSampler

from lightning_normdyn.cli.main import main
from lightning_normdyn.tasks import RetrievalData
from lightning_normdyn.tasks.contrast.contrast_data import collate_pairs

PAIRS = 8
"""Of a step, on all ranks together."""
_ADAPTERS = ("--model.encoder.lora=Lora", "--model.encoder.lora.rank=2", "--model.layer_decay=1")
CASES: dict[str, tuple[str, ...]] = {
    "cached": ("--model.mini_batch_size=3", "--data.hard_negatives=2"),
    "full": (),
    "frozen": ("--model.encoder.frozen_layers=1", "--model.layer_decay=1"),
    "lora": _ADAPTERS,
    "cached lora": (*_ADAPTERS, "--model.mini_batch_size=3"),
}


class OrderedPairs(RetrievalData):
    """Its pairs come in their order, so that a step of two ranks has those of a step of one."""

    def train_dataloader(self):
        rank, ranks = self.rank_of_ranks
        pairs = self.training_pairs()
        sampler = DistributedSampler(pairs, num_replicas=ranks, rank=rank, shuffle=False)
        return DataLoader(pairs, self.batch_size, sampler=sampler, drop_last=True, collate_fn=collate_pairs)


def words(folder, name, case, *, ranks, precision="64-true"):
    """Of the command line.

    Args:
        folder: which holds the encoder, ``bert``, and gets the run.
        name: of the run.
        case: what trains.
        ranks: processes, which share the pairs of a step.
        precision: of the trainer; float64 tells rounding from all else.
    """
    save_all = "--trainer.callbacks+=pytorch_lightning.callbacks.ModelCheckpoint"
    settings = {
        "model.encoder.model": folder / "bert",
        "model.lr": 1e-3,
        "data": "finetuning_worker.OrderedPairs",
        "data.source": "phrases.Phrases",
        "data.batch_size": PAIRS // ranks,
        "data.evaluation_batch_size": 7,  # of 30 and 90 texts: the ranks have unequal shares
        "trainer.accelerator": "cpu",
        "trainer.devices": ranks,
        "trainer.strategy": "ddp" if ranks > 1 else "auto",
        "trainer.precision": precision,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "trainer.logger.save_dir": folder,
        "trainer.logger.name": name,
    }
    options = [f"--{option}={value}" for option, value in settings.items()]
    return ["fit", "--config", "finetune.yaml", *options, *CASES[case], save_all, "--trainer.callbacks.save_top_k=-1"]


def checkpoint(folder, name, epoch):
    """The file of a run that was saved after an epoch."""
    (file,) = (folder / name / "version_0" / "checkpoints").glob(f"epoch={epoch}-*.ckpt")
    return file


def train_all(folder, ports, cases):
    """Every case on two ranks; each command has a port for its store.

    In one store a second process group would find where the first one listened.
    """
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    for case in cases:
        _train(words(folder, f"{case} of two", case, ranks=2), ports)


def go_on(folder, ports, case):
    """A case whole, and once more from its first epoch on; not in float64, which Lightning loads into float32."""
    options = {"ranks": 2, "precision": "32-true"}
    _train(words(folder, "whole", case, **options), ports)
    first = f"--ckpt_path={checkpoint(folder, 'whole', 0)}"
    _train([*words(folder, "resumed", case, **options), first], ports)


def _train(command, ports):
    os.environ["MASTER_PORT"] = ports.pop()
    assert main(command) == 0, command


if __name__ == "__main__":
    FOLDER, PORTS, TRAINED = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
    train_all(FOLDER, PORTS, TRAINED)
    if PORTS:
        go_on(FOLDER, PORTS, TRAINED[0])
