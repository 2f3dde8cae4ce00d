"""A model that changes in mid-run is followed or said to be followed no longer; the training is what it was without us.

The oracle is the same training without an observer, of which the loop keeps float64 copies.
"""

from __future__ import annotations

import logging
import re
import warnings

import numpy as np
import pytest
import torch
from brute_force import expected_moments, expected_norms, expected_split
from mid_run_changes import CHANGES, ENCODER, TABLE, Scene, Towers, sgd, swap_tensors
from plain_training import PlainStep
from small_models import DIM, pair_batches, seeded

from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import NormObserver

STEPS, AT, WINDOW = 30, 13, 10
QUICK = (
    "grow_the_data",
    "take_an_optimizer_of_another_kind",
    "spectral_norm",
    "freeze_for_a_while",
    "replace_the_encoder",
)
SPLIT = {"gradient_norm", "radial_fraction", "update_radial_fraction", "angular_update", "effective_lr"}
VERDICT = re.compile(r": (warning|critical) \(\w+\) at step ")


def train(change, folder=None, targets=(TABLE, ENCODER)):
    """Trains in a plain loop; with a folder, under an observer.

    Returns:
        The model, its table's steps (``None`` where it has none), the lengths of the encoder's vectors, what was logged
        and what was said.
    """
    net = seeded(Towers)
    scene = Scene(net, [sgd(net.parameters())], {AT: change})
    logged, steps, lengths = {}, [], []
    probe = False if change.__name__ == "widen_the_data" else {ENCODER: torch.linspace(-1, 1, 6 * DIM).reshape(6, DIM)}
    options = {
        "targets": targets if targets == "auto" else list(targets),
        "probe": probe if targets != "auto" else None,
    }
    options |= {"every_n_steps": 1, "window": WINDOW}
    options |= {"log": lambda metrics, step: logged.setdefault(step, {}).update(metrics), "log_dir": folder}
    observer = NormObserver(net, scene.optimizers, total_steps=STEPS, **options)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        if folder is not None:
            observer.begin()
        for step, batch in enumerate(pair_batches(STEPS), 1):
            if step in scene.changes:
                torch.manual_seed(step)
                scene.changes[step](scene)
            for optimizer in scene.optimizers:
                optimizer.zero_grad()
            net(batch).backward()
            table = net.table._parameters.get("weight")
            before, gradient = (None, None) if table is None or table.grad is None else (copy(table), copy(table.grad))
            lr = scene.optimizers[-1].param_groups[0]["lr"]
            for optimizer in scene.optimizers:
                optimizer.step()
            lengths.append(net.lengths.numpy())
            steps.append(None if before is None else PlainStep(gradient, gradient, before, copy(table), lr))
        observer.finish()
    said = [str(warning.message) for warning in record if str(warning.message).startswith("NormObserver: ")]
    return net, steps, lengths, logged, [message for message in said if not VERDICT.search(message)]


def copy(tensor):
    tensor = tensor.detach()
    return (tensor.to_dense() if tensor.is_sparse else tensor).double().clone()


def of(target, logged):
    """Step number to the quantities of a target."""
    prefix = f"normdyn/{target}/"
    quantities = {
        step: {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
        for step, metrics in logged.items()
    }
    return {step: values for step, values in quantities.items() if values}


def assert_table_numbers(change, logged, steps, since, folder):
    """Those of the last step, and the moments of the last window, are those of the table that the model has now."""
    last = of(TABLE, logged)[STEPS]
    expected = expected_norms(steps[since:]) | expected_split(steps[-1], effective_lr=steps[-1].lr, decay_rate=None)
    if swap_tensors is change:  # torch loses the hooks of tensors that it swaps, so nobody heard the norm
        del expected["gradient_norm"]
    for name in expected.keys() & SPLIT:
        assert last[name] == pytest.approx(expected[name], rel=2e-3), name
    for name in ("norm_mean", "norm_min", "norm_cv", "norm_p05", "norm_p50", "norm_p95"):
        assert last[name] == pytest.approx(expected[name], rel=1e-5), name
    trajectory = read_run(folder)[TABLE].trajectory()
    window = trajectory.filter(np.equal(trajectory["step"].to_numpy(), STEPS))
    second_moment, probability = expected_moments(steps[-WINDOW:])
    assert len(window) == len(second_moment)
    np.testing.assert_allclose(window["second_moment"].to_numpy(), second_moment, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(window["update_probability"].to_numpy(), probability, rtol=1e-6)


def assert_same_weights(net, undisturbed):
    state, expected = net.state_dict(), undisturbed.state_dict()
    assert state.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(state[name], value)]


def cases():
    return [
        pytest.param(kind, change, marks=[] if change.__name__ in QUICK else pytest.mark.exhaustive, id=change.__name__)
        for kind, changes in CHANGES.items()
        for change in changes
    ]


@pytest.mark.parametrize(("kind", "change"), cases())
def test_a_change_is_followed_or_said(kind, change, tmp_path, monkeypatch):
    undisturbed, steps, lengths, _, _ = train(change)
    monkeypatch.setattr(logging.getLogger("lightning_normdyn.caution"), "disabled", True)
    net, _, _, logged, said = train(change, tmp_path)
    assert_same_weights(net, undisturbed)
    encoder = of(ENCODER, logged)
    for step in (AT - 1, AT + 1, STEPS):
        assert encoder[step]["norm_mean"] == pytest.approx(lengths[step - 1].mean(), rel=2e-3), step
    table = of(TABLE, logged)
    of_table = [message for message in said if f"'{TABLE}'" in message]
    if kind == "unnoticed":
        assert not said
        assert set(table) >= {AT + 3, STEPS}
    elif kind == "followed":
        changes = [message for message in said if "; followed, with statistics that start afresh there" in message]
        assert len(of_table) <= 2 if change.__name__ == "double_and_back" else len(of_table) <= 1
        assert 1 <= len(said) == len(changes)
        assert set(table) >= {AT, AT + 3, STEPS}
        since = {"double_and_back": 16}.get(change.__name__, AT - 1 if of_table else 0)
        assert_table_numbers(change, logged, steps, since, tmp_path)
    else:
        assert len(of_table) == 1
        silent = range(AT, STEPS + 2) if kind == "ended" or change.__name__ == "freeze" else range(AT, 14)
        assert not set(table) & set(silent)
        assert AT - 1 in table
        if kind == "ended for a while" and change.__name__ != "freeze":
            assert max(table) >= STEPS - 4


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=[] if change.__name__ in ("adapt_the_table", "double") else pytest.mark.exhaustive)
        for changes in CHANGES.values()
        for change in changes
    ],
)
def test_nothing_of_it_ends_a_run_that_watches_what_there_is(change, tmp_path):
    """Under targets='auto', where new tables may come in, too."""
    undisturbed = train(change)[0]
    assert_same_weights(train(change, tmp_path, "auto")[0], undisturbed)


def test_there_are_enough_changes():
    assert sum(len(changes) for changes in CHANGES.values()) >= 35
