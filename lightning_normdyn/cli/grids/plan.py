"""Which trainings a grid needs, and which of them are there already."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.fit import NormdynCLI
from lightning_normdyn.cli.grids.job import RESULT_FILE, UNTRAINED, Job
from lightning_normdyn.cli.parser_message import load_class
from lightning_normdyn.cli.run_folder import create_run_folder, make_writable
from lightning_normdyn.cli.shipped_configs import config_file
from lightning_normdyn.history.grid_findings import GridRun, read_grid_run
from lightning_normdyn.report.kit.page import Origin
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask

PLAN_FILE, RUNS_FOLDER = "grid.json", "runs"


class ReadConfiguration(NormdynCLI):
    """What LightningCLI would build, without building it."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""


def read_task(words: Sequence[str]) -> tuple[type[ContrastiveTask], float]:
    """The task's class and its learning rate, as a configuration has them.

    Raises:
        ValueError: if the model is no task of a family, or has no learning rate.
    """
    configuration = ReadConfiguration(words, run=False, command="grid").config
    if configuration.get("ckpt_path") is not None:
        raise ValueError("ckpt_path: expected none, for a grid trains from the start; leave it out")
    model = configuration.get("model")
    cls = _class_of(model.get("class_path") if model is not None else None)
    lr = model.get("init_args", {}).get("lr")
    if lr is None:
        raise ValueError("config: expected model.init_args.lr, got none; the grid tries rates around it")
    return cls, float(lr)


def read_trainer(words: Sequence[str]) -> dict[str, Any]:
    """The settings of the trainer, as a configuration has them."""
    configuration = ReadConfiguration(list(words), run=False, command="grid").config
    return dict(configuration.as_dict().get("trainer") or {})


def _class_of(path: str | None) -> type[ContrastiveTask]:
    module, _, name = (path or "").rpartition(".")
    cls = getattr(import_module(module), name, None) if module else None
    if not (isinstance(cls, type) and issubclass(cls, ContrastiveTask)):
        raise ValueError(
            f"config: expected a model that is a lightning_normdyn.tasks.ContrastiveTask, got {path}; its embeddings "
            "have to be scored in several ways"
        )
    missing = [name for name in ("symmetry", "headline") if not hasattr(cls, name)]
    if missing:
        raise ValueError(f"{path}: expected class attributes symmetry and headline, got no {' and no '.join(missing)}")
    return cls


@dataclass(frozen=True)
class Plan:
    """A grid.

    Attributes:
        words: of LightningCLI: configs and overrides.
        variants: normalizations.
        lrs: that each variant tries with the first seed.
        seeds: trainings of each variant at its chosen rate.
        folder: of the whole grid.
        threads: of each process.
    """

    words: tuple[str, ...]
    variants: tuple[str, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    folder: Path
    threads: int

    def trials(self) -> list[Job]:
        """Every variant at every rate with the first seed, and what needs no training."""
        untrained_job = self._job(UNTRAINED, self.lrs[0], self.seeds[0])
        return [untrained_job, *(self._job(v, lr, self.seeds[0]) for v in self.variants for lr in self.lrs)]

    def repeats(self, lrs: dict[str, float]) -> list[Job]:
        """Every variant at its own rate with the other seeds."""
        return [self._job(variant, lr, seed) for seed in self.seeds[1:] for variant, lr in lrs.items()]

    def results(self) -> list[GridRun]:
        """The trainings that have finished, of any rate and of the seeds planned."""
        runs = (
            read_grid_run(file)
            for file in sorted((self.folder / RUNS_FOLDER).glob(f"*/{RESULT_FILE}"))
            if file.parent.name != UNTRAINED
        )
        return [r for r in runs if r.seed in self.seeds and r.variant in self.variants and r.lr in self.lrs]

    def floors(self) -> dict[str, float]:
        """What needs no training, if it has been measured."""
        file = self.folder / RUNS_FOLDER / UNTRAINED / RESULT_FILE
        measures = _read(file) if file.is_file() else {}
        return {name: value for name, value in measures.items() if value is not None}

    def _job(self, variant: str, lr: float, seed: int) -> Job:
        job = Job(self.words, variant, lr, seed, "", self.threads)
        return replace(job, folder=str(self.folder / RUNS_FOLDER / job.name))


def make_folder(out: str | None, words: Sequence[str]) -> Path:
    """A new folder for a grid, or one that holds the same grid and is gone on with.

    Raises:
        ValueError: if it holds something else.
        OSError: if it cannot be written.
    """
    configuration = _contents(words)
    if out is None or not (Path(out) / PLAN_FILE).is_file():
        folder = create_run_folder(out, command="grid")
        write_json(folder / PLAN_FILE, configuration, indent=2)
        return folder
    folder = Path(out)
    make_writable(folder)
    if _read(folder / PLAN_FILE) != configuration:
        raise ValueError(
            f"out: '{folder}' holds a grid of another configuration (its {PLAN_FILE} differs); choose another folder"
        )
    return folder


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"out: '{file}' is damaged ({error}); remove it, or choose another folder") from error


def _contents(words: Sequence[str]) -> dict[str, Any]:
    """What trainings of one folder share: the configs as they read now, and the overrides."""
    files = [word for word, previous in zip(words, ["", *words], strict=False) if previous == "--config"]
    return {
        "words": list(words),
        "configs": [Path(config_file(file)).read_text(encoding="utf-8") for file in files],
    }


def grid_origin(plan: Plan) -> Origin:
    """What the grid's page says that it comes from: the data as configured, and the command."""
    data = ReadConfiguration(list(plan.words), run=False, command="grid").config.as_dict().get("data")
    return Origin(data=name_configured(data), command=running_command())


def name_configured(configured: Any) -> str:
    """A class of a configuration with those of its settings that are classes, or words other than by default.

    Example:
        >>> folder = {"class_path": "lightning_normdyn.tasks.sources.BeirFolder", "init_args": {"folder": "set"}}
        >>> settings = {"source": folder, "batch_size": 16, "hard_negatives_from": "bm25"}
        >>> name_configured({"class_path": "lightning_normdyn.tasks.RetrievalData", "init_args": settings})
        'RetrievalData(source=BeirFolder(folder=set))'
    """
    if not isinstance(configured, dict):
        return str(configured or "")
    made = load_class(str(configured["class_path"]))
    defaults = {name: parameter.default for name, parameter in inspect.signature(made).parameters.items()}
    settings = [
        f"{name}={name_configured(value)}"
        for name, value in (configured.get("init_args") or {}).items()
        if (isinstance(value, str) and value and value != defaults.get(name))
        or (isinstance(value, dict) and "class_path" in value)
    ]
    return f"{made.__name__}({', '.join(settings)})" if settings else made.__name__
