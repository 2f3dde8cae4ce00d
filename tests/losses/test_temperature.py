"""What a loss learns itself: where it is stored, how far it may go, in which precision."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_normdyn.losses import FullSoftmax, InfoNCE, SigmoidContrastive


def test_a_learnt_scale_is_set_back_to_its_bound_and_can_leave_it():
    loss = InfoNCE(learnable_temperature=True, temperature=0.02, max_scale=60.0)
    with torch.no_grad():
        loss.scaling.log_scale.fill_(math.log(500.0))
    queries = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    value = loss(queries, -queries)  # wants to be warmer
    assert float(loss.scaling.scale.detach()) == pytest.approx(60.0)
    value.backward()
    assert loss.scaling.log_scale.grad > 0
    before = loss.scaling.log_scale.detach().clone()
    loss.eval()(queries, queries)
    assert torch.equal(loss.scaling.log_scale, before)


def test_a_fixed_temperature_is_the_configs_and_not_the_checkpoints():
    fresh = InfoNCE(temperature=0.1)
    fresh.load_state_dict(InfoNCE(temperature=0.02).state_dict())
    assert float(fresh.temperature) == pytest.approx(0.1)
    learnt = InfoNCE(temperature=0.1, learnable_temperature=True)
    learnt.load_state_dict(InfoNCE(temperature=0.02, learnable_temperature=True).state_dict())
    assert float(learnt.temperature.detach()) == pytest.approx(0.02)


LOSSES = {
    "infonce": lambda: InfoNCE(normalization="learnable", temperature=0.3, learnable_temperature=True, queue_size=4),
    "fixed": lambda: InfoNCE(normalization="qnorm"),
    "sigmoid": lambda: SigmoidContrastive(normalization="learnable", temperature=0.3, bias=-2.0),
    "sigmoid with a fixed bias": lambda: SigmoidContrastive(normalization="dnorm", bias=-2.0, learnable_bias=False),
}


def numbers_of(loss):
    values = {"temperature": loss.temperature, **dict(zip(("query", "document"), loss.exponents, strict=True))}
    return {name: float(value) for name, value in values.items()} | {"bias": float(getattr(loss, "bias", 0.0))}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_was_built_on_the_meta_device_has_its_numbers_after_to_empty(name):
    with torch.device("meta"):
        module = torch.nn.ModuleList([torch.nn.Linear(3, 3), LOSSES[name]()])
    loss = module.to_empty(device="cpu")[1].requires_grad_(False)
    assert numbers_of(loss) == pytest.approx(numbers_of(LOSSES[name]().requires_grad_(False)))
    queries, documents = torch.randn(2, 5, 3)
    torch.testing.assert_close(loss(queries, documents), LOSSES[name]()(queries, documents))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("narrow", ["bfloat16", "half", "default"])
def test_what_a_loss_learns_stays_in_float32_beside_weights_that_do_not(name, narrow):
    torch.set_default_dtype(torch.bfloat16 if narrow == "default" else torch.float32)
    try:
        module = torch.nn.ModuleList([torch.nn.Linear(3, 3), LOSSES[name]()])
    finally:
        torch.set_default_dtype(torch.float32)
    if narrow != "default":
        getattr(module, narrow)()
    assert module[0].weight.dtype != torch.float32
    assert {value.dtype for value in module[1].state_dict().values() if isinstance(value, torch.Tensor)} <= {
        torch.float32
    }
    assert numbers_of(module[1].requires_grad_(False)) == numbers_of(LOSSES[name]().requires_grad_(False))
    assert {value.dtype for value in module.double()[1].parameters()} <= {torch.float64}


def test_a_temperature_moves_as_far_in_bfloat16_as_in_float32():
    """At steps of 1e-3, which are far below the last digit of bfloat16."""
    ends = []
    for narrow in (False, True):
        loss = InfoNCE(normalization="learnable", temperature=0.3, learnable_temperature=True)
        loss = loss.bfloat16() if narrow else loss
        optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-3, weight_decay=0)
        queries = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        for _ in range(50):
            optimizer.zero_grad()
            loss(queries, queries + 0.1).backward()
            optimizer.step()
        ends.append(numbers_of(loss.requires_grad_(False)))
    assert ends[0] == ends[1]
    assert ends[0]["temperature"] < 0.29
    assert abs(ends[0]["document"] - 0.5) > 0.005


def sides_of(length, *, n=64, d=16):
    """Pairs whose documents are about so long, and queries a tenth of it."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(n, d, generator=generator)
    spread = (0.3 * torch.randn(n, 1, generator=generator)).exp()
    return 0.1 * length * base, length * spread * (base + torch.randn(n, d, generator=generator))


def spread_of(scores):
    """Root mean square over queries of the standard deviation over the documents of others, one by one."""
    variances = [torch.cat((row[:i], row[i + 1 :])).var(correction=0) for i, row in enumerate(scores.double())]
    return float(torch.stack(variances).mean().sqrt())


@pytest.mark.parametrize("normalization", ["cosine", "dot", "qnorm", "dnorm", "learnable"])
@pytest.mark.parametrize("length", [0.5, 20.0])
def test_auto_makes_every_normalization_start_as_cosine_does(normalization, length):
    queries, documents = sides_of(length)
    loss = InfoNCE(normalization=normalization, temperature="auto").requires_grad_(False)
    loss(queries, documents)
    logits = loss.similarity(queries, documents) / loss.temperature
    assert spread_of(logits) == pytest.approx(spread_of(20 * F.cosine_similarity(queries[:, None], documents, dim=-1)))
    if normalization == "cosine":
        assert float(loss.temperature) == pytest.approx(0.05, rel=1e-6)
    before = float(loss.temperature)
    loss(10 * queries, 10 * documents)  # no longer the first
    assert float(loss.temperature) == before
    assert loss.learnt().keys() >= {"temperature"}


def test_an_evaluation_settles_nothing_and_a_checkpoint_what_was_settled():
    loss = InfoNCE(normalization="dot", temperature="auto", learnable_temperature=True, max_scale=1e3)
    loss.eval()(*sides_of(20.0))
    provisional = float(loss.temperature.detach())
    loss.train()(*sides_of(2.0))
    settled = float(loss.temperature.detach())
    assert settled == pytest.approx(provisional / 100, rel=1e-4)
    with torch.no_grad():
        loss.scaling.log_scale.sub_(0.5)
    resumed = InfoNCE(normalization="dot", temperature="auto", learnable_temperature=True, max_scale=1e3)
    resumed.load_state_dict(loss.state_dict())
    resumed(*sides_of(20.0))
    assert float(resumed.temperature.detach()) == pytest.approx(settled * math.exp(0.5), rel=1e-5)
    fresh = InfoNCE(normalization="dot", temperature="auto")
    fresh.load_state_dict(InfoNCE(normalization="dot", temperature="auto").state_dict())
    fresh(*sides_of(20.0))
    assert float(fresh.temperature) == pytest.approx(provisional)


def test_auto_is_for_every_loss_and_a_batch_that_says_nothing_is_waited_over():
    queries, documents = sides_of(20.0)
    for loss, options in ((SigmoidContrastive, {}), (FullSoftmax, {"targets": torch.arange(64)})):
        made = loss(normalization="dot", temperature="auto")
        made(queries, documents, **options)
        cosine = 0.1 if loss is SigmoidContrastive else 0.05
        ratio = spread_of(queries @ documents.T) / spread_of(F.cosine_similarity(queries[:, None], documents, dim=-1))
        assert float(made.temperature.detach()) == pytest.approx(cosine * ratio, rel=1e-5)
    loss = InfoNCE(normalization="dot", temperature="auto")
    loss(queries[:1], documents[:2])
    loss(torch.zeros(4, 16), documents)
    assert not loss.scaling.is_settled
    with pytest.raises(
        ValueError, match=r"temperature: expected a positive number, got 'atuo'; 0\.05 is common, or 'auto'"
    ):
        InfoNCE(temperature="atuo")
