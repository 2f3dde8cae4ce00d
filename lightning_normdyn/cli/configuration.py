"""What a configuration of LightningCLI names, without building it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.fit import NormdynCLI
from lightning_normdyn.cli.parser_message import load_class
from lightning_normdyn.history.origin import Origin
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask


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


def read_origin(words: Sequence[str]) -> Origin:
    """The data as configured, and the command that runs, today."""
    data = ReadConfiguration(list(words), run=False, command="grid").config.as_dict().get("data")
    return Origin(data=name_configured(data), command=running_command()).dated()


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
