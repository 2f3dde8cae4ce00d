"""Audits of ready embeddings: what their norms follow, and whether they help a search."""

from lightning_normdyn.retrieval.audit.advice import advice, first_line
from lightning_normdyn.retrieval.audit.audit import Audit, audit_norms, json_fields
from lightning_normdyn.retrieval.audit.directions import DirectionHealth, direction_health
from lightning_normdyn.retrieval.audit.ranking_audit import JudgedQueries, RankingAudit
from lightning_normdyn.retrieval.audit.saturation import LastLayer, NormWeights, Saturation

__all__ = [
    "Audit",
    "DirectionHealth",
    "JudgedQueries",
    "LastLayer",
    "NormWeights",
    "RankingAudit",
    "Saturation",
    "advice",
    "audit_norms",
    "direction_health",
    "first_line",
    "json_fields",
]
