"""Tables of every kind: how the touched rows are found must not change the numbers."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from brute_force import expected_moments, expected_norms, expected_split
from plain_training import train_plainly
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import (
    BagTable,
    Classifier,
    FunctionalTable,
    Lit,
    PairTable,
    Prototypes,
    TiedTable,
    TwoTables,
    contrast,
    feature_batches,
    pair_batches,
    seeded,
)

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.capture.targets import find_targets
from lightning_normdyn.history import read_run

STEPS = 12
LR, DECAY = 0.3, 0.05


def decaying_sgd(net):
    return torch.optim.SGD(net.parameters(), lr=LR, weight_decay=DECAY)


def plain_sgd(net):
    return torch.optim.SGD(net.parameters(), lr=LR)


def sparse_adam(net):
    return torch.optim.SparseAdam(net.parameters(), lr=0.02)


def assert_table(trainer, folder, steps, target, *, lr, decay, rows=slice(None), window=STEPS):
    """Scalars of every step and moments per row."""
    logged = trainer.logger.of(target)
    for number, step in enumerate(steps, 1):
        expected = expected_split(step, effective_lr=lr, decay_rate=lr * decay, rows=rows)
        assert {key: logged[number][key] for key in expected} == pytest.approx(expected, rel=2e-5, abs=1e-6)
    trajectory = read_run(folder)[target].trajectory()
    fitted = trajectory.filter(~np.isnan(trajectory["second_moment"].to_numpy().astype(float)))
    v2, p = expected_moments(steps[:window], rows)
    assert fitted["row"].to_pylist() == list(range(*rows.indices(len(steps[0].before))))
    np.testing.assert_allclose(fitted["second_moment"].to_numpy(), v2, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fitted["update_probability"].to_numpy(), p, rtol=1e-6)


# network, batches, its table, optimizer, effective lr, decay, rows that get a gradient of their own in a step
KINDS = {
    "padding row": (lambda: PairTable("dot", padding_idx=0), pair_batches, "table.weight", decaying_sgd, LR, DECAY),
    "bags": (BagTable, functools.partial(pair_batches, columns=6), "table.weight", decaying_sgd, LR, DECAY),
    "sparse gradients": (
        lambda: PairTable("dot", sparse=True),
        pair_batches,
        "table.weight",
        plain_sgd,
        LR,
        0.0,
    ),
    "sparse Adam": (lambda: PairTable("dot", sparse=True), pair_batches, "table.weight", sparse_adam, 0.02, 0.0),
    "sparse bags": (
        lambda: BagTable(sparse=True),
        functools.partial(pair_batches, columns=6),
        "table.weight",
        plain_sgd,
        LR,
        0.0,
    ),
    "tied to the output layer": (TiedTable, pair_batches, "table.weight", decaying_sgd, LR, DECAY),
    "used past its layer": (FunctionalTable, pair_batches, "table.weight", decaying_sgd, LR, DECAY),
    "bare parameter": (Prototypes, feature_batches, "prototypes", decaying_sgd, LR, DECAY),
    "classification head": (Classifier, feature_batches, "head.weight", decaying_sgd, LR, DECAY),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_any_kind(fit, tmp_path, kind):
    make, make_batches, table, configure, lr, decay = KINDS[kind]
    net, batches = seeded(make), make_batches(STEPS)
    _, steps = train_plainly(net, batches, configure, table)
    callback = NormDynamics(targets=[f"net.{table}"], every_n_steps=1, window=STEPS)
    trainer = fit(Lit(net, configure), batches, callback)
    assert_table(trainer, tmp_path, steps, f"net.{table}", lr=lr, decay=decay)


def test_a_padding_row_has_no_say_in_anything(fit, tmp_path):
    """Its norm is zero and its gradient too: no direction, no angle, no moment."""
    net, batches = seeded(lambda: PairTable("dot", padding_idx=0)), pair_batches(STEPS)
    assert sum((batch == 0).sum() for batch in batches) > 10
    fit(Lit(net, decaying_sgd), batches, NormDynamics(every_n_steps=1, window=STEPS))
    trajectory = read_run(tmp_path)["net.table.weight"].trajectory()
    rows = trajectory.filter(~np.isnan(trajectory["second_moment"].to_numpy().astype(float))).to_pydict()
    assert rows["update_probability"][0] == rows["second_moment"][0] == rows["norm"][0] == 0


def test_a_table_too_large_to_track_is_sampled_at_a_stride(fit, tmp_path):
    net, batches = seeded(lambda: PairTable("dot", rows=100)), pair_batches(STEPS, rows=100)
    _, steps = train_plainly(net, batches, decaying_sgd, "table.weight")
    callback = NormDynamics(every_n_steps=1, window=STEPS, max_tracked_rows=16)
    trainer = fit(Lit(net, decaying_sgd), batches, callback)
    rows = slice(0, 100, 7)  # the smallest stride that leaves at most 16
    assert_table(trainer, tmp_path, steps, "net.table.weight", lr=LR, decay=DECAY, rows=rows)
    for number, step in enumerate(steps, 1):
        step.after, step.gradient = step.after[rows], step.gradient[rows]
        expected = expected_norms(steps[:number])
        logged = trainer.logger.of("net.table.weight")[number]
        assert {key: logged[key] for key in expected} == pytest.approx(expected, rel=1e-5)


def test_two_tables_in_two_parameter_groups(fit, tmp_path):
    settings = {"queries": (0.3, 0.05), "documents": (0.1, 0.2)}

    def configure(net):
        groups = [
            {"params": getattr(net, name).parameters(), "lr": lr, "weight_decay": decay}
            for name, (lr, decay) in settings.items()
        ]
        return torch.optim.SGD(groups, lr=1.0)

    net, batches = seeded(TwoTables), pair_batches(STEPS)
    trained = {name: train_plainly(net, batches, configure, f"{name}.weight")[1] for name in settings}
    trainer = fit(Lit(net, configure), batches, NormDynamics(every_n_steps=1, window=STEPS))
    for name, (lr, decay) in settings.items():
        target = f"net.{name}.weight"
        assert_table(trainer, tmp_path, trained[name], target, lr=lr, decay=decay)
        logged = trainer.logger.of(target)[STEPS]
        assert logged["relaxation_steps"] == pytest.approx(1 / (4 * lr * decay))


def test_a_table_that_is_used_past_its_layer_only_later(fit, tmp_path):
    """The first steps show no gradient outside the ids; from the fifth on every row has one."""

    class Late(FunctionalTable):
        calls = 0

        def forward(self, pairs):
            self.calls += 1
            if self.calls < 5:
                return contrast(self.table(pairs[:, 0]), self.table(pairs[:, 1]), "dot")
            return super().forward(pairs)

    net, batches = seeded(Late), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, decaying_sgd, "table.weight")
    trainer = fit(Lit(net, decaying_sgd), batches, NormDynamics(every_n_steps=1, window=STEPS))
    assert_table(trainer, tmp_path, steps, "net.table.weight", lr=LR, decay=DECAY)


def test_a_first_step_without_gradient_does_not_settle_how_rows_are_found(fit, tmp_path):
    """A zero-initialised way to the loss: the first gradient is zero everywhere."""

    class ZeroStart(FunctionalTable):
        def __init__(self):
            super().__init__()
            self.gate = torch.nn.Parameter(torch.zeros(()))

        def forward(self, pairs):
            logits = self.table(pairs[:, 0]) @ self.table.weight.T
            return torch.nn.functional.cross_entropy(self.gate * logits, pairs[:, 1])

    net, batches = seeded(ZeroStart), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, decaying_sgd, "table.weight")
    assert not steps[0].gradient.any()
    fit(Lit(net, decaying_sgd), batches, NormDynamics(every_n_steps=STEPS, window=STEPS))
    trajectory = read_run(tmp_path)["net.table.weight"].trajectory()
    fitted = trajectory.filter(~np.isnan(trajectory["second_moment"].to_numpy().astype(float)))
    np.testing.assert_allclose(fitted["second_moment"].to_numpy(), expected_moments(steps)[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", ["dot", "cosine"])
def test_dense_and_sparse_gradients_log_the_same(fit, loss):
    batches = pair_batches(STEPS)
    logged = []
    for sparse in (False, True):
        net = seeded(functools.partial(PairTable, loss, sparse=sparse))
        trainer = fit(Lit(net, plain_sgd), batches, NormDynamics(every_n_steps=1, window=STEPS, save_history=False))
        logged.append(trainer.logger.of("net.table.weight"))
    dense, sparse = logged
    for step, quantities in dense.items():
        # The first two are of a norm that nothing moves, the others rounding over rounding.
        for ill_posed in ("balance_median_error", "stationarity", "equilibrium_excess", "transient_excess"):
            quantities.pop(ill_posed, None), sparse[step].pop(ill_posed, None)
        assert sparse[step] == pytest.approx(quantities, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", [lambda: PairTable("dot"), BagTable], ids=["rows", "bags"])
def test_a_batch_that_is_overwritten_once_it_was_used(fit, tmp_path, kind, accumulate):
    """As by a loader that has one buffer: ids that were heard must not change with it."""

    class Overwriting(Lit):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            batch.fill_(3)

    net, batches = seeded(kind), pair_batches(accumulate * STEPS, columns=6)
    _, steps = train_plainly(net, batches, decaying_sgd, "table.weight", accumulate=accumulate)
    callback = NormDynamics(every_n_steps=STEPS, window=STEPS)
    fit(Overwriting(net, decaying_sgd), batches, callback, accumulate_grad_batches=accumulate)
    assert callback._recorder.watches[0].target.ids_tell  # found by its ids, which no longer are in the batch
    trajectory = read_run(tmp_path)["net.table.weight"].trajectory()
    fitted = trajectory.filter(np.equal(trajectory["step"].to_numpy(), STEPS))
    v2, p = expected_moments(steps)
    np.testing.assert_allclose(fitted["second_moment"].to_numpy(), v2, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fitted["update_probability"].to_numpy(), p, rtol=1e-6)


class Offset(torch.nn.Embedding):
    """Looks up other rows than it is called with, as the learned positions of some language models do."""

    def forward(self, ids, offset=2):
        return super().forward(ids % 7 + offset)


class FromDict(torch.nn.Embedding):
    """Is called with no ids at all."""

    def forward(self, inputs):
        return super().forward(inputs["ids"])


class OwnLookup(torch.nn.Module):
    def __init__(self, layer, call):
        super().__init__()
        self.table = layer(30, 8)
        self.call = call

    def forward(self, pairs):
        return contrast(self.call(self.table, pairs[:, 0]), self.call(self.table, pairs[:, 1]), "dot")


@pytest.mark.parametrize(
    ("layer", "call"),
    [
        pytest.param(Offset, lambda table, ids: table(1000 * ids), id="other rows"),
        pytest.param(FromDict, lambda table, ids: table({"ids": ids}), id="no ids"),
        pytest.param(torch.nn.Embedding, lambda table, ids: table(input=ids.int()), id="by keyword, 32 bit"),
        pytest.param(
            torch.nn.Embedding, lambda table, ids: torch.nn.functional.embedding(ids, table.weight), id="functional"
        ),
    ],
)
def test_a_layer_with_its_own_way_of_looking_up(fit, tmp_path, layer, call):
    net, batches = seeded(lambda: OwnLookup(layer, call)), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, decaying_sgd, "table.weight")
    trainer = fit(Lit(net, decaying_sgd), batches, NormDynamics(every_n_steps=1, window=STEPS))
    assert_table(trainer, tmp_path, steps, "net.table.weight", lr=LR, decay=DECAY)


def test_a_model_in_double_precision(fit, tmp_path):
    net, batches = seeded(lambda: PairTable("dot")), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, decaying_sgd, "table.weight", precise=True)
    callback = NormDynamics(every_n_steps=1, window=STEPS)
    trainer = fit(Lit(net, decaying_sgd), batches, callback, precision="64-true", gradient_clip_val=1e6)
    assert_table(trainer, tmp_path, steps, "net.table.weight", lr=LR, decay=DECAY)


def test_a_model_in_half_precision(fit, tmp_path):
    """Weights of 16 bits: squares are never taken in them."""
    net, batches = seeded(lambda: PairTable("dot")).bfloat16(), pair_batches(STEPS)
    _, steps = train_plainly(net, batches, decaying_sgd, "table.weight")
    callback = NormDynamics(targets=["net.table.weight"], every_n_steps=1, window=STEPS)
    trainer = fit(Lit(net, decaying_sgd), batches, callback, precision="bf16-true", gradient_clip_val=1e6)
    torch.testing.assert_close(net.table.weight.double(), steps[-1].after, rtol=0, atol=0)
    assert_table(trainer, tmp_path, steps, "net.table.weight", lr=LR, decay=DECAY)


def test_a_learning_rate_in_a_tensor(fit, tmp_path):
    def configure(net):
        optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.02), weight_decay=0.1, foreach=False)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    net, batches = seeded(PairTable), pair_batches(STEPS)
    logged = fit(Lit(net, configure), batches, NormDynamics(every_n_steps=1, window=4)).logger.of("net.table.weight")
    for step in range(1, STEPS + 1):
        assert logged[step]["budget_decay"] == pytest.approx(-2 * 0.1 * 0.02 * 0.9 ** (step - 1), rel=1e-5)


def test_a_sparse_table_under_a_loss_scaler(fit, tmp_path):
    scaler = functools.partial(torch.amp.GradScaler, "cpu", init_scale=1024)
    net, batches = seeded(lambda: PairTable("dot", sparse=True)), pair_batches(2 * STEPS)
    options = {"autocast": torch.half, "scaler": scaler(), "accumulate": 2}
    _, steps = train_plainly(net, batches, plain_sgd, "table.weight", **options)
    callback, plugins = (
        NormDynamics(every_n_steps=1, window=STEPS),
        [MixedPrecision("16-mixed", "cpu", scaler=scaler())],
    )
    trainer = fit(Lit(net, plain_sgd), batches, callback, plugins=plugins, accumulate_grad_batches=2)
    assert_table(trainer, tmp_path, steps, "net.table.weight", lr=LR, decay=0.0)


@pytest.mark.parametrize("pattern", ["users", "use*"])
def test_an_embedding_layer_named_as_a_target_is_its_table(pattern):
    model = torch.nn.ModuleDict({"users": torch.nn.Embedding(6, 4), "head": torch.nn.Linear(4, 3)})
    (target,) = find_targets(model, [pattern])
    assert (target.name, target.kind, target.rows) == ("users.weight", "table", 6)
    assert [target.kind for target in find_targets(model, ["head"])] == ["output"]


def test_a_tied_embedding_layer_is_the_table_that_it_shares():
    model = torch.nn.ModuleDict({"users": torch.nn.Embedding(6, 4), "friends": torch.nn.Embedding(6, 4)})
    model["friends"].weight = model["users"].weight
    assert [target.name for target in find_targets(model, ["users", "friends"])] == ["users.weight"]
