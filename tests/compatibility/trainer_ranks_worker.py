"""Runs the three trainings of a row in each of two processes under the Trainer, and leaves what came of them.

Run as ``python -m torch.distributed.run --nproc-per-node 2 trainer_ranks_worker.py FOLDER``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tally import TableTally
from trainer_setups import TABLE, trainer
from trainings import Run, by_hugging_face

from lightning_normdyn.cli.process_group import ended_process_group


class RanksTally(TableTally):
    """Of the mean of all ranks' gradients; the Trainer clips before anybody is told, so nobody knows its norm."""

    def end_step(self):
        gradient = torch.as_tensor(self._gradient)
        dist.all_reduce(gradient)
        self._gradient = gradient.numpy() / dist.get_world_size()
        super().end_step()
        del self.steps[-1]["gradient_norm"]


def main(folder):
    tally = RanksTally(TABLE)
    runs = {
        "alone": Run(folder / "alone", tally=tally, tapped=lambda model: model),
        "whole": Run(folder / "whole", target=TABLE),
        "resumed": Run(folder / "whole", target=TABLE, resumes=True),
    }
    for run in runs.values():
        run.folder.mkdir(exist_ok=True)
        by_hugging_face(run, trainer, ddp_backend="gloo")
    outcome = {name: {"weights": run.weights, "scalars": run.scalars} for name, run in runs.items()}
    outcome["alone"]["steps"] = [{name: float(value) for name, value in step.items()} for step in tally.steps]
    torch.save(outcome, folder / f"rank-{dist.get_rank()}.pt")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    with ended_process_group():
        main(Path(sys.argv[1]))
