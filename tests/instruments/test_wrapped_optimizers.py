"""Optimizers inside of others: what moves the weights is followed, and its law is claimed only where that is all."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from torch import nn

from lightning_normdyn import NormObserver
from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule

ROWS, DIM, STEPS = 12, 8, 24


class Lookahead(torch.optim.Optimizer):
    """Every second step half the way back to where it last stood (arXiv 1907.08610)."""

    def __init__(self, base):
        super().__init__(base.param_groups, {})
        self.base, self.param_groups, self.count = base, base.param_groups, 0
        self.slow = [p.detach().clone() for group in base.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.base.step() if closure is None else self.base.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            for slow, fast in zip(self.slow, self.param_groups[0]["params"], strict=True):
                slow.lerp_(fast, 0.5)
                fast.copy_(slow)
        return loss


class SAM(torch.optim.Optimizer):
    """Takes the gradient of a second pass uphill, and steps from where it was (arXiv 2010.01412)."""

    def __init__(self, base, rho=0.3):
        super().__init__(base.param_groups, {})
        self.base_optimizer, self.param_groups, self.rho = base, base.param_groups, rho

    @torch.no_grad()
    def first_step(self):
        (self.weight,) = self.param_groups[0]["params"]
        self.start = self.weight.clone()
        self.weight.add_(self.rho * self.weight.grad / self.weight.grad.norm())

    @torch.no_grad()
    def second_step(self):
        self.weight.copy_(self.start)
        self.base_optimizer.step()

    def step(self, closure):
        with torch.enable_grad():
            closure()
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


class ScheduleFree:
    """No optimizer of torch: holds weights between those of the one inside and their mean (arXiv 2405.15682)."""

    def __init__(self, base, beta=0.9):
        self.base, self.beta, self.count = base, beta, 0
        (self.weight,) = base.param_groups[0]["params"]
        self.fast, self.mean = self.weight.detach().clone(), self.weight.detach().clone()

    @property
    def param_groups(self):
        return self.base.param_groups

    @property
    def state(self):
        return self.base.state

    def zero_grad(self):
        self.base.zero_grad()

    @torch.no_grad()
    def step(self):
        self.weight.copy_(self.fast)
        self.base.step()
        self.count += 1
        self.fast.copy_(self.weight)
        self.mean.lerp_(self.fast, 1 / self.count)
        self.weight.copy_(torch.lerp(self.fast, self.mean, self.beta))


def adamw(table):
    return torch.optim.AdamW(table.parameters(), lr=0.05, weight_decay=0.1)


def sgd(table):
    return torch.optim.SGD(table.parameters(), lr=0.1, weight_decay=0.01)


def accelerated(table, configure=adamw):
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True).prepare(configure(table))


def timm_lookahead(table):
    timm = pytest.importorskip("timm.optim", exc_type=ImportError)
    return timm.Lookahead(adamw(table), k=2)


def of_pytorch_optimizer(table):
    library = pytest.importorskip("pytorch_optimizer", exc_type=ImportError)
    return library.Lookahead(adamw(table), k=2)


def of_lightning(table):
    from pytorch_lightning.core.optimizer import LightningOptimizer

    class Strategy:
        def optimizer_step(self, optimizer, closure, **others):
            return optimizer.step(closure)

    optimizer = LightningOptimizer(adamw(table))
    optimizer._strategy = Strategy()
    return optimizer


def loss_of(table, step):
    aims = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(100 + step))
    return -(nn.functional.normalize(table(torch.arange(ROWS)), dim=-1) * aims).sum()


def one_pass(optimizer, backward, observer):
    backward()
    optimizer.step()


def by_closure(optimizer, backward, observer):
    optimizer.step(backward)


def two_passes(optimizer, backward, observer):
    backward()
    optimizer.first_step()
    backward()
    optimizer.second_step()


def announced(optimizer, backward, observer):
    backward()
    if observer is not None:
        observer.before_step()
    optimizer.step()
    if observer is not None:
        observer.after_step()


def train(make_optimizer, one_step, observe):
    """Readings of each step: the observer's, or an outside tally's in float64, and the weights at the end."""
    torch.manual_seed(0)
    table = nn.Embedding(ROWS, DIM)
    optimizer = make_optimizer(table)
    logged, tally = [], []

    def backward():
        optimizer.zero_grad()
        loss = loss_of(table, len(tally))
        loss.backward()
        return loss

    options = {"total_steps": STEPS, "every_n_steps": 1, "window": 8, "log": lambda m, _: logged.append(m)}
    observer = NormObserver(table, optimizer, **options) if observe else None
    with observer or contextlib.nullcontext():
        for _ in range(STEPS):
            before = table.weight.detach().double().clone()
            one_step(optimizer, backward, observer)
            after = table.weight.detach().double().clone()
            moved = (after - before).square().sum(1) / before.square().sum(1)
            tally.append(
                {
                    "norm_mean": float(after.norm(dim=1).mean()),
                    "budget_growth": float(moved.mean()),
                    "gradient_norm": float(table.weight.grad.double().norm()),
                }
            )
    readings = [{key.rsplit("/", 1)[1]: value for key, value in metrics.items()} for metrics in logged]
    return readings, tally, table.weight.detach().clone()


WITH_LAW = {
    "plain": (adamw, one_pass),
    "accelerate's": (accelerated, one_pass),
    "Lightning's": (of_lightning, one_pass),
    "a closure": (adamw, by_closure),
}
WITHOUT_LAW = {
    "Lookahead": (lambda table: Lookahead(adamw(table)), one_pass),
    "Lookahead, a closure": (lambda table: Lookahead(adamw(table)), by_closure),
    "timm's Lookahead": (timm_lookahead, one_pass),
    "pytorch_optimizer's Lookahead": (of_pytorch_optimizer, one_pass),
    "Lookahead in accelerate's": (lambda table: accelerated(table, lambda t: Lookahead(adamw(t))), one_pass),
    "SAM, two passes": (lambda table: SAM(sgd(table)), two_passes),
    "SAM, a closure": (lambda table: SAM(sgd(table)), by_closure),
    "no optimizer of torch": (lambda table: ScheduleFree(sgd(table)), announced),
}


@pytest.mark.parametrize("kind", [*WITH_LAW, *WITHOUT_LAW])
@pytest.mark.filterwarnings("error:NormObserver")
def test_the_step_of_the_whole_is_measured(kind):
    make_optimizer, one_step = (WITH_LAW | WITHOUT_LAW)[kind]
    _, _, weight = train(make_optimizer, one_step, observe=False)
    readings, tally, observed_weight = train(make_optimizer, one_step, observe=True)
    assert torch.equal(weight, observed_weight)
    assert len(readings) == STEPS
    for reading, expected in zip(readings, tally, strict=True):
        for name, value in expected.items():
            assert reading[name] == pytest.approx(value, rel=1e-5), name
    last = {name: value for reading in readings for name, value in reading.items()}
    assert ("transient_median_error" in last) == (kind in WITH_LAW)
    assert ("budget_decay" in last) == (kind in WITH_LAW)


def test_the_reason_is_given():
    table = nn.Embedding(ROWS, DIM)
    for optimizer in (Lookahead(adamw(table)), ScheduleFree(adamw(table))):
        rule = equilibrium_rule(optimizer)
        assert rule.family is None
        assert "otherwise than the AdamW inside" in rule.reason
        assert math.isnan(rule.relaxation_steps())


def test_a_step_that_nobody_tells_of_is_said():
    sentence = r"ScheduleFree is no optimizer of torch .* before_step\(\) .* after_step\(\)"
    with pytest.warns(UserWarning, match=sentence), pytest.warns(UserWarning, match="no optimizer step of 'weight'"):
        readings, _, _ = train(lambda table: ScheduleFree(sgd(table)), one_pass, observe=True)
    assert not readings


def test_a_step_inside_of_backward_takes_no_norm_of_an_earlier_one():
    """The hook that would hear the gradient before it is clipped comes after the step, and hears the one before."""

    def stepping(table):
        optimizer = adamw(table)
        table.weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
        return optimizer

    readings, tally, _ = train(stepping, lambda _, backward, __: backward(), observe=True)
    assert len(readings) == STEPS
    for reading, expected in zip(readings, tally, strict=True):
        assert reading["norm_mean"] == pytest.approx(expected["norm_mean"], rel=1e-6)
        assert reading.keys().isdisjoint({"gradient_norm", "clip_ratio"})
    last = {name: value for reading in readings for name, value in reading.items()}
    assert "transient_median_error" in last


def owners_said(make_optimizers):
    """Whether two owners are said of a table that optimizers train in turn, of which another was given."""
    torch.manual_seed(0)
    table = nn.Embedding(ROWS, DIM)
    given, *others = make_optimizers(table)
    with NormObserver(table, given, total_steps=220, every_n_steps=10) as observer:
        for step in range(220):  # a table is judged from its hundredth step on
            optimizer = others[step % len(others)]
            optimizer.zero_grad()
            nn.functional.normalize(table(torch.arange(ROWS))).sum().backward()
            optimizer.step()
    return "two_owners" in {verdict.rule for verdict in observer.verdicts}


@pytest.mark.filterwarnings("ignore:NormObserver")
def test_an_optimizer_that_a_loop_makes_anew_owns_the_table_alone():
    """As PyKEEN's training loop does with the one that it was given."""
    assert not owners_said(lambda table: [sgd(table), sgd(table)])


@pytest.mark.filterwarnings("ignore:NormObserver")
def test_one_that_steps_again_owns_it_too():
    def taking_turns(table):
        first, second = sgd(table), sgd(table)
        return [first, second, first]

    assert owners_said(taking_turns)
