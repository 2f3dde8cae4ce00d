"""Findings of a grid: comparison of its variants, each at its own settings, verdicts and notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lightning_normdyn.core.statistics.variant_comparison import (
    FEWEST_QUERIES,
    VariantComparison,
    compare_variants,
)
from lightning_normdyn.history.grid_findings import GridFindings, GridRun
from lightning_normdyn.history.number import Number, measured
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.grid.answer import NEW, SEEN, advise, counted, kinds_sentence
from lightning_normdyn.tasks.grid.symmetry_check import check_symmetry
from lightning_normdyn.tasks.grid.tuning import Choice, choose, chosen_settings, has_values, trials_of

REFERENCE = "cosine"
_SURE_SHARE = 0.975
_Compare = Callable[[Mapping[str, Tensor]], VariantComparison]


def find(
    runs: Sequence[GridRun],
    *,
    task: str,
    symmetry: FunctionalSymmetry,
    floors: Mapping[str, float] | None = None,
    variants: Sequence[str] = (),
    caveat: str = "",
    margin: float = 0.005,
    looks: Sequence[int] = (),
) -> GridFindings:
    """Draws a grid's conclusions.

    Args:
        runs: all trainings; those at settings that were not chosen are left out.
        task: name of the task.
        symmetry: what it says of itself.
        floors: measure of what needs no training, by name.
        variants: variants that were to train, those that failed included.
        caveat: what the task says of intervals over its items.
        margin: a gain too small to matter.
        looks: numbers of seeds at which one looks and may stop, those to come included; empty for one look.

    Raises:
        ValueError: if cosine did not train, which others are compared with.
    """
    choices = choose(runs)
    if REFERENCE not in choices:
        raise ValueError(
            f"variants: expected trainings of {REFERENCE} with a finite measure, which others are compared with, got "
            f"{', '.join(choices) or 'none'}; lower the learning rates"
        )
    chosen_runs = _runs_at(choices, runs)
    seeds = min(map(len, chosen_runs.values()))
    compared_runs = {variant: variant_runs[:seeds] for variant, variant_runs in chosen_runs.items()}
    values = {variant: _values(variant_runs, "trained") for variant, variant_runs in compared_runs.items()}
    compare = partial(compare_variants, reference=REFERENCE, margin=margin, looks=looks)
    comparison = compare(values)
    query_kinds = _query_kinds(values, compared_runs[REFERENCE][0].in_training, compare)
    headline = compared_runs[REFERENCE][0].headline
    failed_variants = sorted(({run.variant for run in runs} | {*variants}) - set(choices))
    return GridFindings(
        task=task,
        headline=headline,
        comparison=comparison,
        lrs={variant: choice.lr for variant, choice in choices.items()},
        cross={variant: _cross(variant_runs) for variant, variant_runs in compared_runs.items()},
        diagnosis=_means_by_variant(compared_runs, "diagnosis"),
        learnt={variant: means for variant, means in _means_by_variant(compared_runs, "learnt").items() if means},
        kappa_verdict=_kappa_verdict(compared_runs, comparison),
        symmetry=(*check_symmetry(symmetry, comparison),),
        floors=dict(floors or {}),
        advice=advise(comparison, headline),
        runs=[run for variant_runs in compared_runs.values() for run in variant_runs],
        notes=[
            *_notes(comparison, chosen_runs, left_out=failed_variants),
            *([kinds_sentence(comparison, query_kinds)] if query_kinds and len(values) > 1 else []),
            *([caveat] if caveat else []),
        ],
        choices=chosen_settings(choices, runs),
        trials=trials_of(runs),
        query_kinds=query_kinds,
        out_of_domain=_out_of_domain(compared_runs, compare),
    )


def _runs_at(choices: Mapping[str, Choice], runs: Sequence[GridRun]) -> dict[str, list[GridRun]]:
    """Trainings of each variant at its choice that have a measure, by seed."""
    return {
        variant: sorted(
            (
                run
                for run in runs
                if (run.variant, run.lr, run.temperature_factor) == (variant, *choice) and has_values(run)
            ),
            key=lambda run: run.seed,
        )
        for variant, choice in choices.items()
    }


def _out_of_domain(
    runs_by_variant: Mapping[str, Sequence[GridRun]], compare: _Compare
) -> dict[str, dict[str, VariantComparison]]:
    """Comparisons on further sets, by the score that trained and by cosine."""
    return {
        name: {
            similarity: compare(
                {
                    variant: _table([run.out_of_domain[name][similarity] for run in variant_runs])
                    for variant, variant_runs in runs_by_variant.items()
                }
            )
            for similarity in ("trained", REFERENCE)
        }
        for name in runs_by_variant[REFERENCE][0].out_of_domain
    }


def _kappa_verdict(runs_by_variant: Mapping[str, Sequence[GridRun]], comparison: VariantComparison) -> str:
    """Held against the run that the diagnosis is to be taken from: a cosine training (arXiv 2602.09229)."""
    if not {"cosine", "qnorm", "dnorm"} <= set(runs_by_variant):
        return "not told: needs cosine, qnorm and dnorm"
    shares = [
        share for run in runs_by_variant["cosine"] if (share := run.diagnosis.get("kappa_qnorm_share")) is not None
    ]
    if not shares:
        return "not told: too few pairs"
    share = sum(shares) / len(shares)
    gain = comparison.scores["qnorm"].mean - comparison.scores["dnorm"].mean
    observed = "no difference"
    pair = compare_variants(
        {name: _values(runs_by_variant[name], "trained") for name in ("qnorm", "dnorm")}, reference="dnorm"
    ).scores["qnorm"]
    if comparison.decidable and pair.gain_interval.excludes_zero:
        observed = "qnorm" if gain > 0 else "dnorm"
    predicted = "qnorm" if share >= _SURE_SHARE else "dnorm" if share <= 1 - _SURE_SHARE else "no difference"
    verdict = (
        "agreed" if predicted == observed else "undecided" if "no difference" in (predicted, observed) else "wrong"
    )
    return (
        f"{verdict}: kappa spoke for {predicted} (QNorm's is smaller in {share:.0%} of resamples), training for "
        f"{observed} (qnorm − dnorm = {pair.gain:+.4f}, {pair.gain_interval.low:+.4f} to "
        f"{pair.gain_interval.high:+.4f})"
    )


def _values(runs: Sequence[GridRun], similarity: str) -> Tensor:
    return _table([run.values[similarity] for run in runs])


def _table(values: Sequence[Sequence[Number]]) -> Tensor:
    """One row of values a run, ``[seeds, n]``."""
    rows = [[math.nan if value is None else value for value in row] for row in values]
    if len(set(map(len, rows))) != 1:
        raise ValueError("out: runs of this grid were measured on different queries; start in a new folder")
    return torch.tensor(rows, dtype=torch.float64)


def _query_kinds(
    values: Mapping[str, Tensor], in_training: Sequence[bool] | None, compare: _Compare
) -> dict[str, VariantComparison]:
    """Comparisons of the queries whose documents training wants, and of the others, where there are both."""
    columns = next(iter(values.values())).shape[1]
    if in_training is None or len(in_training) != columns:
        return {}
    is_seen = torch.tensor(in_training)
    has_value = torch.stack(list(values.values())).isfinite().all(0).all(0)
    places = {name: (has_value & mask).nonzero().flatten() for name, mask in ((SEEN, is_seen), (NEW, ~is_seen))}
    if not all(map(len, places.values())):
        return {}
    return {
        name: compare({variant: table[:, part] for variant, table in values.items()}) for name, part in places.items()
    }


def _cross(runs: Sequence[GridRun]) -> dict[str, Number]:
    similarities = [name for name in runs[0].values if name != "trained"]
    return {name: measured(float(_values(runs, name).nanmean())) for name in similarities}


def _means_by_variant(
    runs_by_variant: Mapping[str, Sequence[GridRun]], field: Literal["diagnosis", "learnt"]
) -> dict[str, dict[str, Number]]:
    return {variant: _means(getattr(run, field) for run in runs) for variant, runs in runs_by_variant.items()}


def _means(records: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    values_by_name: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.items():
            values_by_name.setdefault(name, [])
            if value is not None:
                values_by_name[name].append(value)
    return {name: sum(values) / len(values) if values else None for name, values in values_by_name.items()}


def _notes(
    comparison: VariantComparison, runs_by_variant: Mapping[str, Sequence[GridRun]], *, left_out: Sequence[str]
) -> list[str]:
    notes = [f"{name} is left out: at none of its settings did it end with a finite measure." for name in left_out]
    surplus = sum(map(len, runs_by_variant.values())) - comparison.seeds * len(runs_by_variant)
    if surplus:
        short = " and ".join(name for name, runs in runs_by_variant.items() if len(runs) == comparison.seeds)
        notes.append(
            f"{short} ended {counted(comparison.seeds, 'training')} with a finite measure, fewer than the others; "
            f"{counted(surplus, 'training')} of those {'are' if surplus > 1 else 'is'} not used."
        )
    if comparison.seeds == 1:
        notes.append("One seed: intervals leave out how much another training would differ; decide with 3 or more.")
    if not comparison.decidable:
        notes.append(
            f"{comparison.queries} test items are too few to tell variants apart; {FEWEST_QUERIES} are needed."
        )
    return notes
