"""The figures that sum up a table's norms and budgets, against torch's own functions and plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_normdyn.instruments.gradient_split import finite_mean
from lightning_normdyn.instruments.trajectory import summarise_norms

LEVELS = {"norm_p05": 0.05, "norm_p50": 0.50, "norm_p95": 0.95}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 7, 43, 2_000])
def test_norms_are_summed_up_as_torch_does_bit_for_bit(rows, share):
    generator = torch.Generator().manual_seed(rows)
    norms = torch.rand(rows, generator=generator) * 10
    norms[torch.rand(rows, generator=generator) < share] = torch.nan
    summary = summarise_norms(norms)
    mean = norms.nanmean()
    expected = {"norm_mean": mean, "norm_cv": (norms - mean).square().nanmean().sqrt() / mean}
    expected |= {name: norms.nanquantile(torch.tensor(level)) for name, level in LEVELS.items()}
    assert list(summary) == list(expected)
    for name, value in expected.items():
        assert torch.equal(summary[name].nan_to_num(-1), value.nan_to_num(-1)), name


def test_one_endless_norm_leaves_the_quantiles_alone():
    norms = torch.tensor([1.0, 2.0, 3.0, torch.inf, torch.nan])
    assert summarise_norms(norms)["norm_p50"] == 2.5
    assert summarise_norms(norms)["norm_mean"] == math.inf


def test_a_mean_leaves_out_what_is_not_finite():
    values = torch.tensor([[1.0, torch.nan, 3.0], [torch.inf, 5.0, -torch.inf], [torch.nan] * 3], dtype=torch.float64)
    loop = [[x for x in row if math.isfinite(x)] for row in values.tolist()]
    means = finite_mean(values).tolist()
    assert means[:2] == [sum(row) / len(row) for row in loop[:2]] == [2.0, 5.0]
    assert math.isnan(means[2])
