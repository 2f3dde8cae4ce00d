"""One word of YAML swaps the normalization in every family, in either precision, on one process and on two."""

import json
from pathlib import Path

import pytest
from every_family import CONFIGS, trainings_of
from rank_starter import run_ranks

WORKER = Path(__file__).with_name("every_family.py")
FAMILIES = {"clip", "fewshot", "finetune", "kg", "rag", "recsys", "retrieval", "sts", "tokens"}
LARGEST_PEAK = 2.5
"""GiB a rank; with 82 trainings that are not freed it is above 8."""


def test_every_family_has_a_configuration() -> None:
    assert {config.stem for config in CONFIGS} == FAMILIES


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_one_word_swaps_the_normalization(processes: int, tmp_path: Path) -> None:
    run_ranks(WORKER, tmp_path, ranks=processes, timeout=900)
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(processes)]
    expected = {
        f"{family} {variant} {precision}": variant
        for family in FAMILIES
        for variant, precision in trainings_of(family, processes)
    }
    for rank in ranks:
        assert rank["trained"] == expected
        assert rank["peak GiB"] < LARGEST_PEAK
