"""Sums of losses against the float64 loop of each, and against the losses one by one."""

from __future__ import annotations

import copy
import itertools

import contrast_oracle as oracle
import pytest
import torch
from test_infonce import DIRECTIONS, EXTRAS, assert_close, batch, leaves, served
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_normdyn.core.contrast import log_sum_exp, score_tiles, shared_sweep
from lightning_normdyn.losses import InfoNCE, MaxSim, SigmoidContrastive, SummedLoss, cached_loss

GAMMAS = {"infonce": (0.4, -0.7), "sigmoid": (-1.0, 0.2)}
TAUS = {"infonce": 0.3, "sigmoid": 0.7}
WEIGHTS = {"infonce": 1.0, "sigmoid": 0.2}


def summed(normalizations, **infonce):
    losses = {
        "infonce": InfoNCE(
            normalization=normalizations[0], temperature=TAUS["infonce"], learnable_temperature=True, **infonce
        ),
        "sigmoid": SigmoidContrastive(normalization=normalizations[1], temperature=TAUS["sigmoid"], bias=-1.0),
    }
    with torch.no_grad():
        for name, loss in losses.items():
            if loss.similarity.normalization == "learnable":
                loss.similarity.raw_gammas.copy_(torch.tensor(GAMMAS[name]))
    return SummedLoss({name: (WEIGHTS[name], loss) for name, loss in losses.items()})


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "normalizations", [("cosine", "cosine"), ("learnable", "qnorm"), ("dot", "learnable"), ("learnable", "learnable")]
)
def test_sum_of_two_is_that_of_the_loops(normalizations, direction):
    """Value, gradients of embeddings, temperatures, exponents and bias; every chunk size in turn."""
    for number, extra in enumerate(EXTRAS):
        queries, documents, hard, options = batch(served(EXTRAS[extra], direction), seed=number, spread=0.3)
        names = dict(zip(WEIGHTS, normalizations, strict=True))
        scores = {
            name: oracle.Scores(
                queries, documents, hard, normalization=kind, temperature=TAUS[name], raw_gammas=GAMMAS[name]
            )
            for name, kind in names.items()
        }
        bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
        expected = {
            "infonce": oracle.infonce(scores["infonce"], direction=direction, **options),
            "sigmoid": oracle.sigmoid(scores["sigmoid"], bias, **options),
        }
        total = sum(WEIGHTS[name] * value for name, value in expected.items())
        loss = summed(normalizations, chunk_size=(None, 1, 4, 100)[number % 4], **DIRECTIONS[direction])
        ours = leaves(queries, documents, hard)
        value = loss(ours[0], ours[1], **options, **({} if hard is None else {"hard_negatives": ours[2]}))
        assert_close(value.detach(), total.detach())
        assert loss.apart == {}
        for name, of_loss in expected.items():
            assert_close(loss.metrics()[f"{name}/loss"], of_loss.detach())
        value.backward()
        total.backward()
        for side, mine in zip(("queries", "documents", "hard"), ours, strict=True):
            if mine is not None:
                gradients = [getattr(of_loss, side).grad for of_loss in scores.values()]
                assert_close(mine.grad, sum(g for g in gradients if g is not None))
        for name, member in loss.losses.items():
            assert_close(member.scaling.log_scale.grad, scores[name].log_scale.grad.reshape(1))
            if names[name] == "learnable":
                assert_close(member.similarity.raw_gammas.grad, scores[name].raw_gammas.grad)
        assert_close(loss.losses["sigmoid"].bias.grad, bias.grad.reshape(1))


def outcome(loss, sides, options):
    queries, documents, hard = leaves(*sides)
    more = {} if hard is None else {"hard_negatives": hard}
    loss.zero_grad()
    value = loss(queries, documents, **options, **more)
    value.sum().backward()
    found = {"value": value.detach(), "queries": queries.grad, "documents": documents.grad}
    return found | {name: p.grad for name, p in loss.named_parameters()}


class OneByOne(torch.nn.Module):
    """The same sum, of losses that know nothing of each other."""

    def __init__(self, loss):
        super().__init__()
        self.weights, self.members = loss.weights, loss.members

    def forward(self, *sides, **options):
        return sum(self.weights[name] * loss(*sides, **options) for name, loss in self.members.items())


def two(first, second):
    return {"first": (1.0, first), "second": (0.3, second)}


LOSSES = {
    "two temperatures": lambda **k: two(InfoNCE(temperature=0.1, **k), InfoNCE(temperature=0.5, **k)),
    "two normalizations": lambda **k: two(InfoNCE(**k), InfoNCE(normalization="qnorm", symmetric=True, **k)),
    "metrics": lambda **k: two(InfoNCE(with_metrics=True, **k), SigmoidContrastive(**k)),
    "same side": lambda **k: two(
        InfoNCE(symmetric=True, same_side="both", normalization="learnable", temperature=0.3, **k), InfoNCE(**k)
    ),
    "shaped": lambda **k: two(
        InfoNCE(hardness="in_batch_negatives", negative_share=0.9, temperature=0.2, **k),
        InfoNCE(decoupled=True, normalization="dnorm", temperature=0.3, symmetric=True, **k),
    ),
    "backwards": lambda **k: two(
        InfoNCE(direction="document_to_query", negative_margin=0.1, with_metrics=True, temperature=0.4, **k),
        InfoNCE(temperature="auto", **k),
    ),
    "prefixes": lambda **k: two(
        InfoNCE(prefixes=(2, 5), symmetric=True, normalization="learnable", **k), SigmoidContrastive(**k)
    ),
    "apart": lambda **k: two(InfoNCE(queue_size=4, **k), SigmoidContrastive(**k)),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_sum_of_two_is_that_of_one_by_one_in_float64(name, reduction):
    for number, extra in enumerate(("plain", "ids", "labels", "positives")):
        queries, documents, _, options = batch(EXTRAS[extra] | {"hard": False}, seed=number, spread=0.3)
        if reduction != "none" and number % 2:
            options["weights"] = torch.rand(len(queries), generator=torch.Generator().manual_seed(1))
        loss = SummedLoss(LOSSES[name](reduction=reduction, chunk_size=(None, 3)[number % 2]))
        reference = OneByOne(copy.deepcopy(loss))
        expected = outcome(reference, [queries.double(), documents.double(), None], options)
        found = outcome(loss, [queries, documents, None], options)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
        if "metrics" in name or name == "backwards":
            of_single = reference.members["first"].metrics()
            for key, value in of_single.items():
                torch.testing.assert_close(loss.metrics()[f"first/{key}"], value, rtol=1e-5, atol=0)


class Products(TorchDispatchMode):
    """Counts the multiply-adds of matrix products, whatever variant of them is called."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.count += left.shape[0] * left.shape[1] * right.shape[1]
        return func(*args, **(kwargs or {}))


def test_products_are_made_once_forward_and_once_backward(monkeypatch):
    """Of two losses, those of one: scores twice, and a gradient each side."""
    monkeypatch.setattr(log_sum_exp, "STORED_SCORES", 0)
    monkeypatch.setattr(shared_sweep, "STORED_SCORES", 0)
    monkeypatch.setattr(score_tiles, "_TILE_ROWS", 8)
    queries, documents = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(0))
    scores = 24 * 24 * 32
    for normalizations in itertools.product(("cosine", "qnorm"), repeat=2):
        loss = summed(normalizations, symmetric=True, chunk_size=5)
        with Products() as products:
            outcome(loss, [queries, documents, None], {})
        assert 4 * scores <= products.count < 4.1 * scores  # and products with a vector of factors
        with Products() as products:
            outcome(OneByOne(loss), [queries, documents, None], {})
        assert products.count == 7 * scores


@pytest.mark.parametrize("temperature", [0.05, 0.002])
def test_large_scores_are_shifted(temperature):
    queries, documents, _, options = batch({"document_ids": True}, n=20, m=25, d=12, spread=0.5)
    losses = two(
        InfoNCE(normalization="dot", temperature=temperature, symmetric=True, prefixes=(4, 12)),
        InfoNCE(normalization="qnorm", temperature=temperature),
    )
    loss = SummedLoss(losses)
    expected = outcome(OneByOne(loss), [queries.double(), documents.double(), None], options)
    for key, value in outcome(loss, [queries, documents, None], options).items():
        assert_close(value, expected[key])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_the_rounding_of_the_gradient(dtype):
    queries, documents, _, _ = batch({}, n=20, m=20, d=12)
    sides = [queries.to(dtype), documents.to(dtype), None]
    loss = summed(("cosine", "qnorm"), symmetric=True)
    expected = outcome(loss, [sides[0].double(), sides[1].double(), None], {})
    found = outcome(loss, sides, {})
    assert found["queries"].dtype == dtype
    assert_close(found["value"], expected["value"], tolerance=1e-5)
    for name in ("queries", "documents"):
        assert_close(found[name], expected[name], tolerance=3e-3)


def test_cached_sum_is_the_plain_one():
    torch.manual_seed(0)
    encoder = torch.nn.Linear(8, 6)
    inputs = torch.randn(2, 10, 8)
    gradients = []
    for cached in (False, True):
        loss = summed(("learnable", "cosine"), symmetric=True)
        encoder.zero_grad()
        if cached:
            sides = {"encode_query": encoder, "encode_document": encoder}
            value = cached_loss(loss, *inputs, **sides, module=encoder, chunk_size=3)
        else:
            value = loss(*(encoder(x) for x in inputs))
        value.backward()
        gradients.append([p.grad.clone() for p in (*encoder.parameters(), *loss.parameters())])
    for plain, cached in zip(*gradients, strict=True):
        assert_close(cached, plain.double())


def test_losses_that_cannot_share_say_why():
    queries, documents, hard, _ = batch({"hard": True})
    queue = SummedLoss(two(InfoNCE(queue_size=5), InfoNCE(temperature=0.5)))
    queue(queries, documents)
    assert queue.apart == {
        "first": "its queue holds documents that no other loss has",
        "second": "no other loss could share",
    }
    assert "queue holds documents" in repr(queue)
    assert len(queue.losses["first"].queue.documents) == 5
    elsewhere = SummedLoss(two(InfoNCE(), InfoNCE(gather=False)) | {"third": (1.0, SigmoidContrastive())})
    elsewhere(queries, documents)
    assert elsewhere.apart == {"second": "it gathers over other ranks"}
    sides = SummedLoss(two(InfoNCE(negative_margin=0.1, symmetric=True), InfoNCE()))
    sides(queries, documents)
    assert "a positive of its own" in sides.apart["first"]
    shared = SummedLoss(two(InfoNCE(shared_hard_negatives=False), InfoNCE()))
    shared(queries, documents, hard_negatives=hard)
    assert "candidates of its own" in shared.apart["first"]


def test_learnt_numbers_are_named_by_their_loss():
    loss = summed(("learnable", "cosine"))
    names = ["infonce/temperature", "infonce/gamma_query", "infonce/gamma_document", "sigmoid/temperature"]
    assert list(loss.learnt()) == [*names, "sigmoid/bias"]
    assert loss.parameter_group(lr=0.01)["lr"] == 0.01
    assert len(list(loss.parameters())) == 4
    assert loss.similarity is loss.losses["infonce"].similarity
    assert float(loss.temperature.detach()) == pytest.approx(TAUS["infonce"])
    copied = summed(("learnable", "cosine"))
    copied.load_state_dict(loss.state_dict())


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ({}, "losses: expected weights and losses by name"),
        (None, "losses: expected weights and losses by name"),
        ({"a": InfoNCE()}, r"losses: expected \(weight, loss\) under 'a', got InfoNCE alone; write \(1\.0, InfoNCE"),
        ({"infonce": 0.5}, r"under 'infonce', got 0\.5 alone; .* give the words to ContrastiveMixin\(loss=\.\.\.\)$"),
        ([InfoNCE(), InfoNCE()], "losses: expected weights and losses by name, .*, got list of InfoNCE$"),
        ({"forward": (1.0, InfoNCE())}, "losses: 'forward' is a name of torch's modules themselves; take another"),
        ({"training": (1.0, InfoNCE())}, "losses: 'training' is a name of torch's modules"),
        ({"a b": (1.0, InfoNCE())}, "losses: expected names of letters, digits and underscores, got 'a b'"),
        ({"a": (-1.0, InfoNCE())}, "losses: .*-1.0; a weight of 1"),
        ({"a": (float("nan"), InfoNCE())}, "losses: .*nan; a weight of 1"),
        ({"a": (0.0, InfoNCE())}, "losses: all weights are 0"),
        ({"a": (1.0, InfoNCE()), "b": (1.0, InfoNCE(reduction="sum"))}, "losses: expected one reduction for all"),
    ],
)
def test_bad_losses_are_refused(losses, sentence):
    with pytest.raises(ValueError, match=sentence):
        SummedLoss(losses)


def test_what_is_no_loss_of_pairs_is_refused():
    with pytest.raises(TypeError, match=r"losses: expected an InfoNCE or SigmoidContrastive under 'a', got MaxSim"):
        SummedLoss({"a": (1.0, MaxSim())})
    one = InfoNCE()
    with pytest.raises(ValueError, match="losses: one stands under two names"):
        SummedLoss({"a": (1.0, one), "b": (1.0, one)})


def test_scores_that_leave_the_precision_are_named():
    queries, documents, _, _ = batch({})
    loss = summed(("dot", "cosine"))
    with pytest.raises(ValueError, match="queries: 1 of 9 embeddings are NaN or infinite"):
        loss(queries.masked_fill(torch.arange(9)[:, None] == 2, torch.nan), documents)
    with pytest.raises(ValueError, match=r"queries: scores leave torch\.float32"):
        loss(queries * 1e30, documents * 1e30)
