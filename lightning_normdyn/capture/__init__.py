"""What sees embeddings while a model trains: hooks on tables and on submodules' outputs."""

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import TableStep, TableTarget
from lightning_normdyn.capture.targets import find_targets

__all__ = ["OutputTarget", "TableStep", "TableTarget", "find_targets"]
