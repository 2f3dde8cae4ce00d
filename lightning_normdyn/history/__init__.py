"""Norm histories on disk: written while a model trains, read offline."""

from lightning_normdyn.history.run_reader import QUANTITY_SCHEMA, TRAJECTORY, TargetHistory, read_run
from lightning_normdyn.history.run_record import RunRecord, list_runs
from lightning_normdyn.history.run_writer import RunWriter

__all__ = ["QUANTITY_SCHEMA", "TRAJECTORY", "RunRecord", "RunWriter", "TargetHistory", "list_runs", "read_run"]
