"""Norms that training code sets back after each step: no law is logged for them, and the reason is said once."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from lightning_normdyn import NormObserver

STEPS = 400
ALERT = r"ignore:NormObserver. warning \(reset_norms\)"  # the verdict on such runs has tests of its own


def put_all_on_the_sphere(table, rows):
    table.weight.data = nn.functional.normalize(table.weight.data)


def renormalise_rows_before_use(table, rows):
    with torch.no_grad():
        table.weight[rows] /= table.weight[rows].norm(dim=1, keepdim=True)


def leave_alone(table, rows):
    pass


def train(reset, make_optimizer, rows=60, **options):
    return {key.rsplit("/", 1)[1] for key in trained(reset, make_optimizer, rows, **options)[1]}


def trained(reset, make_optimizer, rows=60, *, sees_lengths=True, **options):
    """A table, what was logged of its training last, and the verdicts at its end."""
    torch.manual_seed(0)
    table, logged = nn.Embedding(rows, 16, **options), {}
    table.weight.data = nn.functional.normalize(table.weight.data)
    optimizer = make_optimizer(table.parameters())
    goal = torch.randn(16)
    with NormObserver(table, optimizer, total_steps=STEPS, log=lambda metrics, _: logged.update(metrics)) as observer:
        for _ in range(STEPS):
            chosen = torch.randint(rows, (20,)).unique()
            if reset is not put_all_on_the_sphere:
                reset(table, chosen)
            optimizer.zero_grad()
            x = table(chosen) if sees_lengths else nn.functional.normalize(table(chosen))
            (x * (torch.randn_like(x) + 0.1 * goal)).sum().backward()
            optimizer.step()
            if reset is put_all_on_the_sphere:
                reset(table, chosen)
    return table, logged, {verdict.rule: verdict for verdict in observer.verdicts}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.003, weight_decay=0.1)


@pytest.mark.filterwarnings(ALERT)
@pytest.mark.parametrize(
    ("reset", "make_optimizer"),
    [(put_all_on_the_sphere, sgd), (put_all_on_the_sphere, adamw), (renormalise_rows_before_use, sgd)],
)
def test_rows_that_are_put_back_have_no_law(reset, make_optimizer):
    with pytest.warns(UserWarning, match="norms of 'weight' are set back between optimizer steps") as record:
        keys = train(reset, make_optimizer)
    assert len([warning for warning in record if "set back" in str(warning.message)]) == 1
    assert not {key for key in keys if key.startswith(("equilibrium_", "transient_median", "forecast_", "balance_"))}
    assert "gradient_norm" in keys


@pytest.mark.filterwarnings(ALERT)
def test_max_norm_of_an_embedding_that_cuts_rows_is_said():
    with pytest.warns(UserWarning, match=r"max_norm=1\.0"):
        keys = train(leave_alone, sgd, max_norm=1.0)
    assert "transient_median_error" not in keys


@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("options", [{}, {"max_norm": 1000.0}])
def test_rows_that_are_left_alone_keep_their_law(make_optimizer, options):
    assert "transient_median_error" in train(leave_alone, make_optimizer, **options)


@pytest.mark.filterwarnings("ignore:NormObserver. warning", "ignore:normdyn. norms of")
def test_the_weight_decay_that_is_advised_holds_rows_where_the_reset_held_them():
    def with_decay(weight_decay):
        return lambda parameters: torch.optim.SGD(parameters, lr=0.02, weight_decay=weight_decay)

    *_, verdicts = trained(put_all_on_the_sphere, sgd, sees_lengths=False)
    advice = re.search(r"drop the reset and set weight_decay=([\d.e-]+)", verdicts["reset_norms"].lever)
    norms = {}
    for decay in (0.0, float(advice.group(1))):
        table, *_ = trained(leave_alone, with_decay(decay), sees_lengths=False)
        norms[decay] = float(table.weight.detach().norm(dim=1).mean())
    assert norms.pop(0.0) > 1.2
    assert list(norms.values()) == pytest.approx([1.0], rel=0.05)


@pytest.mark.filterwarnings("ignore:NormObserver. warning", "ignore:normdyn. norms of")
def test_no_decay_is_advised_instead_of_a_reset_under_a_loss_that_moves_norms_itself():
    *_, verdicts = trained(put_all_on_the_sphere, sgd)
    assert "keep the reset" in verdicts["reset_norms"].lever
