"""One training of a grid: trained, measured, its result written."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.cli.fit import NormdynCLI, UnloggedCLI
from lightning_normdyn.cli.grids.job import UNTRAINED, Job
from lightning_normdyn.cli.grids.progress_reports import Announcement, Course
from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.history.grid_findings import GridRun, write_grid_run
from lightning_normdyn.history.number import Number, measured
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.grid.diagnosis import diagnose
from lightning_normdyn.tasks.quiet import quiet_lightning

_FLOOR = "test/floor/"


def work(job: Job) -> None:
    """Trains, measures and writes the result; under several ranks the first one writes.

    Args:
        job: what to train, and where the result goes.

    Raises:
        ValueError: if the configuration is of no task, or its data or steps are too few to measure anything.
    """
    torch.set_num_threads(job.threads)
    with quiet_lightning():
        cli = UnloggedCLI(job.command_line(), run=False)
        if job.variant == UNTRAINED:
            _write_floors(job, cli)
        else:
            _train(job, cli)


def _train(job: Job, cli: NormdynCLI) -> None:
    start_time = time.monotonic()
    trainer: Any = cli.trainer
    model, data = _task(cli), cli.datamodule
    model.contrast.take_auto_temperature(job.warmth)
    model.measures_floors = False  # once is enough for a grid, and its untrained job does
    for split_of in (data, *data.out_of_domain().values()):
        split_of.evaluation("test")  # what it lacks is better known before training than after
    course = Course(model.headline)
    trainer.callbacks += [course, Announcement()]
    trainer.fit(model, datamodule=data)
    if not trainer.global_step:
        raise ValueError(
            "train: expected at least one step, got none; check max_epochs, limit_train_batches and the data"
        )
    dynamics = {name: measured(float(value)) for name, value in trainer.callback_metrics.items() if "normdyn/" in name}
    if not course.ends_with(trainer):  # else the corpus is encoded with these weights already
        trainer.validate(model, datamodule=data, verbose=False)
    validation = _encoded(model, "validation")
    headline = float(_trained_headline(model, validation).nanmean())
    temperature = float(model.contrast.temperature)
    diagnosis = diagnose(validation, temperature=temperature).numbers()
    with model.holding_documents(validation):
        test = trainer.test(model, datamodule=data, verbose=False)[0]
    encoded = _encoded(model, "test")
    values, in_training = _values(model, encoded), _in_training(encoded)
    out_of_domain = {name: _values_on(other, cli) for name, other in data.out_of_domain().items()}
    if not trainer.is_global_zero:
        return
    run = GridRun(
        variant=job.variant,
        lr=job.lr,
        seed=job.seed,
        headline=model.headline,
        validation=measured(headline),
        measures={name.removeprefix("test/"): measured(value) for name, value in test.items() if "test/" in name},
        values={name: [measured(value) for value in column.tolist()] for name, column in values.items()},
        diagnosis={name: measured(value) for name, value in diagnosis.items()},
        learnt={name: measured(float(value)) for name, value in model.contrast.learnt().items()},
        course=course.columns,
        dynamics=dynamics,
        seconds=time.monotonic() - start_time,
        warmth=job.warmth,
        temperature=measured(temperature),
        in_training=in_training,
        out_of_domain=out_of_domain,
    )
    write_grid_run(job.result, run)


def _trained_headline(model: ContrastiveTask, encoded: Encoded) -> Tensor:
    """Headline of every query under the similarity that trained, ``[n]``."""
    trained_measures = model.trained_measures(encoded)
    if model.headline not in trained_measures or trained_measures[model.headline].ndim != 1:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in trained_measures.items())
        raise ValueError(
            f"{type(model).__name__}.measures: expected one value a query, [n], under the headline "
            f"'{model.headline}', got {shapes}"
        )
    return trained_measures[model.headline]


def _values(model: ContrastiveTask, encoded: Encoded) -> dict[str, Tensor]:
    """Headline of every query under the similarity that trained and under each that might have."""
    values = {"trained": _trained_headline(model, encoded)}
    for name, exponents in NORMALIZATIONS.items():
        values[name] = model.measures(encoded, exponents)[model.headline]
    return values


def _values_on(data: ContrastData, cli: NormdynCLI) -> dict[str, list[Number]]:
    """Headline of every test query of another set, by the score that trained and by cosine."""
    model = _task(cli)
    cli.trainer.test(model, datamodule=data, verbose=False)
    encoded = _encoded(model, "test")
    values = {
        "trained": _trained_headline(model, encoded),
        "cosine": model.measures(encoded, NORMALIZATIONS["cosine"])[model.headline],
    }
    return {name: [measured(value) for value in column.tolist()] for name, column in values.items()}


def _in_training(encoded: Encoded) -> list[bool] | None:
    in_training = None if encoded.split is None else encoded.split.in_training
    return None if in_training is None else in_training.tolist()


def _write_floors(job: Job, cli: NormdynCLI) -> None:
    """What the task's headline is without any training, and by the simplest method there is."""
    model = _task(cli)
    test_measures = cli.trainer.test(model, datamodule=cli.datamodule, verbose=False)[0]
    encoder = model.measures(_encoded(model, "test"), (1.0, 1.0))[model.headline]
    floors = {"untrained encoder": float(encoder.nanmean())}
    floors |= {name.removeprefix(_FLOOR): value for name, value in test_measures.items() if name.startswith(_FLOOR)}
    if cli.trainer.is_global_zero:
        write_json(job.result, floors)


def _task(cli: NormdynCLI) -> ContrastiveTask:
    model = cli.model
    if not isinstance(model, ContrastiveTask):
        raise ValueError(
            f"model: expected a lightning_normdyn.tasks.ContrastiveTask, which can be scored in several ways, got "
            f"{type(model).__name__}"
        )
    return model


def _encoded(model: ContrastiveTask, split: str) -> Encoded:
    if model.encoded is None or not len(model.encoded.judgements.relevant().grades):
        raise ValueError(f"data: expected a {split} split with judged pairs, got none; check limit_{split[:4]}_batches")
    return model.encoded
