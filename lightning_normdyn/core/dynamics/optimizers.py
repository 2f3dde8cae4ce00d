"""Closed forms of the equilibrium norm, read off real torch optimizers.

To add an optimizer: write a function that turns one parameter group into an :class:`EquilibriumRule`, and enter it in
``_RULE_FACTORIES``, or by its class name in ``_THIRD_PARTY`` if torch does not have it. A new law, rather than a new
optimizer, is one class in :mod:`lightning_normdyn.core.dynamics.laws`. The test beside the table simulates every entry
with the real optimizer on tangential noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from lightning_normdyn.core.dynamics.law_inputs import DecayCorrection
from lightning_normdyn.core.dynamics.laws import Family
from lightning_normdyn.core.dynamics.matrix_laws import muon_memory
from lightning_normdyn.core.dynamics.optimizer_wrappers import inner_optimizer, unwrapped_optimizer
from lightning_normdyn.core.dynamics.rates import nominal_lr
from lightning_normdyn.core.dynamics.rule import EquilibriumRule


def equilibrium_rule(optimizer: torch.optim.Optimizer, group: int = 0) -> EquilibriumRule:
    """Reads the law of the norm off one parameter group of a torch optimizer.

    Args:
        optimizer: torch's SGD, AdamW, Adam, NAdam, RAdam, RMSprop, Adagrad, SparseAdam, Adafactor and Muon give a
            prediction, and so do classes by the names of Lion, SGDW, AdamC, AdamWScheduleFree and SGDScheduleFree, and
            those of bitsandbytes, whose groups have the usual entries; any other gives a rule whose ``reason`` says why
            not.
        group: index into ``optimizer.param_groups``.

    Returns:
        The rule at the group's present learning rate.

    Raises:
        ValueError: if there is no such group, or no optimizer.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(10, 64))
        >>> equilibrium_rule(torch.optim.AdamW([table], lr=1e-3, weight_decay=0.0)).law
        'no equilibrium without weight decay: R² grows by lr²·d·p / (p + 1 - beta2) a step'
        >>> equilibrium_rule(torch.optim.Adamax([table])).reason
        'Adamax has no known law of the norm'
    """
    optimizer = unwrapped_optimizer(optimizer)
    is_whole = isinstance(group, int) and not isinstance(group, bool)
    if not is_whole or not 0 <= group < len(optimizer.param_groups):
        raise ValueError(
            f"group: expected 0 to {len(optimizer.param_groups) - 1}, got {group}; "
            f"this {type(optimizer).__name__} has {len(optimizer.param_groups)} parameter group(s)"
        )
    return group_rule(optimizer, optimizer.param_groups[group])


def group_rule(optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> EquilibriumRule:
    """The rule under the settings of a parameter group, whether the optimizer has such a group or will have."""
    name, inner = type(optimizer).__name__, inner_optimizer(optimizer)
    if inner is not None:
        return _unknown(name, settings, _WRAPPED.format(name=name, inner=type(inner).__name__))
    if type(optimizer) in _RULE_FACTORIES:
        rule = _RULE_FACTORIES[type(optimizer)](name, settings)
        return replace(rule, steps_made=_steps_made(optimizer, settings)) if rule.family == "adafactor" else rule
    entries, factory = _third_party(type(optimizer))
    if factory is None or not all(entry in settings for entry in entries):
        return _unknown(
            name, settings, _REASONS.get(name, f"{_full_name(type(optimizer))} has no known law of the norm")
        )
    departure = _departure(optimizer, settings)
    if departure:
        return _unknown(name, settings, f"{name} with {departure} has no known law of the norm")
    rule, peak = factory(name, settings), _decay_peak(optimizer, settings)
    return rule if peak is None or rule.family is None else _corrected(rule, peak)


def _unknown(name: str, group: Mapping[str, Any], reason: str) -> EquilibriumRule:
    return EquilibriumRule(name, None, nominal_lr(group), 1.0, 0.0, reason=reason)


def _read_sgd(name: str, group: dict[str, Any]) -> EquilibriumRule:
    momentum = group["momentum"]
    if momentum >= 1:
        return _unknown(name, group, f"{name} with momentum {momentum} never forgets a gradient")
    # torch applies dampening to the momentum buffer alone, so without momentum it does nothing.
    gain = (1 - group["dampening"]) / (1 - momentum) if momentum else 1.0
    return EquilibriumRule(
        name,
        "sgd",
        float(group["lr"]) * gain,
        gain,
        group["weight_decay"],
        first_beta=momentum,
        nesterov=group["nesterov"],
    )


def _read_sgdw(name: str, group: dict[str, Any]) -> EquilibriumRule:
    """Decay takes lr·weight_decay of a row in a step, which momentum does not multiply."""
    rule = _read_sgd(name, group)
    return replace(rule, radial_decay=rule.radial_decay / rule.lr_gain, decay_gain=1 / rule.lr_gain)


def _read_adam(name: str, group: dict[str, Any]) -> EquilibriumRule:
    lr, decay = float(group["lr"]), group["weight_decay"]
    if group.get("amsgrad"):
        return _unknown(name, group, f"{name} with amsgrad=True has no known law of the norm")
    with_decay: Family = "adamw" if group.get("decoupled_weight_decay", name == "AdamW") else "adam"
    first_beta, second_beta = (float(beta) for beta in group["betas"])
    return EquilibriumRule(
        name,
        with_decay if decay else "adamw",
        lr,
        1.0,
        decay,
        second_beta=second_beta,
        first_beta=first_beta,
        family_with_decay=with_decay,
    )


def _read_nadam(name: str, group: dict[str, Any]) -> EquilibriumRule:
    """Looks ahead by a momentum that grows to beta1 over some 10,000 steps; the law of the norm does not feel it."""
    return replace(_read_adam(name, group), nesterov=True)


def _read_lion(name: str, group: dict[str, Any]) -> EquilibriumRule:
    first_beta, second_beta = (float(beta) for beta in group["betas"])
    if not (0 < first_beta < 1 and 0 < second_beta < 1):
        return _unknown(name, group, f"{name} with a beta of 0 or 1 has no known law of the norm")
    return EquilibriumRule(
        name,
        "lion",
        float(group["lr"]),
        1.0,
        group["weight_decay"],
        second_beta=second_beta,
        first_beta=first_beta,
    )


def _read_rmsprop(name: str, group: dict[str, Any]) -> EquilibriumRule:
    if group["momentum"] >= 1:
        return _unknown(name, group, f"{name} with momentum {group['momentum']} never forgets a gradient")
    gain = 1 / (1 - group["momentum"])
    decay = group["weight_decay"]
    return EquilibriumRule(
        name,
        "adam" if decay else "adamw",
        float(group["lr"]) * gain,
        gain,
        decay,
        second_beta=group["alpha"],
        first_beta=group["momentum"],
        family_with_decay="adam",
    )


def _read_adamc(name: str, group: dict[str, Any]) -> EquilibriumRule:
    """AdamW whose decay of a group with ``normalized`` is lr²·weight_decay/lr_max a step (Defazio 2025, 2506.02285)."""
    if group.get("ams_bound") or group.get("fixed_decay") or not group.get("weight_decouple", True):
        return _unknown(
            name, group, f"{name} with ams_bound, fixed_decay or coupled decay has no known law of the norm"
        )
    return replace(_read_adam(name, group), family="adamw", family_with_decay="adamw")


def _decay_peak(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> float | None:
    """The nominal rate by which the decay of a group is corrected, as timm and pytorch_optimizer keep it."""
    if group.get("corrected_weight_decay"):
        return group.get("max_lr_snapshot")
    if type(optimizer).__name__ == "AdamC" and group.get("normalized"):
        return getattr(optimizer, "max_lr", None)
    return None


def _corrected(rule: EquilibriumRule, peak: float) -> EquilibriumRule:
    """The same rule where decay falls with the learning rate from what it is at the nominal ``peak``."""
    correction = DecayCorrection(rule.radial_decay, rule.lr_gain * float(peak))
    gain = rule.decay_gain * rule.lr / correction.peak_lr
    return replace(rule, radial_decay=correction.radial_decay(rule.lr), decay_gain=gain, correction=correction)


def _read_adagrad(name: str, group: dict[str, Any]) -> EquilibriumRule:
    if group["lr_decay"]:
        return _unknown(
            name,
            group,
            f"{name} with lr_decay has a rate that its parameter group does not show; "
            "LambdaLR(optimizer, lambda step: 1 / (1 + lr_decay * step)) is the same and can be followed",
        )
    return EquilibriumRule(name, "adagrad", float(group["lr"]), 1.0, group["weight_decay"])


def _read_sparse_adam(name: str, group: dict[str, Any]) -> EquilibriumRule:
    first_beta, second_beta = (float(beta) for beta in group["betas"])
    return EquilibriumRule(
        name, "sparse_adam", float(group["lr"]), 1.0, 0.0, second_beta=second_beta, first_beta=first_beta
    )


def _read_adafactor(name: str, group: dict[str, Any]) -> EquilibriumRule:
    if (group["beta2_decay"], group["eps"][1], group["d"]) != (-0.8, 1e-3, 1.0):
        return _unknown(
            name, group, f"{name} with another beta2_decay, eps or d than torch's has no known law of the norm"
        )
    return EquilibriumRule(name, "adafactor", float(group["lr"]), 1.0, group["weight_decay"])


def _steps_made(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> int:
    """Steps of the group's first parameter that has made any."""
    states = (optimizer.state.get(parameter, {}) for parameter in group["params"])
    return next((int(state["step"]) for state in states if "step" in state), 0)


def _read_muon(name: str, group: dict[str, Any]) -> EquilibriumRule:
    shapes = {tuple(parameter.shape) for parameter in group["params"]}
    if len(shapes) != 1:
        return _unknown(
            name,
            group,
            f"{name} steps by the shape of a matrix, and this group has {len(shapes)} shapes: "
            "give each a parameter group of its own",
        )
    momentum = float(group["momentum"])
    if momentum >= 1:
        return _unknown(name, group, f"{name} with momentum {momentum} never forgets a gradient")
    (shape,) = shapes
    gain = _muon_gain(group["adjust_lr_fn"], shape)
    coefficients = tuple(float(coefficient) for coefficient in group["ns_coefficients"])
    return EquilibriumRule(
        name,
        "muon",
        float(group["lr"]) * gain,
        gain,
        group["weight_decay"] / gain,
        first_beta=momentum,
        nesterov=group["nesterov"],
        decay_gain=1 / gain,
        step_memory=muon_memory(shape, momentum, bool(group["nesterov"]), coefficients, group["ns_steps"]),
    )


def _muon_gain(adjustment: str | None, shape: tuple[int, ...]) -> float:
    """By what torch multiplies the learning rate of a step, though not of the decay, of a matrix."""
    rows, columns = shape
    gains = {"match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)), "spectral_unclamped": math.sqrt(rows / columns)}
    return gains.get(adjustment or "original", math.sqrt(max(1, rows / columns)))


def _read_schedule_free(name: str, group: dict[str, Any]) -> EquilibriumRule:
    """Steps at y are 1 - beta of the plain optimizer's; a warm-up, or weights by time, makes the path unknown."""
    family: Family = "schedule_free_adamw" if "betas" in group else "schedule_free_sgd"
    beta, second_beta = (float(beta) for beta in group.get("betas", (group.get("momentum"), 0.0)))
    if not 0 <= beta < 1:
        return _unknown(name, group, f"{name} with a beta of {beta} has no known law of the norm")
    gain = 1 - beta
    is_plain_mean = not group.get("warmup_steps") and not group.get("r")
    return EquilibriumRule(
        name,
        family,
        float(group["lr"]) * gain,
        gain,
        group["weight_decay"],
        second_beta=second_beta,
        first_beta=beta,
        steps_made=int(group["k"]) if is_plain_mean else max(1, int(group["k"])),
    )


def _read_bitsandbytes_adam(name: str, group: dict[str, Any]) -> EquilibriumRule:
    """Decay is decoupled in bitsandbytes' Adam and AdamW alike; averages in 8 bits are taken as exact."""
    return replace(_read_adam("AdamW", group), optimizer=name)


def _read_bitsandbytes_sgd(name: str, group: dict[str, Any]) -> EquilibriumRule:
    """Momentum stands in ``betas``; dampening and nesterov are taken and not used."""
    momentum = float(group["betas"][0])
    return _read_sgd(name, {**group, "momentum": momentum, "dampening": 0.0, "nesterov": False})


def _read_fused(name: str, group: dict[str, Any]) -> EquilibriumRule:
    """One of FBGEMM's optimizers that step inside of backward and move touched rows alone, by its name in ``kind``."""
    kind, lr, decay = str(group["kind"]), float(group["lr"]), float(group["weight_decay"])
    name = kind.upper().replace("ROW_WISE", "ROWWISE")
    if kind == "exact_row_wise_adagrad":
        return EquilibriumRule(
            name, "rowwise_adagradw" if group["decay_mode"] == 2 else "rowwise_adagrad", lr, 1.0, decay
        )
    if decay:
        return _unknown(name, group, f"{name} whose decay spares rows without a gradient has no known law of the norm")
    if kind in ("exact_adagrad", "exact_sgd"):
        return EquilibriumRule(name, "adagrad" if kind == "exact_adagrad" else "sgd", lr, 1.0, 0.0)
    if kind == "adam":
        first_beta, second_beta = (float(beta) for beta in group["betas"])
        return EquilibriumRule(name, "sparse_adam", lr, 1.0, 0.0, second_beta=second_beta, first_beta=first_beta)
    return _unknown(name, group, f"{name} has no known law of the norm")


def _third_party(kind: type[torch.optim.Optimizer]) -> tuple[tuple[str, ...], _RuleFactory | None]:
    """What a parameter group must hold for a class to be read by name, and its factory."""
    if kind.__module__.split(".")[0] == "bitsandbytes":
        for stem, entry in _BITSANDBYTES.items():
            if kind.__name__.removeprefix("Paged") in (stem, f"{stem}8bit", f"{stem}32bit"):
                return entry
    return _THIRD_PARTY.get(kind.__name__, ((), None))


def _full_name(kind: type[torch.optim.Optimizer]) -> str:
    """The class name, with the package where the name alone would be taken for one that has a law."""
    package = kind.__module__.split(".")[0]
    is_mistakable = package == "bitsandbytes" or kind.__name__ in {known.__name__ for known in _RULE_FACTORIES}
    return f"{kind.__name__} of {package}" if is_mistakable else kind.__name__


def _departure(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> str:
    """The option under which a third party's optimizer steps otherwise than its law has it; empty for none."""
    if group.get("caution") or group.get("cautious_factor", 1) < 1:
        return "a cautious mask"
    if group.get("cautious_weight_decay"):
        return "cautious_weight_decay=True"
    if group.get("corrected_weight_decay") and "max_lr_snapshot" not in group:
        return "corrected_weight_decay=True"
    if getattr(getattr(optimizer, "args", None), "percentile_clipping", 100) < 100:
        return "percentile_clipping"
    return "decoupled_weight_decay=True" if getattr(optimizer, "decoupled_wd", False) else ""


_RuleFactory = Callable[[str, dict[str, Any]], EquilibriumRule]

_RULE_FACTORIES: dict[type[torch.optim.Optimizer], _RuleFactory] = {
    torch.optim.SGD: _read_sgd,
    torch.optim.AdamW: _read_adam,
    torch.optim.Adam: _read_adam,
    torch.optim.NAdam: _read_nadam,
    torch.optim.RAdam: _read_adam,
    torch.optim.RMSprop: _read_rmsprop,
    torch.optim.Adagrad: _read_adagrad,
    torch.optim.SparseAdam: _read_sparse_adam,
}

_RULE_FACTORIES |= {
    getattr(torch.optim, name): factory  # younger than the oldest torch that is supported
    for name, factory in {"Adafactor": _read_adafactor, "Muon": _read_muon}.items()
    if hasattr(torch.optim, name)
}

_WRAPPED = (
    "{name} has no known law of the norm: it moves weights, or takes gradients, otherwise than the {inner} inside"
)

_ADAM_ENTRIES = ("lr", "betas", "weight_decay")

_THIRD_PARTY: dict[str, tuple[tuple[str, ...], _RuleFactory]] = {
    "Lion": (_ADAM_ENTRIES, _read_lion),
    "SGDW": (("lr", "momentum", "dampening", "nesterov", "weight_decay"), _read_sgdw),
    "AdamC": (_ADAM_ENTRIES, _read_adamc),
    "AdamWScheduleFree": ((*_ADAM_ENTRIES, "k", "warmup_steps", "r"), _read_schedule_free),
    "FusedTableOptimizer": (("kind", "lr", "weight_decay", "decay_mode"), _read_fused),
    "SGDScheduleFree": (("lr", "momentum", "weight_decay", "k", "warmup_steps", "r"), _read_schedule_free),
}

_BITSANDBYTES: dict[str, tuple[tuple[str, ...], _RuleFactory]] = {
    "AdamW": (_ADAM_ENTRIES, _read_bitsandbytes_adam),
    "Adam": (_ADAM_ENTRIES, _read_bitsandbytes_adam),
    "Lion": (_ADAM_ENTRIES, _read_lion),
    "SGD": (_ADAM_ENTRIES, _read_bitsandbytes_sgd),
}

_REASONS: dict[str, str] = {
    "RowWiseAdagrad": "RowWiseAdagrad of torchrec moves a row by the mean of its gradient and has no known law of the "
    "norm; FBGEMM's fused EXACT_ROWWISE_ADAGRAD has one: EquilibriumRule('EXACT_ROWWISE_ADAGRAD', 'rowwise_adagrad', "
    "lr, 1.0, weight_decay)",
}
