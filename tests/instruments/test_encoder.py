"""The balance of an encoder's norms on a probe, against plain loops that look at every step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from encoders import INPUT, OUT, Contrast, relu_layers, views, watch_plainly
from small_models import seeded
from torch import nn

from lightning_normdyn.callbacks import EquilibriumFitMonitor, NormDynamics
from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.probe import Probe
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import NormObserver

STEPS = 300


def inputs(n=24):
    return torch.randn(n, INPUT, generator=torch.Generator().manual_seed(5))


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=1e-2)


def momentum(net):
    return torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-2)


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.3)


def adam_with_l2(net):
    return torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=1e-2)


def train(fit, configure=momentum, encoder=relu_layers, steps=STEPS, loss="cosine", options=None, **dynamics):
    """Trains with a probe of its own; returns what was logged for the encoder, the rows on disk and the trainer."""
    defaults = {"targets": ["encoder"], "probe": inputs(), "every_n_steps": 10, "window": 100}
    module = Contrast(seeded(encoder), configure, loss)
    trainer = fit(module, views(steps), NormDynamics(**defaults | dynamics), **options or {})
    return trainer.logger.of("encoder"), trainer


def rows_of(folder, step):
    rows = read_run(folder)["encoder"].trajectory()
    return {
        name: rows.filter(np.equal(rows["step"].to_numpy(), step))[name].to_numpy().astype(float)
        for name in rows.column_names
    }


@pytest.mark.parametrize(
    ("configure", "rate", "lag"),
    [(sgd, 0.3, 1), (momentum, 0.3, 10), (adamw, 3e-3, 10)],
    ids=["sgd", "momentum", "adamw"],
)
def test_the_terms_of_every_item_are_those_of_a_plain_loop(fit, tmp_path, configure, rate, lag):
    """Growth over the lag, decay, telescoped drift, turn, and the budget of single steps."""
    logged, _ = train(fit, configure)
    path = watch_plainly(seeded(relu_layers), configure, views(STEPS), inputs()).numpy()
    start, end = 100, 200
    found = rows_of(tmp_path, end)
    begun = [step - 1 for step in range(start + 10, end + 1, 10) if step - 1 + lag <= end]
    growth = np.mean([((path[t + lag] - path[t]) ** 2).sum(1) / lag for t in begun], axis=0)
    squared = np.mean([(path[t] ** 2).sum(1) for t in begun], axis=0)
    decay = configure(seeded(relu_layers)).param_groups[0]["weight_decay"]
    change = ((path[end] ** 2).sum(1) - (path[start] ** 2).sum(1)) / (end - start)
    drift = (change + 2 * rate * 2 * decay * squared - growth) / (2 * rate)
    np.testing.assert_allclose(found["growth"], growth, rtol=1e-3)
    np.testing.assert_allclose(found["mean_norm"], np.sqrt(squared), rtol=1e-5)
    np.testing.assert_allclose(found["radial_decay"], 2 * decay, rtol=1e-3)
    np.testing.assert_allclose(found["drift"], drift, rtol=1e-2, atol=1e-3 * np.abs(drift).max())
    np.testing.assert_allclose(found["norm"], np.linalg.norm(path[end], axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["second_moment"], growth * squared / rate**2, rtol=1e-3)
    units = path / np.linalg.norm(path, axis=2, keepdims=True)
    turns = [np.arccos(np.minimum(1, (units[t] * units[t + lag]).sum(1))) ** 2 / lag for t in begun]
    np.testing.assert_allclose(found["angular_update"], np.sqrt(np.mean(turns, axis=0)), rtol=1e-2)
    for step in (10, 150):
        before, after = path[step - 1], path[step]
        size = (before**2).sum(1)
        growth = ((after - before) ** 2).sum(1) / size
        total = (after**2).sum(1) / size - 1
        assert logged[step]["budget_growth"] == pytest.approx(growth.mean(), rel=1e-3)
        parts = sum(logged[step][f"budget_{part}"] for part in ("growth", "drift", "decay"))
        assert parts == pytest.approx(total.mean(), rel=1e-3, abs=1e-9)
        assert logged[step]["budget_decay"] == pytest.approx(-2 * rate * 2 * decay, rel=2e-3)
        assert logged[step]["budget_residual"] < 1e-6
        assert logged[step]["effective_lr"] == pytest.approx((rate / size).mean(), rel=1e-3)


def test_two_bias_free_layers_decay_twice_as_fast(fit):
    """And the fit that is corrected for the transient closes, with a measurement every 50 steps."""
    logged, _ = train(fit, sgd, steps=1000, every_n_steps=50, window=400)
    for step in (400, 800):
        assert logged[step]["radial_decay_ratio"] == pytest.approx(2, abs=1e-3)
        assert logged[step]["balance_slope"] == pytest.approx(1, abs=0.02)
        assert logged[step]["balance_pearson_r"] >= 0.998


class Normed(nn.Module):
    """Biases, LayerNorm and attention: lambda_rad is no whole number of layers."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(4, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.write = nn.Linear(16, 8)

    def forward(self, x):
        return self.write(self.block(self.read(x.view(-1, 4, 4))).mean(1))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("make", [relu_layers, Normed], ids=["relu", "transformer"])
def test_the_central_difference_agrees_with_forward_mode(make):
    """Within 1%, with rates that differ between parameters; torch's fused attention has no forward mode."""
    encoder = seeded(make).eval()
    decays = [(p, 0.1 if p.ndim > 1 else 0.03) for p in encoder.parameters()]
    probe = Probe("encoder", encoder, [Call.of(inputs())])
    found = probe.radial_decay(decays, probe.encode())
    encoder.train()  # without dropout the same, but for kernels that have no forward mode
    parameters = dict(encoder.named_parameters())
    tangents = {name: p.detach() * (0.1 if p.ndim > 1 else 0.03) for name, p in parameters.items()}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        vectors, change = torch.func.jvp(
            lambda values: torch.func.functional_call(encoder, values, (inputs(),)),
            ({name: p.detach() for name, p in parameters.items()},),
            (tangents,),
        )
    expected = ((vectors * change).sum(1) / vectors.square().sum(1)).double().detach()
    torch.testing.assert_close(found, expected, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("configure", [sgd, momentum, adamw], ids=["sgd", "momentum", "adamw"])
def test_the_forecast_beats_stays_as_it_is(fit, configure):
    """Through a cosine schedule, from 40% of the run."""

    def scheduled(net):
        optimizer = configure(net)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500, eta_min=1e-3 * optimizer.defaults["lr"])
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    logged, trainer = train(fit, scheduled, steps=1500, every_n_steps=50, window=0.2)
    assert trainer.global_step == 1500
    assert logged[1500]["forecast_skill"] > 0.3
    assert logged[1500]["persistence_median_error"] > 0.02


def test_the_first_batch_is_the_probe(fit, tmp_path):
    """Both views, as many of each as are asked for."""
    train(fit, probe=None, probe_items=10, steps=20)
    batch = views(1)[0]
    first = torch.cat([batch[0][:10], batch[1][:10]])
    path = watch_plainly(seeded(relu_layers), momentum, views(20), first)
    found = rows_of(tmp_path, 20)
    np.testing.assert_allclose(found["norm"], path[-1].norm(dim=1), rtol=1e-5)


def test_a_loader_a_file_and_named_inputs(fit, tmp_path):
    batches = torch.utils.data.DataLoader(inputs(), batch_size=7)
    file = tmp_path / "probe.pt"
    torch.save({"input": inputs()[:5]}, file)
    for probe, items in ((batches, 20), (str(file), 5), ({"encoder": [inputs()[:3]]}, 3)):
        folder = tmp_path / str(items)
        train(fit, probe=probe, probe_items=20, steps=10, options={"default_root_dir": folder})
        assert len(rows_of(folder, 10)["norm"]) == items


def test_no_decay_leaves_budget_and_forecast(fit):
    logged, _ = train(fit, lambda net: torch.optim.SGD(net.parameters(), lr=0.1))
    assert "equilibrium_median_error" not in logged[200]
    assert logged[200]["budget_decay"] == 0
    assert math.isfinite(logged[200]["stationarity"])
    assert math.isfinite(logged[300]["forecast_skill"])


def test_what_decay_would_take_says_nothing_where_it_takes_nothing(fit):
    """Ahead of a normalisation layer weights may be of any length: shares of decay would be in the hundreds."""

    def normalised():
        return nn.Sequential(*relu_layers(), nn.LayerNorm(OUT, elementwise_affine=False))

    logged, _ = train(fit, adamw, normalised)
    last = logged[200]
    assert abs(last["radial_decay_ratio"]) < 0.01
    assert {"stationarity", "radial_decay", "norm_mean"} <= last.keys()
    assert last.keys().isdisjoint({"drift_share", "growth_share", "relaxation_steps", "equilibrium_median_error"})


def test_coupled_decay_of_adam_stays_in_the_drift(fit):
    logged, _ = train(fit, adam_with_l2)
    assert "radial_decay" not in logged[200]
    assert "budget_drift" in logged[200]


def test_an_optimizer_without_a_law_still_has_its_budget(fit):
    logged, _ = train(fit, lambda net: torch.optim.Adagrad(net.parameters(), lr=0.05, weight_decay=1e-3))
    assert logged[200]["budget_residual"] < 1e-6
    assert "stationarity" in logged[200]


def test_a_warm_up_from_zero(fit):
    def warmed(net):
        optimizer = momentum(net)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 150))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    logged, _ = train(fit, warmed)
    assert logged[1]["budget_growth"] == 0
    assert logged[200]["radial_decay_ratio"] == pytest.approx(2, abs=1e-3)
    assert logged[200]["balance_median_error"] < 0.02


def test_no_learning_rate_at_all(fit):
    logged, _ = train(fit, lambda net: torch.optim.SGD(net.parameters(), lr=0.0, weight_decay=0.1))
    assert "equilibrium_median_error" not in logged[200]
    assert logged[200]["budget_growth"] == 0


def test_one_item(fit):
    logged, _ = train(fit, probe=inputs(1))
    assert "balance_slope" not in logged[200]
    assert logged[200]["balance_median_error"] < 0.05


def test_unit_vectors_have_no_balance(fit):
    """A last normalisation: norms are 1 whatever happens."""

    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = relu_layers()

        def forward(self, x):
            return nn.functional.normalize(self.body(x), dim=1)

    logged, _ = train(fit, encoder=Unit)
    assert logged[200]["norm_cv"] < 1e-6
    assert abs(logged[200]["radial_decay_ratio"]) < 1e-3


def test_exploding_norms_leave_no_false_number(fit):
    def exploding(net):
        return torch.optim.SGD(net.parameters(), lr=1e6, weight_decay=1e-2)

    logged, _ = train(fit, exploding, loss="dot", steps=60)
    assert all(math.isfinite(value) for found in logged.values() for value in found.values())


def test_steps_that_a_scaler_skips_leave_the_measurement_whole(fit, tmp_path):
    """In the middle of a lag too: the terms are those of a run that never tried the skipped steps."""
    from pytorch_lightning.plugins.precision import MixedPrecision

    class Overflowing(Contrast):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * torch.inf if batch_idx in (45, 123) else loss

    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    options = {"plugins": [plugin]}
    callback = NormDynamics(targets=["encoder"], probe=inputs(), every_n_steps=10, window=100)
    trainer = fit(Overflowing(seeded(relu_layers), sgd), views(STEPS + 2), callback, **options)
    logged = trainer.logger.of("encoder")
    last = logged[STEPS + 2]  # batches are counted there, of which two made no step
    assert last["skipped_steps"] == 2
    assert last["balance_median_error"] < 0.02
    assert last["budget_residual"] < 1e-6


def test_groups_with_decays_of_their_own(fit):
    """The first layer decays, the second does not: half the degree."""

    def grouped(net):
        groups = [{"params": net[0].parameters(), "weight_decay": 0.02}, {"params": net[2].parameters()}]
        return torch.optim.SGD(groups, lr=0.1)

    logged, _ = train(fit, grouped)
    assert logged[200]["radial_decay"] == pytest.approx(0.02, rel=1e-3)


def test_bfloat16_weights_are_probed_in_float32(fit):
    logged, _ = train(fit, sgd, options={"precision": "bf16-true"})
    assert logged[200]["radial_decay_ratio"] == pytest.approx(2, abs=1e-3)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's, as it traces hooks
def test_a_compiled_encoder(fit):
    class Compiled(Contrast):
        def __init__(self, *args):
            super().__init__(*args)
            self.encoder.compile(backend="eager")

    module = Compiled(seeded(relu_layers), sgd)
    callback = NormDynamics(targets=["encoder"], probe=inputs(), every_n_steps=10, window=100)
    logged = fit(module, views(STEPS), callback).logger.of("encoder")
    assert logged[200]["radial_decay_ratio"] == pytest.approx(2, abs=1e-3)


class Moody(nn.Module):
    """Dropout that evaluation does not switch off."""

    def __init__(self):
        super().__init__()
        self.body = relu_layers()

    def forward(self, x):
        return nn.functional.dropout(self.body(x), 0.5, training=True)


class Counting(nn.Module):
    """Writes down, in a buffer, that it was called."""

    def __init__(self):
        super().__init__()
        self.body = relu_layers()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.body(x)


class Replacing(Counting):
    """Puts another tensor in place of the buffer."""

    def forward(self, x):
        self.calls = self.calls + 1
        return self.body(x)


class Renorming(nn.Module):
    """Shortens the rows that it looks up."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, INPUT, max_norm=0.5)
        self.body = relu_layers()

    def forward(self, x):
        return self.body(x) if x.is_floating_point() else self.body(self.table(x))


@pytest.mark.parametrize(
    ("encoder", "options", "sentence"),
    [
        (Moody, {}, "gives other vectors each time"),
        (Counting, {}, "writes to its 'calls'"),
        (Replacing, {}, "writes to its 'calls'"),
        (Renorming, {"probe": torch.arange(8)}, "writes to its 'table.weight'"),
        (relu_layers, {"probe": inputs()[:, :3]}, r"cannot be called with it again \(RuntimeError"),
        (relu_layers, {"probe": {"encodr": inputs()}}, r"cannot be called with it again \(TypeError"),
        (relu_layers, {"probe": inputs().requires_grad_()}, "require grad"),
        (relu_layers, {"probe": "a text"}, "no file 'a text'"),
        (relu_layers, {"probe": 7}, "expected None, False, a batch"),
        (relu_layers, {"probe": ["a text"]}, "expected tensors that 'encoder' is called with"),
        (relu_layers, {"probe_items": 0}, "probe_items: expected a whole number"),
    ],
)
def test_bad_probes_get_a_clear_sentence(fit, encoder, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(fit, encoder=encoder, steps=3, **options)


class Neighbours(nn.Module):
    """Adds to each node's layer those of its neighbours, as graph networks do."""

    def __init__(self):
        super().__init__()
        self.body = relu_layers()

    def forward(self, x, links):
        vectors = self.body(x)
        return vectors.index_add(0, links[1], vectors[links[0]])


def test_nodes_of_a_graph_are_probed_together_as_the_refusal_says():
    net, nodes = Neighbours(), torch.randn(80, INPUT)
    model, links = nn.ModuleDict({"encoder": net}), torch.stack((torch.arange(80), torch.randperm(80)))
    optimizer, logged = torch.optim.SGD(net.parameters(), lr=0.01, weight_decay=0.01), {}

    def train(**options):
        observer = NormObserver(
            model, optimizer, targets=["encoder"], total_steps=60, log=lambda m, _: logged.update(m), **options
        )
        with observer:
            for _ in range(60):
                optimizer.zero_grad()
                nn.functional.normalize(net(nodes, links)).square()[:, 0].sum().backward()
                optimizer.step()

    with pytest.warns(UserWarning, match="keep whole batches with a larger probe_items= where items need one another"):
        train()
    assert "normdyn/encoder/radial_decay_ratio" not in logged
    train(probe_items=80)
    assert logged["normdyn/encoder/radial_decay_ratio"] == pytest.approx(2, abs=1e-3)


def test_a_later_part_of_an_encoder_is_followed_without_a_balance(fit):
    with pytest.warns(UserWarning, match="inputs of 'encoder.2' require grad, so it is a later part"):
        logged = train(fit, encoder=relu_layers, steps=3, targets=["encoder.2"], probe=None)[1].logger.of("encoder.2")
    assert logged[1]["norm_mean"] > 0
    assert "radial_decay" not in logged[1]


def test_the_fit_monitor_probes_too(fit):
    module = Contrast(seeded(relu_layers), sgd)
    monitor = EquilibriumFitMonitor(targets=["encoder"], probe=inputs(), every_n_steps=10, window=100)
    logged = fit(module, views(200), monitor).logger.of("encoder")
    assert logged[200]["balance_median_error"] < 0.02


def test_frozen_parameters_in_the_optimizer_do_not_decay(fit):
    """They get no gradient, so torch leaves them alone: half the degree."""

    def half_frozen():
        net = relu_layers()
        net[0].weight.requires_grad_(False)
        return net

    logged, _ = train(fit, sgd, encoder=half_frozen)
    assert logged[200]["radial_decay_ratio"] == pytest.approx(1, abs=1e-3)


def test_an_item_that_is_nan_leaves_the_others_alone(fit):
    probe = inputs()
    probe[3] = math.nan
    logged, _ = train(fit, sgd, probe=probe)
    assert logged[200]["radial_decay_ratio"] == pytest.approx(2, abs=1e-3)
    assert logged[200]["balance_median_error"] < 0.02


class Opaque:
    """A batch that only its encoder can open."""

    def __init__(self, x):
        self.x = x


def test_inputs_that_cannot_be_taken_along_cost_no_run(fit):
    class Opening(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = relu_layers()

        def forward(self, x):
            return self.body(Opaque(x).x if isinstance(x, torch.Tensor) else x.x)

    class Wrapping(Contrast):
        def training_step(self, batch, batch_idx):
            queries, documents = self.encoder(Opaque(batch[0])), self.encoder(Opaque(batch[1]))
            return (queries - documents).square().mean()

    module = Wrapping(seeded(Opening), sgd)
    with pytest.warns(UserWarning, match="was not called with anything that could be encoded again"):
        trainer = fit(module, views(30), NormDynamics(targets=["encoder"], every_n_steps=10))
    assert trainer.global_step == 30


def test_a_resumed_run_with_another_probe_starts_afresh(fit, tmp_path):
    """Neither a crash nor the drift of one set of items booked to another."""

    def dynamics(seed):
        items = torch.randn(6, INPUT, generator=torch.Generator().manual_seed(seed))
        return NormDynamics(targets=["encoder"], probe=items, every_n_steps=10, window=50)

    first = fit(Contrast(seeded(relu_layers), sgd), views(70), dynamics(0))
    first.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match="has other items"):
        trainer = fit(
            Contrast(seeded(relu_layers), sgd),
            views(70),
            dynamics(1),
            ckpt_path=tmp_path / "last.ckpt",
            max_epochs=2,
        )
    assert trainer.global_step == 140
    assert trainer.callback_metrics["normdyn/encoder/balance_median_error"] < 0.02
