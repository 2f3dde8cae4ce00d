"""``normdyn demo``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import Count, File, Folder, Seed

if TYPE_CHECKING:
    from lightning_normdyn.cli.demos.run import DemoRecord


@command(Shell(extra=("cli", ("rich", "tensorboard"))))
def demo(
    *,
    text: Sequence[File] | None = None,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    schedule: Literal["cosine", "constant"] = "cosine",
    steps: Count = 12_000,
    seed: Seed = 0,
    out: Folder | None = None,
) -> DemoRecord:
    """Train a token table on real text and compare its norms with the theory.

    Args:
        text: UTF-8 text files, plain or .gz, whose paragraphs are the corpus (default: this Python's documentation)
        optimizer: of the training
        schedule: of the learning rate
        steps: optimizer steps
        seed: of everything random
        out: a new or empty folder for the run (default: runs/demo-<time>)

    Returns:
        The numbers of the table and of ``summary.json``, and where they were saved.

    Raises:
        ValueError: if the text or the folder will not do.
        OSError: if the folder cannot be written.
    """
    from lightning_normdyn.cli.demos.run import DemoSettings, run_demo

    return run_demo(DemoSettings(text, optimizer, schedule, steps, seed), out)
