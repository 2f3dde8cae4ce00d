"""Norm histories on disk: written while a model trains, read offline."""

from lightning_normdyn.history.log import Outage, ParquetLog, read_parts
from lightning_normdyn.history.target_history import QUANTITY_SCHEMA, TRAJECTORY, TargetHistory, read_run

__all__ = ["QUANTITY_SCHEMA", "TRAJECTORY", "Outage", "ParquetLog", "TargetHistory", "read_parts", "read_run"]
