"""Tables whose optimizer is fused into backward: what is read off its steps is what autograd gives in float64."""

from __future__ import annotations

import warnings
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fused_tables import DECOUPLED, L2, NAME, Block, Features, Kind, Pairs, first_rows, pair_ids

from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import Instrument, NormObserver, fit
from lightning_normdyn.integrations.torchrec import TorchRecObserver

STEPS, ROWS, DIM = 60, 31, 8
CASES = {
    "SGD": {"kind": Kind.SGD},
    "row-wise Adagrad": {"kind": Kind.ROWWISE},
    "row-wise Adagrad, coupled decay": {"kind": Kind.ROWWISE, "weight_decay": 0.02, "mode": L2},
    "row-wise Adagrad, decoupled decay": {"kind": Kind.ROWWISE, "weight_decay": 0.05, "mode": DECOUPLED},
    "row-wise Adagrad, decay that a CPU ignores": {
        "kind": Kind.ROWWISE,
        "weight_decay": 0.2,
        "mode": L2,
        "use_cpu": True,
    },
    "Adagrad": {"kind": Kind.ADAGRAD},
    "Adam": {"kind": Kind.ADAM, "lr": 0.01},
    "Adam, decay": {"kind": Kind.ADAM, "lr": 0.01, "weight_decay": 0.1},
}


def loss_by_hand(rows, pairs):
    left, right = rows[pairs].unbind(1)
    return ((left * right).sum(1) - (pairs.sum(1) % 3 - 1.0)).square().mean()


class Tally:
    """Gradients of each step by autograd, in float64."""

    def __init__(self):
        self.second_moment, self.touches = torch.zeros(ROWS).double(), torch.zeros(ROWS).double()
        self.steps = []

    def step(self, block, pairs):
        """Looks at the rows before the step; what is left to be seen of it comes with :meth:`end_step`."""
        self.rows = block.weight.double().requires_grad_()
        loss_by_hand(self.rows, pairs).backward()
        gradient, rows = self.rows.grad, self.rows.detach()
        square, radial = gradient.square().sum(1), (gradient * rows).sum(1)
        self.second_moment += rows.square().sum(1) * square - radial**2
        self.touches += square > 0
        share = (radial / rows.norm(dim=1)).square().sum() / square.sum()
        self.steps.append({"gradient_norm": square.sum().sqrt(), "radial_fraction": share.sqrt()})

    def end_step(self, block):
        norms = block.weight.double().norm(dim=1)[self.touches > 0]
        self.steps[-1] |= {"norm_mean": norms.mean(), "norm_min": norms.min()}
        self.steps[-1]["untouched_rows"] = (self.touches == 0).sum()


def train(block, pairs, observer=None, tally=None, *, model=None, says=False):
    model = model or Pairs(block)
    for batch in pairs:
        if tally is not None:
            tally.step(block, batch)
        model(batch).backward()
        if tally is not None:
            tally.end_step(block)
        if says:
            observer.after_step()


def observed(block, pairs, tally=None, *, says=False, state=None, model=None, **options):
    """What was logged, by the number of the step, and the observer."""
    model, logged = model or Pairs(block), {}
    settings = {"every_n_steps": 1, "window": STEPS, "targets": [NAME], "total_steps": STEPS} | options
    observer = TorchRecObserver(
        model, log=lambda m, step: logged.update({step: {k.rpartition("/")[2]: v for k, v in m.items()}}), **settings
    )
    if state is not None:
        observer.load_state_dict(state)
    with observer:
        train(block, pairs, observer, tally, model=model, says=says)
    return logged, observer


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_autograd(tmp_path, case):
    block, tally = Block(first_rows(), **CASES[case]), Tally()
    logged, _ = observed(block, pair_ids(STEPS), tally, log_dir=tmp_path)
    assert list(logged) == list(range(1, STEPS + 1))
    for step, expected in enumerate(tally.steps, start=1):
        for name, value in expected.items():
            tolerance = 1e-6 if "norm_" in name else 1e-5
            assert logged[step][name] == pytest.approx(float(value), rel=tolerance), (step, name)
        assert 0 < logged[step]["gradient_error"] < 1e-5
        assert abs(logged[step]["budget_residual"]) < 1e-6
    table = read_run(tmp_path)[NAME].trajectory().to_pydict()
    for name, total in (("second_moment", tally.second_moment), ("update_probability", tally.touches)):
        column = [value for value in table[name] if value is not None]  # of the window, which is the whole run
        np.testing.assert_allclose(column, total.numpy() / STEPS, rtol=1e-5, atol=1e-12)


def test_an_error_in_the_reading_would_show():
    """Of a rate that is a thousandth off, or of an accumulator that is taken for that of another optimizer."""
    block, tally = Block(first_rows(), Kind.SGD), Tally()
    with patch.object(Block, "get_learning_rate", lambda block: 1.001 * block.lr):
        logged, _ = observed(block, pair_ids(3), tally)
    assert logged[2]["gradient_norm"] == pytest.approx(float(tally.steps[1]["gradient_norm"]) / 1.001, rel=1e-5)
    assert logged[2]["gradient_norm"] != pytest.approx(float(tally.steps[1]["gradient_norm"]), rel=1e-4)


@pytest.mark.parametrize("case", ["SGD", "row-wise Adagrad", "Adam"])
def test_weights_are_bit_identical_and_either_clock_gives_the_same(case):
    blocks = [Block(first_rows(), **CASES[case]) for _ in range(3)]
    train(blocks[0], pair_ids(STEPS))
    by_forward, _ = observed(blocks[1], pair_ids(STEPS))
    by_word, _ = observed(blocks[2], pair_ids(STEPS), says=True)
    assert by_forward == by_word
    for block in blocks[1:]:
        assert torch.equal(block.weight, blocks[0].weight)
        assert all(map(torch.equal, block.states, blocks[0].states))


@pytest.mark.parametrize("says", [False, True])
def test_a_resumed_run_logs_what_an_unbroken_one_does(says):
    whole, _ = observed(Block(first_rows(), Kind.ROWWISE), pair_ids(STEPS), says=says, window=20)
    block, pairs, half = Block(first_rows(), Kind.ROWWISE), pair_ids(STEPS), STEPS // 2 + 1
    first = TorchRecObserver(Pairs(block), every_n_steps=1, window=20, targets=[NAME], total_steps=STEPS)
    model = first._root
    first.begin()
    train(block, pairs[:half], first, model=model, says=says)
    state = first.state_dict()  # where the loop does not say so, the last step is still open
    first.close()
    resumed, _ = observed(block, pairs[half:], says=says, state=state, window=20)
    assert resumed == {step: metrics for step, metrics in whole.items() if step > half}


def test_accumulated_batches_are_steps_of_their_own():
    """Two passes to one word of the loop: rows move in each."""
    block, tally, pairs = Block(first_rows(), Kind.ROWWISE), Tally(), pair_ids(STEPS)
    model, logged = Pairs(block), {}
    observer = TorchRecObserver(model, every_n_steps=1, targets=[NAME], log=lambda m, step: logged.setdefault(step, m))
    with observer:
        for number, batch in enumerate(pairs):
            tally.step(block, batch)
            model(batch).backward()
            tally.end_step(block)
            if number % 2:
                observer.after_step()
            with torch.no_grad():
                model(pairs[0])
        model(pairs[0])  # under grad mode, and no backward
    norms = [metrics[f"normdyn/{NAME}/gradient_norm"] for metrics in logged.values()]
    assert norms == pytest.approx([float(step["gradient_norm"]) for step in tally.steps], rel=1e-5)


@pytest.mark.parametrize("row_counts", [None, [2**row for row in range(ROWS)]])
def test_sampled_rows_and_seldom_touched_ones(row_counts):
    """Every third row is tracked, in windows that read every fourth step and rare rows whenever they are touched."""
    block, tally = Block(first_rows(), Kind.ROWWISE), Tally()
    pairs, copies = pair_ids(240, batch=3), []
    with patch.multiple(fit, _ENOUGH_STEPS=25, _ENOUGH_READINGS=12):
        model = Pairs(block)
        observer = TorchRecObserver(
            model, every_n_steps=30, window=120, targets=[NAME], max_tracked_rows=11, row_counts=row_counts
        )
        with observer:
            handle = observer._observation.recorder.watches[0].target
            for number, batch in enumerate(pairs):
                if number >= 120:
                    tally.step(block, batch)
                model(batch).backward()
                copies.append(sum(len(ids) for track in handle._tracks for ids, _ in track._pieces))
        fitted = observer._observation.recorder.watches[0].measurements["fit"]
    noise, numbers = fitted._last_moments, handle.sample.numbers()
    assert len(numbers) == 11
    assert torch.equal(numbers, torch.arange(0, ROWS, 3)) == (row_counts is None)
    seldom = noise.readings == 120
    assert 2 <= int(seldom.sum()) <= 9
    touches = tally.touches[numbers]
    assert float(touches[seldom].mean()) < float(touches[~seldom].mean())
    expected = tally.second_moment[numbers] / 120
    torch.testing.assert_close(noise.second_moment[seldom], expected[seldom], rtol=1e-5, atol=1e-12)
    assert max(copies) <= max(len(batch.unique()) for batch in pairs)  # no row but those that were looked up


class Anisotropy(Instrument):
    """One of the user's own, which is shown whole rows, in steps in which nobody else asks for anything."""

    quantities = ("anisotropy",)
    every_n_steps = 7

    def measure(self, look):
        return {"anisotropy": torch.nn.functional.normalize(look.vectors.double(), dim=1).mean(0).norm()}


def test_an_instrument_of_one_s_own_is_shown_whole_rows():
    block, pairs = Block(first_rows(), Kind.ROWWISE), pair_ids(14)
    logged, _ = observed(block, pairs, every_n_steps=50, fit_every_n_steps=50, window=1000, instruments=[Anisotropy()])
    plain = Block(first_rows(), Kind.ROWWISE)
    for number, batch in enumerate(pairs, start=1):
        train(plain, [batch])
        if number in (7, 14):
            vectors = torch.nn.functional.normalize(plain.weight.double(), dim=1)
            assert logged[number]["anisotropy"] == pytest.approx(float(vectors.mean(0).norm()), rel=1e-6)
    assert set(logged) >= {1, 7, 14}
    assert "norm_mean" not in logged[7]


def test_steps_that_nobody_measures_copy_nothing():
    block = Block(first_rows(), Kind.ROWWISE)
    model = Pairs(block)
    observer = TorchRecObserver(model, every_n_steps=50, fit_every_n_steps=50, window=1000, targets=[NAME])
    copies, select = [], torch.Tensor.index_select
    with observer:
        train(block, pair_ids(1), model=model)
        model(pair_ids(1)[0]).backward()
        with patch.object(torch.Tensor, "index_select", lambda *args: copies.append(1) or select(*args)):
            for batch in pair_ids(10):
                model(batch).backward()
    assert not copies


def test_laws_are_those_of_the_fused_optimizers():
    """With what the accumulator holds of each row, which the law starts from."""
    block = Block(first_rows(), Kind.ROWWISE)
    _, observer = observed(block, pair_ids(STEPS))
    rule = equilibrium_rule(observer._table_optimizer, 0)
    assert (rule.optimizer, rule.family, rule.lr) == ("EXACT_ROWWISE_ADAGRAD", "rowwise_adagrad", 0.1)
    memory = observer._observation.recorder.watches[0].measurements["fit"]._last_moments.memory
    assert torch.equal(memory.accumulated, DIM * block.states[0].double())
    for kind, family in ((Kind.SGD, "sgd"), (Kind.ADAGRAD, "adagrad"), (Kind.ADAM, "sparse_adam")):
        fused = TorchRecObserver(Pairs(Block(first_rows(), kind)))._table_optimizer
        assert equilibrium_rule(fused, 0).family == family
    decayed = TorchRecObserver(Pairs(Block(first_rows(), Kind.ADAM, weight_decay=0.1)))._table_optimizer
    assert "spares rows" in equilibrium_rule(decayed, 0).reason


def test_a_rate_that_moves_is_read_as_it_is_when_rows_move():
    block, tally, pairs = Block(first_rows(), Kind.SGD), Tally(), pair_ids(20)
    model, logged = Pairs(block), {}
    with TorchRecObserver(model, every_n_steps=1, targets=[NAME], log=lambda m, step: logged.update({step: m})):
        for number, batch in enumerate(pairs):
            block.lr = 0.1 / (1 + number)
            tally.step(block, batch)
            model(batch).backward()
            tally.end_step(block)
            block.lr = 7.0  # what it is between steps has moved nothing
    norms = [metrics[f"normdyn/{NAME}/gradient_norm"] for metrics in logged.values()]
    assert norms == pytest.approx([float(step["gradient_norm"]) for step in tally.steps], rel=2e-5)


@pytest.mark.parametrize(
    ("block", "plan", "sentence"),
    [
        ({"kind": Kind.LAMB}, {}, "its fused optimizer LAMB does not tell gradients"),
        ({"kind": Kind.ADAGRAD, "weight_decay": 0.1, "mode": L2}, {}, "cannot be told from gradients; set weight_dec"),
        ({"kind": Kind.ROWWISE, "weight_decay": 0.1, "mode": 4}, {}, "cannot be told from gradients; set weight_decay"),
        ({"kind": Kind.SGD, "dtype": torch.float8_e4m3fn}, {}, r"quantised \(float8_e4m3fn\); keep them in float32"),
        ({"kind": Kind.SGD}, {"compute_kernel": "fused_uvm_caching"}, "rows in use lie in a cache on the device"),
        ({"kind": Kind.SGD}, {"compute_kernel": "dense"}, "its kernel is dense"),
        ({"kind": Kind.SGD}, {"compute_kernel": "key_value"}, "its kernel 'key_value' does not hold its rows"),
    ],
)
@pytest.mark.parametrize("targets", ["auto", [NAME]])
def test_what_cannot_be_measured_is_said_by_name_with_the_way_out(block, plan, sentence, targets):
    model = Pairs(Block(first_rows(), **block), **plan)
    with (
        pytest.warns(UserWarning, match=rf"'{NAME}': not measured, since .*{sentence}") as said,
        pytest.raises(ValueError, match="targets: "),
    ):
        TorchRecObserver(model, targets=targets)
    assert len(said) == 1


def test_other_observers_point_to_this_one():
    model = Pairs(Block(first_rows(), Kind.SGD))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    sentence = "TorchRec trains it inside of backward, which lightning_normdyn.integrations.torchrec's observer follows"
    with pytest.warns(UserWarning, match=sentence), pytest.raises(ValueError, match="none that does"):
        NormObserver(model, optimizer).begin()


def test_rows_that_are_looked_up_ahead_end_the_measurement():
    """As a semi-synchronous pipeline does: the rows of the next batch, before those of this one have moved."""
    block, pairs = Block(first_rows(), Kind.SGD), pair_ids(10)
    model, logged = Pairs(block), []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with TorchRecObserver(model, every_n_steps=1, targets=[NAME], log=lambda *entry: logged.append(entry)):
            for batch in pairs:
                loss = model(batch)
                model.table.kernel(Features(pairs[0]))
                loss.backward()
    sentences = [str(warning.message) for warning in said if "looked up outside" in str(warning.message)]
    assert len(sentences) == 1
    assert f"'{NAME}' is not measured any more after step 0" in sentences[0]
    assert not logged


def test_a_loop_that_calls_parts_of_the_model_says_when_a_step_is_over():
    block, tally, pairs = Block(first_rows(), Kind.ADAGRAD), Tally(), pair_ids(10)
    model, logged = Pairs(block), {}
    observer = TorchRecObserver(model, every_n_steps=1, targets=[NAME], log=lambda m, step: logged.update({step: m}))
    with observer:
        for batch in pairs:
            tally.step(block, batch)
            model.table.forward(batch).backward()
            tally.end_step(block)
            observer.after_step()
    norms = [metrics[f"normdyn/{NAME}/gradient_norm"] for metrics in logged.values()]
    assert norms == pytest.approx([float(step["gradient_norm"]) for step in tally.steps], rel=1e-5)
