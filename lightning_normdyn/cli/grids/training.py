"""One training of a grid: trained, measured, its result written."""

from __future__ import annotations

import time
from collections.abc import Mapping
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
    model, data, trainer = _task(cli), cli.datamodule, cli.trainer
    for test_data in (data, *data.out_of_domain().values()):
        test_data.evaluation("test")  # what it lacks is better known before training than after
    course, dynamics = _fitted(cli, job.temperature_factor)
    if not course.ends_with(trainer):  # else the corpus is encoded with these weights already
        trainer.validate(model, datamodule=data, verbose=False)
    validation = _encoded(model, "validation")
    temperature = float(model.contrast.temperature)
    run = GridRun(
        variant=job.variant,
        lr=job.lr,
        seed=job.seed,
        headline=model.headline,
        validation=measured(float(_trained_headline(model, validation).nanmean())),
        diagnosis=_numbers(diagnose(validation, temperature=temperature).numbers()),
        learnt=_numbers(model.contrast.learnt()),
        course=course.columns,
        dynamics=dynamics,
        temperature_factor=job.temperature_factor,
        temperature=measured(temperature),
        **_tested(cli, validation),
        out_of_domain={name: _values_on(other, cli) for name, other in data.out_of_domain().items()},
        seconds=time.monotonic() - start_time,
    )
    if trainer.is_global_zero:
        write_grid_run(job.result, run)


def _fitted(cli: NormdynCLI, temperature_factor: float) -> tuple[Course, dict[str, Number]]:
    """Trains; the course of its evaluations, and the last scalars of ``NormDynamics``."""
    trainer: Any = cli.trainer
    model = _task(cli)
    model.contrast.take_auto_temperature(temperature_factor)
    model.measures_floors = False  # once is enough for a grid, and its untrained job does
    course = Course(model.headline)
    trainer.callbacks += [course, Announcement()]
    trainer.fit(model, datamodule=cli.datamodule)
    if not trainer.global_step:
        raise ValueError(
            "train: expected at least one step, got none; check max_epochs, limit_train_batches and the data"
        )
    return course, _numbers({name: value for name, value in trainer.callback_metrics.items() if "normdyn/" in name})


def _tested(cli: NormdynCLI, validation: Encoded) -> dict[str, Any]:
    """Fields of a run that come of the test split."""
    model = _task(cli)
    with model.holding_documents(validation):
        measures = cli.trainer.test(model, datamodule=cli.datamodule, verbose=False)[0]
    encoded = _encoded(model, "test")
    return {
        "measures": _numbers(
            {name.removeprefix("test/"): value for name, value in measures.items() if "test/" in name}
        ),
        "values": _columns(_values(model, encoded)),
        "in_training": _in_training(encoded),
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, Number]:
    return {name: measured(float(value)) for name, value in values.items()}


def _columns(values: Mapping[str, Tensor]) -> dict[str, list[Number]]:
    return {name: [measured(value) for value in column.tolist()] for name, column in values.items()}


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
    return _columns(values)


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
