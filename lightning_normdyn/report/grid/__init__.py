"""What a grid found, as a page, a figure and a table to paste."""

from lightning_normdyn.report.grid.write import write_grid

__all__ = ["write_grid"]
