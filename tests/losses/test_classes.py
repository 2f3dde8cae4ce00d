"""What is positive by class: in one set, on the same side, among past documents; and hard negatives of one's own."""

import contrast_oracle as oracle
import pytest
import torch

from lightning_normdyn.losses import FullSoftmax, InfoNCE, SupCon

N, D, H = 12, 5, 3
LABELS = torch.tensor([0, 1, 0, 2, 3, 1, 0, 4, 2, 2, 5, 1])  # 3, 4 and 5 are alone


def embeddings(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = (0.3 * torch.randn(*shape[:-1], 1, generator=generator)).exp()
    return torch.randn(*shape, generator=generator) * lengths


def supcon(x, labels, scores):
    """Khosla et al.'s eq. 2, an anchor at a time."""
    s = scores.of(x, x, 0, 1)
    terms = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            terms.append(s[i, others].logsumexp(0) - s[i, positives].mean())
    return torch.stack(terms).mean()


def assert_same(value, expected, sources, references, *, tolerance=1e-5):
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=1e-9)
    gradients = torch.autograd.grad(value, sources)
    for ours, reference in zip(gradients, torch.autograd.grad(expected, references), strict=True):
        gap = float((ours.double() - reference.reshape(ours.shape)).norm())
        assert gap <= tolerance * float(reference.norm()) + 1e-12


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_supcon_of_one_set_is_that_of_the_loop(normalization, chunk_size):
    x = embeddings(N, D).requires_grad_()
    scores = oracle.Scores(x, x, normalization=normalization, temperature=0.3)
    loss = SupCon(
        normalization=normalization, temperature=0.3, learnable_temperature=True, max_scale=1e3, chunk_size=chunk_size
    )
    sources, references = [x, loss.scaling.log_scale], [scores.queries, scores.log_scale]
    if normalization == "learnable":
        sources, references = [*sources, loss.similarity.raw_gammas], [*references, scores.raw_gammas]
    assert_same(loss(x, LABELS), supcon(scores.queries, LABELS, scores), sources, references)


def test_two_views_are_a_set_of_twice_as_many_and_the_symmetric_loss_with_labels():
    first, second = (embeddings(N, D, seed=seed).double().requires_grad_() for seed in (1, 2))
    one = SupCon(temperature=0.3)(torch.cat((first, second)), LABELS.repeat(2))
    two = InfoNCE(temperature=0.3, symmetric=True, same_side="both")(first, second, labels=LABELS)
    assert_same(two, one, [first, second], [first, second], tolerance=1e-12)
    alone = torch.arange(N)
    simclr = InfoNCE(temperature=0.3, symmetric=True, same_side="both")(first, second)
    torch.testing.assert_close(SupCon(temperature=0.3)(torch.cat((first, second)), alone.repeat(2)), simclr)


def test_reductions_are_over_anchors():
    x = embeddings(N, D)
    none = SupCon(temperature=0.3, reduction="none")(x, LABELS)
    assert none.shape == (N,)
    assert none[[4, 7, 10]].tolist() == [0.0] * 3
    assert float(SupCon(temperature=0.3, reduction="sum")(x, LABELS)) == pytest.approx(float(none.sum()), rel=1e-6)
    assert float(SupCon(temperature=0.3)(x, LABELS)) == pytest.approx(float(none.sum()) / 9, rel=1e-6)


def test_a_set_without_a_positive_says_so_and_trains_nothing():
    x = embeddings(N, D).requires_grad_()
    with pytest.warns(UserWarning, match="labels: no two embeddings have the same"):
        value = SupCon()(x, torch.arange(N))
    value.backward()
    assert float(value.detach()) == 0
    assert not x.grad.any()


@pytest.mark.parametrize(
    ("x", "labels", "sentence"),
    [
        (embeddings(N, D), LABELS[:3], r"^labels: expected \[12\], got \[3\]"),
        (embeddings(N, D), LABELS.tolist(), r"^labels: expected a tensor, got list"),
        (embeddings(N, D), LABELS - 1, r"^labels: -1 is out of range; number the classes from 0 up"),
        (embeddings(N, D)[0], LABELS, r"^embeddings: expected floating-point embeddings \[n, d\], got"),
        (embeddings(N, D) / 0, LABELS, r"^embeddings: 12 of 12 embeddings are NaN or infinite"),
    ],
)
def test_a_set_that_does_not_fit(x, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        SupCon()(x, labels)


def own_only(scores, hard_ids, document_ids):
    """One direction, each query with its own hard negatives."""
    s = scores.of(scores.queries, scores.documents, 0, 1)
    terms = []
    for i in range(N):
        hard = scores.of(scores.queries[i : i + 1], scores.hard[i], 0, 1)[0]
        keep = [j for j in range(H) if hard_ids is None or hard_ids[i, j] != document_ids[i]]
        keep_documents = [j for j in range(N) if j == i or document_ids is None or document_ids[i] != document_ids[j]]
        terms.append(torch.cat((s[i, keep_documents], hard[keep])).logsumexp(0) - s[i, i])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("normalization", ["cosine", "learnable"])
def test_hard_negatives_of_ones_own(normalization, symmetric, with_ids):
    sides = [embeddings(N, D), embeddings(N, D, seed=1), embeddings(N, H, D, seed=2)]
    ids = {}
    if with_ids:
        ids = {"document_ids": LABELS, "hard_negative_ids": torch.randint(0, 6, (N, H))}
        ids["hard_negative_ids"][0] = LABELS[0]  # nothing of its own is left
    scores = oracle.Scores(*sides, normalization=normalization, temperature=0.3)
    expected = own_only(scores, ids.get("hard_negative_ids"), ids.get("document_ids"))
    if symmetric:
        expected = (expected + oracle.infonce(scores, direction="d", document_ids=ids.get("document_ids"))) / 2
    queries, documents, hard = (x.clone().requires_grad_() for x in sides)
    loss = InfoNCE(
        normalization=normalization, temperature=0.3, symmetric=symmetric, shared_hard_negatives=False, chunk_size=5
    )
    value = loss(queries, documents, hard_negatives=hard, **ids)
    assert_same(value, expected, [queries, documents, hard], [scores.queries, scores.documents, scores.hard])


def test_past_documents_of_a_class_are_positives():
    """As the loop has it where the past ones are documents of no query."""
    past, past_labels = embeddings(N, D, seed=3), LABELS.flip(0)
    sides = [embeddings(N, D), embeddings(N, D, seed=1)]
    loss = InfoNCE(normalization="learnable", temperature=0.3, queue_size=N, queue_positives=True)
    loss(embeddings(N, D, seed=4), past, labels=past_labels)
    scores = oracle.Scores(sides[0], torch.cat((sides[1], past)), normalization="learnable", temperature=0.3)
    expected = oracle.infonce(scores, direction="q", labels=torch.cat((LABELS, past_labels)))
    queries, documents = (x.clone().requires_grad_() for x in sides)
    value = loss(queries, documents, labels=LABELS)
    torch.testing.assert_close(value.double(), expected)
    value.backward()
    expected.backward()
    for ours, reference in ((queries, scores.queries.grad), (documents, scores.documents.grad[:N])):
        assert float((ours.grad - reference).norm()) <= 1e-5 * float(reference.norm())
    left_out = InfoNCE(normalization="learnable", temperature=0.3, queue_size=N)
    left_out(embeddings(N, D, seed=4), past, labels=past_labels)
    assert not torch.isclose(left_out(queries, documents, labels=LABELS), value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"queue_positives": True}, "queue_positives: there is no queue without queue_size"),
        ({"queue_positives": True, "queue_size": 4, "decoupled": True}, "queue_positives: the decoupled sum has no"),
        ({"shared_hard_negatives": False, "hardness": "hard_negatives"}, "shared_hard_negatives: hardness takes those"),
        ({"shared_hard_negatives": "no"}, "shared_hard_negatives: expected True or False, got 'no'"),
    ],
)
def test_options_that_make_no_sense_together(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        InfoNCE(**options)


def test_a_queue_of_positives_wants_labels():
    loss = InfoNCE(queue_size=4, queue_positives=True)
    loss(embeddings(N, D), embeddings(N, D, seed=1), labels=LABELS)
    with pytest.raises(
        ValueError, match="queue_positives: labels tell which past documents are positives; give labels"
    ):
        loss(embeddings(N, D), embeddings(N, D, seed=1))


def test_documents_that_queries_share_are_fewer_than_queries():
    """On one rank a full softmax over them, and what refuses them says where to go."""
    queries, documents = embeddings(N, D), embeddings(4, D, seed=1)
    with pytest.raises(ValueError, match=r"where queries share documents, FullSoftmax\(share_documents=True\) takes"):
        InfoNCE()(queries, documents)
    targets = torch.arange(N) % 4
    value = FullSoftmax(share_documents=True)(queries, documents, targets)
    torch.testing.assert_close(value, FullSoftmax()(queries, documents, targets))
    with pytest.raises(ValueError, match="share_documents: nothing is shared where gather=False"):
        FullSoftmax(share_documents=True, gather=False)
