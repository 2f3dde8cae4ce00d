"""Trains until it is killed. Run as ``python killed_worker.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from small_models import Batches, Lit, PairTable, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics

ROWS = 12_000


class SayWhere(Callback):
    """Prints each step that is done."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        print(trainer.global_step, flush=True)


def main(folder):
    torch.set_num_threads(1)
    net = seeded(lambda: PairTable(rows=ROWS))
    module = Lit(net, lambda net: torch.optim.SGD(net.parameters(), lr=0.1))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        callbacks=[NormDynamics(every_n_steps=1), SayWhere()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Batches(pair_batches(50, rows=ROWS)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
