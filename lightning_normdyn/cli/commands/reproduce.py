"""``normdyn reproduce``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import Folder, Name, Seed

if TYPE_CHECKING:
    from lightning_normdyn.cli.reproductions.run import ReproductionRecord


@command(Shell(extra=("cli,report", ("rich", "matplotlib"))))
def reproduce(
    *, only: Sequence[Name] | None = None, quick: bool = False, seed: Seed = 0, out: Folder | None = None
) -> ReproductionRecord:
    """Run the published figures' experiments and write each beside its published number.

    Args:
        only: these experiments alone (default: all)
        quick: few steps: shows that it runs, not what it finds
        seed: of everything random
        out: a folder for the page; one that holds a run of the same seed is gone on with (default:
            runs/reproduce-<time>)

    Returns:
        The experiments that finished, why others broke off, and the page.

    Raises:
        ValueError: if an experiment's name or the folder will not do.
        OSError: if the folder cannot be written.
    """
    from lightning_normdyn.cli.reproductions.run import run_reproduction

    return run_reproduction(only, quick=quick, seed=seed, out=out)
