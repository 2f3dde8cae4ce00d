"""Settings of a variant, its learning rate and its temperature, as validation chooses them with the first seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from lightning_normdyn.history.grid_findings import ChosenSettings, GridRun, Trial

Setting = Literal["lr", "temperature_factor"]
SETTING_NAMES: Mapping[Setting, str] = {"lr": "learning rate", "temperature_factor": "temperature"}


class Choice(NamedTuple):
    """What a variant trains with.

    Attributes:
        lr: the peak of its learning rate.
        temperature_factor: its temperature, in units of the one at which its scores spread like those of cosine.
    """

    lr: float
    temperature_factor: float = 1.0


def choose(runs: Iterable[GridRun]) -> dict[str, Choice]:
    """The settings with which each variant did best on validation with the first seed.

    Later seeds have no say, or settings would be judged by more luck than the others; variants without a finite
    validation measure at any setting are left out.

    Args:
        runs: of one seed or more.
    """
    measures_by_variant: dict[str, dict[Choice, float]] = {}
    for run in _of_first_seed(runs):
        if run.validation is not None and has_values(run):
            measures_by_variant.setdefault(run.variant, {})[Choice(run.lr, run.temperature_factor)] = run.validation
    return {variant: max(measures, key=measures.__getitem__) for variant, measures in measures_by_variant.items()}


def trials_of(runs: Iterable[GridRun]) -> dict[str, list[Trial]]:
    """What each variant had to choose from, by learning rate and then by temperature."""
    trials: dict[str, list[Trial]] = {}
    for run in _of_first_seed(runs):
        validation = run.validation if has_values(run) else None
        trials.setdefault(run.variant, []).append(Trial(run.lr, run.temperature_factor, run.temperature, validation))
    return {variant: sorted(of_variant, key=lambda trial: trial[:2]) for variant, of_variant in trials.items()}


def has_values(run: GridRun) -> bool:
    """Whether any query of a training has a measure."""
    return any(value is not None for value in run.values["trained"])


def chosen_settings(choices: Mapping[str, Choice], runs: Sequence[GridRun]) -> dict[str, ChosenSettings]:
    """The choices, and how clearly validation preferred each.

    Args:
        choices: of the variants.
        runs: of one seed or more.
    """
    trials_by_variant = trials_of(runs)
    settings = {}
    for variant, choice in choices.items():
        trials = trials_by_variant[variant]
        temperature_factors = [trial.temperature_factor for trial in trials]
        common_factor = max(temperature_factors, key=temperature_factors.count)  # at which rates were compared
        temperatures = [
            run.temperature
            for run in runs
            if (run.variant, run.lr, run.temperature_factor) == (variant, *choice) and run.temperature is not None
        ]
        settings[variant] = ChosenSettings(
            choice.lr,
            lead(trials, choice._replace(temperature_factor=common_factor), "lr"),
            choice.temperature_factor,
            lead(trials, choice, "temperature_factor"),
            sum(temperatures) / len(temperatures) if temperatures else None,
            len(trials),
        )
    return settings


def lead(trials: Sequence[Trial], choice: Choice, setting: Setting) -> float | None:
    """By how much validation prefers the choice to the next best value: little where the choice is flat.

    Args:
        trials: of a variant.
        choice: of it.
        setting: that is varied, the other one being as chosen.

    Returns:
        The lead, or ``None`` where nothing else ended with a measure.

    Example:
        >>> lead([Trial(0.1, 1.0, None, 0.5), Trial(0.3, 1.0, None, 0.75)], Choice(0.3), "lr")
        0.25
    """
    fixed_setting: Setting = "temperature_factor" if setting == "lr" else "lr"
    measures = {
        getattr(trial, setting): trial.validation
        for trial in trials
        if getattr(trial, fixed_setting) == getattr(choice, fixed_setting) and trial.validation is not None
    }
    rival_measures = [value for key, value in measures.items() if key != getattr(choice, setting)]
    return (
        measures[getattr(choice, setting)] - max(rival_measures)
        if rival_measures and getattr(choice, setting) in measures
        else None
    )


def beyond(values: Iterable[float], value: float) -> float | None:
    """The value after the last of a list, a step as long as the one before it, where the choice is at that end.

    Args:
        values: that were tried.
        value: the chosen one of them.

    Returns:
        The value to try besides, or ``None`` where the choice lies inside the list, or is all of it.

    Example:
        >>> beyond([0.1, 0.3, 1.0], 0.1), beyond([0.1, 0.3, 1.0], 0.3), beyond([1.0, 2.0], 2.0)
        (0.0333333, None, 4.0)
    """
    ascending = sorted({*values, value})
    if len(ascending) < 2 or value not in (ascending[0], ascending[-1]):
        return None
    neighbour = ascending[1] if value == ascending[0] else ascending[-2]
    return float(f"{value * value / neighbour:.6g}")


def _of_first_seed(runs: Iterable[GridRun]) -> list[GridRun]:
    runs = list(runs)
    first = min((run.seed for run in runs), default=0)
    return [run for run in runs if run.seed == first]
