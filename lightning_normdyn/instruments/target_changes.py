"""What became of targets in mid-run: another parameter or module, another form, or nothing that can be measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from lightning_normdyn.capture.names import ModulePath, plain_parameters
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.row_sample import RowCounts
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import Targets, check_targets, find_targets

Target = TableTarget | OutputTarget


class Sampling(NamedTuple):
    """How the rows of large tables are sampled.

    Attributes:
        max_tracked_rows: most rows of a table that are tracked.
        row_counts: target name to how often each row of it occurs.
    """

    max_tracked_rows: int
    row_counts: Mapping[str, RowCounts] = {}

    def fitting(self, module: nn.Module) -> dict[str, Any]:
        """The options of :func:`find_targets`, without counts of tables that have another number of rows by now."""
        shapes = {name: tuple(parameter.shape) for name, parameter in plain_parameters(module).items()}
        counts = {name: source for name, source in self.row_counts.items() if _count(source) in shapes.get(name, ())}
        return {"max_tracked_rows": self.max_tracked_rows, "row_counts": counts}


def _count(source: RowCounts) -> int:
    return len(np.load(source, mmap_mode="r") if isinstance(source, (str, os.PathLike)) else source)


def present_targets(module: nn.Module, targets: Targets, sampling: Sampling) -> dict[str, Target]:
    """The targets that a model has now, by name; a pattern that matches nothing any more is passed over.

    Args:
        module: the model.
        targets: see :func:`find_targets`.
        sampling: of their rows.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4))
        >>> list(present_targets(model, ["0.weight", "1.weight"], Sampling(100)))
        ['0.weight']
    """
    targets = check_targets(targets)
    present: dict[str, Target] = {}
    for pattern in [targets] if isinstance(targets, str) else targets:
        try:
            found_targets = find_targets(
                module, pattern if pattern == "auto" else [pattern], **sampling.fitting(module)
            )
        except ValueError:
            continue
        for target in found_targets:
            present.setdefault(target.name, target)
    return present


def same_name(module: nn.Module, target: Target, sampling: Sampling) -> TableTarget | None:
    """The table that a model has now by a target's name, frozen or not; ``None`` if there is none.

    Args:
        module: the model.
        target: what went by that name.
        sampling: of its rows.
    """
    if not isinstance(target, TableTarget):
        return None
    parameter = plain_parameters(module).get(target.name)
    if parameter is None or parameter.ndim != 2 or not parameter.numel():
        return None
    options = sampling.fitting(module)
    counts = options.pop("row_counts").get(target.name)
    return TableTarget(target.name, module, row_counts=counts, items=target.items, **options)


def difference(old: Target, new: Target) -> str:
    """What sets a target apart from what went by its name before, in words; empty for nothing.

    Args:
        old: what was followed.
        new: what the model has now.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4))
        >>> old = TableTarget("0.weight", model)
        >>> model[0] = nn.Embedding(12, 4)
        >>> difference(old, TableTarget("0.weight", model))
        'another parameter, of shape (12, 4) (before: (10, 4))'
    """
    if isinstance(old, TableTarget) and isinstance(new, TableTarget):
        forms = _forms(old, new)
        if old.parameter is new.parameter:
            return forms
        return f"another parameter, of {forms}" if forms else "another parameter of the same shape"
    if isinstance(old, OutputTarget) and isinstance(new, OutputTarget):
        return "" if old.called_module is new.called_module else "another module"
    return "another kind of target"


def _forms(old: TableTarget, new: TableTarget) -> str:
    before, now = old.form, new.form
    pairs = [
        ("shape", tuple(before.shape), tuple(now.shape)),
        ("dtype", str(before.dtype).removeprefix("torch."), str(now.dtype).removeprefix("torch.")),
        ("device", str(before.device), str(now.device)),
    ]
    return ", ".join(f"{name} {current} (before: {past})" for name, past, current in pairs if past != current)


def absence(module: nn.Module, target: Target) -> str:
    """Why a model has no target of this name any more.

    Args:
        module: the model.
        target: what went by that name.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4))
        >>> target = TableTarget("0.weight", model)
        >>> _ = nn.utils.parametrizations.weight_norm(model[0])
        >>> absence(model, target)
        'it is computed from other parameters now, as by torch.nn.utils.parametrize, so no optimizer moves its rows'
    """
    if isinstance(target, OutputTarget):
        return "the model has no such module any more"
    names = [name for name, parameter in plain_parameters(module).items() if parameter is target.parameter]
    if _is_computed(module, target.name):
        return (
            "it is computed from other parameters now, as by torch.nn.utils.parametrize, so no optimizer moves its rows"
        )
    if names:
        state = "" if target.parameter.requires_grad else ", and frozen"
        return f"the parameter is called '{names[0]}' now{state}"
    return "the model has no such parameter any more"


def _is_computed(module: nn.Module, name: str) -> bool:
    """Whether a module has a tensor by a parameter's name that is none; a parametrized one is not asked for."""
    path, _, attribute = name.rpartition(".")
    owner = ModulePath(module, path).module()
    if owner is None:
        return False
    return attribute in getattr(owner, "parametrizations", {}) or isinstance(vars(owner).get(attribute), Tensor)
