"""Where another package's loss is the same one, its value and gradients in float64, if the package is installed."""

import inspect

import pytest
import torch
from torch import nn

from lightning_normdyn.losses import CoSENT, DistillKLDiv, InfoNCE, MarginMSE, SupCon

N, D, H = 16, 8, 2


def leaves(*, hard, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(N, D), (N, D), *([(N, H, D)] if hard else [])]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def assert_same(ours, theirs, sides):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    for gradient, expected in zip(
        *(torch.autograd.grad(value, sides, retain_graph=True) for value in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


DIRECTIONS = {
    "query_to_doc": {},
    "doc_to_query": {"symmetric": True},
    "query_to_query": {"same_side": "queries"},
    "query_to_query doc_to_query": {"same_side": "queries", "symmetric": True},
    "doc_to_doc doc_to_query": {"same_side": "documents", "symmetric": True},
    "query_to_query doc_to_query doc_to_doc": {"same_side": "both", "symmetric": True},
}


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("directions", DIRECTIONS)
def test_joint_sums_of_sentence_transformers(directions, hard):
    package = pytest.importorskip("sentence_transformers.losses")
    theirs = package.MultipleNegativesRankingLoss(
        nn.Identity(), directions=tuple({"query_to_doc", *directions.split()}), partition_mode="joint"
    )
    sides = leaves(hard=hard)
    options = {"hard_negatives": sides[2]} if hard else {}
    ours = InfoNCE(joint="sentence_transformers", chunk_size=5, **DIRECTIONS[directions])(*sides[:2], **options)
    columns = [sides[0], sides[1], *(sides[2].unbind(1) if hard else [])]
    assert_same(ours, theirs.compute_loss_from_embeddings(columns, torch.empty(0)), sides)


@pytest.mark.parametrize("views", [1, 2])
def test_supcon_of_pytorch_metric_learning(views):
    """One set, and two views of one: there the labels are repeated."""
    package = pytest.importorskip("pytorch_metric_learning.losses")
    sides = leaves(hard=False)[:views]
    embeddings, labels = torch.cat(sides), (torch.arange(N) % 5).repeat(views)
    theirs = package.SupConLoss(temperature=0.3)(embeddings, labels)
    assert_same(SupCon(temperature=0.3)(embeddings, labels), theirs, sides)
    if views == 2:
        both = InfoNCE(temperature=0.3, symmetric=True, same_side="both")
        assert_same(both(*sides, labels=labels[:N]), theirs, sides)


@pytest.mark.parametrize("mode", ["in_batch_negatives", "hard_negatives", "all_negatives"])
def test_hardness_of_sentence_transformers(mode):
    package = pytest.importorskip("sentence_transformers.losses")
    theirs = package.MultipleNegativesRankingLoss(nn.Identity(), hardness_mode=mode, hardness_strength=4.0)
    sides = leaves(hard=True)
    ours = InfoNCE(hardness=mode, hardness_strength=4.0)(*sides[:2], hard_negatives=sides[2])
    columns = [sides[0], sides[1], *sides[2].unbind(1)]
    assert_same(ours, theirs.compute_loss_from_embeddings(columns, torch.empty(0)), sides)


class Columns(nn.Module):
    """A model whose columns of inputs are embeddings already."""

    def __init__(self, name):
        super().__init__()
        self.name, self.tokenizer = name, None

    def forward(self, features):
        return features | {"sentence_embedding": features[self.name]}


@pytest.mark.parametrize("strategy", ["absolute", "relative"])
@pytest.mark.parametrize("same_side", [False, True])
def test_guides_of_gist_embed(strategy, same_side, monkeypatch):
    package = pytest.importorskip("sentence_transformers.losses")
    sides = leaves(hard=True)
    sides[1].data += sides[0].detach()
    sides[2] = sides[2].detach()[:, :1].requires_grad_()
    guides = [x.detach() + leaves(hard=True, seed=1)[number][:, :1].detach() / 2 for number, x in enumerate(sides[:2])]
    guides.append(sides[2].detach() + 1)
    theirs = package.GISTEmbedLoss.__new__(package.GISTEmbedLoss)
    nn.Module.__init__(theirs)
    theirs.model, theirs.guide = Columns("x"), Columns("g")
    theirs.temperature, theirs.margin_strategy, theirs.margin = 0.1, strategy, 0.05
    theirs.contrast_anchors = theirs.contrast_positives = same_side
    theirs.must_retokenize = theirs.gather_across_devices = False
    theirs.similarity_fct, theirs.cross_entropy_loss = nn.CosineSimilarity(dim=-1), nn.CrossEntropyLoss()
    columns = [sides[0], sides[1], sides[2][:, 0]]
    features = [{"x": x, "g": g.squeeze(1)} for x, g in zip(columns, guides, strict=True)]
    margins = {"guide_margin" if strategy == "absolute" else "guide_relative_margin": 0.05}
    shape = {"joint": True, "same_side": "both"} if same_side else {}
    ours = InfoNCE(temperature=0.1, **shape, **margins)(
        *sides[:2],
        hard_negatives=sides[2],
        query_guides=guides[0],
        document_guides=guides[1],
        hard_negative_guides=guides[2],
    )
    assert_same(ours, theirs(features, torch.empty(0)), sides)


def test_prefixes_of_matryoshka():
    package = pytest.importorskip("sentence_transformers.losses")
    plain = package.MultipleNegativesRankingLoss(nn.Identity())
    sides, widths, weights = leaves(hard=False), [2, 3, D], [1.0, 0.5, 2.0]
    theirs = sum(
        weight * plain.compute_loss_from_embeddings([x[:, :width] for x in sides], torch.empty(0))
        for width, weight in zip(widths, weights, strict=True)
    )
    assert_same(InfoNCE(prefixes=widths, prefix_weights=weights)(*sides), theirs, sides)


def teacher_scores():
    return 4 * torch.randn(N, 1 + H, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.mark.parametrize(("student", "teacher"), [(1.0, 1.0), (2.0, 2.0), (2.0, 0.5)])
def test_listwise_distillation_of_sentence_transformers(student, teacher):
    """Theirs is multiplied by the student's squared temperature."""
    package = pytest.importorskip("sentence_transformers.losses")
    temperatures = {"student_temperature": student, "teacher_temperature": teacher}
    if student == teacher:
        temperatures = {"temperature": student}
    elif "student_temperature" not in inspect.signature(package.DistillKLDivLoss).parameters:
        pytest.skip("before 6.0 both have the same temperature")
    theirs = package.DistillKLDivLoss(nn.Identity(), **temperatures)
    sides, scores = leaves(hard=True), teacher_scores()
    options = {"hard_negatives": sides[2], "teacher_scores": scores}
    ours = DistillKLDiv(normalization="dot", temperature=student, teacher_temperature=teacher)(*sides[:2], **options)
    columns = [sides[0], sides[1], *sides[2].unbind(1)]
    assert_same(student**2 * ours, theirs.compute_loss_from_embeddings(columns, scores), sides)


@pytest.mark.parametrize("normalization", ["dot", "cosine"])
def test_margins_of_sentence_transformers(normalization):
    package = pytest.importorskip("sentence_transformers.losses")
    util = pytest.importorskip("sentence_transformers.util")
    similarity = {"dot": util.pairwise_dot_score, "cosine": util.pairwise_cos_sim}[normalization]
    theirs = package.MarginMSELoss(nn.Identity(), similarity_fct=similarity)
    sides, scores = leaves(hard=True), teacher_scores()
    options = {"hard_negatives": sides[2], "teacher_scores": scores}
    ours = MarginMSE(normalization=normalization, temperature=1.0)(*sides[:2], **options)
    columns = [sides[0], sides[1], *sides[2].unbind(1)]
    assert_same(ours, theirs.compute_loss_from_embeddings(columns, scores), sides)


@pytest.mark.parametrize("normalization", ["dot", "cosine"])
def test_orders_of_cosent(normalization):
    package = pytest.importorskip("sentence_transformers.losses")
    util = pytest.importorskip("sentence_transformers.util")
    similarity = {"dot": util.pairwise_dot_score, "cosine": util.pairwise_cos_sim}[normalization]
    theirs = package.CoSENTLoss(nn.Identity(), scale=2.0, similarity_fct=similarity)
    sides, grades = leaves(hard=False), torch.arange(N).double() % 5
    ours = CoSENT(normalization=normalization, temperature=0.5)(*sides, grades)
    assert_same(ours, theirs.compute_loss_from_embeddings(sides, grades), sides)
