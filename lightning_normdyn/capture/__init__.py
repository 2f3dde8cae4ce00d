"""Hooks that see embeddings, their gradients and their updates while a model trains."""

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import TableStep, TableTarget
from lightning_normdyn.capture.targets import find_targets

__all__ = ["OutputTarget", "TableStep", "TableTarget", "find_targets"]
