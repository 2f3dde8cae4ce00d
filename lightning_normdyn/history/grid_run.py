"""One training of a grid: what it was, and all that the grid's report needs of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_normdyn.history.json_file import write_json
from lightning_normdyn.history.number import Number


@dataclass(frozen=True)
class GridRun:
    """The outcome of one training.

    Attributes:
        variant: the normalization it trained with.
        lr: the peak of its learning rate.
        seed: of everything.
        headline: the measure that variants are compared by.
        validation: its mean on the validation split, by which learning rates are chosen.
        measures: mean of every measure on the test split, under the similarity that trained.
        values: headline of each test query, by the similarity that scored it: ``trained`` and those of
            ``NORMALIZATIONS``.
        diagnosis: of the validation split: ``cohens_d``, ``query_cv``, ``document_cv``, ``kappa_qnorm``,
            ``kappa_dnorm``, ``kappa_qnorm_share``.
        learnt: what the loss learnt, such as ``gamma_query``.
        course: over training, one number an evaluation: ``step``, ``headline``, ``relevant_norm``,
            ``irrelevant_norm``.
        dynamics: last value of each scalar of ``NormDynamics``, by key.
        seconds: how long it took.
    """

    variant: str
    lr: float
    seed: int
    headline: str
    validation: Number
    measures: Mapping[str, Number]
    values: Mapping[str, Sequence[Number]]
    diagnosis: Mapping[str, Number]
    learnt: Mapping[str, Number]
    course: Mapping[str, Sequence[Number]]
    dynamics: Mapping[str, Number]
    seconds: float


def write_grid_run(file: Path, run: GridRun) -> None:
    """Writes a run as JSON, whole or not at all."""
    write_json(file, asdict(run))


def read_grid_run(file: Path) -> GridRun:
    """Reads a run.

    Raises:
        ValueError: if it is damaged.
        FileNotFoundError: if there is none.
    """
    text = file.read_text(encoding="utf-8")
    try:
        return GridRun(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"out: '{file}' is damaged ({error}); remove it to train that variant again") from error
