"""Guides, bounds beside the positive, hardness and priors against the float64 loop, one anchor at a time."""

from __future__ import annotations

import math

import contrast_oracle as oracle
import pytest
import torch
from test_infonce import DIRECTIONS, H, M, N, batch, leaves
from test_softmax_terms import check

from lightning_normdyn.core.contrast.tile_edits import HardnessWeight, Tile
from lightning_normdyn.losses import InfoNCE, SigmoidContrastive

RULES = {
    "guide": {"guide_margin": 0.1},
    "guide, relative": {"guide_relative_margin": 0.3},
    "margin": {"negative_margin": 0.2},
    "share": {"negative_share": 0.9},
    "both bounds": {"negative_margin": 0.1, "negative_share": 0.95},
    "hard": {"hardness": "hard_negatives"},
    "in batch": {"hardness": "in_batch_negatives", "hardness_strength": 2.0},
    "all": {"hardness": "all_negatives", "hardness_strength": 3.0},
    "prior": {"prior": 0.1},
    "guide and prior": {"guide_margin": 0.05, "prior": 0.2, "decoupled": True},
}
TEMPERATURE = 0.6


def guides_of(queries, documents, hard, seed=1):
    """Noisy copies: a guide that mostly agrees."""
    generator = torch.Generator().manual_seed(seed)
    sides = (queries, documents, hard)
    return [x + torch.randn(x.shape, generator=generator) * x.norm(dim=-1, keepdim=True) / 3 for x in sides]


def cosines(x, y):
    return torch.nn.functional.normalize(x.double(), dim=-1) @ torch.nn.functional.normalize(y.double(), dim=-1).T


def keeps(rules, score, positive, guided, guided_positive):
    """Whether a negative takes part."""
    if guided is not None:
        bound = guided_positive - rules.get("guide_relative_margin", 0) * abs(guided_positive)
        if guided > bound - rules.get("guide_margin", 0):
            return False
    if "negative_margin" in rules and score > positive - rules["negative_margin"]:
        return False
    return not ("negative_share" in rules and score > rules["negative_share"] * positive)


def weighed(rules, score, temperature, *, is_own):
    """A negative's score over the temperature, with the log of its weight."""
    kind, strength = rules.get("hardness", "none"), rules.get("hardness_strength", 5.0)
    counts = kind == "all_negatives" or kind == ("hard_negatives" if is_own else "in_batch_negatives")
    return score / temperature + (strength * score.detach() if counts else 0)


def anchor_loss(rules, positive, negatives, floor, temperature):
    """By the definition; ``negatives`` as pairs of a score over the temperature and nothing else."""
    p = positive / temperature
    exps = torch.stack(negatives).exp().sum() if negatives else p.new_zeros(())
    if rules.get("prior"):
        exps = (exps - len(negatives) * rules["prior"] * p.exp()) / (1 - rules["prior"])
        exps = torch.clamp(exps, min=len(negatives) * math.exp(floor))
    if rules.get("decoupled"):
        return exps.log() - p if negatives else p * 0
    return (exps + p.exp()).log() - p


def expected_loss(scores, direction, rules, guides, temperatures, *, same_side=()):
    """Mean over pairs and directions."""
    n = len(scores.queries)
    q, everything = scores.queries, scores.candidates()
    s = scores.of(q, everything, 0, 1)
    fixed = s.detach()
    g = None if guides is None else cosines(guides[0], torch.cat((guides[1], guides[2].flatten(0, 1))))
    like = {"q": scores.of(q, q, 0, 0), "d": scores.of(everything, everything, 1, 1)[:n, :n]}
    near = {} if guides is None else {"q": cosines(guides[0], guides[0]), "d": cosines(guides[1][:n], guides[1][:n])}
    norms = {"q": q.norm(dim=1) ** (1 - scores.gammas[0]), "d": everything.norm(dim=1) ** (1 - scores.gammas[1])}
    norms = {side: x.detach() for side, x in norms.items()}
    losses = []
    for side in direction:
        for i in range(n):
            t = float(temperatures[i])
            places = [(i, j) for j in range(s.shape[1])] if side == "q" else [(k, i) for k in range(n)]
            scaled = rules | {"negative_margin": rules["negative_margin"] / t} if "negative_margin" in rules else rules
            negatives = []
            for row, column in places:
                guided = (None, None) if g is None else (float(g[row, column]), float(g[i, i]))
                own_t = float(temperatures[row])
                if row != column and keeps(scaled, float(fixed[row, column]) / own_t, float(fixed[i, i]) / t, *guided):
                    is_own = M + H * i <= column < M + H * (i + 1)
                    negatives.append(weighed(rules, s[row, column], own_t, is_own=is_own))
            floor = -float(norms["q"][i] * norms["d"].max() / t)
            if side == "d":
                floor = -float(norms["d"][i] * (norms["q"] / temperatures.double()).max())
            if side in same_side:
                floor = min(floor, -float(norms[side][i] * norms[side][:n].max() / t))
                for k in range(n):
                    guided = (None, None) if g is None else (float(near[side][i, k]), float(g[i, i]))
                    if k != i and keeps(scaled, float(like[side][i, k].detach()) / t, float(fixed[i, i]) / t, *guided):
                        negatives.append(like[side][i, k] / t)
            losses.append(anchor_loss(rules, s[i, i], negatives, floor, t))
    return torch.stack(losses).mean()


def case(number, rules, name, normalization, direction, **more):
    """Our loss and the loop's, with their leaves."""
    queries, documents, hard, _ = batch({"hard": True}, seed=number, spread=0.2)
    documents[:N] += 0.7 * queries
    hard = hard[:, :0] if direction == "d" else hard
    guides = guides_of(queries, documents, hard) if "guide" in name else None
    ours = leaves(queries, documents, hard)
    temperatures = torch.full((N,), TEMPERATURE)
    given = {} if direction == "d" else {"hard_negatives": ours[2]}
    if number % 2:
        temperatures = TEMPERATURE + torch.rand(N, generator=torch.Generator().manual_seed(number)) / 4
        given["temperatures"] = temperatures
    if guides is not None:
        given |= {"query_guides": guides[0], "document_guides": guides[1]}
        given |= {} if direction == "d" else {"hard_negative_guides": guides[2]}
    options = {"temperature": TEMPERATURE, "chunk_size": (None, 4)[number % 2], **DIRECTIONS[direction], **rules}
    value = InfoNCE(normalization=normalization, **options, **more)(ours[0], ours[1], **given)
    scores = oracle.Scores(queries, documents, hard, normalization=normalization, temperature=1.0)
    sides = {"both": "qd"}.get(more.get("same_side"), "")
    expected = expected_loss(scores, direction, rules, guides, temperatures, same_side=sides)
    return value, expected, ours, (scores.queries, scores.documents, scores.hard)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("normalization", oracle.GRID)
def test_rules_of_negatives_are_those_of_the_loop(normalization, direction):
    for number, (name, rules) in enumerate(RULES.items()):
        value, expected, ours, theirs = case(number, rules, name, normalization, direction)
        given = slice(2 if direction == "d" else 3)
        check(value, expected, ours[given], theirs[given])


@pytest.mark.parametrize("name", ["guide", "both bounds", "prior", "all"])
def test_rules_of_negatives_of_the_same_side(name):
    for number in range(2):
        value, expected, ours, theirs = case(number, RULES[name], name, "dnorm", "qd", same_side="both")
        check(value, expected, ours, theirs)


def test_a_rule_does_something():
    """The loop would agree with a loss that knows no rules wherever none of them applies."""
    for number, (name, rules) in enumerate(RULES.items()):
        value, *_ = case(number, rules, name, "cosine", "q")
        plain, *_ = case(number, {}, "", "cosine", "q")
        assert abs(float(value.detach() - plain.detach())) > 1e-3, name


def test_positives_stay_in_whatever_they_score():
    """Of several positives, those that lead the pair's own are no false negatives."""
    queries, documents, _, options = batch({"labels": True}, spread=0.2)
    labels = options["labels"]
    s = oracle.Scores(queries, documents, normalization="cosine", temperature=0.5)
    matrix = s.of(s.queries, s.documents, 0, 1)
    losses = []
    for i in range(N):
        inside = [j for j in range(M) if labels[j] == labels[i]]
        others = [j for j in range(M) if labels[j] != labels[i] and matrix[i, j] <= 0.5 * matrix[i, i]]
        losses.append(matrix[i, inside + others].logsumexp(0) - matrix[i, inside].mean())
    ours = leaves(queries, documents)
    value = InfoNCE(temperature=0.5, negative_share=0.5)(*ours, labels=labels)
    check(value, torch.stack(losses).mean(), ours, (s.queries, s.documents))
    listed = torch.tensor([[next((j for j in range(M) if j != i and labels[j] == labels[i]), -1)] for i in range(N)])
    nobody = {"query_ids": torch.zeros(N).long(), "document_ids": torch.zeros(M).long()}  # excludes every negative
    for direction, options in DIRECTIONS.items():
        value = InfoNCE(temperature=0.5, negative_margin=1e9, **options)(queries, documents, positives=listed)
        scores = oracle.Scores(queries, documents, normalization="cosine", temperature=0.5)
        expected = oracle.infonce(scores, direction=direction, positives=listed, **nobody)
        torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=0)


def test_a_pair_without_any_negative_left_has_no_loss_and_no_gradient():
    """Not even where there are several kinds of them, whose sums are all empty."""
    ours = leaves(*torch.randn(2, 5, 4).unbind(0))
    value = InfoNCE(symmetric=True, same_side="both", negative_margin=1e9, reduction="none")(*ours)
    value.sum().backward()
    assert not value.any()
    assert all(not x.grad.any() for x in ours)


def test_hardness_weighs_the_rows_own_columns_or_all_others():
    weight = HardnessWeight(torch.tensor([1.0, 2.0]), torch.tensor([2, 3]), 1, in_own=True, in_others=False)
    scores = torch.ones(2, 2)
    weight(scores, Tile(0, slice(0, 2), slice(2, 4)))
    assert scores.tolist() == [[2, 1], [1, 3]]
    scores = torch.ones(2, 2)
    weight._replace(in_own=False, in_others=True)(scores, Tile(0, slice(0, 2), slice(2, 4)))
    assert scores.tolist() == [[1, 2], [3, 1]]


def test_what_makes_no_sense_together_is_refused():
    x = torch.randn(4, 3)
    guides = {"query_guides": x, "document_guides": x}
    with pytest.raises(ValueError, match=r"^prior: a joint sum"):
        InfoNCE(prior=0.1, joint=True)
    with pytest.raises(ValueError, match=r"^hardness: a prior"):
        InfoNCE(prior=0.1, hardness="all_negatives")
    with pytest.raises(ValueError, match=r"^label_smoothing: .*negative_margin"):
        InfoNCE(label_smoothing=0.1, negative_margin=0.1)
    with pytest.raises(ValueError, match=r"^query_guides: .*label_smoothing"):
        InfoNCE(label_smoothing=0.1)(x, x, **guides)
    with pytest.raises(ValueError, match=r"^query_guides: .*queue_size"):
        InfoNCE(queue_size=4)(x, x, **guides)
    with pytest.raises(ValueError, match=r"^query_guides: the pairwise loss"):
        SigmoidContrastive()(x, x, **guides)
    with pytest.raises(ValueError, match=r"^document_guides: expected embeddings \[4, 'g'\] beside query_guides"):
        InfoNCE()(x, x, query_guides=x)
    with pytest.raises(ValueError, match=r"^hard_negative_guides: there are no hard negatives"):
        InfoNCE()(x, x, **guides, hard_negative_guides=x[:, None])
    with pytest.raises(ValueError, match=r"^prior: one sum for a pair"):
        InfoNCE(prior=0.1)(x, x, labels=torch.arange(4))
