"""One line of time: a checkpoint comes after its history, what a resume takes back is kept aside, all else stays."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Callback
from small_models import DIM, Batches, Lit, PairTable, TwoTowers, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history import list_runs, read_run

TABLE = "net.table.weight"


class BrokenOffError(Exception):
    """The training broke off."""


class SavesAndBreaksOff(Callback):
    """Saves after a step, and breaks off after another."""

    def __init__(self, file, save_at, break_at):
        self.file, self.save_at, self.break_at = file, save_at, break_at
        self.steps_on_disk = None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.file)
            self.steps_on_disk = steps_of(trainer.default_root_dir)
        if trainer.global_step == self.break_at:
            raise BrokenOffError


def steps_of(folder, **options):
    return sorted(set(read_run(folder, **options)[TABLE].trajectory()["step"].to_pylist()))


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.05)


def train(fit, callbacks, make=PairTable, **options):
    return fit(Lit(seeded(make), sgd), pair_batches(50), *callbacks, max_epochs=-1, **options)


@pytest.mark.parametrize("order", [1, -1], ids=["saved after ours", "saved before ours"])
def test_what_led_to_a_checkpoint_is_on_disk_and_what_lies_beyond_is_taken_back(fit, tmp_path, order):
    saving = SavesAndBreaksOff(tmp_path / "at.ckpt", 40, 55)
    with pytest.raises(BrokenOffError):
        train(fit, [NormDynamics(every_n_steps=1), saving][::order], max_steps=60)
    assert saving.steps_on_disk == list(range(1, 41))  # a kill later would lose none of them
    assert steps_of(tmp_path) == list(range(1, 56))
    train(fit, [NormDynamics(every_n_steps=1)], max_steps=50, ckpt_path=saving.file)
    assert steps_of(tmp_path) == list(range(1, 51))
    assert steps_of(tmp_path, stretch=0) == list(range(1, 56))
    assert len(list_runs(tmp_path)) == 1


def lines_of(folder):
    target = read_run(folder)[TABLE]
    return [repr(line) for table in (target.trajectory(), target.quantities()) for line in table.to_pylist()]


def test_a_run_that_is_resumed_in_another_folder_is_read_as_if_it_had_never_stopped(fit, tmp_path):
    """As Lightning does it, which makes a new version_N: every line of a run that nobody disturbed."""
    options = {"every_n_steps": 5, "window": 20}
    train(fit, [NormDynamics(**options)], max_steps=50, default_root_dir=tmp_path / "whole")
    checkpoint = None
    for version, (save_at, break_at) in enumerate(((23, 33), (37, 37))):
        saving = SavesAndBreaksOff(tmp_path / f"{version}.ckpt", save_at, break_at)
        place = {"default_root_dir": tmp_path / f"version_{version}", "ckpt_path": checkpoint}
        with pytest.raises(BrokenOffError):
            train(fit, [NormDynamics(**options), saving], max_steps=50, **place)
        checkpoint = saving.file
    last = tmp_path / "version_2"
    train(fit, [NormDynamics(**options)], max_steps=50, default_root_dir=last, ckpt_path=checkpoint)
    assert lines_of(last) == lines_of(tmp_path / "whole")


def test_a_run_without_a_state_of_ours_is_a_run_of_its_own(fit, tmp_path):
    train(fit, [NormDynamics(every_n_steps=1)], max_steps=5)
    without = fit(Lit(seeded(PairTable), sgd), pair_batches(50), max_epochs=-1, max_steps=10)
    without.save_checkpoint(tmp_path / "without.ckpt")
    train(fit, [NormDynamics(every_n_steps=1)], max_steps=15, ckpt_path=tmp_path / "without.ckpt")
    assert steps_of(tmp_path) == list(range(11, 16))
    assert steps_of(tmp_path, run="normdyn") == list(range(1, 6))


def test_a_trainer_that_fits_on_goes_on_in_its_history(fit, tmp_path):
    trainer = train(fit, [NormDynamics(every_n_steps=1)], max_steps=10)
    trainer.fit_loop.epoch_loop.max_steps = 15
    trainer.fit(trainer.lightning_module, Batches(pair_batches(50)))
    assert steps_of(tmp_path) == list(range(1, 16))
    (record,) = list_runs(tmp_path)
    assert [stretch.step for stretch in record.stretches] == [0, 10]


def test_a_finished_run_that_is_resumed_and_saved_again_keeps_its_statistics(fit, tmp_path):
    first = train(fit, [NormDynamics(every_n_steps=1)], max_steps=10)
    first.save_checkpoint(tmp_path / "first.ckpt")
    again = train(fit, [NormDynamics(every_n_steps=1)], max_steps=10, ckpt_path=tmp_path / "first.ckpt")
    again.save_checkpoint(tmp_path / "again.ckpt")
    states = [torch.load(tmp_path / name, weights_only=True)["callbacks"] for name in ("first.ckpt", "again.ckpt")]
    (before,), (after,) = (list(state.values()) for state in states)
    assert before["targets"][TABLE]["steps"] == after["targets"][TABLE]["steps"] == 10
    assert before["run"] == after["run"] == list_runs(tmp_path)[0].id


def test_on_another_number_of_ranks_tables_keep_their_statistics(fit, tmp_path):
    """Only the probe of an encoder depends on it."""
    inputs = torch.randn(6, DIM, generator=torch.Generator().manual_seed(4))
    options = {"targets": [TABLE, "net.encoder"], "probe": {"net.encoder": inputs}, "every_n_steps": 4, "window": 25}
    saving = SavesAndBreaksOff(tmp_path / "two.ckpt", 30, 31)
    with pytest.raises(BrokenOffError):
        train(fit, [NormDynamics(**options), saving], TwoTowers, max_steps=60)
    saved = torch.load(saving.file, weights_only=True)
    (state,) = (state for name, state in saved["callbacks"].items() if name.startswith("NormDynamics"))
    state["targets"]["net.encoder"]["instruments"]["balance"]["ranks"] = 2
    torch.save(saved, saving.file)
    resumed = NormDynamics(**options)
    with pytest.warns(UserWarning, match=r"encoded on 2 ranks and is on 1 now, so its balance starts afresh") as caught:
        trainer = train(fit, [resumed], TwoTowers, max_steps=60, ckpt_path=saving.file)
    assert sum(issubclass(warning.category, UserWarning) for warning in caught) == 1
    logged = trainer.logger.of(TABLE)
    assert "transient_slope" in logged[50]  # of the window that was open when it was saved
    assert resumed.state_dict()["targets"]["net.encoder"]["steps"] == 60
