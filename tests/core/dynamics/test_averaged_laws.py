"""Schedule-free AdamW and SGD against the three sequences themselves, and those against the published package."""

import pytest
import torch
from third_party import AdamWScheduleFree, SGDScheduleFree
from trained_rows import DIM, off_by, second_moments, table, train

from lightning_normdyn.core import equilibrium_rule

ROWS = 64
CASES = {
    "adamw": (AdamWScheduleFree, {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 1.0}, 1.0),
    "adamw, beta 0.7": (AdamWScheduleFree, {"lr": 3e-2, "betas": (0.7, 0.99), "weight_decay": 1.0}, 1.0),
    "adamw, rows absent at times": (AdamWScheduleFree, {"lr": 1e-2, "betas": (0.8, 0.99), "weight_decay": 0.5}, 0.2),
    "sgd": (SGDScheduleFree, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.3}, 1.0),
    "sgd, beta 0.5": (SGDScheduleFree, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1}, 1.0),
    "sgd, rows absent at times": (SGDScheduleFree, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.05}, 0.2),
}


def ones(rows=ROWS):
    return 2 * torch.ones(rows, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "options", "presence"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("steps", [150, 1500])
def test_the_norm_is_followed_from_the_first_step_on(kind, options, presence, steps):
    optimizer = kind([table(ones())], **options)
    rule, v2 = equilibrium_rule(optimizer), second_moments(ROWS, presence)
    lrs = [options["lr"]] * steps
    measured = train(optimizer, lrs, presence)
    assert off_by(measured, rule.evolve(ones(), v2, DIM, presence, lrs=lrs)) < (0.02 if presence == 1 else 0.04)
    assert off_by(measured, ones()) > 0.05, "it stays as it is"
    assert off_by(measured, rule.evolve(ones(), v2, DIM, presence, lrs=[1.25 * lr for lr in lrs])) > 0.03


@pytest.mark.parametrize("name", ["adamw, beta 0.7", "sgd, beta 0.5"])
def test_in_the_long_run_the_norm_is_that_of_the_plain_optimizer_at_a_smaller_rate(name):
    kind, options, presence = CASES[name]
    optimizer = kind([table(ones())], **options)
    rule, v2 = equilibrium_rule(optimizer), second_moments(ROWS)
    assert rule.lr_gain == pytest.approx(1 - optimizer.beta)
    settled = rule.predict(v2, DIM)
    measured = train(optimizer, [options["lr"]] * 5000, presence)
    assert off_by(measured, settled) < 0.04
    assert off_by(measured, settled / optimizer.beta) > 0.2


@pytest.mark.parametrize("name", ["adamw, beta 0.7", "sgd, beta 0.5"])
def test_the_path_comes_to_the_equilibrium_as_one_over_the_time(name):
    kind, options, _ = CASES[name]
    rule, v2 = equilibrium_rule(kind([table(ones(4))], **options)), second_moments(4)
    end = rule.evolve(ones(4), v2, DIM, lrs=[options["lr"]] * 12_000)
    torch.testing.assert_close(end, rule.predict(v2, DIM), rtol=0.02, atol=0)
    middle = rule.evolve(ones(4), v2, DIM, lrs=[options["lr"]] * 200)
    assert (middle > 1.03 * end).all()


def test_in_mid_run_the_path_is_unknown_and_not_guessed():
    """z and x are no numbers of a parameter group; so it is with a warm-up."""
    optimizer = AdamWScheduleFree([table(ones(4))])
    train(optimizer, [1e-3] * 3)
    rule = equilibrium_rule(optimizer)
    assert rule.steps_made == 3
    assert rule.evolve(ones(4), second_moments(4), DIM, lrs=[1e-3]).isnan().all()
    torch.testing.assert_close(rule.evolve(ones(4), second_moments(4), DIM, lrs=[]), ones(4))
    optimizer = AdamWScheduleFree([table(ones(4))])
    optimizer.param_groups[0]["warmup_steps"] = 10
    assert equilibrium_rule(optimizer).evolve(ones(4), second_moments(4), DIM, lrs=[1e-3]).isnan().all()


@pytest.mark.parametrize(
    ("reference", "options"),
    [(AdamWScheduleFree, {"betas": (0.9, 0.99)}), (SGDScheduleFree, {"momentum": 0.8})],
)
def test_the_reference_steps_as_the_package_does(reference, options):
    published = getattr(pytest.importorskip("schedulefree"), reference.__name__)
    ours, theirs = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    optimizers = [
        kind([x], lr=0.1, weight_decay=0.3, **options) for kind, x in ((reference, ours), (published, theirs))
    ]
    optimizers[1].train()
    assert equilibrium_rule(optimizers[0]) == equilibrium_rule(optimizers[1])
    for seed in range(5):
        gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()  # the package overwrites it
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)
