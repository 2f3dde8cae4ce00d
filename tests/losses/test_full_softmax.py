"""The softmax over a table against a float64 cross entropy that writes every score down."""

import math

import contrast_oracle as oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from lightning_normdyn.losses import ContrastiveMixin, FullSoftmax, InfoNCE
from lightning_normdyn.losses.options import SharedOptions

N, M, D = 7, 23, 6


def table(seed=0, n=N, m=M, repeated=False):
    """Queries and documents of uneven lengths, targets, and ids that repeat if wanted."""
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.randn(k, D, generator=generator) * torch.randn(k, 1, generator=generator).exp() for k in (n, m)]
    ids = torch.randint(0, m // 3 if repeated else 10**6, (m,), generator=generator)
    return *sides, torch.randint(0, m, (n,), generator=generator), ids


def expected_loss(scores, targets, ids=None, log_expected=None):
    logits = scores.of(scores.queries, scores.documents, 0, 1)
    terms = []
    for i, target in enumerate(targets.tolist()):
        kept = [j for j in range(logits.shape[1]) if j == target or ids is None or ids[j] != ids[target]]
        row = [logits[i, j] - (0 if log_expected is None else log_expected[j].double()) for j in kept]
        terms.append(torch.stack(row).logsumexp(0) - row[kept.index(target)])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("normalization", oracle.GRID)
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_loss_and_every_gradient_are_those_of_the_definition(normalization, sampled, chunk_size):
    queries, documents, targets, ids = table(repeated=sampled)
    log_expected = torch.randn(M, generator=torch.Generator().manual_seed(1)) if sampled else None
    options = {"document_ids": ids, "log_expected": log_expected} if sampled else {}
    softmax = FullSoftmax(
        normalization=normalization, temperature=0.3, learnable_temperature=True, chunk_size=chunk_size
    )
    ours = [x.clone().requires_grad_() for x in (queries, documents)]
    softmax(*ours, targets, **options).backward()
    scores = oracle.Scores(queries, documents, normalization=normalization, temperature=0.3)
    expected = expected_loss(scores, targets, ids if sampled else None, log_expected)
    expected.backward()
    loss = softmax(queries, documents, targets, **options)
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    pairs = [(ours[0].grad, scores.queries.grad), (ours[1].grad, scores.documents.grad)]
    pairs.append((softmax.scaling.log_scale.grad[0], scores.log_scale.grad))
    if normalization == "learnable":
        pairs.append((softmax.similarity.raw_gammas.grad, scores.raw_gammas.grad))
    for ours_, theirs in pairs:
        torch.testing.assert_close(ours_.double(), theirs, rtol=1e-4, atol=1e-5)


def test_float64_embeddings_agree_with_torch_to_float64():
    queries, documents, targets, _ = table()
    queries, documents = queries.double(), documents.double()
    loss = FullSoftmax(normalization="dot", temperature=0.5)(queries, documents, targets)
    torch.testing.assert_close(loss, F.cross_entropy(2 * queries @ documents.T, targets), rtol=1e-12, atol=0)


@given(seed=st.integers(0, 10**6), shift=st.floats(-3, 3))
@settings(max_examples=20)
def test_a_sample_in_which_all_are_equally_expected_needs_no_correction(seed, shift):
    queries, documents, targets, _ = table(seed)
    softmax = FullSoftmax(normalization="qnorm", temperature=1.0)
    plain = softmax(queries, documents, targets)
    corrected = softmax(queries, documents, targets, log_expected=torch.full((M,), shift))
    torch.testing.assert_close(plain, corrected, rtol=1e-4, atol=1e-5)


def test_corrected_sums_over_samples_are_those_over_the_table_on_average():
    queries, documents, _, _ = table(n=1)
    softmax = FullSoftmax(normalization="dot", temperature=4.0)
    share = torch.rand(M, generator=torch.Generator().manual_seed(2)) + 0.1
    drawn = torch.multinomial(share, 200_000, replacement=True, generator=torch.Generator().manual_seed(3))
    log_expected = (len(drawn) * share / share.sum()).log()
    loss = softmax(queries, documents[drawn], torch.tensor([0]), log_expected=log_expected[drawn])
    logits = (queries @ documents.T / 4).double()[0]
    expected = logits.logsumexp(0) - (logits[drawn[0]] - log_expected[drawn[0]])
    assert float(loss) == pytest.approx(float(expected), abs=0.02)


@pytest.mark.parametrize("normalization", oracle.GRID)
def test_half_precision_under_autocast_loses_nothing_of_the_loss(normalization):
    queries, documents, targets, _ = table()
    softmax = FullSoftmax(normalization=normalization)
    with torch.autocast("cpu", torch.bfloat16):
        loss = softmax(queries, documents, targets)
    torch.testing.assert_close(loss, softmax(queries, documents, targets))


def test_the_mixin_uses_its_own_similarity_and_shows_both_sides():
    class Model(ContrastiveMixin):
        pass

    seen = []
    model = Model(normalization="dnorm", temperature=0.1)
    for side in (model.contrast.queries, model.contrast.documents):
        side.register_forward_hook(lambda module, _, output: seen.append((module.name, len(output))))
    queries, documents, targets, _ = table()
    logits = model.contrast.similarity(queries, documents) / 0.1
    torch.testing.assert_close(
        model.full_softmax_loss(queries, documents, targets), F.cross_entropy(logits, targets), rtol=1e-4, atol=1e-5
    )
    assert seen == [("queries", N), ("documents", M)]


def test_a_shared_softmax_takes_every_option_that_losses_share():
    """As its constructor receives them, each unlike its default: one that is new is missed here, not left behind."""
    options = {"max_scale": 50.0, "shared_gamma": True, "chunk_size": 3, "gather": False, "check_finite": False}
    options |= {"reduction": "sum"}
    assert options.keys() | {"process_group"} == SharedOptions.__optional_keys__  # which goes with gather=True alone
    received = {}

    class Witness(FullSoftmax):
        def __init__(self, **options):
            received.update(options)
            super().__init__(**options)

    contrast = InfoNCE(normalization="learnable", temperature=0.3, **options)
    softmax = Witness.sharing(contrast)
    assert received == options | {"process_group": None}
    assert softmax.rank_group is contrast.rank_group
    assert softmax.similarity is contrast.similarity
    assert float(softmax.temperature) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symmetric": True}, "contrast: a full softmax goes from queries"),
        ({"same_side": "queries"}, "contrast: a full softmax"),
        ({"queue_size": 4}, "contrast: a full softmax"),
    ],
)
def test_other_directions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FullSoftmax.sharing(InfoNCE(**options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.zeros(0, D)}, "queries: expected .* at least one"),
        ({"documents": torch.zeros(M, D + 1)}, rf"documents: expected \[m, {D}\]"),
        ({"targets": torch.zeros(N)}, "targets: expected int64"),
        ({"targets": torch.full((N,), M)}, f"targets: expected rows of documents, 0 to {M - 1}, got {M}"),
        ({"document_ids": torch.zeros(3)}, f"document_ids: expected one for each of {M} documents"),
        ({"log_expected": torch.zeros(3)}, f"log_expected: expected one for each of {M}"),
        ({"queries": torch.full((N, D), math.nan)}, "queries: 7 of 7 embeddings are NaN"),
        ({"queries": [[1.0] * D]}, "^queries: expected a tensor, got list; number what has names$"),
        (
            {"queries": torch.ones(N, D, dtype=torch.long)},
            r"^queries: expected floating-point .* write queries.float\(\)$",
        ),
        (
            {"documents": torch.ones(M, D, dtype=torch.bool)},
            "^documents: expected floating-point embeddings, got torch.b",
        ),
        ({"documents": torch.ones(M, D, dtype=torch.cfloat)}, "^documents: expected floating-point embeddings, got"),
        (
            {"documents": torch.ones(0, D)},
            rf"^documents: expected \[m, {D}\] as queries, with at least one, got \(0, {D}\)$",
        ),
        (
            {"documents": torch.ones(M, D, device="meta")},
            "^documents: expected on the device of queries, cpu, got meta$",
        ),
        ({"targets": [0] * N}, "^targets: expected a tensor, got list"),
        ({"targets": torch.full((N,), -1)}, f"^targets: expected rows of documents, 0 to {M - 1}, got -1 to -1$"),
        ({"targets": torch.zeros(N, dtype=torch.int32)}, "^targets: expected int64"),
        ({"document_ids": torch.zeros(M)}, "^document_ids: expected whole numbers, got torch.float32; use torch.long$"),
        ({"document_ids": list(range(M))}, "^document_ids: expected a tensor, got list"),
        (
            {"log_expected": torch.zeros(M, dtype=torch.long)},
            "^log_expected: expected finite floating-point logarithms",
        ),
        (
            {"log_expected": torch.full((M,), -math.inf)},
            f"^log_expected: expected finite .*, of which {M} are not finite",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    queries, documents, targets, _ = table()
    given_ = {"queries": queries, "documents": documents, "targets": targets} | change
    with pytest.raises(ValueError, match=message):
        FullSoftmax(normalization="dot")(**given_)
