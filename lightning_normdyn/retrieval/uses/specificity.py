"""Correlation of norms with the specificity of texts, length held fixed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_columns, as_tensors
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.statistics.correlation import Correlation, correlate


def specificity_table(
    norms: ArrayLike,
    values: Mapping[str, ArrayLike],
    length: ArrayLike,
    *,
    resamples: int = 1_000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> dict[str, Correlation]:
    """Spearman correlation of norms with any numbers that say how specific the texts are, partial on length.

    Unlike :func:`~lightning_normdyn.core.norm_correlations` every column has its own items: a word without a hypernym
    depth (NaN) still counts for its frequency.

    Args:
        norms: of the texts, ``[n]``.
        values: name to a number for each text, ``[n]``: hypernym depth, heading depth, frequency; NaN where unknown.
        length: letters or tokens of each, ``[n]``.
        resamples: of the bootstrap over texts.
        level: share of resamples inside an interval.
        generator: of random numbers, on the CPU; every column gets a fresh one with seed 0 if left out.

    Returns:
        Name to correlation, ``partial_r`` holding length fixed and ``n`` counting the texts with a value; ``length``
        itself last.

    Raises:
        ValueError: if something has not one number for each text, or a column is called ``length``.

    Example:
        >>> depth = torch.tensor([1.0, 2.0, 3.0, 4.0, float("nan")])
        >>> length = torch.tensor([3.0, 5.0, 4.0, 4.0, 6.0])
        >>> table = specificity_table(torch.tensor([1.0, 2.0, 2.5, 3.0, 1.0]), {"depth": depth}, length, resamples=0)
        >>> {name: (correlation.n, round(correlation.r, 2)) for name, correlation in table.items()}
        {'depth': (4, 1.0), 'length': (5, -0.16)}
    """
    values = as_columns("values", values)
    norms, length = as_tensors(norms=norms, length=length)
    if "length" in values:
        raise ValueError("values: expected names other than 'length', got 'length'; pass it as the argument length")
    for name, column in {**values, "length": length}.items():
        if norms.ndim != 1 or column.shape != norms.shape:
            argument = name if name == "length" else f"values, {name}"
            raise ValueError(
                f"{argument}: expected one number for each of {len(norms)} norms, got {tuple(column.shape)}"
            )
    length_control = length.detach().cpu().double().unsqueeze(1)

    def with_norms(column: Tensor, controls: Tensor | None) -> Correlation:
        return correlate(norms, column, controls, resamples=resamples, level=level, generator=generator)

    return {name: with_norms(column, length_control) for name, column in values.items()} | {
        "length": with_norms(length, None)
    }


def quantile_bands(values: ArrayLike, bands: int = 4) -> list[str]:
    """Names the quantile band that each number falls into, so that a continuous column can stratify a calibration.

    Args:
        values: one number for each query, ``[n]``: its length, the frequency of its rarest word.
        bands: how many of about equal size; fewer where many numbers are equal, which always share a band.

    Returns:
        The range of each query's band, such as ``3 to 7``; ``unknown`` for NaN.

    Raises:
        ValueError: if there is not one number for each query.

    Example:
        >>> quantile_bands(torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0, float("nan")]), bands=2)
        ['1 to 3', '1 to 3', '1 to 3', '4 to 9', '4 to 9', 'unknown']
    """
    check_count(bands=bands)
    (values,) = as_tensors(values=values)
    if values.ndim != 1:
        raise ValueError(f"values: expected numbers [n], got {tuple(values.shape)}")
    values = values.detach().cpu().double()
    finite_values = values[values.isfinite()]
    if not len(finite_values):
        return ["unknown"] * len(values)
    edges = torch.quantile(finite_values, torch.linspace(0, 1, bands + 1, dtype=torch.float64))[1:-1].unique()
    band = torch.searchsorted(edges, values)
    members = {
        int(number): finite_values[torch.searchsorted(edges, finite_values) == number]
        for number in band[values.isfinite()].unique()
    }
    names = {number: f"{inside.min():g} to {inside.max():g}" for number, inside in members.items()}
    return [names[int(number)] if finite else "unknown" for number, finite in zip(band, values.isfinite(), strict=True)]
