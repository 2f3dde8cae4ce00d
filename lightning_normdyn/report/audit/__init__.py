"""The page of an audit."""

from lightning_normdyn.report.audit.item import Item
from lightning_normdyn.report.audit.page import AuditSubject, write_audit

__all__ = ["AuditSubject", "Item", "write_audit"]
