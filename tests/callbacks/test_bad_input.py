"""Bad input: one clear sentence, and never a lost run."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from pytorch_lightning.loggers import CSVLogger
from small_models import (
    BATCH,
    DIM,
    ROWS,
    Classifier,
    Lit,
    PairTable,
    TwoTables,
    TwoTowers,
    feature_batches,
    pair_batches,
    seeded,
)
from torch import nn

from lightning_normdyn.callbacks import EquilibriumFitMonitor, GradientSplitMonitor, NormDynamics, NormTrajectoryMonitor
from lightning_normdyn.history import read_run


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.01)


class Mixed(nn.Module):
    """Something of everything that is no table of embeddings, and one that is."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.conv = nn.Conv1d(DIM, DIM, 1)
        self.score = nn.Linear(DIM, 1)

    def forward(self, pairs):
        x = self.table(pairs).mean(1)
        return self.score(self.conv(x[..., None])[..., 0]).square().mean()


def ours(caught):
    """Warnings that are not the noise of others."""
    return [warning for warning in caught if issubclass(warning.category, UserWarning)]


def message_of(fit, **options):
    """The single sentence that a wrong target gives."""
    with pytest.raises(ValueError, match=r"^targets: ") as error:
        fit(Lit(seeded(Mixed), sgd), pair_batches(2), NormDynamics(**options))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("pattern", ["net.tabel.weight", "encoder.*"])
def test_a_pattern_that_matches_nothing_lists_candidates(fit, pattern):
    message = message_of(fit, targets=[pattern])
    assert repr(pattern) in message
    assert "net.table.weight" in message


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("net.con", "net.conv"), ("net.table.wieght", "net.table.weight"), ("net.taable", "net.table")],
)
def test_a_pattern_that_matches_nothing_is_asked_about(fit, pattern, name):
    assert f"; did you mean '{name}'? candidates are" in message_of(fit, targets=[pattern])


@pytest.mark.parametrize(
    ("option", "answer"),
    [("target", "; did you mean 'targets'?"), ("save_histroy", "; did you mean 'save_history'?")],
)
def test_an_unknown_option_lists_all_and_asks_about_the_nearest(option, answer):
    with pytest.raises(TypeError, match=rf"^{option}: no such option; ") as error:
        NormDynamics(**{option: True})
    assert str(error.value).endswith(answer)
    assert "probe_items, row_counts, save_history, targets" in str(error.value)


@pytest.mark.parametrize(("pattern", "shape"), [("net.conv.bias", "(8,)"), ("net.conv.weight", "(8, 8, 1)")])
def test_a_parameter_that_is_no_table(fit, pattern, shape):
    message = message_of(fit, targets=[pattern])
    assert shape in message
    assert "net.table.weight" in message


def test_a_word_that_is_no_pattern_of_this_model(fit):
    message = message_of(fit, targets="net.tabel.weight")
    assert "'net.tabel.weight' matches no parameter or submodule" in message
    assert "net.table.weight" in message


def test_an_empty_list(fit):
    assert "empty list" in message_of(fit, targets=[])


def test_auto_without_a_table(fit):
    """One that is frozen may come to be trained: tests/instruments/test_unseen_targets.py."""
    with pytest.raises(
        ValueError,
        match=r"no embedding table and no contrastive loss; candidates are the tables net\.head\.weight",
    ):
        fit(Lit(seeded(Classifier), sgd), feature_batches(2), NormDynamics())


def test_an_output_that_is_no_embeddings(fit):
    class Scalar(TwoTowers):
        def __init__(self):
            super().__init__()
            self.score = nn.Flatten(0)

        def forward(self, pairs):
            return self.score(self.encoder(self.table(pairs))).square().mean()

    with pytest.raises(ValueError, match=r"the output of 'net\.score' is no tensor of embeddings .*\(256,\)"):
        fit(Lit(seeded(Scalar), sgd), pair_batches(2), NormDynamics(targets=["net.score"]))


@pytest.mark.parametrize(
    ("monitor", "options"),
    [
        (NormDynamics, {"every_n_steps": 0}),
        (NormDynamics, {"every_n_steps": True}),
        (NormDynamics, {"fit_every_n_steps": -1}),
        (NormDynamics, {"window": -1}),
        (NormDynamics, {"window": 0}),
        (NormDynamics, {"window": 1.5}),
        (NormDynamics, {"window": 500.0}),
        (NormDynamics, {"window": math.nan}),
        (NormDynamics, {"forecast_at": 0}),
        (NormDynamics, {"forecast_at": 1.0}),
        (NormDynamics, {"forecast_at": -3}),
        (NormTrajectoryMonitor, {"every_n_steps": 2.0}),
        (GradientSplitMonitor, {"every_n_steps": 0}),
        (EquilibriumFitMonitor, {"every_n_steps": 0}),
        (EquilibriumFitMonitor, {"fit_every_n_steps": 0}),
        (EquilibriumFitMonitor, {"window": -0.5}),
        (EquilibriumFitMonitor, {"forecast_at": math.nan}),
    ],
)
def test_a_setting_out_of_range_is_refused_when_it_is_made(monitor, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, got {value!r}$"):
        monitor(**options)


class Rowwise(nn.Module):
    """Each row learns on its own; the last one has a gradient in some steps alone, and a bad one."""

    def __init__(self, bad, at):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.bad, self.at, self.calls = bad, at, 0
        self.directions = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(5))

    def forward(self, pairs):
        self.calls += 1
        ids, weights = pairs.flatten(), torch.ones(pairs.numel())
        if self.calls in self.at:
            ids, weights = F.pad(ids, (0, 1), value=ROWS - 1), F.pad(weights, (0, 1), value=self.bad)
        aligned = (F.normalize(self.table(ids), dim=1) * self.directions[ids]).sum(1)
        return -(weights * aligned).sum() / BATCH


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_gradients_are_counted_and_reported_once(fit, tmp_path, bad):
    """Two windows meet one; the run goes on, and all other rows have the numbers of a run without."""
    module = Lit(seeded(lambda: Rowwise(bad, at={4, 14})), sgd)
    with pytest.warns(UserWarning, match=r"1 row gradients of 'net\.table\.weight' were NaN or infinite") as caught:
        trainer = fit(module, pair_batches(30), NormDynamics(every_n_steps=1, window=10))
    assert len(ours(caught)) == 1
    logged = trainer.logger.of("net.table.weight")
    assert [logged[step]["nonfinite_gradients"] for step in (10, 20, 30)] == [1, 1, 0]
    assert all(math.isfinite(value) for found in logged.values() for value in found.values())
    assert {"norm_mean", "angular_update", "budget_growth"} <= set(logged[30])
    bad_rows = last_moments(tmp_path)
    fit(Lit(seeded(lambda: Rowwise(1.0, at=set())), sgd), pair_batches(30), NormDynamics(window=10))
    clean_rows = last_moments(tmp_path)
    np.testing.assert_allclose(bad_rows[:-1], clean_rows[:-1], rtol=1e-6)


def last_moments(folder):
    trajectory = read_run(folder)["net.table.weight"].trajectory()
    last = trajectory.filter(np.equal(trajectory["step"].to_numpy(), 30))
    return last["second_moment"].to_numpy()


def test_rows_of_norm_zero(fit):
    """A table that starts at zero, under a loss that would move only some of it."""

    class FromZero(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(ROWS, DIM)
            nn.init.zeros_(self.table.weight)

        def forward(self, pairs):
            return (self.table(pairs[:, 0]) - 1).square().mean()

    logged = fit(Lit(FromZero(), sgd), pair_batches(6), NormDynamics(every_n_steps=1, window=3)).logger
    logged = logged.of("net.table.weight")
    assert set(logged) >= {1, 2, 3, 4, 5, 6}
    assert all(math.isfinite(value) for found in logged.values() for value in found.values())
    assert logged[6]["norm_mean"] > 0
    assert logged[2]["budget_residual"] < 1e-9


def test_a_folder_that_cannot_be_written_costs_a_warning_and_what_is_lost_another(fit, tmp_path):
    (tmp_path / "file").write_text("in the way")
    module, callback = Lit(seeded(TwoTables), sgd), NormDynamics(every_n_steps=1, window=3)
    with (
        pytest.warns(UserWarning, match=r"\d+ rows could not be written to .* and are lost"),
        pytest.warns(UserWarning, match=r"cannot write to .*training goes on.*tried again") as caught,
    ):
        trainer = fit(module, pair_batches(6), callback, default_root_dir=tmp_path / "file" / "runs")
    assert len(ours(caught)) == 2
    assert trainer.global_step == 6
    for target in ("net.queries.weight", "net.documents.weight"):
        assert "transient_least_squares_slope" in trainer.logger.of(target)[6]
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_table_that_nothing_trains_is_named_and_left_alone(fit, tmp_path):
    def queries_only(net):
        return torch.optim.SGD(net.queries.parameters(), lr=0.1)

    with pytest.warns(UserWarning, match=r"no optimizer trains 'net\.documents\.weight'") as caught:
        trainer = fit(Lit(seeded(TwoTables), queries_only), pair_batches(4), NormDynamics(every_n_steps=1))
    assert len(ours(caught)) == 1
    assert set(trainer.logger.of("net.queries.weight")) >= {1, 2, 3, 4}
    assert not trainer.logger.of("net.documents.weight")
    assert set(read_run(tmp_path)) == {"net.queries.weight"}


def test_a_frozen_table_is_passed_over(fit, tmp_path):
    net = seeded(TwoTables)
    net.documents.weight.requires_grad_(False)
    trainer = fit(Lit(net, sgd), pair_batches(4), NormDynamics(every_n_steps=1))
    assert set(read_run(tmp_path)) == {"net.queries.weight"}
    assert not trainer.logger.of("net.documents.weight")


def test_a_frozen_table_asked_for_by_name_stays_silent(fit):
    net = seeded(TwoTables)
    net.documents.weight.requires_grad_(False)
    callback = NormDynamics(targets=["net.documents.weight"], every_n_steps=1)
    trainer = fit(Lit(net, sgd), pair_batches(4), callback)
    assert trainer.global_step == 4
    assert not trainer.logger.of("net.documents.weight")


def test_a_table_that_some_batches_do_not_use(fit):
    """Steps in which it has no gradient are none of its own: the optimizer leaves it alone, decay included."""

    class Sometimes(TwoTables):
        calls = 0

        def forward(self, pairs):
            self.calls += 1
            return super().forward(pairs) if self.calls % 2 else self.queries(pairs).square().mean()

    callback = NormDynamics(every_n_steps=1)
    fit(Lit(seeded(Sometimes), sgd), pair_batches(8), callback)
    watched = callback.state_dict()["targets"]
    assert [watched[f"net.{name}.weight"]["steps"] for name in ("queries", "documents")] == [8, 4]


def test_a_training_step_without_loss(fit):
    class Skipping(Lit):
        def training_step(self, batch, batch_idx):
            return None if batch_idx in (0, 3) else super().training_step(batch, batch_idx)

    callback = NormDynamics(every_n_steps=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`training_step` returned `None`")
        fit(Skipping(seeded(PairTable), sgd), pair_batches(6), callback)
    assert callback.state_dict()["targets"]["net.table.weight"]["steps"] == 4
    assert callback.state_dict()["targets"]["net.table.weight"]["skipped"] == 0


def test_a_stream_without_length(fit, tmp_path):
    """No end is known: fits all the same, no forecast, and windows that are no single steps."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(pair_batches(7))

    class Streaming(Lit):
        def train_dataloader(self):
            return torch.utils.data.DataLoader(Stream(), batch_size=None)

    callback = NormDynamics(every_n_steps=1)
    fit(Streaming(seeded(PairTable), sgd), None, callback)
    assert read_run(tmp_path)["net.table.weight"].description()["total_steps"] is None
    state = callback.state_dict()["targets"]["net.table.weight"]
    assert state["steps"] == 7
    assert state["instruments"]["fit"]["window_end"] == 100


def test_a_dry_run_leaves_nothing_on_disk(fit, tmp_path):
    fit(Lit(seeded(PairTable), sgd), pair_batches(3), NormDynamics(), fast_dev_run=True)
    assert not list(tmp_path.rglob("*"))


def test_a_run_without_any_logger(fit, tmp_path):
    trainer = fit(Lit(seeded(PairTable), sgd), pair_batches(3), NormDynamics(every_n_steps=1), logger=False)
    assert "normdyn/net.table.weight/norm_mean" in trainer.callback_metrics
    assert read_run(tmp_path)["net.table.weight"].trajectory().num_rows == 3 * ROWS


def test_history_goes_beside_the_logger(fit, tmp_path):
    logger = CSVLogger(tmp_path, name="mine", version=7)
    fit(Lit(seeded(PairTable), sgd), pair_batches(3), NormDynamics(every_n_steps=1), logger=logger)
    assert set(read_run(tmp_path / "mine" / "version_7")) == {"net.table.weight"}


@pytest.mark.parametrize("rows", [0, -1, 1.5, "10", True, None])
def test_no_number_of_rows_to_track(rows):
    with pytest.raises(ValueError, match=r"^max_tracked_rows: expected a whole number, 1 or more, got "):
        NormDynamics(max_tracked_rows=rows)


@pytest.mark.parametrize("targets", [5, [3], b"auto", None])
def test_targets_that_are_no_patterns(targets):
    with pytest.raises(ValueError, match=r"^targets: expected 'auto' or a list of patterns, got "):
        NormDynamics(targets=targets)


@pytest.mark.parametrize("window", ["0.2", None, math.inf, True, 0, -1, 1.5, 2.0])
def test_windows_that_are_none(window):
    with pytest.raises(ValueError, match=r"^window: expected a share of the run between 0 and 1, or a whole number"):
        NormDynamics(window=window)


class NoRate(torch.optim.SGD):
    """Chooses its own rate, as Adafactor does."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.param_groups[0].update(lr=None, weight_decay=None)

    def step(self, closure=None):
        loss = closure()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(0.1 * parameter.grad)
        return loss


class LooksTwice(torch.optim.SGD):
    """Evaluates the closure twice a step, as sharpness-aware optimizers do."""

    def step(self, closure=None):
        closure()
        return super().step(closure)


class Regroups(Callback):
    """Puts a group before the table's own in the midst of the run."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 3:
            groups = trainer.optimizers[0].param_groups
            groups.insert(0, {**groups[0], "params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.0})


@pytest.mark.parametrize(
    ("configure", "more"),
    [
        pytest.param(lambda net: NoRate(net.parameters()), [], id="no learning rate"),
        pytest.param(lambda net: torch.optim.SGD(net.parameters(), lr=1e-3, momentum=1.0), [], id="momentum 1"),
        pytest.param(lambda net: LooksTwice(net.parameters(), lr=0.1), [], id="two evaluations"),
        pytest.param(sgd, [Regroups()], id="groups change"),
    ],
)
def test_unusual_optimizers_lose_no_run(fit, configure, more):
    trainer = fit(Lit(seeded(PairTable), configure), pair_batches(8), NormDynamics(every_n_steps=1), *more)
    logged = trainer.logger.of("net.table.weight")
    assert len(logged) >= 8
    assert all(found["skipped_steps"] == 0 for found in logged.values())
    if more:
        assert logged[8]["effective_lr"] > 0
