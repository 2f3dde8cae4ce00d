"""Audits of ready embeddings: what their norms follow, and whether they help a search."""

from lightning_normdyn.retrieval.audit.advice import advice, first_line
from lightning_normdyn.retrieval.audit.audit import Audit, audit_norms, json_fields
from lightning_normdyn.retrieval.audit.ranking_audit import JudgedQueries, RankingAudit
from lightning_normdyn.retrieval.audit.saturation import LastLayer, Saturation

__all__ = [
    "Audit",
    "JudgedQueries",
    "LastLayer",
    "RankingAudit",
    "Saturation",
    "advice",
    "audit_norms",
    "first_line",
    "json_fields",
]
