"""The page of the reproduced experiments."""

from lightning_normdyn.report.experiments.page import write_reproduction

__all__ = ["write_reproduction"]
