"""Every feature of InfoNCE beside every normalization, direction, chunk size and precision, against whole matrices.

A cell is a choice of each. The short test goes through some seventy, in which any two choices that go together meet;
the exhaustive one through all combinations of features several times, the other choices being drawn.
"""

from __future__ import annotations

import collections
import itertools
import random

import matrix_oracle as oracle
import pytest
import torch
from test_infonce import DIRECTIONS, N, batch
from test_negatives import guides_of

from lightning_normdyn.losses import InfoNCE

RULES = {
    "no rule": {},
    "guides": {"guide_margin": 0.1},
    "relative guides": {"guide_relative_margin": 0.2},
    "margin bound": {"negative_margin": 0.1},
    "share bound": {"negative_share": 0.9},
    "hard": {"hardness": "hard_negatives", "hardness_strength": 3.0},
    "in batch": {"hardness": "in_batch_negatives", "hardness_strength": 2.0},
    "all": {"hardness": "all_negatives"},
    "guides, bound, hardness": {"guide_margin": 0.05, "negative_share": 0.95, "hardness": "all_negatives"},
}
TERMS = {
    "no term": {},
    "smoothing": {"label_smoothing": 0.2},
    "margin": {"margin": 0.2},
    "relative margin": {"relative_margin": 0.3},
    "decoupled": {"decoupled": True},
    "decoupled, margin": {"decoupled": True, "margin": 0.2},
    "prior": {"prior": 0.1},
}
KNOWN = {
    "pairs": {},
    "ids": {"query_ids": True, "document_ids": True},
    "hard": {"hard": True},
    "hard ids": {"hard": True, "document_ids": True, "hard_negative_ids": True},
    "labels": {"labels": True, "document_ids": True},
}
SIDES = {"no side": "", "same side": "qd"}
PRECISIONS = {"float32": (torch.float32, False), "bfloat16": (torch.bfloat16, False), "autocast": (torch.float32, True)}
NORMALIZATIONS = [*oracle.GAMMAS, "learnable"]
TEMPERATURES = ["fixed", "learnt", "each"]
REDUCTIONS = [("mean", False), ("mean", True), ("sum", True), ("sum", False), ("none", False)]
CHUNKS = [None, 4]
OF_SUMS = 2e-7
"""Rounding of float32, relative to the terms of a sum of both signs, which may itself be far smaller."""
AXES = [
    list(RULES),
    list(TERMS),
    list(KNOWN),
    list(DIRECTIONS),
    list(SIDES),
    NORMALIZATIONS,
    list(PRECISIONS),
    TEMPERATURES,
    REDUCTIONS,
    CHUNKS,
]


def goes_together(rule, term, known, direction, side, *_):
    """Whether the loss takes the combination; what it refuses is in the tests of each."""
    if "labels" in known and ("margin" in term or term == "prior"):
        return False
    if term == "smoothing" and rule != "no rule":
        return False
    if term == "prior" and RULES[rule].get("hardness"):
        return False
    if "hard" in known and direction == "d":
        return False
    return direction == "qd" or side == "no side"


def compare(seed, rule, term, known, direction, side, normalization, precision, temperature, reduction, chunk_size):
    """One cell: the value and every gradient to 1e-5, beside the rounding of a gradient that bfloat16 stores."""
    dtype, is_autocast = PRECISIONS[precision]
    reduction, is_weighted = reduction
    queries, documents, hard, options = batch(KNOWN[known], seed=seed, spread=0.2)
    documents[:N] += 0.7 * queries
    numbers = torch.Generator().manual_seed(seed)
    sides = [None if x is None else x.to(dtype).requires_grad_() for x in (queries, documents, hard)]
    each = (0.4 + torch.rand(N, generator=numbers)).requires_grad_() if temperature == "each" else None
    weights = torch.rand(N, generator=numbers).requires_grad_() if is_weighted else None
    guides = None
    if "guide" in rule:
        guides = guides_of(queries, documents, torch.empty(N, 0, queries.shape[1]) if hard is None else hard)
        options_of_guides = {"query_guides": guides[0], "document_guides": guides[1]}
        options_of_guides |= {} if hard is None else {"hard_negative_guides": guides[2]}
    loss = InfoNCE(
        normalization=normalization,
        temperature=0.6,
        learnable_temperature=temperature == "learnt",
        reduction=reduction,
        chunk_size=chunk_size,
        same_side="both" if SIDES[side] else "none",
        **DIRECTIONS[direction],
        **RULES[rule],
        **TERMS[term],
    )
    given = options | ({} if hard is None else {"hard_negatives": sides[2]})
    given |= {} if each is None else {"temperatures": each}
    given |= {} if weights is None else {"weights": weights}
    given |= {} if guides is None else options_of_guides
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        value = loss(sides[0], sides[1], **given)
    ours = [*sides, *(getattr(loss.similarity, "raw_gammas", None),)]
    ours += [loss.scaling.log_scale if temperature == "learnt" else None, each, weights]
    theirs = [None if x is None else x.detach().double().requires_grad_() for x in ours]
    if temperature == "fixed":
        theirs[4] = torch.tensor(1 / 0.6).double().log()
    expected = oracle.losses(
        oracle.Leaves(*theirs),
        normalization,
        direction,
        same_side=SIDES[side],
        rules=RULES[rule],
        terms=TERMS[term],
        known=options,
        guides=guides,
    )
    size = float(oracle.reduced(expected.abs(), reduction, theirs[6]).detach().norm())
    expected = oracle.reduced(expected, reduction, theirs[6])
    assert value.dtype == torch.float32
    # Decoupled losses have either sign, and their sum may be far smaller than they are.
    gap = float((value.detach().double() - expected.detach()).norm())
    assert gap <= max(1e-5 * float(expected.detach().norm()), OF_SUMS * size) + 1e-12, (
        gap,
        float(expected.detach().norm()),
    )
    upstream = torch.linspace(0.5, 1.5, value.numel()).view_as(value)
    value.backward(upstream)
    expected.backward(upstream.double())
    for got, reference in zip(ours, theirs, strict=True):
        if got is not None:
            assert got.grad is None or got.grad.dtype == got.dtype
            assert_rounded_once(
                got.grad, reference.grad, floor=1e-12 if got.numel() > 2 else OF_SUMS * reach(theirs[0])
            )


def reach(queries):
    """How large a number's gradient is before what it gains from some pairs and loses by others cancels."""
    return float((queries.norm(dim=1) * queries.grad.norm(dim=1)).sum().detach())


def assert_rounded_once(gradient, expected, *, floor):
    """Within 1e-5, and beside that no further off than storing the exact gradient in its precision makes it."""
    if gradient is None:
        assert not expected.any()
        return
    rounding = float((expected.to(gradient.dtype).double() - expected).norm())
    gap, length = float((gradient.double() - expected).norm()), float(expected.norm())
    is_wide = gradient.dtype == torch.float32
    assert gap <= (0.0 if is_wide else 1.001 * rounding) + 1e-5 * length + floor, (gap, rounding, length)


def cells(generator, number):
    """Of each combination of features that a loss takes, some with the other choices drawn."""
    features = [head for head in itertools.product(*AXES[:5]) if goes_together(*head)]
    return [(*head, *(generator.choice(axis) for axis in AXES[5:])) for head in features for _ in range(number)]


def covering(generator):
    """Some seventy cells in which any two choices meet that go together."""
    pairs = {cell: set(itertools.combinations(enumerate(cell), 2)) for cell in cells(generator, 4)}
    able = collections.defaultdict(list)
    for cell, met in pairs.items():
        for pair in met:
            able[pair].append(cell)
    chosen, missing = [], set(able)
    for pair in sorted(able, key=str):
        if pair in missing:
            sample = generator.sample(able[pair], min(40, len(able[pair])))
            chosen.append(max(sample, key=lambda cell: len(missing & pairs[cell])))
            missing -= pairs[chosen[-1]]
    return chosen


def test_any_two_choices_that_go_together():
    for number, cell in enumerate(covering(random.Random(0))):
        assert_cell(number, cell)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(6))
def test_each_combination_of_features(part):
    for number, cell in enumerate(cells(random.Random(part), 1)):
        assert_cell(number, cell)


def assert_cell(number, cell):
    try:
        compare(number, *cell)
    except AssertionError as error:
        raise AssertionError(f"{number}, {cell}: {error}") from error
