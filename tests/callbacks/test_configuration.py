"""From YAML to every logger: callbacks are built by jsonargparse, and their keys arrive wherever metrics go."""

from __future__ import annotations

import csv

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from memory_logger import MemoryLogger
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from small_models import Lit, PairTable, pair_batches, seeded

import lightning_normdyn.callbacks
from lightning_normdyn.callbacks import NormDynamics, NormTrajectoryMonitor

SETTINGS = {
    "NormDynamics": {
        "targets": ["encoder.*", "table.weight"],
        "every_n_steps": 7,
        "fit_every_n_steps": 2,
        "window": 0.25,
        "forecast_at": 0.5,
        "max_tracked_rows": 100,
        "save_history": False,
    },
    "EquilibriumFitMonitor": {
        "targets": "auto",
        "every_n_steps": 11,
        "fit_every_n_steps": 3,
        "window": 500,
        "forecast_at": 0.3,
        "max_tracked_rows": 100,
        "save_history": True,
    },
    "GradientSplitMonitor": {
        "targets": "auto",
        "every_n_steps": 9,
        "max_tracked_rows": 100,
        "save_history": False,
    },
    "NormTrajectoryMonitor": {
        "targets": ["table.weight"],
        "every_n_steps": 9,
        "max_tracked_rows": 100,
        "save_history": False,
    },
}


def built(*entries):
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    config = parser.parse_string(yaml.safe_dump({"callbacks": list(entries)}))
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    return build(config).callbacks


@pytest.mark.parametrize("name", SETTINGS)
def test_a_callback_is_built_from_yaml(name):
    entry = {"class_path": f"lightning_normdyn.callbacks.{name}", "init_args": SETTINGS[name]}
    (callback,) = built(entry)
    assert type(callback) is getattr(lightning_normdyn.callbacks, name)
    settings = SETTINGS[name] | {"max_tracked_rows": 100}
    assert callback.save_history is settings.pop("save_history")
    assert {key: callback.options[key] for key in settings} == settings


def test_a_miner_is_built_from_yaml():
    settings = {"every_n_steps": 7, "relative_margin": None, "sampling_strategy": "random", "normalization": "dot"}
    entry = {"class_path": "lightning_normdyn.callbacks.HardNegativeMining", "init_args": settings}
    (callback,) = built(entry)
    assert (callback.every_n_steps, callback.normalization) == (7, "dot")
    assert (callback.options.relative_margin, callback.options.sampling_strategy) == (None, "random")


def test_defaults_are_enough():
    callbacks = built(*({"class_path": f"lightning_normdyn.callbacks.{name}"} for name in SETTINGS))
    assert [type(callback).__name__ for callback in callbacks] == list(SETTINGS)


def test_a_wrong_setting_is_refused():
    with pytest.raises(ValueError, match="every_n_steps"):
        built({"class_path": "lightning_normdyn.callbacks.NormDynamics", "init_args": {"every_n_steps": 0}})


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.05)


def test_keys_arrive_in_csv_and_tensorboard(fit, tmp_path):
    """Under the names that the README gives, with the values that the trainer has too."""
    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tb")]
    batches = pair_batches(12)
    trainer = fit(Lit(seeded(PairTable), sgd), batches, NormDynamics(every_n_steps=4), logger=loggers)
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    key = "normdyn/net.table.weight/norm_mean"
    logged = {int(row["step"]): float(row[key]) for row in rows if row.get(key)}
    assert list(logged) == [0, 3, 7, 11]  # as Lightning counts: the first step is 0
    assert logged[11] == pytest.approx(float(trainer.callback_metrics[key]))
    met = trainer.lightning_module.net.table.weight[torch.stack(batches).unique()]
    assert float(trainer.callback_metrics[key]) == pytest.approx(met.norm(dim=1).mean().item(), rel=1e-6)
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(tmp_path / "tb" / "version_0")).Reload()
    assert [event.step for event in events.Scalars(key)] == [0, 3, 7, 11]
    assert events.Scalars(key)[-1].value == pytest.approx(logged[11])


def test_a_logger_with_another_separator(fit):
    from memory_logger import MemoryLogger

    class Dashing(MemoryLogger):
        group_separator = "-"

    logger = Dashing()
    fit(Lit(seeded(PairTable), sgd), pair_batches(2), NormTrajectoryMonitor(every_n_steps=1), logger=logger)
    assert all("normdyn-net.table.weight-norm_mean" in metrics for _, metrics in logger.calls)


class Validated(Lit):
    def val_dataloader(self):
        return pair_batches(1)

    def validation_step(self, batch, batch_idx):
        pass


def test_early_stopping_and_checkpoints_can_watch_a_quantity(fit, tmp_path):
    """Norms shrink under decay: the best of `max` is the first, and stopping waits one epoch."""
    key = "normdyn/net.table.weight/norm_mean"
    stop = EarlyStopping(key, mode="max", patience=2, check_on_train_epoch_end=True)
    keep = ModelCheckpoint(tmp_path, monitor=key, mode="max", save_top_k=1, every_n_train_steps=4, filename="{step}")
    trainer = fit(
        Lit(seeded(PairTable), sgd),
        pair_batches(4),
        NormDynamics(every_n_steps=2),
        stop,
        keep,
        max_epochs=50,
        enable_checkpointing=True,
    )
    assert trainer.current_epoch == 3
    assert "step=4" in keep.best_model_path
    assert stop.best_score == pytest.approx(keep.best_model_score)


def test_quantities_are_there_at_the_first_step(fit):
    """So that whatever watches them finds them before its first check."""

    class FirstMetrics(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 0:
                self.found = set(trainer.callback_metrics)

    witness = FirstMetrics()
    fit(Lit(seeded(PairTable), sgd), pair_batches(3), NormDynamics(), witness)
    assert {"normdyn/net.table.weight/norm_mean", "normdyn/net.table.weight/budget_residual"} <= witness.found


@pytest.mark.parametrize("targets", ["net.table.weight", "*.weight", "auto"])
def test_one_pattern_is_a_list_of_one(targets):
    """In Python and in YAML alike; ``auto`` stays the word that it is."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    entry = {"class_path": "lightning_normdyn.callbacks.NormDynamics", "init_args": {"targets": targets}}
    config = parser.parse_string(yaml.safe_dump({"callbacks": [entry]}))
    (callback,) = (getattr(parser, "instantiate", None) or parser.instantiate_classes)(config).callbacks
    expected = targets if targets == "auto" else [targets]
    assert callback.options["targets"] == NormDynamics(targets=targets).options["targets"] == expected
    assert callback.state_key == NormDynamics(targets=expected).state_key


class MLFlowLogger(MemoryLogger):
    """As Lightning's over MLflow's file store, known by its name: ``save_dir`` is the store's."""

    def __init__(self, store):
        super().__init__()
        self._store = store

    @property
    def save_dir(self):
        return str(self._store)


def test_mlflows_file_store_gets_no_folder_of_ours(fit, tmp_path):
    """It takes every folder in it for an experiment."""
    store = tmp_path / "mlruns"
    store.mkdir()
    fit(Lit(seeded(PairTable), sgd), pair_batches(3), NormDynamics(every_n_steps=1), logger=MLFlowLogger(store))
    assert not list(store.iterdir())
    assert (tmp_path / "normdyn").is_dir()
