import math

import pytest
import torch

from lightning_normdyn.levers import NormVariance
from lightning_normdyn.losses import InfoNCE


def vectors(seed=0, *shape, dtype=torch.float64):
    return torch.randn(*(shape or (12, 5)), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def float_loop(x, centre=None):
    norms = [math.sqrt(math.fsum(value * value for value in row)) for row in x.reshape(-1, x.shape[-1]).tolist()]
    centre = math.fsum(norms) / len(norms) if centre is None else centre
    return math.fsum((norm - centre) ** 2 for norm in norms) / len(norms)


def test_the_value_is_the_variance_of_the_norms():
    x = vectors(0, 3, 4, 5)
    assert NormVariance(0.5)(x).item() == pytest.approx(0.5 * float_loop(x), rel=1e-12)
    assert NormVariance()(x[0], x[1:]).item() == pytest.approx(float_loop(x), rel=1e-12)


def test_the_gradient_is_autograds_and_the_papers():
    x = vectors().requires_grad_()
    assert torch.autograd.gradcheck(NormVariance(0.7), x)
    (gradient,) = torch.autograd.grad(NormVariance()(x), x)
    norms = x.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(gradient, 2 / len(x) * (norms - norms.mean()) * x.detach() / norms, rtol=1e-12, atol=0)


def test_the_spread_shrinks_and_the_mean_stays():
    x = vectors(3, 64, 16).requires_grad_()
    start = x.detach().norm(dim=1)
    optimizer = torch.optim.SGD([x], lr=1.0)
    directions = torch.nn.functional.normalize(x.detach(), dim=1)
    for _ in range(100):
        optimizer.zero_grad()
        NormVariance()(x).backward()
        optimizer.step()
    end = x.detach().norm(dim=1)
    assert end.std().item() == pytest.approx(start.std().item() * (1 - 2 / 64) ** 100, rel=1e-9)
    assert end.mean().item() == pytest.approx(start.mean().item(), rel=1e-12)
    torch.testing.assert_close(torch.nn.functional.normalize(x.detach(), dim=1), directions)


def test_beside_a_contrastive_loss_norms_level_out():
    """A cosine loss lets norms drift apart; with the penalty they end up far more alike, and the loss as low."""

    def train(weight):
        x = vectors(4, 32, 8, dtype=torch.float32) * torch.linspace(0.5, 3, 32).unsqueeze(1)
        x.requires_grad_()
        documents, loss, penalty = vectors(5, 32, 8, dtype=torch.float32), InfoNCE(), NormVariance(weight)
        optimizer = torch.optim.SGD([x], lr=0.5)
        for _ in range(300):
            optimizer.zero_grad()
            (loss(x, documents) + penalty(x)).backward()
            optimizer.step()
        norms = x.detach().norm(dim=1)
        return (norms.std() / norms.mean()).item(), loss(x, documents).item()

    (spread, loss), (levelled, loss_beside) = train(0.0), train(1.0)
    assert levelled < 0.1 * spread
    assert loss_beside < 1.1 * loss


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_squared(dtype):
    x = torch.full((2, 4), 150.0, dtype=dtype)
    x[1] *= 2  # a norm of 600
    value = NormVariance()(x)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(150.0**2, rel=1e-6)


def test_zero_vectors_have_a_finite_gradient():
    x = torch.zeros(3, 4, requires_grad=True)
    NormVariance()(torch.cat([x, torch.ones(1, 4)])).backward()
    assert torch.equal(x.grad, torch.zeros(3, 4))


def test_a_running_mean_pulls_towards_one_radius():
    penalty = NormVariance(momentum=0.9)
    means, running = [], 0.0
    for seed in range(30):
        x = vectors(seed)
        mean = x.norm(dim=1).mean().item()
        means.append(mean)
        running = sum(means) / len(means) if len(means) <= 10 else 0.9 * running + 0.1 * mean
        assert penalty(x).item() == pytest.approx(float_loop(x, running), rel=1e-5)
    penalty.eval()
    assert penalty(vectors(99)).item() == penalty(vectors(99)).item()
    assert penalty(vectors(99)).item() == pytest.approx(float_loop(vectors(99), running), rel=1e-5)


def test_a_running_mean_carries_no_gradient_but_pulls():
    penalty = NormVariance(momentum=0.9)
    penalty(torch.full((4, 4), 5.0))  # norms of 10
    penalty.eval()
    x = torch.full((4, 4), 1.0, requires_grad=True)
    penalty(x).backward()
    torch.testing.assert_close(x.grad, torch.full((4, 4), 2 / 4 * (2 - 10) / 2))


def test_a_running_mean_survives_a_checkpoint_and_a_cast():
    penalty, resumed = NormVariance(momentum=0.99).bfloat16(), NormVariance(momentum=0.99)
    for seed in range(200):
        penalty(vectors(seed))
    resumed.load_state_dict(penalty.state_dict())
    assert resumed(vectors(7)).item() == penalty(vectors(7)).item()
    assert penalty.get_extra_state().dtype == torch.float32


def test_in_evaluation_before_any_batch_it_is_the_variance():
    x = vectors()
    assert NormVariance(momentum=0.9).eval()(x).item() == pytest.approx(float_loop(x), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1.0}, "weight: expected 0 or more, got -1.0"),
        ({"momentum": 1.0}, "momentum: expected 0 to below 1"),
    ],
)
def test_settings_that_make_no_sense_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        NormVariance(**arguments)


@pytest.mark.parametrize("batch", [(), (torch.empty(0, 4),)])
def test_an_empty_batch_is_named(batch):
    with pytest.raises(ValueError, match="embeddings: expected at least one vector, got none"):
        NormVariance()(*batch)


def test_a_batch_that_overflowed_is_not_remembered():
    penalty = NormVariance(momentum=0.9)
    penalty(torch.ones(4, 3))
    penalty(torch.full((4, 3), torch.inf))
    assert float(penalty(torch.ones(4, 3))) == pytest.approx(0, abs=1e-6)
