"""The mathematics: pure functions and small records on torch tensors, with no framework and no I/O."""

from lightning_normdyn.core.contrast.similarity import NORMALIZATIONS, similarity_scores
from lightning_normdyn.core.dynamics.budget import NormBudget, norm_budget
from lightning_normdyn.core.dynamics.equilibrium import equilibrium_norm, equilibrium_norm_stderr, forecast_norm
from lightning_normdyn.core.dynamics.families import relaxation_steps
from lightning_normdyn.core.dynamics.fit import LogLogFit, WeightedFit, fit_log_log, weighted_fit_log_log
from lightning_normdyn.core.dynamics.geometry import RadialTangential, safe_norm, split_radial_tangential
from lightning_normdyn.core.dynamics.gradient_scale import scale_gradient
from lightning_normdyn.core.dynamics.moments import RowMoments
from lightning_normdyn.core.dynamics.norm_errors import NormErrors
from lightning_normdyn.core.dynamics.optimizer_memory import accumulated_squares, optimizer_memory
from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.core.dynamics.rates import EffectiveTrace, RateTrace
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.core.dynamics.table_laws import adagrad_norm
from lightning_normdyn.core.dynamics.votes import KernelVotes, kernel_votes
from lightning_normdyn.core.dynamics.weight_decay import weight_decay_for
from lightning_normdyn.core.embedding_codes import decode_embeddings
from lightning_normdyn.core.statistics.correlation import Correlation, correlate, norm_correlations
from lightning_normdyn.core.statistics.directions import alignment, common_direction, uniformity
from lightning_normdyn.core.statistics.effect_size import coefficient_of_variation, cohens_d
from lightning_normdyn.core.statistics.effective_rank import EffectiveRank, effective_rank
from lightning_normdyn.core.statistics.fisher import FisherCondition, fisher_condition_number
from lightning_normdyn.core.statistics.near_dead import NearDead, near_dead_rows
from lightning_normdyn.core.statistics.normalization_advice import NormalizationAdvice, recommend_normalization
from lightning_normdyn.core.statistics.ranking import (
    RankedGrades,
    grade_ranking,
    measure_named,
    ranking_hit_rate,
    ranking_map,
    ranking_mrr,
    ranking_ndcg,
    ranking_recall,
)

__all__ = [
    "NORMALIZATIONS",
    "Correlation",
    "EffectiveRank",
    "EffectiveTrace",
    "EquilibriumRule",
    "FisherCondition",
    "KernelVotes",
    "LogLogFit",
    "NearDead",
    "NormBudget",
    "NormErrors",
    "NormalizationAdvice",
    "RadialTangential",
    "RankedGrades",
    "RateTrace",
    "RowMoments",
    "WeightedFit",
    "accumulated_squares",
    "adagrad_norm",
    "alignment",
    "coefficient_of_variation",
    "cohens_d",
    "common_direction",
    "correlate",
    "decode_embeddings",
    "effective_rank",
    "equilibrium_norm",
    "equilibrium_norm_stderr",
    "equilibrium_rule",
    "fisher_condition_number",
    "fit_log_log",
    "forecast_norm",
    "grade_ranking",
    "kernel_votes",
    "measure_named",
    "near_dead_rows",
    "norm_budget",
    "norm_correlations",
    "optimizer_memory",
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
    "uniformity",
    "weight_decay_for",
    "weighted_fit_log_log",
]
