"""Several monitors of one target: what agrees is one record, what clashes is kept apart and said."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from pytorch_lightning import Callback
from small_models import Lit, PairTable, TwoTowers, pair_batches, seeded

from lightning_normdyn.callbacks import EquilibriumFitMonitor, NormDynamics, NormTrajectoryMonitor
from lightning_normdyn.callbacks.run_histories import first_clash, record_settings
from lightning_normdyn.history import list_runs, read_run
from lightning_normdyn.instruments import Instrument

TABLE = "net.table.weight"


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.05)


def train(fit, folder, callbacks, **options):
    return fit(Lit(seeded(PairTable), sgd), pair_batches(20), *callbacks, default_root_dir=folder, **options)


class BrokenOffError(Exception):
    """The training broke off."""


class SavesAndBreaksOff(Callback):
    def __init__(self, file):
        self.file = file

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 12:
            trainer.save_checkpoint(self.file)
            raise BrokenOffError


def lines(folder, **options):
    target = read_run(folder, **options)[TABLE]
    return [repr(line) for table in (target.trajectory(), target.quantities()) for line in table.to_pylist()]


def clashes(record):
    return [str(warning.message) for warning in record if "another callback" in str(warning.message)]


def folder_of(monitor_folder, window):
    """Of the record with a window."""
    folders = [record.folder for record in list_runs(monitor_folder)]
    (folder,) = (each for each in folders if read_run(each)[TABLE].description()["window"] == window)
    return folder


def test_two_that_differ_keep_records_apart_through_a_resume(fit, tmp_path):
    """Each has the lines that it has when it is alone, and both folders are gone on with."""

    def both():
        return [NormDynamics(window=5, every_n_steps=5), NormDynamics(window=10, every_n_steps=5)]

    for window in (5, 10):
        train(fit, tmp_path / f"alone-{window}", [NormDynamics(window=window, every_n_steps=5)])
    with pytest.warns(UserWarning, match="another callback") as record, pytest.raises(BrokenOffError):
        train(fit, tmp_path / "both", [*both(), SavesAndBreaksOff(tmp_path / "at.ckpt")])
    (message,) = clashes(record)
    assert message == (
        f"NormDynamics: another callback, NormDynamics, measures '{TABLE}' too, with window=5 where this one has "
        "window=10, and both log by the same keys, the later in the place of the earlier; their records are kept "
        "apart, in a folder each; keep one of them, or give each targets of its own"
    )
    with pytest.warns(UserWarning, match="another callback"):
        train(fit, tmp_path / "both", both(), ckpt_path=tmp_path / "at.ckpt")
    assert len(list_runs(tmp_path / "both")) == 2
    for window in (5, 10):
        assert lines(folder_of(tmp_path / "both", window)) == lines(tmp_path / f"alone-{window}")


def test_what_agrees_is_one_record(fit, tmp_path):
    monitors = [NormDynamics(window=10, every_n_steps=5), EquilibriumFitMonitor(window=10, every_n_steps=5)]
    with warnings.catch_warnings(record=True) as record:
        train(fit, tmp_path / "two", [*monitors, NormTrajectoryMonitor(every_n_steps=2)])
    assert clashes(record) == []
    assert len(list_runs(tmp_path / "two")) == 1
    assert read_run(tmp_path / "two")[TABLE].description()["window"] == 10
    train(fit, tmp_path / "one", [NormDynamics(window=10, every_n_steps=5)])
    both, alone = (lines(tmp_path / name) for name in ("two", "one"))
    assert set(alone) <= set(both)
    assert len(alone) < len(both)


class Looks(Instrument):
    quantities = ("looks",)

    def measure(self, look):
        return {"looks": look.step}


LOOKS = Looks()


@pytest.mark.parametrize(
    ("one", "other", "setting"),
    [
        ({"window": 5}, {"window": 5}, None),
        ({"window": 5}, {"window": 9}, "window"),
        ({"every_n_steps": 5}, {"every_n_steps": 7}, "every_n_steps"),
        ({"fit_every_n_steps": 2}, {}, "fit_every_n_steps"),
        ({"window": 5, "targets": [TABLE]}, {"window": 9, "targets": ["net.encoder"]}, None),
        ({"max_tracked_rows": 50}, {"max_tracked_rows": 60}, None),  # the table has 30
        ({"max_tracked_rows": 10}, {"max_tracked_rows": 60}, "max_tracked_rows"),
        ({"lrs": math.sin}, {"lrs": math.cos}, "lrs"),
        ({"instruments": [LOOKS]}, {"instruments": [LOOKS]}, None),
        ({"instruments": [Looks()]}, {"instruments": [Looks()]}, "instruments (looks)"),
        ({"targets": ["net.encoder"], "probe_items": 8}, {"targets": ["net.encoder"]}, "probe_items"),
        ({"targets": ["net.encoder"], "probe": torch.ones(2)}, {"targets": ["net.encoder"]}, "probe"),
        ({"targets": ["net.encoder"], "probe": False, "window": 9}, {"targets": ["net.encoder"]}, None),
    ],
)
def test_what_clashes(one, other, setting):
    monitors = [NormDynamics(**{"targets": [TABLE, "net.encoder"], **options}) for options in (one, other)]
    module = Lit(seeded(TwoTowers), sgd)
    for monitor in monitors:
        monitor.record_settings = record_settings(module, monitor.measures, monitor.options)
    clash = first_clash(monitors[1], monitors[:1])
    assert (None if clash is None else clash.setting) == setting
