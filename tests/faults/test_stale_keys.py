"""Keys of a target that is measured no longer are gone from the trainer's metrics, so that nothing acts on old ones."""

from __future__ import annotations

import logging

import pytest
import torch
from mid_run_changes import Scene, Towers, adamw, freeze, parametrize_under_a_new_optimizer, sgd, take_out
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import BaseFinetuning, EarlyStopping
from small_models import Lit, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics

TABLE = "net.table.weight"
KEY = f"normdyn/{TABLE}/norm_mean"


class Changes(Callback):
    """Alters the model before a step, and keeps the metrics after each."""

    def __init__(self, change, at=4):
        self.change, self.at, self.metrics = change, at, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx + 1 == self.at:
            scene = Scene(pl_module.net, list(trainer.optimizers))
            self.change(scene)
            trainer.strategy.optimizers = scene.optimizers

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.metrics.append(dict(trainer.callback_metrics))


class InOneGo(Lit):
    """Asks its trainer for the optimizers of each step."""

    def __init__(self):
        super().__init__(seeded(Towers), lambda net: sgd(net.parameters()))


@pytest.fixture
def cautions(caplog, monkeypatch):
    """What was said of the table."""
    logger = logging.getLogger("lightning_normdyn.caution")
    monkeypatch.setattr(logger, "handlers", [])
    caplog.set_level("WARNING", logger="lightning_normdyn.caution")
    return lambda: [message for message in caplog.messages if message.startswith(f"NormDynamics: '{TABLE}'")]


@pytest.mark.parametrize("targets", ["auto", [TABLE]])
@pytest.mark.parametrize("change", [freeze, parametrize_under_a_new_optimizer, take_out])
def test_they_leave_the_callback_metrics(fit, cautions, change, targets):
    changes = Changes(change)
    trainer = fit(InOneGo(), pair_batches(8), NormDynamics(targets=targets, every_n_steps=1), changes)
    assert [KEY in metrics for metrics in changes.metrics] == [True] * 3 + [False] * 5
    assert not any(key.startswith(f"normdyn/{TABLE}/") for key in trainer.callback_metrics)
    assert trainer.global_step == 8
    assert len([message for message in cautions() if " at step " not in message]) == 1


def test_another_optimizer_of_the_trainer_is_followed(fit, cautions):
    changes = Changes(lambda scene: scene.retrain(adamw))
    fit(InOneGo(), pair_batches(8), NormDynamics(targets=[TABLE], every_n_steps=1), changes)
    assert all(KEY in metrics for metrics in changes.metrics)
    said = [message for message in cautions() if " at step " not in message]
    assert said == [
        f"NormDynamics: '{TABLE}': trained by another optimizer, AdamW (before: SGD) from step 4 on; followed, with "
        "statistics that start afresh there"
    ]


def test_early_stopping_does_not_act_on_what_is_stale(fit, cautions):
    """Frozen at step 3, a constant norm would stop the run at step 6; the key is not there to be read."""
    stopping = EarlyStopping(KEY, patience=2, strict=False, check_on_train_epoch_end=True, verbose=False)
    changes = Changes(freeze, at=2)
    callbacks = [NormDynamics(targets=[TABLE], every_n_steps=1), changes, stopping]
    trainer = fit(InOneGo(), pair_batches(2), *callbacks, max_epochs=8)
    assert trainer.global_step == 16
    assert len(cautions()) >= 1


class Unfreezes(BaseFinetuning):
    """Holds the table back for two epochs."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net.table)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 2:
            self.unfreeze_and_add_param_group(pl_module.net.table, optimizer, lr=0.1)


class TrainedParts(InOneGo):
    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.net.parameters() if p.requires_grad], lr=0.2)


def test_a_table_that_finetuning_frees_is_followed_from_then_on(fit):
    trainer = fit(
        TrainedParts(), pair_batches(3), Unfreezes(), NormDynamics(targets="auto", every_n_steps=1), max_epochs=4
    )
    logged = trainer.logger.of(TABLE)
    assert sorted(step for step in logged if "norm_mean" in logged[step]) == [7, 8, 9, 10, 11, 12]
    weight = trainer.lightning_module.net.table.weight
    ids = torch.cat([batch[:, 0] for batch in pair_batches(3)]).unique()
    expected = weight.detach().double().norm(dim=1)[ids].mean()
    assert logged[12]["norm_mean"] == pytest.approx(float(expected), rel=1e-5)
