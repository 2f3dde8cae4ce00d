"""Distributions and margins of a teacher, graded positives, orders by grade: each beside a float64 loop."""

from __future__ import annotations

import contrast_oracle as oracle
import pytest
import torch

from lightning_normdyn.losses import CoSENT, DistillKLDiv, GradedContrastive, MarginMSE

N, M, H, D, G = 7, 9, 2, 5, 4
ALL = M + N * H
DIRECTIONS = {
    "q": {},
    "d": {"direction": "document_to_query"},
    "qd": {"symmetric": True},
}
MOST = 1e-5


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def embeddings(dtype=torch.float32):
    """Queries, documents and hard negatives of lengths of their own."""
    sides = [randn(*shape, D, seed=seed) for seed, shape in enumerate([(N,), (M,), (N, H)])]
    lengths = [(0.3 * randn(*side.shape[:-1], 1, seed=9)).exp() for side in sides]
    return [(x * length).to(dtype).requires_grad_() for x, length in zip(sides, lengths, strict=True)]


def teachers():
    return [randn(*shape, G, seed=20 + seed) for seed, shape in enumerate([(N,), (M,), (N, H)])]


def teacher_scores():
    scores = 2 * randn(N, ALL, seed=5)
    scores[2, 4] = scores[5, 11] = scores[0, 0] = -torch.inf
    return scores


def kl(logits, targets, kept):
    """Of one distribution, candidate by candidate; what is not kept is in neither."""
    s, t = (torch.stack([x[j] for j in kept]) for x in (logits, targets))
    log_p, log_t = s - s.logsumexp(0), t - t.logsumexp(0)
    return (log_t.exp() * (log_t - log_p)).sum()


def both_ways(logits, targets, direction, divergence):
    """Mean over queries, documents or both, of ``[n]`` losses each."""
    losses = []
    if "q" in direction:
        losses.append(torch.stack([divergence(logits[i], targets[i]) for i in range(N)]))
    if "d" in direction:
        losses.append(torch.stack([divergence(logits[:, j], targets[:, j]) for j in range(N)]))
    return torch.stack(losses).mean(0)


def of_teacher(logits, targets):
    return kl(logits, targets, [j for j in range(len(targets)) if targets[j] > -torch.inf])


def cross_entropy(logits, grades):
    """Of a target made of grades; 0 where nothing is graded above 0."""
    total = sum(float(g) for g in grades)
    if not total:
        return logits[0] * 0
    log_p = logits - logits.logsumexp(0)
    return -sum(float(g) / total * log_p[j] for j, g in enumerate(grades) if g > 0)


def cosines(queries, documents, temperature):
    rows = [
        [q @ d / (q @ q).sqrt() / (d @ d).sqrt() / temperature for d in documents.double()] for q in queries.double()
    ]
    return torch.stack([torch.stack(row) for row in rows])


def learnable(make, normalization, **options):
    settings = {"temperature": 0.3, "learnable_temperature": True, "max_scale": 1e3}
    return make(normalization=normalization, **settings | options)


def assert_same(value, expected, loss, sides, scores):
    """Value, and gradients of embeddings, temperature and exponents, which halves round once."""
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    ours = [*sides, loss.scaling.log_scale]
    theirs = [x for x in (scores.queries, scores.documents, scores.hard) if x is not None]
    theirs = [*theirs[: len(sides)], scores.log_scale]
    if loss.similarity.normalization == "learnable":
        ours, theirs = [*ours, loss.similarity.raw_gammas], [*theirs, scores.raw_gammas]
    gradients = zip(torch.autograd.grad(value, ours), torch.autograd.grad(expected, theirs), strict=True)
    for gradient, reference in gradients:
        rounding = float((reference.to(gradient.dtype).double() - reference).norm())
        gap = float((gradient.double() - reference.reshape(gradient.shape)).norm())
        assert gap <= rounding + MOST * float(reference.norm()) + 1e-12, (gap, rounding, float(reference.norm()))


def reference_of(sides, normalization):
    return oracle.Scores(*sides, normalization=normalization, temperature=0.3)


@pytest.mark.parametrize(("chunk_size", "dtype"), [(None, torch.float32), (4, torch.float32), (4, torch.bfloat16)])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_distributions_of_a_matrix_are_those_of_the_loop(normalization, direction, chunk_size, dtype):
    sides, matrix = embeddings(dtype), teacher_scores()
    options = DIRECTIONS[direction] | {"chunk_size": chunk_size, "candidates": "in_batch"}
    loss = learnable(DistillKLDiv, normalization, teacher_temperature=0.7, **options)
    reference = reference_of(sides, normalization)
    logits = reference.of(reference.queries, reference.candidates(), 0, 1)
    expected = both_ways(logits, matrix.double() / 0.7, direction, of_teacher).mean()
    value = loss(*sides[:2], hard_negatives=sides[2], teacher_scores=matrix)
    used = sides if "q" in direction else sides[:2]
    assert_same(value, expected, loss, used, reference)


@pytest.mark.parametrize("teacher_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("normalization", ["cosine", "learnable"])
def test_distributions_of_a_teachers_embeddings(normalization, direction, teacher_dtype):
    sides, teacher = embeddings(), [x.to(teacher_dtype) for x in teachers()]
    options = DIRECTIONS[direction] | {"chunk_size": 4, "candidates": "in_batch"}
    loss = learnable(DistillKLDiv, normalization, teacher_temperature=0.4, **options)
    reference = reference_of(sides, normalization)
    logits = reference.of(reference.queries, reference.candidates(), 0, 1)
    targets = cosines(teacher[0], torch.cat((teacher[1], teacher[2].flatten(0, 1))), 0.4)
    expected = both_ways(logits, targets, direction, of_teacher).mean()
    value = loss(
        *sides[:2],
        hard_negatives=sides[2],
        teacher_queries=teacher[0],
        teacher_documents=teacher[1].requires_grad_(),
        teacher_hard_negatives=teacher[2],
    )
    assert_same(value, expected, loss, sides if "q" in direction else sides[:2], reference)
    assert teacher[1].grad is None


def lists(kind):
    """What a call is told of lists, and the columns of each query among all candidates."""
    if kind == "hard_negatives":
        return {}, [[i, *(M + H * i + k for k in range(H))] for i in range(N)]
    listed = torch.tensor([[i, (i + 3) % M, (2 * i + 1) % M if i % 3 else -1] for i in range(N)])
    return {"listed": listed}, [[j for j in row if j >= 0] for row in listed.tolist()]


def margins(logits, targets):
    """Mean squared error of the first one's lead over each other."""
    return sum(((logits[0] - s) - (targets[0] - t)) ** 2 for s, t in zip(logits[1:], targets[1:], strict=True)) / (
        len(logits) - 1
    )


def divergence(logits, targets):
    return kl(logits, targets, list(range(len(targets))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["hard_negatives", "listed"])
@pytest.mark.parametrize(("make", "each"), [(DistillKLDiv, divergence), (MarginMSE, margins)])
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_lists_are_those_of_the_loop(normalization, make, each, kind, dtype):
    sides, (options, columns) = embeddings(dtype), lists(kind)
    given = sides[:2] if kind == "listed" else sides
    if kind == "hard_negatives":
        options["hard_negatives"] = sides[2]
    scores = 2 * randn(N, 3, seed=6)
    scores[1, 2] = -torch.inf
    loss = learnable(make, normalization, teacher_temperature=0.7)
    reference = reference_of(given, normalization)
    logits = reference.of(reference.queries, reference.candidates(), 0, 1)
    losses = []
    for i, places in enumerate(columns):
        kept = [k for k in range(len(places)) if scores[i, k] > -torch.inf]
        targets = torch.stack([scores[i, k].double() / 0.7 for k in kept])
        losses.append(each(torch.stack([logits[i, places[k]] for k in kept]), targets))
    value = loss(*sides[:2], teacher_scores=scores, **options)
    assert_same(value, torch.stack(losses).mean(), loss, given, reference)


@pytest.mark.parametrize("kind", ["hard_negatives", "listed"])
@pytest.mark.parametrize(("make", "each"), [(DistillKLDiv, divergence), (MarginMSE, margins)])
def test_lists_of_a_teachers_embeddings(make, each, kind):
    sides, teacher, (options, columns) = embeddings(), teachers(), lists(kind)
    given = sides[:2] if kind == "listed" else sides
    if kind == "hard_negatives":
        options |= {"hard_negatives": sides[2], "teacher_hard_negatives": teacher[2]}
    loss = learnable(make, "qnorm", teacher_temperature=0.2)
    reference = reference_of(given, "qnorm")
    logits = reference.of(reference.queries, reference.candidates(), 0, 1)
    targets = cosines(teacher[0], torch.cat((teacher[1], teacher[2].flatten(0, 1))), 0.2)
    expected = torch.stack([each(logits[i, places], targets[i, places]) for i, places in enumerate(columns)]).mean()
    value = loss(*sides[:2], teacher_queries=teacher[0], teacher_documents=teacher[1], **options)
    assert_same(value, expected, loss, given, reference)


@pytest.mark.parametrize(("listed", "dtype"), [(False, torch.float32), (True, torch.float32), (True, torch.bfloat16)])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_graded_positives_are_those_of_the_loop(normalization, direction, listed, dtype):
    sides = embeddings(dtype)
    grades = (randn(N, ALL, seed=7) > 0.3) * torch.rand(N, ALL, generator=torch.Generator().manual_seed(8))
    grades[3] = 0
    options = {"hard_negatives": sides[2], "grades": grades}
    if listed:
        positives = torch.tensor([[(i + 2) % M, -1 if i % 2 else (i + 4) % M] for i in range(N)])
        positives[4] = positives[4, 0]  # twice
        positives[5, 1] = 5  # its own, once more
        graded = torch.cat((torch.arange(N)[:, None], positives), 1)
        of_listed, grades = grades[:, :3], torch.zeros(N, ALL)
        for i, places in enumerate(graded.tolist()):
            for k, j in enumerate(places):
                if j >= 0 and j not in places[:k]:
                    grades[i, j] = of_listed[i, k]
        options |= {"positives": positives, "grades": of_listed}
    loss = learnable(GradedContrastive, normalization, chunk_size=5, **DIRECTIONS[direction])
    reference = reference_of(sides, normalization)
    logits = reference.of(reference.queries, reference.candidates(), 0, 1)
    expected = both_ways(logits, grades, direction, cross_entropy).mean()
    value = loss(*sides[:2], **options)
    assert_same(value, expected, loss, sides if "q" in direction else sides[:2], reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_orders_by_grade_are_those_of_the_loop(normalization, dtype):
    sides = [x.detach()[:N].requires_grad_() for x in embeddings(dtype)[:2]]
    grades = torch.tensor([3, 1, 3, 0, 5, 1, 2])
    loss = learnable(CoSENT, normalization)
    reference = reference_of(sides, normalization)
    logits = reference.of(reference.queries, reference.documents, 0, 1).diagonal()
    terms = [logits[k] - logits[i] for i in range(N) for k in range(N) if grades[i] > grades[k]]
    expected = torch.stack([logits[0] * 0, *terms]).logsumexp(0)
    assert_same(loss(*sides, grades), expected, loss, sides, reference)


@pytest.mark.parametrize("make", [DistillKLDiv, GradedContrastive])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_ids_take_pairs_out_of_both_distributions(make, direction):
    sides = embeddings(torch.float64)
    ids = torch.tensor([0, 1, 2, 0, -1, 1, -1, 2, 8])
    loss = make(
        temperature=0.25, **DIRECTIONS[direction], **({"candidates": "in_batch"} if make is DistillKLDiv else {})
    )
    reference = oracle.Scores(*sides[:2], normalization="cosine", temperature=0.25)
    logits = reference.of(reference.queries, reference.documents, 0, 1)
    weights = torch.rand(N, M, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    out = torch.tensor([[bool(ids[i] == ids[j]) and int(ids[i]) >= 0 and i != j for j in range(M)] for i in range(N)])
    targets = weights.log().masked_fill(out, -torch.inf)
    expected = both_ways(logits.masked_fill(out, -torch.inf), targets, direction, of_teacher)
    if make is GradedContrastive:
        t = [targets.softmax(1), targets.softmax(0)[:, :N].T]
        entropies = [-(x * x.log().where(x > 0, 0)).sum(1) for x in t]
        expected = expected + torch.stack([entropies["qd".index(side)] for side in direction]).mean(0)
    options = {"grades": weights} if make is GradedContrastive else {"teacher_scores": weights.log()}
    value = loss(*sides[:2], document_ids=ids, **options)
    torch.testing.assert_close(value, expected.mean(), rtol=1e-12, atol=0)
    expected_gradients = torch.autograd.grad(expected.mean(), [reference.queries, reference.documents])
    torch.testing.assert_close(torch.autograd.grad(value, sides[:2]), expected_gradients, rtol=1e-9, atol=1e-12)
