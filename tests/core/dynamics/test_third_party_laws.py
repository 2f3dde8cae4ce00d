"""AdamC, decay that timm corrects, and bitsandbytes, read by name."""

import math

import pytest
import torch
from third_party import AdamC, Lion
from trained_rows import DIM, off_by, second_moments, table, train

from lightning_normdyn.core import equilibrium_rule, weight_decay_for

ROWS = 64
OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.98), "weight_decay": 0.5}


def adamc(norms):
    optimizer = AdamC([table(norms)], **OPTIONS)
    optimizer.param_groups[0]["normalized"] = True
    return optimizer


def cosine(steps, lr=1e-2, floor=0.1):
    return [lr * (floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2) for step in range(steps)]


def test_adamc_stays_at_its_equilibrium_where_adamw_leaves_it():
    settled = torch.full((ROWS,), math.sqrt(1e-2 * DIM / (2 * 0.5) / 1.02), dtype=torch.float64)
    optimizer, plain = adamc(settled), torch.optim.AdamW([table(settled)], **OPTIONS)
    rule, v2, lrs = equilibrium_rule(optimizer), second_moments(ROWS), cosine(2000)
    end, plain_end = train(optimizer, lrs), train(plain, lrs)
    for lr in (1e-2, 5e-3, 1e-3, 0.0001):
        torch.testing.assert_close(rule.at(nominal_lr=lr).predict(None, DIM), settled[0])
    assert off_by(end, settled) < 0.02
    assert off_by(plain_end, settled) > 0.2
    assert off_by(end, rule.evolve(settled, v2, DIM, lrs=lrs)) < 0.02
    assert off_by(plain_end, rule.evolve(settled, v2, DIM, lrs=lrs)) > 0.2


@pytest.mark.parametrize("start", [0.5, 2.0])
def test_adamc_is_followed_from_afar(start):
    norms = torch.full((ROWS,), start * math.sqrt(0.64 / 1.02), dtype=torch.float64)
    optimizer, lrs = adamc(norms), cosine(1500)
    train(optimizer, [0.0] * 300)
    rule = equilibrium_rule(optimizer)
    assert (rule.lr, rule.radial_decay) == (0.0, 0.0), "read at a rate of 0"
    predicted = rule.evolve(norms, second_moments(ROWS), DIM, lrs=lrs)
    assert off_by(train(optimizer, lrs, seed=2), predicted) < 0.02


def test_the_decay_of_adamc_is_asked_for_at_its_peak():
    optimizer = adamc(torch.ones(4))
    optimizer.param_groups[0]["lr"] = 2e-3
    rule = equilibrium_rule(optimizer)
    assert rule.radial_decay == pytest.approx(0.1)
    assert weight_decay_for(rule, target_norm=0.8 / math.sqrt(1.02), dim=DIM) == pytest.approx(0.5)
    assert rule.relaxation_steps() == pytest.approx(1 / (2 * 2e-3 * 0.1))


def test_groups_of_adamc_that_are_not_normalized_decay_as_adamw_s():
    optimizer = adamc(torch.ones(4))
    del optimizer.param_groups[0]["normalized"]
    rule = equilibrium_rule(optimizer)
    assert rule.correction is None
    assert rule.at(1e-3).radial_decay == 0.5


def test_the_reference_steps_as_the_package_does():
    published = pytest.importorskip("pytorch_optimizer").AdamC
    ours, theirs = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    optimizers = [kind([x], lr=0.1, weight_decay=0.3) for kind, x in ((AdamC, ours), (published, theirs))]
    for optimizer in optimizers:
        optimizer.param_groups[0] |= {"normalized": True, "lr": 0.05}
    for seed in range(5):
        ours.grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)
    assert equilibrium_rule(optimizers[0]) == equilibrium_rule(optimizers[1])


def test_decay_that_timm_corrects_is_read_with_its_peak():
    timm = pytest.importorskip("timm.optim")
    optimizer = timm.Lion([torch.nn.Parameter(torch.ones(2, 3))], lr=0.1, weight_decay=0.4, corrected_weight_decay=True)
    optimizer.param_groups[0]["lr"] = 0.025
    rule = equilibrium_rule(optimizer)
    assert rule.radial_decay == pytest.approx(0.1)
    unsaid = equilibrium_rule(Lion([torch.nn.Parameter(torch.ones(2, 3))], corrected_weight_decay=True))
    assert unsaid.reason == "Lion with corrected_weight_decay=True has no known law of the norm"


def of_bitsandbytes(name, **entries):
    """An optimizer as bitsandbytes would make it, seen by its class name, module and parameter group alone."""
    kind = type(name, (torch.optim.Optimizer,), {"__module__": f"bitsandbytes.optim.{name.lower()}"})
    return kind([torch.nn.Parameter(torch.ones(2, 3))], {"lr": 0.1, "weight_decay": 0.02, "eps": 1e-8, **entries})


@pytest.mark.parametrize(
    ("name", "betas", "family", "lr"),
    [
        ("AdamW8bit", (0.9, 0.99), "adamw", 0.1),
        ("PagedAdamW", (0.9, 0.99), "adamw", 0.1),
        ("PagedAdamW32bit", (0.9, 0.99), "adamw", 0.1),
        ("Adam8bit", (0.9, 0.99), "adamw", 0.1),
        ("AdamW", (0.9, 0.99), "adamw", 0.1),
        ("Lion8bit", (0.9, 0.99), "lion", 0.1),
        ("PagedLion", (0.9, 0.99), "lion", 0.1),
        ("SGD8bit", (0.75, 0.5), "sgd", 0.4),
    ],
)
def test_bitsandbytes_is_read_by_name(name, betas, family, lr):
    rule = equilibrium_rule(of_bitsandbytes(name, betas=betas))
    assert (rule.optimizer, rule.family, rule.radial_decay) == (name, family, 0.02)
    assert rule.lr == pytest.approx(lr)


@pytest.mark.parametrize("name", ["LAMB8bit", "RMSprop8bit", "Adagrad8bit", "AdEMAMix"])
def test_other_optimizers_of_bitsandbytes_are_refused_with_their_module(name):
    reason = equilibrium_rule(of_bitsandbytes(name, betas=(0.9, 0.99))).reason
    assert reason == f"{name} of bitsandbytes has no known law of the norm"


def test_a_clipped_percentile_of_bitsandbytes_is_refused():
    optimizer = of_bitsandbytes("AdamW8bit", betas=(0.9, 0.99))
    optimizer.args = type("Arguments", (), {"percentile_clipping": 95})
    assert equilibrium_rule(optimizer).reason == "AdamW8bit with percentile_clipping has no known law of the norm"


def test_a_namesake_of_torch_s_is_not_taken_for_it():
    kind = type("AdamW", (torch.optim.Optimizer,), {"__module__": "elsewhere.optim"})
    optimizer = kind([torch.nn.Parameter(torch.ones(2, 3))], {"lr": 0.1, "weight_decay": 0.02, "betas": (0.9, 0.99)})
    assert equilibrium_rule(optimizer).reason == "AdamW of elsewhere has no known law of the norm"


def test_cautious_decay_is_refused_by_name():
    optimizer = Lion([torch.nn.Parameter(torch.ones(2, 3))], cautious_weight_decay=True)
    assert equilibrium_rule(optimizer).reason == "Lion with cautious_weight_decay=True has no known law of the norm"
