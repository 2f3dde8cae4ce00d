"""Trains two tables with a pause after each step. Run as ``python watched_training.py FOLDER STEPS``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from small_models import Batches, Lit, TwoTables, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history.part_log import PartLog


class Pause(Callback):
    """Leaves a watcher the time to look, and says how far the training is."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        time.sleep(0.02)
        print(trainer.global_step, flush=True)


def main(folder, steps):
    torch.set_num_threads(1)
    PartLog.__init__.__kwdefaults__["flush_seconds"] = 0.5  # a part each half second rather than each half minute
    module = Lit(seeded(TwoTables), lambda net: torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.05))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[NormDynamics(every_n_steps=5, window=50), Pause()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Batches(pair_batches(50)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
