"""The answer of a grid in worlds where it is known whether norms carry relevance, under sequential looking."""

from collections import Counter

import pytest
import torch
from planted_worlds import EXPONENTS, SCIFACT, UMLS, World, measures

from lightning_normdyn.core.statistics.looks import look_levels
from lightning_normdyn.core.statistics.variant_comparison import VariantComparison, compare_variants

KEEPS_NORMS = {name for name, exponent in EXPONENTS.items() if exponent < 1}
LOOKS = (3, 4, 5, 6)


def answer_of(world: World, seed: int, *, margin: float, resamples: int) -> VariantComparison:
    """Adds seeds until the answer is clear, or six are spent."""
    values = measures(world, seeds=LOOKS[-1], seed=seed)
    levels = look_levels(torch.stack(list(values.values())), LOOKS, draws=4_000)
    for seeds, level in zip(LOOKS, levels, strict=True):
        of_look = {name: table[:seeds] for name, table in values.items()}
        found = compare_variants(of_look, level=level, margin=margin, resamples=resamples)
        if found.answer != "undecided":
            break
    return found


def answers(world: World, runs: int, *, margin: float = 0.005, resamples: int = 500) -> Counter[str]:
    """How often which answer came; a gain is called by whether the variant keeps norms."""
    counted: Counter[str] = Counter()
    for seed in range(runs):
        found = answer_of(world, seed, margin=margin, resamples=resamples)
        if found.answer == "gain":
            counted["norms" if found.recommended in KEEPS_NORMS else "other"] += 1
        else:
            counted[found.answer] += 1
    return counted


def test_norms_that_carry_relevance_are_taken_and_others_are_not() -> None:
    assert answers(SCIFACT._replace(effect=0.15), 8)["norms"] == 8
    without_norms = answers(SCIFACT, 8)
    assert without_norms["norms"] + without_norms["other"] == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("world", [SCIFACT, UMLS])
def test_the_answer_is_right_in_95_of_100_worlds(world: World) -> None:
    with_norms = answers(world._replace(effect=0.15), 100)
    assert with_norms["norms"] >= 95, with_norms
    without_norms = answers(world, 100)
    assert without_norms["norms"] + without_norms["other"] <= 5, without_norms
