"""``normdyn advise``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import ConfigFile, Factor, File, Name, Table

if TYPE_CHECKING:
    from lightning_normdyn.cli.advice import AdviceRecord


@command(
    Shell(extra=("cli", ("jsonargparse", "rich")), underscore_options=("ckpt_path",), overrides="overrides"),
)
def advise(
    *,
    config: Sequence[ConfigFile] | None = None,
    ckpt_path: File | None = None,
    queries: File | None = None,
    documents: File | None = None,
    column: Name | None = None,
    judgements: Table | None = None,
    temperature: Factor = 0.05,
    json: File | None = None,
    overrides: Sequence[str] = (),
) -> AdviceRecord:
    """Say how to score with a trained model, and what to train next.

    From a task's config and checkpoint, or from embeddings before any normalisation. With --config, further options
    go to LightningCLI.

    Args:
        config: of LightningCLI, a file or the name of a shipped one; repeatable
        ckpt_path: the checkpoint (default: the model as the config makes it)
        queries: embeddings: .npy, .npz, .parquet or .safetensors
        documents: the same of documents
        column: of the embeddings, where a file holds several matrices
        judgements: query id, document id, grade; ids are those of the files, or row numbers from 0 where they have none
            (default: document i answers query i)
        temperature: of training
        json: write all numbers there too
        overrides: words of LightningCLI

    Returns:
        The advice with the numbers behind it.

    Raises:
        ValueError: if neither or both were given, or they do not fit together.
        OSError: if a file cannot be read or written.
    """
    from lightning_normdyn.cli.advice import EmbeddingFiles, advise_on_checkpoint, advise_on_files, check_sources, saved

    of_files = check_sources(config, queries, documents, overrides)
    if of_files:
        record = advise_on_files(EmbeddingFiles(queries, documents, column, judgements), temperature)
    else:
        record = advise_on_checkpoint(config or (), ckpt_path, overrides)
    return saved(record, json)
