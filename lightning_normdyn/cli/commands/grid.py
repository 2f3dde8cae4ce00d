"""``normdyn grid``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import ConfigFile, Count, Factor, Folder, Name

if TYPE_CHECKING:
    from lightning_normdyn.cli.grids.run import GridRecord


@command(Shell(extra=("cli,report", ("jsonargparse", "rich", "matplotlib")), overrides="overrides"))
def grid(
    *,
    config: Sequence[ConfigFile],
    seeds: Count = 3,
    variants: Sequence[Name] | None = None,
    lr_factors: Sequence[Factor] = (0.3, 1.0, 3.0),
    jobs: Count = 1,
    out: Folder | None = None,
    overrides: Sequence[str] = (),
) -> GridRecord:
    """Train a task with every normalization and say which to take.

    Further options go to LightningCLI, e.g. --trainer.max_epochs 5.

    Args:
        config: of LightningCLI, a file or the name of a shipped one; repeatable
        seeds: trainings a variant
        variants: these alone, cosine among them (default: all)
        lr_factors: learning rates each variant tries with the first seed, in units of the config's
        jobs: trainings at a time
        out: a folder for the grid; one that holds the same grid is gone on with (default: runs/grid-<time>)
        overrides: words of LightningCLI

    Returns:
        The findings, why trainings failed, and the folder.

    Raises:
        ValueError: if the configuration, a variant or the folder will not do.
        OSError: if the folder cannot be written.
    """
    from lightning_normdyn.cli.grids.run import GridSettings, run_grid

    return run_grid(GridSettings(config, seeds, variants, lr_factors, jobs, overrides), out)
