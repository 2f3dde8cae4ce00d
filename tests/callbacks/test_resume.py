"""State survives a checkpoint and a resume bit for bit, and a state that cannot be used never costs a run."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from brute_force import expected_moments, sgd_path
from plain_training import train_plainly
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import DIM, Lit, PairTable, TwoTables, TwoTowers, pair_batches, seeded

from lightning_normdyn.callbacks import EquilibriumFitMonitor, NormDynamics
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import Instrument

EPOCHS, BATCHES = 6, 10
STEPS = EPOCHS * BATCHES


class KilledError(Exception):
    """The run was killed."""


class KilledAt(Callback):
    """Saves a checkpoint after some step and ends the run there."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KilledError


class FirstState(Callback):
    """What another callback's state is when training goes on."""

    def __init__(self, observed):
        self.observed = observed

    def on_train_start(self, trainer, pl_module):
        self.state = self.observed.state_dict()


def scheduled_sgd(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.5, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)


def assert_same(found, expected, path="state"):
    """Bit for bit, all the way down."""
    assert type(found) is type(expected), path
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, path
        assert torch.equal(found.nan_to_num(-1), expected.nan_to_num(-1)), path
    else:
        assert found == expected, path


def statistics(callback):
    """A state but for which run it is of and which stretch: a run without a break is another."""
    run_entries = ("run", "stretch", "folder")
    return {name: entry for name, entry in callback.state_dict().items() if name not in run_entries}


def run(fit, make, configure, callbacks, **options):
    module = Lit(seeded(make), configure)
    return fit(module, pair_batches(BATCHES), *callbacks, max_epochs=EPOCHS, **options)


def observers():
    """Two of one class, so that their states must not be mistaken for one another, and one of another."""
    inputs = torch.randn(6, DIM, generator=torch.Generator().manual_seed(4))
    return [
        NormDynamics(targets=["net.table.weight"], every_n_steps=4, window=25),
        NormDynamics(targets=["net.encoder"], probe=inputs, every_n_steps=4, window=25),
        EquilibriumFitMonitor(every_n_steps=7, window=0.3, max_tracked_rows=10),
    ]


def scaled(init_scale=2.0**22):
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=15)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


@pytest.mark.filterwarnings("ignore:.*another callback, NormDynamics")
@pytest.mark.parametrize("at", [30, 33], ids=["between epochs", "within an epoch"])
@pytest.mark.parametrize(("configure", "options"), [(scheduled_sgd, dict), (adamw, scaled)], ids=["sgd", "16-mixed"])
def test_a_resumed_run_knows_and_logs_the_same(fit, tmp_path, configure, options, at):
    """Killed in the middle of a window: state at the resume, state at the end and all numbers between."""
    straight = observers()
    whole = run(fit, TwoTowers, configure, straight, **options())
    checkpoint, killed = tmp_path / "killed.ckpt", observers()
    with pytest.raises(KilledError):
        run(fit, TwoTowers, configure, [*killed, KilledAt(at, checkpoint)], **options())
    resumed = observers()
    first = [FirstState(callback) for callback in resumed]
    rest = run(fit, TwoTowers, configure, [*resumed, *first], ckpt_path=checkpoint, **options())

    assert rest.global_step == whole.global_step == STEPS
    for before, restored in zip(killed, first, strict=True):
        assert restored.state["run"] == before.state_dict()["run"]
        assert_same({**restored.state, "stretch": 0}, {**before.state_dict(), "stretch": 0})  # it is another by now
    for end, expected in zip(resumed, straight, strict=True):
        assert_same(statistics(end), statistics(expected))
    for target in ("net.table.weight", "net.encoder"):
        later = {step: found for step, found in whole.logger.of(target).items() if step > at}
        assert len(later) >= 5
        assert rest.logger.of(target) == later
    if options is scaled:
        assert straight[0].state_dict()["targets"]["net.table.weight"]["skipped"] > 0


@pytest.fixture
def checkpoint(fit, tmp_path):
    path = tmp_path / "early.ckpt"
    with pytest.raises(KilledError):
        run(fit, PairTable, scheduled_sgd, [NormDynamics(window=25), KilledAt(30, path)])
    return path


def test_a_checkpoint_is_plain_data(fit, checkpoint):
    """It loads where code may not be run, and Lightning can be told to insist on that."""
    state = torch.load(checkpoint, weights_only=True)["callbacks"]
    (ours,) = (value for key, value in state.items() if key.startswith("NormDynamics"))
    assert ours["targets"]["net.table.weight"]["steps"] == 30
    if "weights_only" in inspect.signature(Trainer.fit).parameters:
        callback = NormDynamics(window=25)
        run(fit, PairTable, scheduled_sgd, [callback], ckpt_path=checkpoint, weights_only=True)
        assert callback.state_dict()["targets"]["net.table.weight"]["steps"] == STEPS


def of_another_version(state):
    state["version"] = 99


def of_another_shape(state):
    state["targets"]["net.table.weight"]["shape"] = [7, 8, 1]


def with_a_part_missing(state):
    del state["targets"]["net.table.weight"]["instruments"]["fit"]["window_end"]


def of_no_version_at_all(state):
    state.clear()
    state["something"] = "else"


@pytest.mark.parametrize("spoil", [of_another_version, of_another_shape, with_a_part_missing, of_no_version_at_all])
def test_a_state_that_cannot_be_used_costs_one_warning(fit, checkpoint, spoil):
    """Training resumes where it was; the statistics start afresh at the right place of the run."""
    saved = torch.load(checkpoint, weights_only=True)
    (key,) = (key for key in saved["callbacks"] if key.startswith("NormDynamics"))
    spoil(saved["callbacks"][key])
    torch.save(saved, checkpoint)
    callback = NormDynamics(window=25, every_n_steps=4)
    with pytest.warns(UserWarning, match="the checkpoint's norm statistics cannot be used") as caught:
        trainer = run(fit, PairTable, scheduled_sgd, [callback], ckpt_path=checkpoint)
    assert len([warning for warning in caught if issubclass(warning.category, UserWarning)]) == 1
    assert trainer.global_step == STEPS
    state = callback.state_dict()["targets"]["net.table.weight"]
    assert state["steps"] == STEPS
    assert state["instruments"]["fit"]["window_start"] in (50, 60)
    assert "transient_slope" in trainer.logger.of("net.table.weight")[50]
    assert not callback._recorder._handles


def test_added_to_a_run_that_began_without_it(fit, tmp_path):
    """Steps are those of the run, and the forecast is for the run's end."""
    lr, decay = 0.3, 0.05

    def sgd(net):
        return torch.optim.SGD(net.parameters(), lr=lr, weight_decay=decay)

    checkpoint = tmp_path / "without.ckpt"
    with pytest.raises(KilledError):
        run(fit, PairTable, sgd, [KilledAt(30, checkpoint)])
    trainer = run(fit, PairTable, sgd, [NormDynamics(window=10)], ckpt_path=checkpoint)
    logged = trainer.logger.of("net.table.weight")
    assert {40, 50, 60} <= set(logged)
    assert "forecast_skill" in logged[60]
    _, steps = train_plainly(seeded(PairTable), pair_batches(BATCHES) * EPOCHS, sgd, "table.weight")
    v2, _ = expected_moments(steps[30:40])
    norm = np.linalg.norm(steps[39].after.numpy(), axis=1)
    trajectory = read_run(tmp_path)["net.table.weight"].trajectory()
    fitted = trajectory.filter(np.equal(trajectory["step"].to_numpy(), 40))
    np.testing.assert_allclose(fitted["second_moment"].to_numpy(), v2, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fitted["forecast_norm"].to_numpy(), sgd_path(norm, v2, [lr] * 20, decay), rtol=1e-5)


def test_two_tables_survive_together(fit, tmp_path):
    whole = NormDynamics(window=25)
    run(fit, TwoTables, adamw, [whole])
    checkpoint = tmp_path / "two.ckpt"
    with pytest.raises(KilledError):
        run(fit, TwoTables, adamw, [NormDynamics(window=25), KilledAt(30, checkpoint)])
    resumed = NormDynamics(window=25)
    run(fit, TwoTables, adamw, [resumed], ckpt_path=checkpoint)
    assert_same(statistics(resumed), statistics(whole))


def test_the_comparison_can_fail(fit, tmp_path):
    """A state with one number of one row changed is another state."""
    callback = NormDynamics(window=25)
    run(fit, PairTable, adamw, [callback])
    state = callback.state_dict()
    changed = callback.state_dict()
    start = changed["targets"]["net.table.weight"]["instruments"]["fit"]["window"]["start"]
    start[3] = np.nextafter(float(start[3]), 10)
    with pytest.raises(AssertionError, match=r"window\.start"):
        assert_same(changed, state)


@pytest.mark.parametrize("at", [30, STEPS], ids=["before the old end", "at the old end, once judged"])
def test_a_resumed_run_with_another_end_forecasts_that_end(fit, tmp_path, at):
    """A forecast for step 60 says nothing of step 120: it is dropped, and one for step 120 is judged there."""
    lr, decay, twice = 0.3, 0.05, 2 * STEPS

    def sgd(net):
        return torch.optim.SGD(net.parameters(), lr=lr, weight_decay=decay)

    checkpoint = tmp_path / "shorter.ckpt"
    with pytest.raises(KilledError):
        run(fit, PairTable, sgd, [NormDynamics(window=10), KilledAt(at, checkpoint)])
    batches = pair_batches(BATCHES)
    trainer = fit(
        Lit(seeded(PairTable), sgd), batches, NormDynamics(window=10), max_epochs=2 * EPOCHS, ckpt_path=checkpoint
    )
    logged = trainer.logger.of("net.table.weight")
    assert [step for step, scalars in logged.items() if "forecast_skill" in scalars] == [twice]
    _, steps = train_plainly(seeded(PairTable), batches * 2 * EPOCHS, sgd, "table.weight")
    made = max(at + 10, 50)  # the first window that ends at 40% of the run or later
    v2, probability = expected_moments(steps[made - 10 : made])
    norms = [np.linalg.norm(steps[step - 1].after.numpy(), axis=1)[probability > 0] for step in (made, twice)]
    forecast = sgd_path(norms[0], v2[probability > 0], [lr] * (twice - made), decay)
    error = np.median(np.abs(forecast / norms[1] - 1))
    assert logged[twice]["forecast_median_error"] == pytest.approx(error, rel=1e-3)


class Looks(Instrument):
    quantities = ("looks",)

    def measure(self, look):
        return {"looks": look.step}


DIFFERENCES = [
    {"window": 10},
    {"window": 0.5},
    {"forecast_at": 0.6},
    {"every_n_steps": 7},
    {"fit_every_n_steps": 2},
    {"probe_items": 8},
    {"instruments": [Looks()]},
]


@pytest.mark.filterwarnings("ignore:.*another callback, NormDynamics")
@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: next(iter(difference)))
def test_two_of_one_class_that_differ_in_anything_keep_their_states_apart(fit, tmp_path, difference):
    """Each is restored to what it itself was, and neither is refused."""
    path = tmp_path / "two.ckpt"

    def both():
        return [NormDynamics(save_history=False), NormDynamics(**difference, save_history=False)]

    killed, resumed = both(), both()
    with pytest.raises(KilledError):
        run(fit, PairTable, adamw, [*killed, KilledAt(13, path)])
    first = [FirstState(callback) for callback in resumed]
    run(fit, PairTable, adamw, [*resumed, *first], ckpt_path=path)
    for before, restored in zip(killed, first, strict=True):
        assert_same(restored.state, before.state_dict())


def test_a_run_that_is_resumed_with_another_window_keeps_its_statistics(fit, tmp_path):
    path, resumed = tmp_path / "other.ckpt", NormDynamics(window=50, every_n_steps=3)
    with pytest.raises(KilledError):
        run(fit, PairTable, adamw, [NormDynamics(window=25), KilledAt(33, path)])
    first = FirstState(resumed)
    run(fit, PairTable, adamw, [resumed, first], ckpt_path=path)
    assert first.state["targets"]["net.table.weight"]["instruments"]["fit"]["window_start"] == 25
