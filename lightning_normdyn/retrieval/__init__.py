"""Searching embeddings by scores that know their norms, and taking such scores to the indexes people run."""

from lightning_normdyn.retrieval.alpha_sweep import AlphaSweep
from lightning_normdyn.retrieval.export import export_vectors
from lightning_normdyn.retrieval.scoring import NormAwareScore, norm_aware_top_k
from lightning_normdyn.retrieval.sweep import sweep_alpha
from lightning_normdyn.retrieval.top_k import TopK, exact_top_k

__all__ = ["AlphaSweep", "NormAwareScore", "TopK", "exact_top_k", "export_vectors", "norm_aware_top_k", "sweep_alpha"]
