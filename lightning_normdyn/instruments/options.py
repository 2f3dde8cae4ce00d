"""The options that the callbacks, the plain observer and the Hugging Face callback share, each written once.

:class:`NormOptions` says what there is, :data:`DEFAULTS` what holds where nothing is said. Type checkers read the
first through ``Unpack``; help texts and configurations read both through the signature that :func:`spelled_out` gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar, get_type_hints

from lightning_normdyn.capture.row_sample import RowCounts, check_counts_source
from lightning_normdyn.capture.table import check_rows
from lightning_normdyn.capture.targets import Targets, check_targets
from lightning_normdyn.instruments.alerts import OnAlert
from lightning_normdyn.instruments.base import check_every
from lightning_normdyn.instruments.extent import Extent, check_extent
from lightning_normdyn.instruments.instrument import Instrument, check_instruments
from lightning_normdyn.instruments.planned_rates import LearningRates
from lightning_normdyn.instruments.probe_source import ProbeSource, check_probe, check_probe_items
from lightning_normdyn.instruments.row_names import RowNames, check_row_names
from lightning_normdyn.nearest_word import nearest


class LookOptions(TypedDict, total=False):
    """What is looked at, and how often.

    Attributes:
        targets: ``"auto"`` for every trainable embedding table and what the losses publish, or a pattern or a list
            of them over parameter and submodule names; ``"W:columns"`` names a matrix whose columns are embeddings.
        every_n_steps: cadence of looks in optimizer steps: trajectories, splits, budgets, samples of all tracked rows,
            measurements of outputs and probes.
        max_tracked_rows: most rows of a table that are tracked; larger tables are sampled, at an even stride or by
            ``row_counts``.
        row_counts: how often each row of a table occurs in the data, by which the rows of a large one are chosen: as
            many of each octave of frequency. A tensor, an array, a list, the path of a file that ``numpy.save`` wrote,
            or a mapping of target names to any of these.
        instruments: quantities of your own, see :class:`lightning_normdyn.instruments.Instrument`.
        names: names of the rows, for reports: one for each row of the single table, a path of a text file with one a
            line, a tokenizer, a function from row numbers to names, or a mapping of target names to any of these.
    """

    targets: Targets
    every_n_steps: int
    max_tracked_rows: int
    row_counts: RowCounts
    instruments: Sequence[Instrument]
    names: RowNames


class NormOptions(LookOptions, total=False):
    """The same, and from what norms are predicted.

    Attributes:
        fit_every_n_steps: cadence of the gradient moments of the touched rows. ``None`` reads every step of a window of
            less than 1,000, every other up to 2,000, then every fourth; rows that this would read fewer than 50 times
            more often, up to whenever they are touched.
        window: length of a fit window, as Lightning reads such numbers: a float up to 1.0 is a share of the run, an int
            a number of steps.
        forecast_at: when the norms at the end of the run are forecast: a float is a share of it, an int a step.
        lrs: the nominal learning rate of each step to come, as a function of its number from 0, for forecasts under a
            schedule that cannot be run ahead: a function that sets the rate, a scheduler that is stepped by hand or is
            given the step. ``None`` where schedulers of the run tell.
        probe: what an encoder (a target that is a submodule) encodes again around measured steps. ``None``: what it was
            called with in the first training step; or a batch of its inputs (a mapping is keyword arguments, a list or
            tuple positional ones), a loader of such batches, the path of one that ``torch.save`` wrote, or a mapping of
            target names to any of these; ``False`` for no probe.
        probe_items: most items that are kept of each call.
        on_alert: is called with a :class:`lightning_normdyn.instruments.Verdict` each time that a rule finds
            something, notes included, on the first rank alone.
    """

    fit_every_n_steps: int | None
    window: Extent
    forecast_at: Extent
    lrs: LearningRates | None
    probe: ProbeSource
    probe_items: int
    on_alert: OnAlert | None


DEFAULTS: NormOptions = {
    "targets": "auto",
    "every_n_steps": 50,
    "fit_every_n_steps": None,
    "window": 0.2,
    "forecast_at": 0.4,
    "lrs": None,
    "max_tracked_rows": 16_384,
    "row_counts": None,
    "probe": None,
    "probe_items": 64,
    "on_alert": None,
    "instruments": (),
    "names": None,
}


def complete_options(options: NormOptions | LookOptions, *, arguments: Sequence[str] = ()) -> NormOptions:
    """The options with defaults for those that are missing, each checked.

    Args:
        options: as the user gave them.
        arguments: further ones that the constructor has, for the message.

    Raises:
        TypeError: if there is no such option.
        ValueError: if one is out of range.

    Example:
        >>> complete_options({"window": 500})["forecast_at"]
        0.4
        >>> complete_options({"targets": "encoder"})["targets"]
        ['encoder']
        >>> complete_options({"targets": 5})
        Traceback (most recent call last):
            ...
        ValueError: targets: expected 'auto' or a list of patterns, got 5
    """
    strange_names = sorted(set(options) - set(DEFAULTS))
    if strange_names:
        names = sorted([*DEFAULTS, *arguments])
        hint = nearest(strange_names[0], names)
        raise TypeError(f"{strange_names[0]}: no such option; there are {', '.join(names)}{hint}")
    settings: NormOptions = {**DEFAULTS, **options}
    check_every("every_n_steps", settings["every_n_steps"])
    if settings["fit_every_n_steps"] is not None:
        check_every("fit_every_n_steps", settings["fit_every_n_steps"])
    check_extent("window", settings["window"])
    check_extent("forecast_at", settings["forecast_at"], whole_run=False)
    settings["targets"] = check_targets(settings["targets"])
    check_rows(settings["max_tracked_rows"])
    check_counts_source(settings["row_counts"])
    if settings["lrs"] is not None and not callable(settings["lrs"]):
        raise ValueError(
            f"lrs: expected a function from the number of a step to its learning rate, got {settings['lrs']!r}"
        )
    check_probe(settings["probe"])
    check_probe_items(settings["probe_items"])
    check_instruments(settings["instruments"])
    check_row_names(settings["names"])
    if settings["on_alert"] is not None and not callable(settings["on_alert"]):
        raise ValueError(
            f"on_alert: expected a function of a verdict, got {settings['on_alert']!r}; pass one, such as print"
        )
    return settings


Class = TypeVar("Class")


def spelled_out(options: type[Any]) -> Callable[[type[Class]], type[Class]]:
    """Spells out the ``**options`` of a class's constructor: in its signature with defaults, and under its ``Args:``.

    Type checkers read ``**options: Unpack[NormOptions]`` by themselves; help texts, jsonargparse and the reference
    would show neither defaults nor words without this.

    Args:
        options: :class:`LookOptions` or :class:`NormOptions`.
    """

    def spell_out(cls: type[Class]) -> type[Class]:
        constructor: Any = vars(cls)["__init__"]
        types = get_type_hints(options)
        explicit = inspect.signature(constructor, eval_str=True).parameters.values()
        option_parameters = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
            for name, default in DEFAULTS.items()
            if name in types
        ]
        own_parameters = [parameter for parameter in explicit if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        constructor.__signature__ = inspect.Signature([*own_parameters, *option_parameters], return_annotation=None)
        sources = (LookOptions,) if options is LookOptions else (LookOptions, options)  # a TypedDict hides its bases
        words = "".join(_attribute_lines(source) for source in sources)
        if cls.__doc__:  # gone under python -OO
            cls.__doc__ = inspect.cleandoc(cls.__doc__).replace("Args:\n", f"Args:\n{words}", 1)
        return cls

    return spell_out


def _attribute_lines(options: type[Any]) -> str:
    """The lines below ``Attributes:`` in a docstring."""
    _, _, lines = inspect.cleandoc(options.__doc__ or "").partition("Attributes:\n")  # as Python 3.13 does by itself
    return lines.rstrip() + "\n" if lines else ""
