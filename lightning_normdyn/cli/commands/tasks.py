"""Commands about tasks, with a config of LightningCLI: which normalization, how to score, their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning_normdyn.cli.commands.command import Shell, command
from lightning_normdyn.cli.values import ConfigFile, Count, Factor, File, Folder, Minutes, Name, OutputFile, Table

if TYPE_CHECKING:
    from lightning_normdyn.cli.advice import AdviceRecord
    from lightning_normdyn.cli.grids.grid import GridRecord
    from lightning_normdyn.cli.grids.pilot import PilotRecord
    from lightning_normdyn.cli.predictions import PredictionRecord


@command(Shell(extra=("cli,report", ("jsonargparse", "rich", "matplotlib")), overrides="overrides"))
def grid(
    *,
    config: Sequence[ConfigFile],
    seeds: Count = 3,
    variants: Sequence[Name] | None = None,
    lr_factors: Sequence[Factor] = (0.3, 1.0, 3.0),
    temperatures: Sequence[Factor] = (0.5, 1.0, 2.0),
    sequential: bool = False,
    max_seeds: Count | None = None,
    budget: Minutes | None = None,
    margin: Factor = 0.005,
    plan: bool = False,
    jobs: Count | None = None,
    engine: Literal["local", "ray"] = "local",
    out: Folder | None = None,
    overrides: Sequence[str] = (),
) -> GridRecord | PilotRecord:
    """Train a task with every normalization and say which to take.

    Further options go to LightningCLI, e.g. --trainer.max_epochs 5.

    Args:
        config: of LightningCLI, a file or the name of a shipped one; repeatable
        seeds: trainings a variant; with --sequential, at the first look
        variants: these alone, cosine among them (default: all)
        lr_factors: learning rates each variant tries with the first seed, in units of the config's
        temperatures: temperatures each variant tries at its rate, in units of the one at which its scores spread like
            cosines at the config's
        sequential: add seeds one at a time until the answer is clear, with intervals that hold under looking
        max_seeds: trainings a variant at most, with --sequential (default: 10)
        budget: minutes after which no further seed begins, with --sequential
        margin: the smallest gain that matters, in the unit of the measure
        plan: train a pilot alone, two variants with two seeds, and say which gain the grid could see in what time
        jobs: trainings at a time on this machine (default: 1)
        engine: where trainings run: here, or on all machines of a Ray cluster
        out: a folder for the grid; one that holds the same grid is gone on with (default: runs/grid-<time>)
        overrides: words of LightningCLI

    Returns:
        The findings, why trainings failed, and the folder; or the plan.

    Raises:
        ValueError: if the configuration, a variant or the folder will not do.
        OSError: if the folder cannot be written.
    """
    from lightning_normdyn.cli.grids.grid import plan_grid, run_grid
    from lightning_normdyn.cli.grids.settings import GridSettings

    settings = GridSettings(
        config=config,
        seeds=seeds,
        variants=variants,
        lr_factors=lr_factors,
        temperatures=temperatures,
        sequential=sequential,
        max_seeds=max_seeds,
        budget=budget,
        margin=margin,
        jobs=jobs,
        engine=engine,
        overrides=overrides,
    )
    return plan_grid(settings, out) if plan else run_grid(settings, out)


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
    texts: File | None = None,
    covariates: Table | None = None,
    control: Sequence[Name] | None = None,
    chunks: Table | None = None,
    normalization: Literal["cosine", "dot", "qnorm", "dnorm", "learnable"] | None = None,
    temperature: Factor = 0.05,
    json: OutputFile | None = None,
    overrides: Sequence[str] = (),
) -> AdviceRecord:
    """Say how to score with a trained model, and what to train next.

    From a task's config and checkpoint, or from embeddings before any normalisation. With --config, further options
    go to LightningCLI.

    Args:
        config: of LightningCLI, a file or the name of a shipped one; repeatable
        ckpt_path: the checkpoint (default: the model as the config makes it)
        queries: embeddings: .npy, .npz, .parquet or .safetensors, a folder of Parquet shards, or a URL of either
        documents: the same of documents
        column: of the embeddings, where a file holds several matrices
        judgements: query id, document id, grade; ids are those of the files, or row numbers from 0 where they have none
            (default: document i answers query i)
        texts: of the documents, whose lengths may be behind a gain: one a line, or .tsv or .jsonl with ids
        covariates: id and further columns of the documents; of them the column 'length' counts in place of letters
        control: a column of numbers among them that is taken out of norms with length; repeatable
        chunks: chunk id and document id, where documents have several vectors: rankings go by a document's best one
        normalization: what the embeddings were trained with, if it is known
        temperature: of training
        json: write all numbers there too
        overrides: words of LightningCLI

    Returns:
        The advice with the numbers behind it.

    Raises:
        ValueError: if neither or both were given, or they do not fit together.
        OSError: if a file cannot be read or written.
    """
    from lightning_normdyn.cli.advice import (
        EmbeddingFiles,
        advise_on_checkpoint,
        advise_on_files,
        check_idle,
        check_sources,
        saved,
    )
    from lightning_normdyn.cli.run_folder import check_output_file
    from lightning_normdyn.tasks.grid.advice import TrainedWith

    of_files = check_sources(config, queries, documents, overrides)
    check_idle(
        of_files,
        ckpt_path=ckpt_path,
        column=column,
        judgements=judgements,
        texts=texts,
        covariates=covariates,
        normalization=normalization,
        control=control[0] if control else None,
        chunks=chunks,
    )
    if json is not None:
        check_output_file(Path(json), "json")
    if of_files:
        files = EmbeddingFiles(queries, documents, column, judgements, texts, covariates, tuple(control or ()), chunks)
        record = advise_on_files(files, TrainedWith(temperature, normalization=normalization))
    else:
        record = advise_on_checkpoint(config or (), ckpt_path, overrides)
    return saved(record, json)


@command(
    Shell(extra=("cli", ("jsonargparse", "rich")), underscore_options=("ckpt_path",), overrides="overrides"),
)
def predict(
    *,
    config: Sequence[ConfigFile] = (),
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
        out: a folder for queries.npz, documents.npz and judgements.tsv; of texts queries.tsv and documents.tsv too
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
