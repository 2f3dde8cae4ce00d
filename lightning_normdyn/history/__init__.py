"""Norm histories on disk: written while a model trains, read offline."""

from lightning_normdyn.history.log import Outage, ParquetLog, read_parts
from lightning_normdyn.history.run import QUANTITIES, TRAJECTORY, TargetHistory, read_run

__all__ = ["QUANTITIES", "TRAJECTORY", "Outage", "ParquetLog", "TargetHistory", "read_parts", "read_run"]
