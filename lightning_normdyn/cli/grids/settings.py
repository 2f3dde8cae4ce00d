"""What a grid is asked for, and the plan that follows from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from lightning_normdyn.cli.configuration import read_task
from lightning_normdyn.cli.fit import config_words
from lightning_normdyn.cli.grids.plan import Plan, make_folder
from lightning_normdyn.cli.ray_cluster import check_engine
from lightning_normdyn.nearest_word import nearest
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask

_FEWEST_LOOKED_AT, _MOST_SEEDS = 2, 10


class GridSettings(NamedTuple):
    """What a grid trains.

    Attributes:
        config: files of LightningCLI, or names of shipped ones.
        seeds: trainings a variant.
        variants: these alone; ``None`` for all of the task.
        lr_factors: learning rates in units of the configuration's.
        temperatures: in units of the one at which scores of a variant spread as cosines do at the configuration's.
        jobs: trainings at a time on this machine; ``None`` for one, or with Ray for what the cluster has room for.
        sequential: whether seeds are added, one at a time, until the answer is clear.
        max_seeds: at most, where they are; ``None`` for 10.
        budget: minutes after which no further seed begins, where they are.
        margin: the smallest gain that matters, in the unit of the measure.
        engine: ``local``, or ``ray`` to train on a cluster.
        overrides: words of LightningCLI.
    """

    config: Sequence[str]
    seeds: int = 3
    variants: Sequence[str] | None = None
    lr_factors: Sequence[float] = (0.3, 1.0, 3.0)
    temperatures: Sequence[float] = (0.5, 1.0, 2.0)
    jobs: int | None = None
    sequential: bool = False
    max_seeds: int | None = None
    budget: float | None = None
    margin: float = 0.005
    engine: str = "local"
    overrides: Sequence[str] = ()

    @property
    def at_once(self) -> int | None:
        """Trainings at a time; ``None`` for as many as a cluster has room for."""
        return (self.jobs or 1) if self.engine == "local" else None


def planned(settings: GridSettings, out: str | None) -> tuple[type[ContrastiveTask], Plan]:
    """The task and the plan of a grid, whose folder is made.

    Args:
        settings: of the grid.
        out: its folder, ``None`` for a new one.

    Raises:
        ValueError: if the configuration, a variant or the folder will not do.
        OSError: if the folder cannot be written.
    """
    _check_engine(settings)
    words = config_words(settings.config, settings.overrides)
    task, lr = read_task(words)
    plan = Plan(
        words=tuple(words),
        variants=_variants(task, settings.variants),
        lrs=tuple(sorted({lr * factor for factor in settings.lr_factors})),
        seeds=tuple(range(settings.seeds)),
        most_seeds=_most_seeds(settings),
        folder=make_folder(out, words),
        threads=max(1, available_cores() // (settings.jobs or 1)),
        temperature_factors=tuple(sorted(set(settings.temperatures))),
    )
    return task, plan


def available_cores() -> int:
    """The cores that this process may run on, which ``taskset`` or a container may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _variants(task: type[ContrastiveTask], names: Sequence[str] | None) -> tuple[str, ...]:
    unknown_names = [name for name in names or () if name not in task.variants]
    if unknown_names:
        raise ValueError(
            f"variants: expected some of {', '.join(task.variants)}, got {unknown_names[0]!r}"
            f"{nearest(unknown_names[0], task.variants)}"
        )
    repeated_names = [name for place, name in enumerate(names or ()) if name in list(names or ())[:place]]
    if repeated_names:
        raise ValueError(f"variants: expected each once, got {repeated_names[0]!r} again; leave it out")
    if names and "cosine" not in names:
        raise ValueError(f"variants: expected cosine among them, which others are compared with, got {names}")
    return tuple(name for name in task.variants if names is None or name in names)


def _check_engine(settings: GridSettings) -> None:
    if settings.engine != "local" and settings.jobs is not None:
        raise ValueError(
            f"jobs: expected none with --engine {settings.engine}, whose cluster runs as many trainings as it has room "
            f"for, got {settings.jobs}; leave it out"
        )
    check_engine(settings.engine)


def _most_seeds(settings: GridSettings) -> int | None:
    """Trainings of a variant at most, if that is not settled beforehand."""
    for name, value in (("max_seeds", settings.max_seeds), ("budget", settings.budget)):
        if value is not None and not settings.sequential:
            raise ValueError(
                f"{name}: expected --sequential, which adds seeds until the answer is clear, got {value:g} without; "
                "add it, or say --seeds"
            )
    if not settings.sequential:
        return None
    if settings.seeds < _FEWEST_LOOKED_AT:
        raise ValueError(
            f"seeds: expected {_FEWEST_LOOKED_AT} or more at the first look of --sequential, got {settings.seeds}; one "
            "seed says nothing of how much another would differ"
        )
    most_seeds = _MOST_SEEDS if settings.max_seeds is None else settings.max_seeds
    if most_seeds < settings.seeds:
        raise ValueError(
            f"max_seeds: expected at least the {settings.seeds} of --seeds, at which --sequential looks first, got "
            f"{most_seeds}"
        )
    return most_seeds
