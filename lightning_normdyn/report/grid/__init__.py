"""The report of a grid: a page, a figure and a table to paste."""

from lightning_normdyn.report.grid.page import write_grid

__all__ = ["write_grid"]
