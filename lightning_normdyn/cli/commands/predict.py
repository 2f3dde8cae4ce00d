"""``normdyn predict``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import ConfigFile, File, Folder

if TYPE_CHECKING:
    from lightning_normdyn.cli.predictions import PredictionRecord


@command(
    Shell(extra=("cli", ("jsonargparse", "rich")), underscore_options=("ckpt_path",), overrides="overrides"),
)
def predict(
    *,
    config: Sequence[ConfigFile],
    ckpt_path: File | None = None,
    split: Literal["validation", "test"] = "test",
    out: Folder = "embeddings",
    overwrite: bool = False,
    overrides: Sequence[str] = (),
) -> PredictionRecord:
    """Write the embeddings of both sides of a trained task, with their ids, for audit and export.

    Further options go to LightningCLI. A module that is no task of this package is left to LightningCLI's own predict.

    Args:
        config: of LightningCLI: the config.yaml that fit saved, or any other; repeatable
        ckpt_path: the checkpoint (default: the model as the config makes it)
        split: whose queries and documents are encoded
        out: a folder for queries.npz, documents.npz and judgements.tsv
        overwrite: replace what is there
        overrides: words of LightningCLI

    Returns:
        The files, and how many rows each has.

    Raises:
        ValueError: if the configuration or the folder will not do, or files are there already.
        OSError: if the folder cannot be written.
    """
    from lightning_normdyn.cli.predictions import run_prediction

    return run_prediction(config, ckpt_path, split=split, out=out, overwrite=overwrite, overrides=overrides)
