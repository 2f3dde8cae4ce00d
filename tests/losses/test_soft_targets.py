"""Soft targets: what must not change their value, what they keep in memory, refuse, count and leave behind."""

from __future__ import annotations

import planted_losses
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_normdyn.losses import (
    CoSENT,
    DistillKLDiv,
    GradedContrastive,
    InfoNCE,
    MarginMSE,
    cached_loss,
    verify_loss,
)

N, H, D = 6, 2, 4
IN_BATCH = {"candidates": "in_batch"}
NAN, INF = torch.nan, torch.inf


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sides(seed=0, dtype=torch.float64, n=N):
    return randn(n, D, seed=seed, dtype=dtype).requires_grad_(), randn(
        n, D, seed=seed + 1, dtype=dtype
    ).requires_grad_()


def close(value, expected, most=1e-11):
    torch.testing.assert_close(value, expected, rtol=most, atol=most)


SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.floats(0.5, 2.0)
WAYS = st.sampled_from([{}, {"symmetric": True}, {"direction": "document_to_query"}])


@settings(max_examples=20, deadline=None)
@given(SEEDS, TEMPERATURES, TEMPERATURES, WAYS)
def test_a_divergence_is_zero_if_and_only_if_distributions_are_equal(seed, temperature, teacher_temperature, way):
    queries, documents = sides(seed)
    options = IN_BATCH | way | {"temperature": temperature, "teacher_temperature": teacher_temperature}
    loss = DistillKLDiv(normalization="dot", **options)
    scores = loss.similarity(queries, documents).detach() / temperature * teacher_temperature
    shifts = {(): randn(N, 1, seed=2), ("direction",): randn(1, N, seed=2), ("symmetric",): randn(1, 1, seed=2)}
    equal = loss(queries, documents, teacher_scores=scores + shifts[tuple(way)])
    assert 0 <= equal < 1e-20
    assert all(x.abs().max() < 1e-10 for x in torch.autograd.grad(equal, [queries, documents]))
    assert loss(queries, documents, teacher_scores=scores / 2) > 1e-6


@settings(max_examples=20, deadline=None)
@given(SEEDS, WAYS)
def test_the_order_of_queries_and_of_candidates_does_not_matter(seed, way):
    queries, documents = sides(seed)
    scores, grades, order = randn(N, N, seed=2), torch.rand(N, N, dtype=torch.float64), torch.randperm(N)
    turned = queries[order], documents[order]
    for loss, name, values in (
        (DistillKLDiv(**IN_BATCH | way), "teacher_scores", scores),
        (GradedContrastive(**way), "grades", grades),
    ):
        once, again = loss(queries, documents, **{name: values}), loss(*turned, **{name: values[order][:, order]})
        close(again, once)
    close(CoSENT()(*turned, grades[0][order]), CoSENT()(queries, documents, grades[0]))
    hard, lists = randn(N, H, D, seed=3), randn(N, 1 + H, seed=4)
    flipped = {"hard_negatives": hard.flip(1), "teacher_scores": torch.cat((lists[:, :1], lists[:, 1:].flip(1)), 1)}
    for listwise in (DistillKLDiv(), MarginMSE()):
        close(
            listwise(queries, documents, **flipped),
            listwise(queries, documents, hard_negatives=hard, teacher_scores=lists),
        )


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(1e-3, 1e3))
def test_the_unit_of_grades_and_the_level_of_scores_do_not_matter(seed, unit):
    queries, documents = sides(seed)
    grades, own_units = torch.rand(N, N, dtype=torch.float64), torch.rand(N, 1, dtype=torch.float64) + 0.1
    both = GradedContrastive(symmetric=True)
    close(both(queries, documents, grades=unit * grades), both(queries, documents, grades=grades))
    one = GradedContrastive()
    close(one(queries, documents, grades=own_units * grades), one(queries, documents, grades=grades))
    close(CoSENT()(queries, documents, unit * grades[0] - 1), CoSENT()(queries, documents, grades[0]))
    hard, lists = randn(N, H, D, seed=3), randn(N, 1 + H, seed=4)
    for listwise in (DistillKLDiv(), MarginMSE()):
        options = {"hard_negatives": hard}
        shifted = listwise(queries, documents, teacher_scores=lists + own_units, **options)
        close(shifted, listwise(queries, documents, teacher_scores=lists, **options), most=1e-9)


def test_grades_may_be_whole_numbers():
    queries, documents = sides()
    grades = torch.tensor([[3, 0, 1, 0, 2, 0]] * N)
    loss = GradedContrastive()
    close(loss(queries, documents, grades=grades), loss(queries, documents, grades=grades.double()))
    close(loss(queries, documents, grades=grades > 0), loss(queries, documents, grades=(grades > 0).double()))


@pytest.mark.parametrize("way", [{}, {"symmetric": True}, {"direction": "document_to_query"}])
def test_equal_grades_are_the_positives_of_infonce(way):
    queries, documents = sides()
    pairs = torch.eye(N, dtype=torch.float64)
    close(GradedContrastive(**way)(queries, documents, grades=pairs), InfoNCE(**way)(queries, documents))
    positives = torch.tensor([[1], [-1], [3], [2], [-1], [0]])
    close(
        GradedContrastive(**way)(queries, documents, positives=positives, grades=torch.full((N, 2), 0.3)),
        InfoNCE(**way)(queries, documents, positives=positives),
        most=1e-7,
    )


def test_a_listed_batch_is_the_batch():
    queries, documents = sides()
    scores = randn(N, N, seed=5)
    listed = torch.arange(N).expand(N, N)
    one = DistillKLDiv()(queries, documents, teacher_scores=scores, listed=listed)
    all_ = DistillKLDiv(**IN_BATCH, chunk_size=4)(queries, documents, teacher_scores=scores)
    close(one, all_)
    gradients = [torch.autograd.grad(x, [queries, documents]) for x in (one, all_)]
    close(gradients[0], gradients[1])


@pytest.mark.parametrize("make", [DistillKLDiv, MarginMSE])
def test_what_is_left_out_of_a_list_gets_no_gradient_and_pads_it(make):
    queries, documents = sides()
    hard, scores = randn(N, H, D, seed=3).requires_grad_(), randn(N, 1 + H, seed=4)
    scores[2, 2] = -INF
    loss = make()
    scores.requires_grad_()
    value = loss(queries, documents, hard_negatives=hard, teacher_scores=scores)
    (of_hard,) = torch.autograd.grad(value, hard, retain_graph=True)
    assert not of_hard[2, 1].any()
    assert of_hard[2, 0].all()
    value.backward(retain_graph=True)
    assert scores.grad is None
    listed = torch.tensor([[i, N + 2 * i, -1 if i == 2 else N + 2 * i + 1] for i in range(N)])
    with_finite = scores.detach().masked_fill(scores == -INF, 100.0)
    close(loss(queries, torch.cat((documents, hard.flatten(0, 1))), listed=listed, teacher_scores=with_finite), value)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(
    "loss",
    [
        lambda **kw: DistillKLDiv(**kw, **IN_BATCH),
        DistillKLDiv,
        MarginMSE,
        lambda **kw: GradedContrastive(symmetric=True, **kw),
    ],
)
def test_reductions_weights_and_temperatures_of_queries(loss, reduction):
    queries, documents = sides()
    made, none = loss(reduction=reduction), loss(reduction="none")
    hard, weights = randn(N, H, D, seed=3), torch.rand(N, dtype=torch.float64)
    if getattr(made, "candidates", "in_batch") == "listed":
        options = {"hard_negatives": hard, "teacher_scores": randn(N, 1 + H, seed=4)}
    else:
        name = "teacher_scores" if isinstance(made, DistillKLDiv) else "grades"
        options = {name: torch.rand(N, N, dtype=torch.float64)}
    each = none(queries, documents, **options)
    assert each.shape == (N,)
    expected = {"none": each, "sum": each.sum(), "mean": each.mean()}[reduction]
    close(made(queries, documents, **options), expected)
    temperatures = torch.full((N,), 0.05, dtype=torch.float64)
    close(made(queries, documents, temperatures=temperatures, **options), expected)
    if reduction != "none":
        weighed = (each * weights).sum() / (weights.sum() if reduction == "mean" else 1)
        close(made(queries, documents, weights=weights, **options), weighed)


class Largest(TorchDispatchMode):
    """The most numbers that any operation had room for."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // 4)
        return result


@pytest.mark.parametrize("way", [{}, {"symmetric": True}])
def test_no_matrix_of_all_scores_is_made_of_a_teachers_embeddings(way, monkeypatch):
    monkeypatch.setattr("lightning_normdyn.core.contrast.divergences._STORED_SCORES", 0)
    n, d = 512, 16
    queries, documents = (randn(n, d, seed=seed, dtype=torch.float32).requires_grad_() for seed in (0, 1))
    teacher = {"teacher_queries": queries.detach().flip(1), "teacher_documents": documents.detach()}
    with Largest() as largest:
        DistillKLDiv(**IN_BATCH, chunk_size=8, **way)(queries, documents, **teacher).backward()
    assert largest.numbers == n * d  # the embeddings; all scores are 32 times as many
    positives = torch.arange(n).roll(1)[:, None]
    with Largest() as largest:
        loss = GradedContrastive(chunk_size=8, **way)
        loss(queries, documents, positives=positives, grades=torch.rand(n, 2)).backward()
    assert largest.numbers <= n * d


@pytest.mark.parametrize(("scale", "most"), [(1e-2, 1e-5), (1e-3, 1e-4)])
def test_a_scorer_that_has_nearly_reached_its_teacher_keeps_its_digits(scale, most):
    """Beside float64 of the same numbers: divergences of 7.5e-7 and 7.5e-9, which log-softmaxes in float32 lose."""
    n, d = 64, 32
    queries, documents = (randn(n, d, seed=seed, dtype=torch.float32).requires_grad_() for seed in (0, 1))
    loss = DistillKLDiv(normalization="dot", temperature=8.0, teacher_temperature=8.0, **IN_BATCH)
    scores = (queries @ documents.T + scale * randn(n, n, seed=2, dtype=torch.float32)).detach()
    wide = [x.detach().double().requires_grad_() for x in (queries, documents)]

    def plain(q, d, t):
        log_p, log_t = (q @ d.T / 8).log_softmax(1), (t / 8).log_softmax(1)
        return (log_t.exp() * (log_t - log_p)).sum(1).mean()

    def errors(value, inputs):
        gaps = [abs(float(value.detach().double() / expected.detach()) - 1)]
        for gradient, reference in zip(torch.autograd.grad(value, inputs), gradients, strict=True):
            gaps.append(float((gradient.double() - reference).norm() / reference.norm()))
        return gaps

    expected = plain(*wide, scores.double())
    gradients = torch.autograd.grad(expected, wide)
    ours = errors(loss(queries, documents, teacher_scores=scores), [queries, documents])
    usual = errors(plain(queries, documents, scores), [queries, documents])
    assert ours[0] < most
    assert usual[0] > 1e-3
    assert max(ours[1:]) < 5e-6 / scale
    assert max(ours[1:]) < 1.1 * max(usual[1:])


Q, C, HARD = randn(4, 3, dtype=torch.float32), randn(6, 3, dtype=torch.float32), randn(4, 2, 3, dtype=torch.float32)
SCORES, LISTED = randn(4, 3, dtype=torch.float32), torch.tensor([[0, 4, 5]] * 4)
TEACHERS = {"teacher_queries": Q, "teacher_documents": C}


def put(x, value, *place):
    x = x.clone()
    x[place] = value
    return x


@pytest.mark.parametrize("make", [DistillKLDiv, MarginMSE])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hard_negatives": HARD}, r"teacher_scores: expected \[4, 3\], or teacher_queries and .* got none of them"),
        ({"teacher_scores": SCORES}, "hard_negatives: expected some, since one document alone has nothing"),
        ({"hard_negatives": HARD, "teacher_scores": SCORES[:, :2]}, r"teacher_scores: .* \[4, 3\], got .* \[4, 2\]"),
        ({"hard_negatives": HARD, "teacher_scores": SCORES.long()}, "teacher_scores: expected floating-point numbers"),
        ({"hard_negatives": HARD, "teacher_scores": [1.0]}, "teacher_scores: expected floating-point .* got list"),
        ({"hard_negatives": HARD, "teacher_scores": put(SCORES, NAN, 1, 2)}, "teacher_scores: 1 of 12 scores are NaN"),
        ({"hard_negatives": HARD, "teacher_scores": put(SCORES, INF, 1, 0)}, "teacher_scores: 1 of 12 .* or infinite"),
        ({"hard_negatives": HARD, "teacher_scores": put(SCORES, -INF, 1)}, "teacher_scores: .*1 of 4 queries"),
        ({"hard_negatives": HARD, "teacher_scores": SCORES} | TEACHERS, "teacher_scores: came with teacher_queries"),
        ({"hard_negatives": HARD} | TEACHERS, r"teacher_hard_negatives: expected .* \[4, 2, 3\], got NoneType"),
        (
            {"listed": LISTED, "teacher_hard_negatives": HARD} | TEACHERS,
            "teacher_hard_negatives: no hard negatives are",
        ),
        ({"listed": LISTED} | TEACHERS | {"teacher_documents": Q}, r"teacher_documents: expected .* \[6, 3\], got"),
        ({"listed": LISTED, "teacher_documents": C}, r"teacher_queries: expected .* \[4, g\], got NoneType"),
        ({"listed": LISTED} | TEACHERS | {"teacher_queries": put(Q, NAN, 1)}, "teacher_queries: 1 of 4 embeddings are"),
        ({"listed": LISTED, "hard_negatives": HARD, "teacher_scores": SCORES}, "listed: numbers are of documents"),
        ({"listed": LISTED + 1, "teacher_scores": SCORES}, "listed: 6 is out of range; there are 6 documents"),
        ({"listed": LISTED - 2, "teacher_scores": SCORES}, "listed: -2 is out of range"),
        ({"listed": LISTED[:, :1], "teacher_scores": SCORES}, r"listed: .* two documents or more .* got \[4, 1\]"),
        (
            {"listed": LISTED.float(), "teacher_scores": SCORES},
            r"listed: expected whole numbers \[4, c\], got torch.fl",
        ),
        ({"listed": put(LISTED, -1, 1), "teacher_scores": SCORES}, "listed: .*1 of 4 queries"),
        ({"listed": LISTED, "teacher_scores": SCORES, "document_ids": torch.arange(6)}, "^document_ids: a list names"),
        ({"listed": LISTED, "teacher_scores": SCORES, "labels": torch.arange(6)}, "labels: the teacher alone says"),
    ],
)
def test_a_teacher_that_does_not_fit(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()(Q, C, **options)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: DistillKLDiv(symmetric=True), "symmetric: listed documents belong to a query, and have no queries"),
        (lambda: DistillKLDiv(direction="document_to_query"), "direction: listed documents belong to a query"),
        (lambda: DistillKLDiv(candidates="all"), "candidates: expected one of listed, in_batch, got 'all'"),
        (lambda: MarginMSE(teacher_normalization="learnable"), "teacher_normalization: expected one of cosine, dot"),
        (lambda: MarginMSE(teacher_temperature=0), "teacher_temperature: expected a positive number, got 0; 1 suits"),
        (lambda: CoSENT(reduction="none"), "reduction: the loss is one number of the whole batch"),
        (lambda: DistillKLDiv(**IN_BATCH)(Q, C, listed=LISTED), "listed: candidates are those of the batch"),
        (
            lambda: DistillKLDiv(**IN_BATCH)(Q, C, teacher_scores=SCORES),
            "teacher_scores: expected one for each of 6 can",
        ),
        (
            lambda: DistillKLDiv(**IN_BATCH)(Q, C, teacher_scores=put(torch.rand(4, 6), NAN, 0, 0)),
            "teacher_scores: 1 of 24 scores are NaN or infinite",
        ),
        (
            lambda: DistillKLDiv(**IN_BATCH)(Q, C, teacher_scores=put(torch.rand(4, 6), -INF, 2)),
            "teacher_scores: every candidate of 1 of 4 queries is left out",
        ),
        (lambda: GradedContrastive()(Q, C), "grades: expected one for each positive, got none; without grades take"),
        (lambda: GradedContrastive()(Q, C, grades=torch.rand(4)), r"grades: .* \[4, c\], of all candidates; .* CoSENT"),
        (lambda: GradedContrastive()(Q, C, grades=SCORES), "grades: expected one for each of 6 candidates, got 3"),
        (
            lambda: GradedContrastive()(Q, C, grades=-torch.rand(4, 6)),
            "grades: expected finite numbers from 0 up, got 24 others of 24",
        ),
        (
            lambda: GradedContrastive()(Q, C, grades=put(torch.rand(4, 6), INF, 0, 1)),
            "grades: expected finite numbers from 0 up, got 1 others of 24",
        ),
        (
            lambda: GradedContrastive()(Q, C, grades=torch.rand(4, 3), positives=torch.tensor([[5]] * 4)),
            r"grades: expected numbers \[4, 2\], got torch.float32 \[4, 3\]",
        ),
        (lambda: GradedContrastive()(Q, C, grades=torch.rand(4, 6), labels=torch.arange(6)), "labels: grades say what"),
        (lambda: CoSENT()(Q, C, torch.rand(4)), "documents: expected one for each of 4 queries, got 6"),
        (
            lambda: CoSENT()(Q, C[:4], torch.rand(4, 1)),
            r"grades: expected a number for each of 4 pairs, got .*\[4, 1\]",
        ),
        (lambda: CoSENT()(Q, C[:4], put(torch.rand(4), NAN, 1)), "grades: expected finite numbers, got 1 others of 4"),
        (lambda: CoSENT()(put(Q, NAN, 1), C[:4], torch.rand(4)), "queries: 1 of 4 embeddings are NaN or infinite"),
    ],
)
def test_what_makes_no_loss(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_options_of_no_name():
    with pytest.raises(TypeError, match="teacher_scores: expected one of hard_negatives"):
        InfoNCE()(Q, C, teacher_scores=SCORES)
    for make in (DistillKLDiv, MarginMSE):
        with pytest.raises(TypeError, match=r"teacher_score: .*; did you mean 'teacher_scores'\?$"):
            make()(Q, C, teacher_score=SCORES)
    with pytest.raises(TypeError, match=r"grade: .*; did you mean 'grades'\?$"):
        GradedContrastive()(Q, C, grade=SCORES)


def test_one_candidate_has_nothing_to_be_compared_with():
    for loss, options in (
        (DistillKLDiv(**IN_BATCH), {"teacher_scores": torch.zeros(1, 1)}),
        (GradedContrastive(), {"grades": torch.ones(1, 1)}),
    ):
        with pytest.warns(UserWarning, match="documents: expected two candidates or more, got one, so the loss is 0"):
            assert loss(Q[:1], C[:1], **options) == 0


def test_metrics_say_how_often_both_agree_and_how_flat_the_teacher_is():
    queries, documents = torch.eye(4), torch.eye(4)
    scores = 100 * torch.eye(4)[[0, 1, 3, 2]]
    for chunk_size in (None, 1):
        loss = DistillKLDiv(**IN_BATCH, with_metrics=True, chunk_size=chunk_size)
        loss(queries, documents, teacher_scores=scores)
        assert {name: round(float(x), 6) for name, x in loss.metrics().items()} == {
            "agreement": 0.5,
            "teacher_entropy": 0.0,
        }
    lists = {"hard_negatives": torch.zeros(4, 3, 4), "teacher_scores": torch.zeros(4, 4)}
    loss = DistillKLDiv(with_metrics=True)
    loss(queries, documents, **lists)
    assert float(loss.metrics()["teacher_entropy"]) == pytest.approx(1.386294, rel=1e-6)
    margins = MarginMSE(with_metrics=True)
    margins(queries, documents, hard_negatives=torch.zeros(4, 2, 4), teacher_scores=torch.tensor([[1.0, 0, 2]] * 4))
    assert float(margins.metrics()["agreement"]) == 0.5


def test_caching_trains_lists_among_the_documents():
    encoder = torch.nn.Linear(D, 3).double()
    queries, documents = randn(N, D, seed=0), randn(2 * N, D, seed=1)
    listed = torch.stack((torch.arange(N), torch.arange(N) + N), 1)
    options = {"listed": listed, "teacher_scores": randn(N, 2, seed=2)}
    for loss in (DistillKLDiv(), MarginMSE()):
        plain = loss(encoder(queries), encoder(documents), **options)
        both = {"encode_query": encoder, "encode_document": encoder, "module": encoder, "chunk_size": 4}
        cached = cached_loss(loss, queries, documents, **both, **options)
        close(cached, plain)
        parameters = list(encoder.parameters())
        close(torch.autograd.grad(cached, parameters), torch.autograd.grad(plain, parameters))


@pytest.mark.parametrize("name", planted_losses.SOFT)
def test_verify_loss_takes_them(name):
    loss, reference = planted_losses.SOFT[name]
    table = verify_loss(loss, reference, ranks=1, accumulate=1)
    assert table.is_right, str(table)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", planted_losses.SOFT)
def test_verify_loss_takes_them_on_two_ranks(name):
    loss, reference = planted_losses.SOFT[name]
    table = verify_loss(loss, reference, ranks=2)
    assert table.is_right, str(table)


@pytest.mark.parametrize("name", ["query_ids", "document_ids"])
def test_ids_beside_a_list_are_refused_by_the_name_under_which_they_came(name):
    ids = torch.arange(len(Q if name == "query_ids" else C))
    with pytest.raises(ValueError, match=f"^{name}: a list names its documents"):
        DistillKLDiv()(Q, C, listed=LISTED, teacher_scores=SCORES, **{name: ids})


def test_equal_grades_have_no_order_to_train():
    with pytest.warns(UserWarning, match="^grades: all pairs of the batch have the same, so the loss is 0"):
        assert CoSENT()(Q, C[:4], torch.full((4,), 0.5)) == 0


def test_a_teachers_scores_whose_squares_leave_float32_are_named():
    """Not the queries, which are in order; a higher temperature of the teacher's, as said, lets them through."""
    (queries, documents), scores = torch.randn(2, 3, 4), torch.tensor([[1e30, 0.0], [1.0, 0.0], [2.0, 0.0]])
    hard = torch.randn(3, 1, 4)
    with pytest.raises(ValueError, match=r"teacher_scores: up to 1e\+30 .* raise teacher_temperature"):
        MarginMSE()(queries, documents, hard_negatives=hard, teacher_scores=scores)
    loss = MarginMSE(teacher_temperature=1e20)(queries, documents, hard_negatives=hard, teacher_scores=scores)
    assert loss.isfinite()
