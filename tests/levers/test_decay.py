"""Decay that follows the rate keeps norms where they are; decay by frequency gives rare rows the same norm."""

import math

import pytest
import torch

from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.levers import CorrectedDecay, decay_by_frequency

ROWS, DIM, STEPS = 64, 64, 2000


def table_of(norm):
    rows = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    return torch.nn.Parameter(rows * (norm / rows.norm(dim=1, keepdim=True)))


def train(table, optimizer, steps, presence=1.0, scheduler=None, seed=1):
    """Trains on white tangential noise; yields the norms after each step, ``[rows]``."""
    generator = torch.Generator().manual_seed(seed)
    presence = torch.as_tensor(presence).expand(ROWS).unsqueeze(1)
    for _ in range(steps):
        x = table.detach()
        squares = x.square().sum(1, keepdim=True)
        noise = torch.randn(x.shape, generator=generator)
        noise = (noise - x * ((noise * x).sum(1, keepdim=True) / squares)) / squares.sqrt()
        table.grad = noise * (torch.rand(ROWS, 1, generator=generator) < presence)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        yield x.norm(dim=1)


OPTIMIZERS = {
    "adamw": lambda table: torch.optim.AdamW([table], lr=1e-2, betas=(0.9, 0.98), weight_decay=0.5),
    "sgd": lambda table: torch.optim.SGD([table], lr=0.1, momentum=0.9, weight_decay=2e-3),
    "adam": lambda table: torch.optim.Adam([table], lr=3e-3, betas=(0.9, 0.98), weight_decay=1.0),
}


def through_a_cosine(name, corrected):
    """RMS norm at the end of a cosine to a tenth, over that at the start."""
    settled = equilibrium_rule(OPTIMIZERS[name](table_of(1.0))).predict(DIM - 1.0, DIM).item()
    table = table_of(settled)
    optimizer = OPTIMIZERS[name](table)
    lr = optimizer.param_groups[0]["lr"]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=lr / 10)
    if corrected:
        CorrectedDecay(optimizer)
    *_, norms = train(table, optimizer, STEPS, scheduler=scheduler)
    return norms.square().mean().sqrt().item() / settled


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_stay_at_their_equilibrium_through_a_schedule(name):
    assert through_a_cosine(name, corrected=True) == pytest.approx(1, abs=0.02)
    assert through_a_cosine(name, corrected=False) < 0.9


def test_a_cycle_of_momentum_is_followed_too():
    """OneCycleLR raises the rate and lowers the momentum of SGD: decay follows the effective rate."""

    def end_over_start(corrected):
        options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 4e-3}
        settled = equilibrium_rule(torch.optim.SGD([table_of(1.0)], **options)).predict(DIM - 1.0, DIM).item()
        table = table_of(settled)
        optimizer = torch.optim.SGD([table], **options)
        if corrected:
            CorrectedDecay(optimizer)
        cycle = torch.optim.lr_scheduler.CyclicLR(
            optimizer, 0.02, 0.05, step_size_up=500, base_momentum=0.5, max_momentum=0.9
        )
        *_, norms = train(table, optimizer, STEPS // 2 * 2, scheduler=cycle)
        return norms.pow(4).mean().item() ** 0.25 / settled

    assert end_over_start(corrected=True) == pytest.approx(1, abs=0.02)
    assert abs(end_over_start(corrected=False) - 1) > 0.05


def test_decay_and_peak_travel_with_the_optimizer():
    optimizer = OPTIMIZERS["adamw"](table_of(1.0))
    CorrectedDecay(optimizer).apply()
    optimizer.param_groups[0]["lr"] = 2.5e-3
    next(iter(train(optimizer.param_groups[0]["params"][0], optimizer, 1)))
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.125)
    resumed = OPTIMIZERS["adamw"](table_of(1.0))
    resumed.load_state_dict(optimizer.state_dict())
    correction = CorrectedDecay(resumed)
    correction.apply()
    assert resumed.param_groups[0]["weight_decay"] == pytest.approx(0.125), "not corrected a second time"
    correction.remove()
    assert resumed.param_groups[0]["weight_decay"] == 0.5
    resumed.param_groups[0]["lr"] = 1e-3
    next(iter(train(resumed.param_groups[0]["params"][0], resumed, 1)))
    assert resumed.param_groups[0]["weight_decay"] == 0.5


def test_the_peak_of_a_warm_up_and_of_one_cycle_are_known():
    optimizer = OPTIMIZERS["adamw"](table_of(1.0))
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 100)
    assert optimizer.param_groups[0]["lr"] == 0
    CorrectedDecay(optimizer).apply()
    assert optimizer.param_groups[0]["weight_decay"] == 0
    optimizer = OPTIMIZERS["adamw"](table_of(1.0))
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.04, total_steps=100)
    CorrectedDecay(optimizer).apply()
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.5 / 25)
    optimizer = OPTIMIZERS["adamw"](table_of(1.0))
    CorrectedDecay(optimizer, peak_lr=0.1).apply()
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.05)


def test_a_group_that_comes_later_is_corrected_from_then_on():
    optimizer = OPTIMIZERS["adamw"](table_of(1.0))
    correction = CorrectedDecay(optimizer)
    optimizer.add_param_group({"params": [table_of(1.0)], "lr": 0.3, "weight_decay": 0.7})
    correction.apply()
    optimizer.param_groups[1]["lr"] = 0.15
    correction.apply()
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.35])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda table: torch.optim.Adagrad([table], weight_decay=0.1), "got Adagrad: no norm is an equilibrium"),
        (lambda table: torch.optim.AdamW([table], lr=0.0), "peak_lr: expected a rate above 0, got 0.0 from the group"),
    ],
)
def test_what_cannot_be_corrected_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        CorrectedDecay(build(table_of(1.0)))


PRESENCE = torch.tensor([1.0, 0.3, 0.03, 0.01]).repeat_interleave(ROWS // 4)


def test_rare_rows_settle_where_the_most_frequent_do():
    def group_norms(by_frequency):
        options = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.2}
        settled = equilibrium_rule(torch.optim.AdamW([table_of(1.0)], **options)).predict(None, DIM).item()
        table = table_of(settled)
        optimizer = torch.optim.AdamW([table], **options)
        if by_frequency:
            decay_by_frequency(optimizer, table, PRESENCE)
        squares = [norms.square() for norms in train(table, optimizer, 4000, PRESENCE)][2000:]
        return torch.stack(squares).mean(0).view(4, -1).mean(1).sqrt() / settled

    assert (group_norms(by_frequency=True) - 1).abs().max() < 0.06
    plain = group_norms(by_frequency=False)
    assert plain[3] < 0.75, "the rarest rows are short without it"
    assert plain[0] > 0.95


def test_sgd_s_rows_settle_alike_by_their_second_moment():
    options = {"lr": 0.1, "weight_decay": 1e-2}
    presence = torch.tensor([1.0, 0.5, 0.2, 0.1]).repeat_interleave(ROWS // 4)
    v2 = presence * (DIM - 1)
    settled = equilibrium_rule(torch.optim.SGD([table_of(1.0)], **options)).predict(DIM - 1.0, DIM).item()
    table = table_of(settled)
    optimizer = torch.optim.SGD([table], **options)
    decay_by_frequency(optimizer, table, presence, second_moment=v2)
    powers = [norms.pow(4) for norms in train(table, optimizer, 3000, presence)][500:]
    groups = torch.stack(powers).mean(0).view(4, -1).mean(1).pow(0.25)
    assert (groups / settled - 1).abs().max() < 0.05
    uniform = equilibrium_rule(optimizer).predict(v2, DIM).view(4, -1).mean(1)
    assert uniform[3] / uniform[0] < 0.6


def test_a_row_that_is_never_met_keeps_its_norm_and_dies_without_the_lever():
    presence = torch.ones(ROWS).index_fill(0, torch.arange(4), 0.0)

    def norm_of_unmet(by_frequency):
        table = table_of(1.0)
        optimizer = OPTIMIZERS["adamw"](table)
        handle = decay_by_frequency(optimizer, table, presence) if by_frequency else None
        *_, norms = train(table, optimizer, 1500, presence)
        if handle is not None:
            handle.remove()
            *_, after = train(table, optimizer, 100, presence)
            assert after[0] < 0.7 * norms[0]
        return norms[0].item()

    assert norm_of_unmet(by_frequency=True) == pytest.approx(1.0, abs=1e-4)
    assert norm_of_unmet(by_frequency=False) == pytest.approx((1 - 0.005) ** 1500, rel=1e-2)


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (OPTIMIZERS["adam"], {}, "expected decay apart from the gradient, got Adam: its decay comes with the gradient"),
        (lambda table: torch.optim.Adamax([table]), {}, "Adamax has no known law of the norm"),
        (lambda table: torch.optim.SGD([table], lr=0.1), {}, "second_moment: expected a value, got None"),
        (OPTIMIZERS["adamw"], {"update_probability": torch.ones(3)}, "expected one number for each of 64 rows"),
        (OPTIMIZERS["adamw"], {"update_probability": torch.zeros(ROWS)}, "expected a row that gets gradients"),
        (OPTIMIZERS["adamw"], {"table": torch.ones(ROWS, DIM)}, "table: expected a parameter that the optimizer"),
    ],
)
def test_what_is_wrong_is_named(build, arguments, message):
    table = table_of(1.0)
    optimizer = build(table)
    with pytest.raises(ValueError, match=message):
        decay_by_frequency(optimizer, **({"table": table, "update_probability": PRESENCE} | arguments))


def test_both_levers_go_together():
    table = table_of(1.0)
    optimizer = OPTIMIZERS["adamw"](table)
    CorrectedDecay(optimizer)
    decay_by_frequency(optimizer, table, torch.ones(ROWS))
    optimizer.param_groups[0]["lr"] = 5e-3
    before = table.detach().clone()
    table.grad = torch.zeros_like(table)
    optimizer.step()
    torch.testing.assert_close(table.detach(), before * (1 - 5e-3 * 0.25))
    assert math.isclose(optimizer.param_groups[0]["weight_decay"], 0.25)
