import pytest
import torch

from lightning_normdyn.core import RowMoments, equilibrium_rule
from lightning_normdyn.levers import equilibrium_init

ROWS, DIM, STEPS = 64, 64, 2500


def table_of(norms, dtype=torch.float32):
    rows = torch.randn(len(norms), DIM, generator=torch.Generator().manual_seed(0))
    return torch.nn.Parameter((rows / rows.norm(dim=1, keepdim=True) * norms.unsqueeze(1)).to(dtype))


def train(table, optimizer, presence, steps=STEPS, moments=None):
    """Trains on white tangential noise, twice as strong for every second row; yields the norms."""
    generator = torch.Generator().manual_seed(1)
    strength = torch.tensor([1.0, 2.0]).repeat(ROWS // 2).unsqueeze(1)
    for _ in range(steps):
        x = table.detach()
        squares = x.square().sum(1, keepdim=True)
        noise = torch.randn(x.shape, generator=generator)
        noise = (noise - x * (noise * x).sum(1, keepdim=True) / squares) * strength / squares.sqrt()
        table.grad = noise * (torch.rand(ROWS, 1, generator=generator) < presence.unsqueeze(1))
        if moments is not None:
            moments.add(x.clone(), table.grad)
        optimizer.step()
        yield x.norm(dim=1)


OPTIMIZERS = {
    "sgd": lambda table: torch.optim.SGD([table], lr=0.1, weight_decay=1e-2),
    "momentum": lambda table: torch.optim.SGD([table], lr=0.05, momentum=0.9, weight_decay=2e-3),
    "adamw": lambda table: torch.optim.AdamW([table], lr=1e-2, betas=(0.9, 0.98), weight_decay=0.05),
    "adam": lambda table: torch.optim.Adam([table], lr=2e-3, betas=(0.9, 0.98), weight_decay=1.0),
}
OPTIONS = pytest.mark.parametrize("name", OPTIMIZERS)


@OPTIONS
@pytest.mark.parametrize("start", [0.2, 5.0])
def test_no_transient_is_left(name, start):
    """Mean norms of like rows stay near where they settle, from the first step on; without, they start far off."""
    presence = torch.ones(ROWS) if name == "adam" else torch.tensor([1.0, 1.0, 0.1, 0.1]).repeat(ROWS // 4)
    strength = torch.tensor([1.0, 4.0]).repeat(ROWS // 2)
    v2 = presence * strength * (DIM - 1)

    def largest_change(rescaled):
        table = table_of(torch.full((ROWS,), start))
        optimizer = OPTIMIZERS[name](table)
        rule = equilibrium_rule(optimizer)
        settled = rule.predict(v2, DIM, presence)
        if rescaled:
            given = {} if name == "adamw" else {"second_moment": v2}
            now = equilibrium_init(table, rule, update_probability=presence, **given)
            torch.testing.assert_close(now, settled)
        groups = [(norms / settled).view(-1, 4).mean(0) for norms in train(table, optimizer, presence)]
        return (torch.stack(groups) - 1).abs().max().item()

    assert largest_change(rescaled=True) < 0.03
    assert largest_change(rescaled=False) > 0.5


def test_moments_of_a_short_run_will_do():
    presence, moments = torch.ones(ROWS), RowMoments(ROWS)
    trial = table_of(torch.full((ROWS,), 3.0))
    for _ in train(trial, OPTIMIZERS["sgd"](trial), presence, steps=100, moments=moments):
        pass
    table = table_of(torch.full((ROWS,), 3.0))
    rule = equilibrium_rule(OPTIMIZERS["sgd"](table))
    now = equilibrium_init(table, rule, second_moment=moments.second_moment)
    truth = rule.predict(torch.tensor([1.0, 4.0]).repeat(ROWS // 2) * (DIM - 1), DIM)
    torch.testing.assert_close(now, truth, rtol=0.03, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_directions_and_zero_rows_stay(dtype):
    table = table_of(torch.linspace(0.0, 7.0, ROWS), dtype)
    before = table.detach().clone()
    now = equilibrium_init(table, equilibrium_rule(OPTIMIZERS["adamw"](table)))
    assert table.requires_grad
    assert table.dtype == dtype
    assert torch.equal(table[0], torch.zeros(DIM, dtype=dtype))
    assert now[0] == 0
    exact = 1e-6 if dtype in (torch.float32, torch.float64) else 4e-3
    torch.testing.assert_close(table.detach().double().norm(dim=1)[1:], now[1:], rtol=exact, atol=0)
    alike = torch.nn.functional.cosine_similarity(table.double(), before.double())[1:]
    assert (alike > 1 - 1e-5).all()


def test_rows_without_gradients_keep_their_norm():
    table = table_of(torch.full((ROWS,), 3.0))
    seen = torch.arange(ROWS) % 2 == 0
    now = equilibrium_init(table, equilibrium_rule(OPTIMIZERS["adamw"](table)), update_probability=seen.float())
    assert now[1].item() == pytest.approx(3.0)
    assert now[0].item() != pytest.approx(3.0, rel=0.1)
    torch.testing.assert_close(table.detach().norm(dim=1).double(), now, rtol=1e-6, atol=0)
    table = table_of(torch.full((ROWS,), 3.0))
    rule = equilibrium_rule(OPTIMIZERS["sgd"](table))
    by_moment = equilibrium_init(table, rule, second_moment=seen.float())
    by_share = equilibrium_init(table, rule, second_moment=1.0, update_probability=seen.float())
    torch.testing.assert_close(by_moment, by_share, rtol=1e-6, atol=0)


def test_the_head_of_a_classifier_is_a_table():
    head = torch.nn.Linear(DIM, 10)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.1)
    now = equilibrium_init(head.weight, equilibrium_rule(optimizer))
    torch.testing.assert_close(now, torch.full((10,), (1e-3 * DIM / 0.2 / 1.001) ** 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("table", "options", "arguments", "message"),
    [
        (torch.nn.Embedding(4, 3), {}, {}, r"table: expected a matrix of rows, got Embedding; pass the .weight"),
        (torch.ones(4), {}, {}, r"table: expected a matrix of rows, got shape \(4,\)"),
        (torch.ones(4, 3), {"weight_decay": 0}, {}, "rule: expected weight decay and a learning rate above 0"),
        (torch.ones(4, 3), {"lr": 0.0}, {}, "rule: expected weight decay and a learning rate above 0"),
        (torch.ones(4, 3), {}, {}, "second_moment: expected a value, got None; the law of SGD needs it"),
        (torch.ones(4, 3), {}, {"second_moment": torch.ones(3)}, "one for each of 4 rows, got predictions of shape"),
        (torch.ones(4, 3), {}, {"second_moment": torch.nan}, "^second_moment: expected a finite number, got nan$"),
    ],
)
def test_what_is_wrong_is_named(table, options, arguments, message):
    parameter = torch.nn.Parameter(torch.ones(1))
    rule = equilibrium_rule(torch.optim.SGD([parameter], **({"lr": 0.1, "weight_decay": 0.1} | options)))
    with pytest.raises(ValueError, match=message):
        equilibrium_init(table, rule, **arguments)


def test_an_optimizer_without_a_law_is_named():
    table = table_of(torch.ones(ROWS))
    with pytest.raises(ValueError, match="Adamax has no known law of the norm"):
        equilibrium_init(table, equilibrium_rule(torch.optim.Adamax([table], weight_decay=0.1)))


def test_an_optimizer_without_an_equilibrium_is_named():
    table = table_of(torch.ones(ROWS))
    with pytest.raises(ValueError, match="expected an optimizer under which norms settle, got Adagrad: no norm is an"):
        equilibrium_init(table, equilibrium_rule(torch.optim.Adagrad([table], weight_decay=0.1)))
