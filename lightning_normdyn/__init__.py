"""Norm dynamics of embeddings, measured, predicted and used inside PyTorch Lightning.

The names below are those of :mod:`lightning_normdyn.core`; they load torch when they are first used. The callbacks live
in :mod:`lightning_normdyn.callbacks`, which alone loads Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_normdyn._version import __version__

if TYPE_CHECKING:
    from lightning_normdyn.core import (
        NORMALIZATIONS,
        Correlation,
        EquilibriumRule,
        FisherCondition,
        KernelVotes,
        LogLogFit,
        NormalizationAdvice,
        NormBudget,
        RadialTangential,
        RankedGrades,
        RateTrace,
        RowMoments,
        coefficient_of_variation,
        cohens_d,
        correlate,
        equilibrium_norm,
        equilibrium_rule,
        fisher_condition_number,
        fit_log_log,
        forecast_norm,
        grade_ranking,
        kernel_votes,
        measure_named,
        norm_budget,
        norm_correlations,
        ranking_hit_rate,
        ranking_map,
        ranking_mrr,
        ranking_ndcg,
        ranking_recall,
        recommend_normalization,
        relaxation_steps,
        safe_norm,
        scale_gradient,
        similarity_scores,
        split_radial_tangential,
        weight_decay_for,
    )

__all__ = [
    "NORMALIZATIONS",
    "Correlation",
    "EquilibriumRule",
    "FisherCondition",
    "KernelVotes",
    "LogLogFit",
    "NormBudget",
    "NormalizationAdvice",
    "RadialTangential",
    "RankedGrades",
    "RateTrace",
    "RowMoments",
    "__version__",
    "coefficient_of_variation",
    "cohens_d",
    "correlate",
    "equilibrium_norm",
    "equilibrium_rule",
    "fisher_condition_number",
    "fit_log_log",
    "forecast_norm",
    "grade_ranking",
    "kernel_votes",
    "measure_named",
    "norm_budget",
    "norm_correlations",
    "ranking_hit_rate",
    "ranking_map",
    "ranking_mrr",
    "ranking_ndcg",
    "ranking_recall",
    "recommend_normalization",
    "relaxation_steps",
    "safe_norm",
    "scale_gradient",
    "similarity_scores",
    "split_radial_tangential",
    "weight_decay_for",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lightning_normdyn' has no attribute {name!r}")

    from lightning_normdyn import core

    return getattr(core, name)


def __dir__() -> list[str]:
    return __all__
