"""A quantity of the user's own: one class that measures vectors, wherever they come from."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.capture.evaluation import same_random_state
from lightning_normdyn.capture.table import TableStep
from lightning_normdyn.caution import SettingsError, caution
from lightning_normdyn.instruments.base import CadencedInstrument, Need, Readings, check_every
from lightning_normdyn.instruments.quantities import QUANTITIES

VectorKind = Literal["table", "output", "probe"]
"""Tracked rows of a table, what a submodule returned in a step, or what an encoder makes of its probe."""


class Look(NamedTuple):
    """What an instrument is shown after a measured step.

    Attributes:
        vectors: a copy of the vectors ``[n, d]``: the tracked rows of a table, what a submodule returned in the step,
            or an encoder's vectors of its probe. Of all ranks, on each rank.
        kind: which of these they are.
        target: qualified name of the parameter or submodule.
        step: optimizer steps made.
    """

    vectors: Tensor
    kind: VectorKind
    target: str
    step: int


class Instrument:
    """Base of an instrument of your own.

    A subclass names its ``quantities`` and computes them in :meth:`measure`; all else has a default. What it gives is
    logged as ``normdyn/<target>/<quantity>``, goes into the history and into ``trainer.callback_metrics``. Each target
    gets a copy of its own. It runs without gradients on copies of the vectors, and the random state is put back, so it
    cannot change the training. One that raises costs a warning and is off for that target from then on.

    An encoder that is followed on a probe shows its vectors of the probe, which are of the same items every time; any
    other submodule those of the training batch.

    Attributes:
        quantities: names of what it measures; none may be one of :data:`lightning_normdyn.instruments.QUANTITIES`.
        every_n_steps: cadence in optimizer steps; ``None`` takes that of the callback. The first step counts besides.

    Example:
        >>> class Anisotropy(Instrument):
        ...     quantities = ("anisotropy",)
        ...
        ...     def measure(self, look):
        ...         directions = torch.nn.functional.normalize(look.vectors, dim=1)
        ...         return {"anisotropy": directions.mean(0).norm()}
        >>> look = Look(torch.eye(4), "table", "embedding.weight", step=1)
        >>> Anisotropy().measure(look)
        {'anisotropy': tensor(0.5000)}
    """

    quantities: Sequence[str] = ()
    every_n_steps: int | None = None

    def measure(self, look: Look) -> Mapping[str, Tensor | float]:
        """Quantity names to numbers or tensors of one element; those that do not exist this time may be left out.

        Args:
            look: the vectors and where they come from.
        """
        raise UnwrittenMeasureError(f"{type(self).__name__} does not say how it measures: write measure(self, look)")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors, numbers, strings, lists and dicts; nothing by default.

        Numbers are Python's own: what holds others, such as numpy's, is left out of the checkpoint with a warning.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""


def check_instruments(instruments: Sequence[Instrument]) -> Sequence[Instrument]:
    """Refuses what is no instrument, and quantities that have no name or that of another.

    Raises:
        ValueError: with the name of the instrument and of the quantity.

    Example:
        >>> class Average(Instrument):
        ...     quantities = ("norm_mean",)
        >>> check_instruments([Average()])
        Traceback (most recent call last):
            ...
        ValueError: instruments: Average measures 'norm_mean', which is a built-in quantity; give it another name
    """
    if isinstance(instruments, (Instrument, str)) or not isinstance(instruments, Sequence):
        came = type(instruments).__name__ if isinstance(instruments, Instrument) else repr(instruments)
        raise ValueError(f"instruments: expected a list of instruments, got {came}; put a single one into a list")
    owners: dict[str, str] = dict.fromkeys(QUANTITIES, "")
    for instrument in instruments:
        _check_instrument(instrument)
        name = type(instrument).__name__
        for quantity in instrument.quantities:
            if quantity in owners:
                clash = f"{owners[quantity]} measures too" if owners[quantity] else "is a built-in quantity"
                raise ValueError(f"instruments: {name} measures '{quantity}', which {clash}; give it another name")
            owners[quantity] = name
    adapter_names = [adapter_name(instrument) for instrument in instruments]
    for name in adapter_names:
        if adapter_names.count(name) > 1:
            raise ValueError(
                f"instruments: two are called '{name}' in a checkpoint, got {len(instruments)} instruments; give one "
                "class another name, or leave ', ' out of the names of quantities"
            )
    return instruments


def _check_instrument(instrument: Instrument) -> None:
    if isinstance(instrument, type) and issubclass(instrument, Instrument):
        name = instrument.__name__
        raise ValueError(f"instruments: expected objects, got the class {name}; write {name}()")
    if not isinstance(instrument, Instrument):
        raise ValueError(
            f"instruments: expected subclasses of lightning_normdyn.instruments.Instrument, got {instrument!r}"
        )
    quantities, name = instrument.quantities, type(instrument).__name__
    if isinstance(quantities, str) or not quantities or not all(_is_quantity_name(item) for item in quantities):
        raise ValueError(
            f"instruments: expected {name}.quantities to be a tuple of names without '/', got {quantities!r}"
        )
    if instrument.every_n_steps is not None:
        check_every(f"instruments: {name}.every_n_steps", instrument.every_n_steps)


def _is_quantity_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and "/" not in name


class InstrumentAdapter(CadencedInstrument):
    """Shows one target's vectors to a user's instrument.

    Args:
        instrument: the user's; a copy of it is used.
        target: qualified name of the target.
        every_n_steps: cadence, where the instrument has none of its own.
        warn: says to the user that the instrument failed; the training goes on without it.
    """

    def __init__(
        self, instrument: Instrument, target: str, every_n_steps: int, warn: Callable[[str], object] = caution
    ) -> None:
        super().__init__(instrument.every_n_steps or every_n_steps)
        self._template = instrument
        self.instrument = copy.deepcopy(instrument)
        self.target = target
        self._warn = warn
        self._is_off = self._has_measured = self._has_bad_state = False

    def need(self, step: int) -> Need:
        """A look at the rows after the step, on the cadence."""
        return Need.NORMS if self.is_due(step) else Need.NOTHING

    def observe(self, step: int, table_step: TableStep) -> None:
        """Shows the tracked rows of a table."""
        self.show(step, table_step.target.tracked(), "table")

    def show(self, step: int, vectors: Tensor, kind: VectorKind) -> None:
        """Shows vectors ``[n, d]`` after a step; nothing where there are none, as of an expert without tokens.

        An instrument that fails is off from then on. One that does not say what it measures, or says it wrongly, ends
        the run at its first look, where nothing is lost yet.
        """
        if self._is_off or not len(vectors):
            return
        look = Look(vectors.detach().clone(), kind, self.target, step)
        try:
            with torch.no_grad(), same_random_state(vectors.device):
                values = self.instrument.measure(look)
            self._readings = self._numbers(values, vectors.device)
        except Exception as error:  # a user wrote it, and observing must never end a run
            if not self._has_measured and isinstance(error, SettingsError):
                raise
            self._is_off = True
            self._warn(
                f"instruments: {self._name} failed at step {step} of '{self.target}' ({type(error).__name__}: {error}) "
                "and is off there from now on; the training goes on"
            )
        self._has_measured = True

    @property
    def _name(self) -> str:
        return type(self.instrument).__name__

    def _numbers(self, values: Any, device: torch.device) -> Readings:
        if not isinstance(values, Mapping):
            name = self._name
            raise UnusableReadingError(
                f"instruments: expected {name}.measure to return a mapping of quantities "
                f"{tuple(self.instrument.quantities)} to numbers, got {values!r}"
            )
        return {name: self._one_number(name, value, device) for name, value in values.items()}

    def _one_number(self, name: str, value: Tensor | float, device: torch.device) -> Tensor | float:
        if name not in self.instrument.quantities:
            raise UnusableReadingError(
                f"instruments: {type(self.instrument).__name__} measured '{name}', which is not among its quantities "
                f"{tuple(self.instrument.quantities)}; name it there"
            )
        if not isinstance(value, Tensor):
            return self._plain_number(name, value)
        if value.numel() != 1:
            raise UnusableReadingError(
                f"instruments: expected one number for '{name}' of {type(self.instrument).__name__}, got shape "
                f"{tuple(value.shape)}"
            )
        return value.detach().reshape(()).to(device)

    def _plain_number(self, name: str, value: Any) -> float:
        if isinstance(value, str) or not hasattr(value, "__float__"):
            raise UnusableReadingError(
                f"instruments: expected one number for '{name}' of {type(self.instrument).__name__}, got {value!r}; "
                "leave out what does not exist this time"
            )
        return float(value)

    def state_dict(self) -> dict[str, Any]:
        """The instrument's own; nothing where a checkpoint that holds it would not load with ``weights_only=True``."""
        if self._is_off or self._has_bad_state:
            return {}
        try:
            state: Any = self.instrument.state_dict()
            foreign = _foreign_type(state) if isinstance(state, dict) else type(state).__name__
            problem = foreign and f"expected tensors, numbers, strings, lists and dicts in a dict, got a {foreign}"
        except Exception as error:  # as above
            problem = f"{type(error).__name__}: {error}"
        if problem is None:
            return dict(state)
        self._has_bad_state = True
        self._warn(
            f"instruments: the state_dict of {self._name} cannot go into a checkpoint ({problem}); it is left out, and "
            "a resumed run begins it anew"
        )
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave; an instrument that cannot begins anew."""
        if not state:
            return
        try:
            self.instrument.load_state_dict(state)
        except Exception as error:  # as above
            self.instrument = copy.deepcopy(self._template)
            self._warn(
                f"instruments: {self._name} cannot take back its state of '{self.target}' ({type(error).__name__}: "
                f"{error}) and begins anew; the training resumes as usual"
            )


class UnusableReadingError(SettingsError):
    """An instrument measured what is no number, or by a name that it did not give."""


class UnwrittenMeasureError(SettingsError, NotImplementedError):
    """An instrument does not say how it measures."""


_PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None), Tensor, torch.nn.Parameter, torch.Size)


def _foreign_type(item: object) -> str | None:
    """The first type in a state that ``torch.load(weights_only=True)`` would refuse; ``None`` if there is none.

    Types are compared exactly: a ``numpy.float64`` is a float, and is written as what it is.
    """
    if type(item) in _PLAIN_TYPES:
        return None
    parts: Sequence[object] = ()
    if type(item) in (dict, OrderedDict):
        parts = [part for pair in item.items() for part in pair]  # type: ignore[attr-defined]
    elif type(item) in (list, tuple):
        parts = item  # type: ignore[assignment]
    else:
        return f"{type(item).__module__}.{type(item).__qualname__}".removeprefix("builtins.")
    return next((foreign for part in parts if (foreign := _foreign_type(part)) is not None), None)


def copyable(instruments: Sequence[Instrument], warn: Callable[[str], object]) -> list[Instrument]:
    """The instruments of which each target can have a copy; of the others it says that they are off.

    Args:
        instruments: the user's.
        warn: says something to the user.
    """
    return [instrument for instrument in instruments if _is_copyable(instrument, warn)]


def _is_copyable(instrument: Instrument, warn: Callable[[str], object]) -> bool:
    try:
        copy.deepcopy(instrument)
    except Exception as error:  # it may hold anything, such as a lock
        warn(
            f"instruments: {type(instrument).__name__} cannot be copied for each target ({type(error).__name__}: "
            f"{error}) and is off; make what it holds when it first measures"
        )
        return False
    return True


def adapters_of(
    instruments: Sequence[Instrument], target: str, every_n_steps: int, warn: Callable[[str], object] = caution
) -> dict[str, InstrumentAdapter]:
    """An adapter of each instrument for one target, by a name that tells them apart in a checkpoint."""
    return {
        adapter_name(instrument): InstrumentAdapter(instrument, target, every_n_steps, warn)
        for instrument in instruments
    }


def adapter_name(instrument: Instrument) -> str:
    """What tells an instrument from others in a checkpoint: its class and what it measures."""
    return f"{type(instrument).__name__}: {', '.join(instrument.quantities)}"
