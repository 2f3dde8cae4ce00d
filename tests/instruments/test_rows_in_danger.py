"""Rows that nothing trains, rows that can no longer be trained, and rows that own the clipped gradient norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_normdyn import NormObserver
from lightning_normdyn.core import equilibrium_rule
from lightning_normdyn.core.dynamics.trainable_norm import decay_steps, smallest_trainable_norm
from lightning_normdyn.instruments.decay_alone import DecayAlone

ROWS, DIM, BATCH, STEPS = 120, 16, 12, 200
NEVER = slice(100, ROWS)
KEY = "normdyn/weight/"

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.5),
    "adamw without decay": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.0),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3, weight_decay=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=3e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=3e-3),
    "dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=3e-3),
    "swinging": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=1e-2),
    "coupled adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, weight_decay=1e-3),
}


def batches(steps=STEPS, seed=0):
    """Ids of which the last twenty never come, and low ones come more often."""
    generator = torch.Generator().manual_seed(seed)
    share = 1 / torch.arange(1.0, NEVER.start + 1)
    return [torch.multinomial(share, BATCH, generator=generator) for _ in range(steps)]


def loss_of(vectors):
    x = F.normalize(vectors, dim=1, eps=torch.finfo(vectors.dtype).tiny)
    targets = torch.linspace(-1, 1, len(x) ** 2).view(len(x), -1)
    return (x @ x.T - targets).square().mean()


def train(table, optimizer, ids_of_steps, scheduler=None, loss=loss_of, **options):
    """What was logged at each step, the norms after it, and which rows had been looked up by then."""
    logged, norms, seen = {}, [], []
    looked_up = torch.zeros(len(table.weight), dtype=torch.bool)
    with NormObserver(table, optimizer, log=lambda metrics, step: logged.setdefault(step, metrics), **options):
        for ids in ids_of_steps:
            optimizer.zero_grad()
            loss(table(ids)).backward()
            optimizer.step()
            looked_up[ids] = True
            norms.append([math.sqrt(sum(x * x for x in row)) for row in table.weight.tolist()])
            seen.append(looked_up.clone())
            if scheduler is not None:
                scheduler.step()
    return logged, torch.tensor(norms, dtype=torch.float64), seen


def new_table(**options):
    torch.manual_seed(0)
    return torch.nn.Embedding(ROWS, DIM, **options)


@pytest.mark.parametrize("every", [1, 20])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_are_met_once_they_were_looked_up(name, every):
    """Counts and statistics at every look, against ids that the loop counted itself."""
    table = new_table()
    logged, norms, seen = train(table, OPTIMIZERS[name](table.parameters()), batches(), every_n_steps=every)
    looks = [step for step, metrics in logged.items() if KEY + "untouched_rows" in metrics]
    assert len(looks) == STEPS // every + (every > 1)
    for step in looks:
        met = seen[step - 1]
        assert logged[step][KEY + "untouched_rows"] == int((~met).sum()), step
        expected = norms[step - 1][met]
        assert logged[step][KEY + "norm_min"] == pytest.approx(float(expected.min()), rel=1e-5)
        assert logged[step][KEY + "norm_p50"] == pytest.approx(float(expected.quantile(0.5)), rel=1e-5)
    assert logged[looks[-1]][KEY + "untouched_rows"] >= ROWS - NEVER.start


@pytest.mark.parametrize("name", ["adamw", "sgd", "momentum", "nesterov", "dampening"])
def test_untouched_rows_follow_decay_alone(name):
    """``R(t)/R(0)``: of real rows, as the record has it, and without momentum ``Π (1 - lr·lambda)``."""
    table = new_table()
    optimizer = OPTIMIZERS[name](table.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    rule, decay, product = equilibrium_rule(optimizer), DecayAlone(equilibrium_rule(optimizer)), 1.0
    start = table.weight.detach().double().norm(dim=1)
    lrs = [0.5 * optimizer.param_groups[0]["lr"] * (1 + math.cos(math.pi * t / STEPS)) for t in range(STEPS)]
    _, norms, _ = train(table, optimizer, batches(), scheduler)
    ratios = norms[:, NEVER] / start[NEVER]
    for step, lr in enumerate(lrs):
        decay.step(lr)
        product *= 1 - lr * rule.lr_gain * rule.radial_decay
        recent = float(ratios[max(0, step - 20) : step + 1].max())
        assert (ratios[step] - abs(decay.factor)).abs().max() < 3e-5 * recent
    if name in ("adamw", "sgd"):
        assert decay.factor == pytest.approx(product, rel=1e-12)


def test_a_padding_row_is_neither_met_nor_untouched():
    plain, padded = new_table(), new_table(padding_idx=3)
    padded.load_state_dict(plain.state_dict())
    found = {}
    for name, table in (("plain", plain), ("padded", padded)):
        ids = [torch.where(ids == 3, 4, ids) for ids in batches(20)] if name == "plain" else batches(20)
        logged, _, _ = train(table, OPTIMIZERS["sgd"](table.parameters()), ids, every_n_steps=20)
        found[name] = logged[20]
    met = {int(row) for ids in batches(20) for row in ids} - {3}
    assert found["padded"][KEY + "untouched_rows"] == ROWS - 1 - len(met)
    assert found["plain"][KEY + "untouched_rows"] == ROWS - len(met | {4})


def test_of_a_sampled_table_the_tracked_rows_count():
    table = new_table()
    logged, _, seen = train(
        table, OPTIMIZERS["adamw"](table.parameters()), batches(60), every_n_steps=20, max_tracked_rows=40
    )
    assert logged[60][KEY + "untouched_rows"] == int((~seen[59][::3]).sum())


def test_a_weight_decay_that_is_edited_meets_nobody():
    table = new_table()
    optimizer = OPTIMIZERS["adamw"](table.parameters())
    half = batches(100)
    logged = {}
    with NormObserver(table, optimizer, every_n_steps=10, log=lambda metrics, step: logged.setdefault(step, metrics)):
        for step, ids in enumerate(half, 1):
            optimizer.zero_grad()
            loss_of(table(ids)).backward()
            optimizer.step()
            if step == 45:
                optimizer.param_groups[0]["weight_decay"] = 0.1
    seen = torch.zeros(ROWS, dtype=torch.bool)
    seen[torch.cat(half)] = True
    assert logged[100][KEY + "untouched_rows"] == int((~seen).sum())


def test_half_precision_meets_rows_by_their_gradients():
    table = new_table().to(torch.bfloat16)
    logged, _, seen = train(
        table, OPTIMIZERS["adamw"](table.parameters()), batches(60), every_n_steps=20, fit_every_n_steps=1
    )
    assert logged[60][KEY + "untouched_rows"] == int((~seen[59]).sum())


def test_a_resumed_run_counts_as_one_that_was_never_stopped():
    ids = batches(60)
    whole = new_table()
    logged, _, _ = train(whole, OPTIMIZERS["momentum"](whole.parameters()), ids, every_n_steps=8)
    table = new_table()
    optimizer = OPTIMIZERS["momentum"](table.parameters())
    parts = {}
    state = None
    for part in (ids[:29], ids[29:]):
        observer = NormObserver(
            table, optimizer, every_n_steps=8, log=lambda metrics, step: parts.setdefault(step, metrics)
        )
        if state is not None:
            observer.load_state_dict(state)
        observer.begin()
        for batch in part:
            optimizer.zero_grad()
            loss_of(table(batch)).backward()
            optimizer.step()
        state = observer.state_dict()
        observer.close()
    for step in range(8, 60, 8):
        names = ("untouched_rows", "norm_min", "norm_cv", "dead_rows", "clip_share")
        assert {n: parts[step][KEY + n] for n in names} == {n: logged[step][KEY + n] for n in names}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_update_erases_what_is_below_the_limit(dtype):
    """Adding a typical update leaves no trace of a row below ``eps·u``; above, it does."""
    precision = torch.finfo(dtype)
    update = torch.full((DIM,), 0.51, dtype=dtype)
    limit = float(smallest_trainable_norm(dtype, DIM, update=update.float().norm()))
    assert limit >= float(precision.eps * update.float().norm())
    direction = F.normalize(torch.randn(DIM, generator=torch.Generator().manual_seed(1)), dim=0)
    short, long = ((factor * limit * direction).to(dtype) for factor in (0.1, 100))
    assert torch.equal(update + short, update)
    assert not torch.equal(update + long, update)


def test_the_limit_where_updates_grow_as_rows_shrink():
    """Under SGD a row of norm R is moved by u·R₀/R: at the limit eps of that update is the row."""
    limit = float(smallest_trainable_norm(torch.float32, DIM, update=0.02, norm=3.0, power=4))
    assert limit == pytest.approx(torch.finfo(torch.float32).eps * 0.02 * 3.0 / limit)


def test_numbers_leave_the_range_of_their_dtype():
    limit = float(smallest_trainable_norm(torch.float16, DIM))
    above, below = (torch.full((DIM,), factor * limit / DIM**0.5).half() for factor in (1.01, 0.4))
    assert bool((above >= torch.finfo(torch.float16).tiny).all())
    assert bool((below < torch.finfo(torch.float16).tiny).all())
    with pytest.raises(ValueError, match=r"dtype: expected a floating point type, got torch\.int64"):
        smallest_trainable_norm(torch.int64, DIM)


@pytest.mark.parametrize(("dtype", "rate"), [(torch.float32, 0.05), (torch.float16, 0.02), (torch.bfloat16, 0.05)])
def test_rows_die_when_it_was_foreseen(dtype, rate):
    """Real AdamW on a real table of that dtype, from the first forecast on; rounding of bfloat16 shifts it a little."""
    table = new_table().to(dtype)
    optimizer = torch.optim.AdamW(table.parameters(), lr=1e-2, weight_decay=rate / 1e-2, eps=1e-4)
    logged, _, _ = train(table, optimizer, batches(700), every_n_steps=10)
    looks = [step for step in logged if KEY + "dead_rows" in logged[step] and step > 50]
    first = next(step for step in looks if logged[step][KEY + "dead_rows"])
    foreseen = logged[60][KEY + "dead_at_step"]
    assert first == pytest.approx(foreseen, rel=0.1)
    assert logged[looks[-1]][KEY + "dead_rows"] == ROWS - NEVER.start
    assert logged[looks[-1]][KEY + "untouched_rows"] == ROWS - NEVER.start


def test_half_precision_swallows_a_small_decay():
    """``x·(1 - lr·lambda)`` rounds back to x: such rows never die, and no step is foreseen."""
    row = torch.randn(1000).to(torch.bfloat16)
    assert torch.equal(row * (1 - 1e-3), row)
    assert math.isinf(decay_steps(0.5, 1e-3, torch.bfloat16))
    assert not torch.equal(row * (1 - 8e-3), row)
    assert math.isfinite(decay_steps(0.5, 8e-3, torch.bfloat16))
    assert decay_steps(2.0, 1e-3, torch.bfloat16) == 0


def test_a_table_that_starts_at_zero_is_not_dead():
    table = new_table()
    torch.nn.init.zeros_(table.weight)
    pull = torch.randn(BATCH, DIM)
    logged, _, _ = train(
        table, OPTIMIZERS["adamw"](table.parameters()), batches(40), every_n_steps=10, loss=lambda x: (x * pull).sum()
    )
    assert {metrics[KEY + "dead_rows"] for metrics in logged.values() if KEY + "dead_rows" in metrics} == {0}


def test_the_share_of_the_largest_rows():
    """Against the squares of every gradient, added up one by one; repeated ids count once."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = torch.nn.Embedding(ROWS, DIM), torch.nn.Linear(DIM, 3)

        def forward(self, ids):
            return self.head(F.normalize(self.table(ids), dim=1)).square().mean()

    torch.manual_seed(0)
    model, logged = Model(), {}
    with torch.no_grad():
        model.table.weight[7] *= 1e-3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with NormObserver(
        model, optimizer, targets=["table.weight"], every_n_steps=1, log=lambda metrics, _: logged.update(metrics)
    ):
        model(torch.tensor([7, 7, 8, 9, 8, 50])).backward()
        optimizer.step()
    gradients = [p.grad.double() for p in model.parameters()]
    whole = sum(float(x) ** 2 for gradient in gradients for x in gradient.flatten())
    of_rows = [sum(float(x) ** 2 for x in row) for row in model.table.weight.grad.double()]
    assert logged["normdyn/table.weight/clip_row"] == 7
    assert logged["normdyn/table.weight/clip_share"] == pytest.approx(max(of_rows) / whole, rel=1e-5)
    assert max(of_rows) / whole > 0.9
