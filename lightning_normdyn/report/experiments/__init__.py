"""The page about reproduced experiments, each beside the published numbers."""

from lightning_normdyn.report.experiments.write import write_reproduction

__all__ = ["write_reproduction"]
