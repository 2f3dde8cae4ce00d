"""Trainings with mined hard negatives for the two processes of ``two_process_worker.py``."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from memory_logger import MemoryLogger
from mining_model import Snapshots, Towers, mining_source
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_normdyn.callbacks import HardNegativeMining

ENDING = ("overlap", "false_negative_share", "lacking_share", "score", "positive_score")


def train(folder, callbacks, steps, *, strategy, ckpt_path=None, **options):
    torch.manual_seed(1)
    model = Towers(mining_source(), batch_size=5, **options)
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy=strategy,
        devices=2,
        max_steps=steps,
        max_epochs=-1,
        logger=MemoryLogger() if folder is None else False,
        callbacks=callbacks,
        default_root_dir=folder,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(7 + trainer.global_rank)
    trainer.fit(model, ckpt_path=ckpt_path, **({} if ckpt_path is None else {"weights_only": True}))
    return model, trainer


def mined(folder, steps, strategy, ckpt_path=None):
    """Tables, what they should be, what was logged and saved; checkpoints in between."""
    snapshots, mining = Snapshots(), HardNegativeMining(every_n_steps=3, batch_size=4, relative_margin=None)
    saving = ModelCheckpoint(folder / "checkpoints", filename="{step}", every_n_train_steps=5, save_top_k=-1)
    _, trainer = train(folder, [mining, snapshots, saving], steps, strategy=strategy, ckpt_path=ckpt_path)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.endswith(ENDING)}
    if ckpt_path is not None:
        del snapshots.tables[5], snapshots.expected[5]  # mined at step 3, by a model that is gone
    return {
        "tables": {step: table for step, table in snapshots.tables.items() if step % 3 == 0},
        "expected": {step: one.indices for step, one in snapshots.expected.items() if step % 3 == 0},
        "metrics": metrics,
        "files": sorted(file.name for file in (folder / "hard_negatives").iterdir()),
    }


def untouched(callbacks, strategy):
    model, _ = train(None, callbacks, 5, strategy=strategy, ignores_negatives=True)
    return {"weight": model.net[0].weight.detach(), "random state": torch.get_rng_state()}


def mining_results(folder, strategy):
    """A run, its second half again from a checkpoint, and two that train alike but for mining."""
    return {
        "whole": mined(folder, 8, strategy),
        "resumed": mined(folder, 8, strategy, folder / "checkpoints" / "step=5.ckpt"),
        "plain": untouched([], strategy),
        "mined": untouched([HardNegativeMining(every_n_steps=2, save=False)], strategy),
    }
