"""Margin heads against a float64 loop over embeddings and classes, and against another package."""

import math

import pytest
import torch
from torch import nn

from lightning_normdyn.losses import AdaFace, ArcFace, CosFace, MagFace, NormFace

N, CLASSES, D, SCALE = 11, 17, 5, 8.0
HEADS = {
    "NormFace": (NormFace, {}),
    "CosFace": (CosFace, {"margin": 0.35}),
    "ArcFace": (ArcFace, {"margin": 0.9}),
    "MagFace": (MagFace, {"lower_norm": 1.0, "upper_norm": 4.0, "upper_margin": 1.1, "norm_weight": 2.0}),
    "AdaFace": (AdaFace, {"margin": 0.5, "concentration": 0.6}),
}


def batch(seed=0, *, dtype=torch.float32):
    """Embeddings of many lengths, the second of them long, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=generator) * (0.7 * torch.randn(N, 1, generator=generator)).exp()
    x[1] *= 3
    return x.to(dtype), torch.randint(0, CLASSES, (N,), generator=generator)


def head_of(name, x, labels, **options):
    """The head, with class vectors that put the first two embeddings at the ends of the range of angles."""
    cls, settings = HEADS[name]
    torch.manual_seed(1)
    head = cls(CLASSES, D, **{"temperature": 1 / SCALE, **settings, **options})
    with torch.no_grad():
        head.weight[labels[0]] = -x[0].float() + 0.1 * head.weight[labels[0]]
        head.weight[labels[1]] = x[1].float() + 0.1 * head.weight[labels[1]]
    return head


def target_cosine(name, cosine, norm, norms):
    """As the papers and their authors' programs have it, through the angle itself."""
    settings = HEADS[name][1]
    angle = cosine.acos()
    if name == "NormFace":
        return cosine
    if name == "CosFace":
        return cosine - settings["margin"]
    if name == "AdaFace":
        z = settings["concentration"] * (norm - norms.mean()).detach() / (norms.std().detach() + 1e-3)
        z = min(max(float(z), -1.0), 1.0)
        turned = min(max(float(angle.detach()) - settings["margin"] * z, 0.0), math.pi)
        is_free = 0 < turned < math.pi
        cosine = (angle - settings["margin"] * z).cos() if is_free else torch.tensor(math.cos(turned)).double()
        return cosine - settings["margin"] * (1 + z)
    margin = torch.tensor(settings.get("margin", 0.0)).double()
    if name == "MagFace":
        share = (norm.clamp(1.0, 4.0) - 1.0) / 3.0
        margin = 0.45 + share * (1.1 - 0.45)
    if float((angle + margin).detach()) > math.pi:
        return cosine - margin * margin.sin()
    return (angle + margin).cos()


def loop(name, x, weight, labels, log_scale, classes=range(CLASSES)):
    """The losses of all embeddings, ``[n]``."""
    norms = (x * x).sum(1).sqrt()
    losses = []
    for i in range(len(x)):
        scores = []
        for j in classes:
            cosine = (x[i] @ weight[j]) / (norms[i] * (weight[j] @ weight[j]).sqrt())
            is_own = j == int(labels[i])
            scores.append(log_scale.exp() * (target_cosine(name, cosine, norms[i], norms) if is_own else cosine))
        loss = torch.stack(scores).logsumexp(0) - scores[list(classes).index(int(labels[i]))]
        if name == "MagFace":
            bounded = norms[i].clamp(1.0, 4.0)
            loss = loss + 2.0 * (1 / bounded + bounded / 16.0)
        losses.append(loss)
    return torch.stack(losses)


def references(x, head):
    log_scale = torch.tensor(SCALE).double().log()
    return [value.detach().double().requires_grad_() for value in (x, head.weight, log_scale)]


def assert_same(value, expected, sources, theirs, *, tolerances):
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    gradients = torch.autograd.grad(value, sources)
    for ours, reference, tolerance in zip(gradients, torch.autograd.grad(expected, theirs), tolerances, strict=True):
        gap = float((ours.double() - reference.reshape(ours.shape)).norm())
        assert gap <= tolerance * float(reference.norm())


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_every_gradient_are_those_of_the_loop(name, chunk_size, dtype):
    x, labels = batch(dtype=dtype)
    head = head_of(name, x, labels, chunk_size=chunk_size, learnable_temperature=True)
    x.requires_grad_()
    theirs = references(x, head)
    expected = loop(name, theirs[0], theirs[1], labels, theirs[2]).mean()
    sources = [x, head.weight, head.scaling.log_scale]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        value = head(x, labels)
    rounding = 4e-3 if dtype == torch.bfloat16 else 1e-5  # of the embeddings' gradient itself, to 8 bits
    assert_same(value, expected, sources, theirs, tolerances=(rounding, 1e-5, 1e-5))


@pytest.mark.parametrize("name", ["ArcFace", "MagFace", "AdaFace"])
def test_the_batch_reaches_both_ends_of_the_margin(name):
    """So that the loop judges them: beyond a half turn, and for AdaFace at an angle of nothing too."""
    x, labels = batch()
    head = head_of(name, x, labels)
    angles = torch.cosine_similarity(x, head.weight[labels]).acos().detach()
    norms = x.norm(dim=1)
    if name == "AdaFace":
        turned = angles - 0.5 * (0.6 * (norms - norms.mean()) / norms.std()).clamp(-1, 1)
        assert float(turned.min()) < 0
        assert float(turned.max()) > math.pi
    else:
        margins = 0.9 if name == "ArcFace" else 0.45 + (norms.clamp(1, 4) - 1) / 3 * 0.65
        assert float((angles + margins).max()) > math.pi
        assert float((angles + margins).min()) < math.pi
    assert float(norms.min()) < 1
    assert float(norms.max()) > 4


@pytest.mark.parametrize("name", HEADS)
def test_a_sample_of_classes_is_the_loop_over_those(name):
    x, labels = batch()
    head = head_of(name, x, labels, sample=0.4, seed=3, learnable_temperature=True)
    drawn = []
    head.documents.register_forward_hook(lambda *call: drawn.append(call[-1].detach()))
    x.requires_grad_()
    value = head(x, labels)
    (rows,) = drawn
    classes = [(head.weight.detach() == row).all(1).nonzero().item() for row in rows]
    present = set(labels.tolist())
    assert present < set(classes)
    assert len(classes) == len(present) + round(0.4 * (CLASSES - len(present))) < CLASSES
    theirs = references(x, head)
    expected = loop(name, theirs[0], theirs[1], labels, theirs[2], classes).mean()
    assert_same(value, expected, [x, head.weight, head.scaling.log_scale], theirs, tolerances=(1e-5,) * 3)


def test_samples_differ_by_step_and_seed_and_go_on_after_a_checkpoint():
    x, labels = batch()

    def losses(head, steps):
        return [float(head(x, labels).detach()) for _ in range(steps)]

    first = head_of("CosFace", x, labels, sample=0.3)
    values = losses(first, 4)
    assert len(set(values)) > 1
    assert values == losses(head_of("CosFace", x, labels, sample=0.3), 4)
    assert values != losses(head_of("CosFace", x, labels, sample=0.3, seed=1), 4)
    resumed = head_of("CosFace", x, labels, sample=0.3)
    resumed.load_state_dict(first.state_dict())
    assert losses(resumed, 3) == losses(first, 3)
    whole = head_of("CosFace", x, labels)
    assert losses(first.eval(), 1) == losses(whole, 1)


def test_statistics_of_norms_are_averages_over_training_batches_alone():
    head = head_of("AdaFace", *batch(), momentum=0.75).bfloat16()
    mean = std = None
    for seed in range(4):
        x, labels = batch(seed)
        before = {name: value.clone() for name, value in head.statistics.state_dict().items()}
        head.eval()(x, labels)
        with torch.no_grad():
            head.train()(x, labels)
        assert all(bool((before[name] == value).all()) for name, value in head.statistics.state_dict().items())
        head(x, labels)
        norms = x.double().norm(dim=1)
        mean = norms.mean() if mean is None else 0.75 * mean + 0.25 * norms.mean()
        std = norms.std() if std is None else 0.75 * std + 0.25 * norms.std()
    torch.testing.assert_close(head.statistics.mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(head.statistics.std.double(), std, rtol=1e-6, atol=0)
    assert {"statistics.mean", "statistics.std", "statistics.batches"} <= head.state_dict().keys()
    unchecked = AdaFace(CLASSES, D, check_finite=False)
    unchecked(torch.full((N, D), math.nan), labels)
    assert int(unchecked.statistics.batches) == 0


def test_the_averages_and_not_the_batch_make_the_margin_once_there_are_some():
    x, labels = batch()
    head = head_of("AdaFace", x, labels)
    head(10 * x, labels)
    norms = x.double().norm(dim=1)
    z = (0.6 * (norms - 10 * norms.mean()) / (10 * norms.std() + 1e-3)).clamp(-1, 1)
    cosines = torch.cosine_similarity(x.double(), head.weight.detach().double()[labels])
    angles = (cosines.acos() - 0.5 * z).clamp(0, math.pi)
    targets = head.eval().target_cosines(cosines, norms, lambda norms: norms)
    torch.testing.assert_close(targets, angles.cos() - 0.5 * (1 + z), rtol=1e-6, atol=1e-6)


def test_magface_says_where_no_length_trains():
    x, labels = batch()
    head = MagFace(CLASSES, D)
    with pytest.warns(UserWarning, match=r"all norms of the first batch, .* lower_norm=10 and upper_norm=110"):
        head(x, labels)
    head(x, labels)  # once is enough: warnings are errors here
    MagFace(CLASSES, D)(50 * x / x.norm(dim=1, keepdim=True), labels)


@pytest.mark.parametrize("name", HEADS)
def test_an_embedding_that_is_its_class_vector_has_a_finite_gradient(name):
    x, labels = batch()
    head = head_of(name, x, labels)
    x = head.weight.detach()[labels].clone().requires_grad_()
    head(x, labels).backward()
    assert bool(x.grad.isfinite().all())
    assert bool(head.weight.grad.isfinite().all())


def test_weights_and_reductions():
    x, labels = batch()
    weights = torch.arange(N).float()
    each = head_of("ArcFace", x, labels, reduction="none")(x, labels)
    total = head_of("ArcFace", x, labels, reduction="sum")(x, labels)
    torch.testing.assert_close(total, each.sum())
    mean = head_of("ArcFace", x, labels)(x, labels, weights=weights)
    torch.testing.assert_close(mean, (each * weights).sum() / weights.sum())


@pytest.mark.parametrize("name", ["NormFace", "CosFace", "ArcFace"])
def test_values_of_pytorch_metric_learning(name):
    package = pytest.importorskip("pytorch_metric_learning.losses")
    x, labels = batch(dtype=torch.float64)
    head = head_of(name, x, labels, learnable_temperature=False).double()
    theirs = {
        "NormFace": lambda: package.NormalizedSoftmaxLoss(CLASSES, D, temperature=1 / SCALE),
        "CosFace": lambda: package.CosFaceLoss(CLASSES, D, margin=0.35, scale=SCALE),
        "ArcFace": lambda: package.ArcFaceLoss(CLASSES, D, margin=math.degrees(0.9), scale=SCALE),
    }[name]()
    theirs.W = nn.Parameter(head.weight.detach().T.clone())
    x.requires_grad_()
    ours, expected = head(x, labels), theirs(x, labels)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=0)
    of_x, of_weight = torch.autograd.grad(ours, [x, head.weight])
    of_their_x, of_their_weight = torch.autograd.grad(expected, [x, theirs.W])
    torch.testing.assert_close(of_x, of_their_x, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(of_weight, of_their_weight.T, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": torch.ones(N, D + 1)}, rf"^embeddings: expected \[n, {D}\] as dim says, got \({N}, {D + 1}\)$"),
        ({"embeddings": torch.full((N, D), math.nan)}, "^embeddings: 11 of 11 embeddings are NaN"),
        ({"labels": torch.full((N,), CLASSES)}, "^labels: expected classes 0 to 16, got up to 17; raise num_classes$"),
        ({"labels": torch.zeros(N)}, "^labels: expected whole numbers"),
        ({"labels": torch.full((N,), -1)}, "^labels: .*number the classes from 0 up"),
        ({"weights": torch.ones(3)}, "^weights: expected a floating-point number for each of 11"),
    ],
)
@pytest.mark.filterwarnings("ignore:MagFace")
def test_what_does_not_fit_is_named(change, message):
    x, labels = batch()
    for name in HEADS:
        with pytest.raises(ValueError, match=message):
            head_of(name, x, labels)(**{"embeddings": x, "labels": labels, **change})


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (ArcFace, {"margin": 28.6}, "^margin: expected radians from 0 to below pi, got 28.6; 28.6 degrees are 0.5$"),
        (NormFace, {"sample": 1.5}, r"^sample: expected a share of the classes, up to 1, got 1.5; 0.1 is common$"),
        (AdaFace, {"momentum": 1.0}, "^momentum: expected a number from 0 to below 1, got 1.0"),
        (MagFace, {"lower_norm": 200.0}, "^upper_norm: expected more than lower_norm, 200, got 110$"),
        (MagFace, {"lower_margin": 0.9}, "^upper_margin: expected at least lower_margin, 0.9, got 0.8$"),
    ],
)
def test_settings_that_make_no_sense_are_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(CLASSES, D, **options)


def test_a_normalization_is_refused_with_where_it_belongs():
    with pytest.raises(TypeError, match=r"^CosFace: got an unexpected keyword argument 'normalization'.*FullSoftmax"):
        CosFace(CLASSES, D, normalization="dot")


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("scale", [1.0, 64.0, 90.0, 400.0])
@pytest.mark.parametrize("name", HEADS)
def test_sums_are_those_of_the_whole_matrix_at_any_scale(name, scale, chunk_size):
    """Without a shift, with one for all and with one for each row; where pairs are solved, far off and beyond."""
    x, labels = batch(seed=2)
    head = head_of(
        name, x, labels, temperature=1 / scale, learnable_temperature=True, max_scale=500, chunk_size=chunk_size
    )
    x.requires_grad_()
    theirs = references(x, head)
    theirs[2] = torch.tensor(scale).double().log().requires_grad_()
    norms = theirs[0].norm(dim=1)
    cosines = (theirs[0] @ theirs[1].T) / norms[:, None] / theirs[1].norm(dim=1)
    own = [target_cosine(name, cosines[i, labels[i]], norms[i], norms) for i in range(N)]
    s = theirs[2].exp() * cosines.scatter(1, labels[:, None], torch.stack(own)[:, None])
    losses = s.logsumexp(1) - s.gather(1, labels[:, None])[:, 0]
    if name == "MagFace":
        bounded = norms.clamp(1.0, 4.0)
        losses = losses + 2.0 * (1 / bounded + bounded / 16.0)
    sources = [x, head.weight, head.scaling.log_scale]
    assert_same(head(x, labels), losses.mean(), sources, theirs, tolerances=(1e-5, 1e-5, 1e-5))


def test_evaluation_without_a_graph_gives_the_same_numbers():
    x, labels = batch()
    for name in HEADS:
        head = head_of(name, x, labels).eval()
        with torch.no_grad():
            value = head(x, labels)
        with torch.inference_mode():
            assert float(head(x, labels)) == float(value)
        assert float(value) == pytest.approx(float(head(x, labels).detach()), rel=1e-6)
        each = head_of(name, x, labels, reduction="none").eval()(x, labels)
        assert float(value) == pytest.approx(float(each.mean().detach()), rel=1e-6)


def test_a_batch_of_one_embedding_sets_no_deviation():
    x, labels = batch()
    head, other = (AdaFace(CLASSES, D, margin=0.5) for _ in range(2))
    head(x[:1], labels[:1])
    for each in (head, other):
        each(x, labels)
    assert head.statistics.std > 0.1
    for name, value in other.statistics.state_dict().items():
        torch.testing.assert_close(head.statistics.state_dict()[name], value, rtol=0, atol=0)


def test_magface_says_nothing_of_norms_that_are_not_finite(recwarn):
    x, labels = batch()
    head = MagFace(CLASSES, D)
    with pytest.raises(ValueError, match="embeddings: 11 of 11 embeddings are NaN or infinite"):
        head(x * torch.nan, labels)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="no length trains"):
        head(x / x.norm(dim=1, keepdim=True), labels)


@pytest.mark.parametrize("name", ["s", "scale"])
def test_the_scale_of_the_papers_is_said_to_be_a_temperature(name):
    with pytest.raises(TypeError, match=f"argument '{name}'; .*; a scale s is temperature=1/s$"):
        ArcFace(CLASSES, D, **{name: 64.0})
