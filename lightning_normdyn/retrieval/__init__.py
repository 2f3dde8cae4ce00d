"""Searching embeddings by scores that know their norms, and taking such scores to the indexes people run."""

from lightning_normdyn.retrieval.alpha_sweep import AlphaSweep
from lightning_normdyn.retrieval.top_k import TopK, exact_top_k

__all__ = ["AlphaSweep", "TopK", "exact_top_k"]
