"""Batches that are nearly solved: value and gradients keep their digits, where float32 as usual loses them."""

import pytest
import torch
import torch.nn.functional as F

from lightning_normdyn.losses import FullSoftmax, InfoNCE, SigmoidContrastive, SummedLoss, SupCon

N, D = 48, 96
TRUE_LOSSES = [2.5e-4, 2.5e-5, 1e-6, 1e-9]
TARGETS = torch.arange(N)


def scores_of(queries, documents, scale):
    return scale * F.normalize(queries, dim=1) @ F.normalize(documents, dim=1).T


def one_direction(queries, documents, scale):
    return F.cross_entropy(scores_of(queries, documents, scale), TARGETS)


def backwards(queries, documents, scale):
    return F.cross_entropy(scores_of(queries, documents, scale).T, TARGETS)


def symmetric(queries, documents, scale):
    return (one_direction(queries, documents, scale) + backwards(queries, documents, scale)) / 2


def simclr(queries, documents, scale):
    views = F.normalize(torch.cat((queries, documents)), dim=1)
    scores = (scale * views @ views.T).masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(scores, torch.cat((TARGETS + N, TARGETS)))


def joint(queries, documents, scale):
    scores = scores_of(queries, documents, scale)
    others = scores.T.masked_fill(torch.eye(N, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(torch.cat((scores, others), 1), TARGETS)


def sigmoid(queries, documents, scale):
    signs = 2 * torch.eye(N, dtype=queries.dtype) - 1
    return -F.logsigmoid(signs * (scores_of(queries, documents, scale) - scale / 2)).sum() / N


CASES = {
    "one direction": (one_direction, lambda t: InfoNCE(temperature=t), {}),
    "strips": (one_direction, lambda t: InfoNCE(temperature=t, chunk_size=7), {}),
    "ids": (one_direction, lambda t: InfoNCE(temperature=t), {"document_ids": TARGETS}),
    "full softmax": (one_direction, lambda t: FullSoftmax(temperature=t), {"targets": TARGETS}),
    "backwards": (backwards, lambda t: InfoNCE(temperature=t, direction="document_to_query"), {}),
    "symmetric": (symmetric, lambda t: InfoNCE(temperature=t, symmetric=True), {}),
    "tiles": (symmetric, lambda t: InfoNCE(temperature=t, symmetric=True, chunk_size=7), {}),
    "labels": (symmetric, lambda t: InfoNCE(temperature=t, symmetric=True), {"labels": TARGETS}),
    "positives": (symmetric, lambda t: InfoNCE(temperature=t, symmetric=True), {"positives": TARGETS[:, None]}),
    "SimCLR": (simclr, lambda t: InfoNCE(temperature=t, symmetric=True, same_side="both"), {}),
    "joint": (joint, lambda t: InfoNCE(temperature=t, symmetric=True, joint=True), {}),
    "sigmoid": (sigmoid, lambda t: SigmoidContrastive(temperature=t, bias=-0.5 / t, max_scale=1e9), {}),
}


def nearly_solved(definition, true_loss):
    """Pairs that are almost alike, and the scale at which their loss is about as given."""
    generator = torch.Generator().manual_seed(3)
    base, *noise = torch.randn(3, N, D, generator=generator).double()
    sides = [(base + 0.1 * values).float() for values in noise]
    low, high = 1.0, 1e4
    for _ in range(60):
        scale = (low * high) ** 0.5
        low, high = (scale, high) if definition(*(x.double() for x in sides), scale) > true_loss else (low, scale)
    return sides, scale


def outcome(loss, sides):
    leaves = [x.clone().requires_grad_() for x in sides]
    value = loss(*leaves)
    value.backward()
    return [value.detach(), *(x.grad for x in leaves)]


def errors(outcomes, expected):
    return [float((x.double() - y).norm() / y.norm()) for x, y in zip(outcomes, expected, strict=True)]


@pytest.mark.parametrize("true_loss", TRUE_LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_keep_their_digits(case, true_loss):
    definition, make, options = CASES[case]
    sides, scale = nearly_solved(definition, true_loss)
    expected = outcome(lambda *x: definition(*x, scale), [x.double() for x in sides])
    assert float(expected[0]) == pytest.approx(true_loss, rel=1e-3)
    loss = make(1 / scale)
    ours = errors(outcome(lambda *x: loss(*x, **options), sides), expected)
    as_usual = errors(outcome(lambda *x: definition(*x, scale), sides), expected)
    if case == "sigmoid":  # whose usual form loses nothing
        assert max(ours) < max(1e-5, 2 * max(as_usual))
    else:
        assert max(ours) < min(1e-5, max(as_usual))
        assert true_loss > 1e-8 or max(as_usual) > 0.1


CLASSES = TARGETS // 3
LISTED = torch.stack([torch.tensor([j for j in range(N) if CLASSES[j] == c and j != i]) for i, c in enumerate(CLASSES)])
SEVERAL = {
    "labels": (False, lambda t: InfoNCE(temperature=t), {"labels": CLASSES}),
    "listed": (False, lambda t: InfoNCE(temperature=t, chunk_size=7), {"positives": LISTED}),
    "symmetric labels": (True, lambda t: InfoNCE(temperature=t, symmetric=True, chunk_size=7), {"labels": CLASSES}),
    "symmetric listed": (True, lambda t: InfoNCE(temperature=t, symmetric=True), {"positives": LISTED}),
    "summed": (True, lambda t: SummedLoss({"one": (1.0, InfoNCE(temperature=t, symmetric=True))}), {"labels": CLASSES}),
}


def softened(scores):
    """Cross entropy whose target is spread evenly over a class."""
    target = F.normalize((CLASSES[:, None] == CLASSES).to(scores.dtype), p=1, dim=1)
    return -(target * scores.log_softmax(1)).sum(1).mean()


def similar(noise):
    """Pairs of sixteen classes, whose members are almost alike."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(N, D, generator=generator).double()[CLASSES]
    return [(base + noise * torch.randn(N, D, generator=generator).double()).float() for _ in range(2)]


@pytest.mark.parametrize(("noise", "scale"), [(0.1, 15.0), (0.1, 50.0), (0.01, 15.0), (0.01, 30.0), (1e-3, 15.0)])
@pytest.mark.parametrize("case", SEVERAL)
def test_several_positives_keep_what_plain_float32_keeps(case, noise, scale):
    """From 1e-3 down to 1e-8 above the minimum, where what positives have in common is up to 1e5 times the gradient."""
    is_symmetric, make, options = SEVERAL[case]
    sides = similar(noise)

    def definition(queries, documents):
        scores = scores_of(queries, documents, scale)
        return (softened(scores) + softened(scores.T)) / 2 if is_symmetric else softened(scores)

    expected = outcome(definition, [x.double() for x in sides])
    loss = make(1 / scale)
    ours = errors(outcome(lambda *x: loss(*x, **options), sides), expected)
    as_usual = errors(outcome(definition, sides), expected)
    assert ours[0] < 1e-6
    assert max(ours) < 1.25 * max(as_usual)


@pytest.mark.parametrize(("noise", "scale"), [(0.1, 15.0), (0.01, 30.0), (1e-3, 15.0)])
def test_sets_keep_what_plain_float32_keeps(noise, scale):
    """Of a single set by their classes, and of two views that are negatives of their own side."""

    def definition(queries, documents):
        x = F.normalize(torch.cat((queries, documents)), dim=1)
        scores = (scale * x @ x.T).masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
        labels = CLASSES.repeat(2)
        is_positive = (labels[:, None] == labels) & ~torch.eye(2 * N, dtype=torch.bool)
        logs = scores.log_softmax(1).masked_fill(~is_positive, 0.0)
        return -(logs.sum(1) / is_positive.sum(1)).mean()

    sides = similar(noise)
    expected = outcome(definition, [x.double() for x in sides])
    as_usual = errors(outcome(definition, sides), expected)
    sets, views = SupCon(temperature=1 / scale), InfoNCE(temperature=1 / scale, symmetric=True, same_side="both")
    of_sets = outcome(lambda q, d: sets(torch.cat((q, d)), CLASSES.repeat(2)), sides)
    of_views = outcome(lambda q, d: views(q, d, labels=CLASSES), sides)
    for found in (of_sets, of_views):
        assert max(errors(found, expected)) < 1.25 * max(as_usual)
