"""Searching embeddings by scores that know their norms, and taking such scores to the indexes people run."""

from lightning_normdyn.retrieval.alpha_sweep import AlphaSweep
from lightning_normdyn.retrieval.baselines import baseline_scores
from lightning_normdyn.retrieval.calibration import Calibration, calibrate
from lightning_normdyn.retrieval.confidence import classification_confidences, confidence_table, retrieval_confidences
from lightning_normdyn.retrieval.confounds import ConfoundReport, confound_report, explain_gain
from lightning_normdyn.retrieval.expected_calibration import TemperatureComparison, compare_temperatures
from lightning_normdyn.retrieval.export import export_vectors
from lightning_normdyn.retrieval.label_uncertainty import label_entropy, uncertainty_agreement
from lightning_normdyn.retrieval.likelihood_exponent import LikelihoodExponent, likelihood_exponent
from lightning_normdyn.retrieval.norm_filter import FilterOutcome, filter_table
from lightning_normdyn.retrieval.out_of_distribution import Detection, detection_table
from lightning_normdyn.retrieval.query_bank import CrossDomainLocalScaling, QueryBankNormalization
from lightning_normdyn.retrieval.residual_norms import length_norms, rescaled, residual_norms
from lightning_normdyn.retrieval.scoring import NormAwareScore, norm_aware_top_k
from lightning_normdyn.retrieval.specificity import specificity_table
from lightning_normdyn.retrieval.strata import quantile_bands
from lightning_normdyn.retrieval.sweep import sweep_alpha
from lightning_normdyn.retrieval.top_k import TopK, exact_top_k

__all__ = [
    "AlphaSweep",
    "Calibration",
    "ConfoundReport",
    "CrossDomainLocalScaling",
    "Detection",
    "FilterOutcome",
    "LikelihoodExponent",
    "NormAwareScore",
    "QueryBankNormalization",
    "TemperatureComparison",
    "TopK",
    "baseline_scores",
    "calibrate",
    "classification_confidences",
    "compare_temperatures",
    "confidence_table",
    "confound_report",
    "detection_table",
    "exact_top_k",
    "explain_gain",
    "export_vectors",
    "filter_table",
    "label_entropy",
    "length_norms",
    "likelihood_exponent",
    "norm_aware_top_k",
    "quantile_bands",
    "rescaled",
    "residual_norms",
    "retrieval_confidences",
    "specificity_table",
    "sweep_alpha",
    "uncertainty_agreement",
]
