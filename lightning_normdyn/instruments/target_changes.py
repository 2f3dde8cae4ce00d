"""What became of targets in mid-run: another parameter or module, another form, or nothing that can be measured."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_normdyn.capture.names import ModulePath, plain_parameters
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import Targets, check_targets, find_targets

Target = TableTarget | OutputTarget


def present_targets(module: nn.Module, targets: Targets, *, max_tracked_rows: int) -> dict[str, Target]:
    """The targets that a model has now, by name; a pattern that matches nothing any more is passed over.

    Args:
        module: the model.
        targets: see :func:`find_targets`.
        max_tracked_rows: likewise.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4))
        >>> list(present_targets(model, ["0.weight", "1.weight"], max_tracked_rows=100))
        ['0.weight']
    """
    targets = check_targets(targets)
    present: dict[str, Target] = {}
    for pattern in [targets] if isinstance(targets, str) else targets:
        try:
            found_targets = find_targets(
                module, pattern if pattern == "auto" else [pattern], max_tracked_rows=max_tracked_rows
            )
        except ValueError:
            continue
        for target in found_targets:
            present.setdefault(target.name, target)
    return present


def same_name(module: nn.Module, target: Target, *, max_tracked_rows: int) -> TableTarget | None:
    """The table that a model has now by a target's name, frozen or not; ``None`` if there is none.

    Args:
        module: the model.
        target: what went by that name.
        max_tracked_rows: see :func:`find_targets`.
    """
    if not isinstance(target, TableTarget):
        return None
    parameter = plain_parameters(module).get(target.name)
    if parameter is None or parameter.ndim != 2 or not parameter.numel():
        return None
    return TableTarget(target.name, module, max_tracked_rows=max_tracked_rows)


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
