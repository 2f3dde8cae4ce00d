"""Gradients of rows whose optimizer is fused into backward: read off what it did to the rows and to its own state.

FBGEMM's kernels move the rows a batch looks up while ``backward()`` runs; no gradient is ever there to be seen. But a
step is a known function of the gradient, so that the rows and the optimizer's state, before and after, tell it:

==========================  ===================================================================================
EXACT_SGD                   ``g = -dx/lr``
EXACT_ROWWISE_ADAGRAD       ``|g|² = d·dm`` and ``g = -dx·(sqrt(m) + eps)/lr``, m the row's mean of squares after
EXACT_ADAGRAD               the same number by number: ``g² = dm``
ADAM, PARTIAL_ROWWISE_ADAM  ``g = (m' - beta1·m)/(1 - beta1)``, m the average of gradients
==========================  ===================================================================================

Row-wise weight decay (on a GPU alone; a CPU's kernels ignore it) is taken out: coupled (``L2``) it is part of what the
accumulator sums up, ``g + lambda·x``; decoupled, it takes ``lr·lambda·x`` of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_L2, _DECOUPLED = 1, 2
_ROUNDING = 0.3  # of eps, what rounding to the nearest does to a number in the root mean square
_PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)


class FusedSettings(NamedTuple):
    """How a fused optimizer is set.

    Attributes:
        kind: FBGEMM's name of it, such as ``exact_row_wise_adagrad``.
        lr: learning rate.
        eps: what is added to the root that a step is divided by.
        betas: decays of Adam's two averages.
        weight_decay: ``lambda``.
        decay_mode: FBGEMM's number of how it acts: 1 is coupled (``L2``), 2 decoupled.
        clips: whether the kernel clips gradients to a largest value.
        max_norm: length to which rows are cut; 0 for none.
        dtype: of the rows.
    """

    kind: str
    lr: float
    eps: float
    betas: tuple[float, float]
    weight_decay: float
    decay_mode: int
    clips: bool = False
    max_norm: float = 0.0
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, kernel: Any) -> FusedSettings:
        """The settings of an FBGEMM module as they are now.

        Args:
            kernel: a ``SplitTableBatchedEmbeddingBagsCodegen``.
        """
        settings = kernel.optimizer_args
        kind = kernel.optimizer.value
        has_decay = not kernel.use_cpu and (settings.weight_decay_mode or "adam" in kind)
        return cls(
            kind,
            float(kernel.get_learning_rate()),
            float(settings.eps),
            (float(settings.beta1), float(settings.beta2)),
            float(settings.weight_decay if has_decay else 0.0),
            int(settings.weight_decay_mode),
            bool(settings.gradient_clipping),
            float(settings.max_norm),
            kernel.split_embedding_weights()[0].dtype,
        )

    def reason(self) -> str:
        """Why gradients cannot be read off its steps, and the way out; empty if they can."""
        name = self.kind.upper().replace("ROW_WISE", "ROWWISE")
        if self.kind not in _READERS:
            return (
                f"its fused optimizer {name} does not tell gradients; EXACT_ROWWISE_ADAGRAD, EXACT_ADAGRAD, EXACT_SGD "
                "and ADAM do"
            )
        if self.dtype not in _PRECISIONS:
            return f"its rows are quantised ({str(self.dtype).removeprefix('torch.')}); keep them in float32 or float16"
        if self.max_norm:
            return f"its kernel cuts rows to max_norm={self.max_norm:g}; leave that out"
        is_rowwise, is_adam = self.kind == "exact_row_wise_adagrad", "adam" in self.kind
        if self.weight_decay and not is_adam and not (is_rowwise and self.decay_mode in (_L2, _DECOUPLED)):
            return f"its fused optimizer {name} decays in a way that cannot be told from gradients; set weight_decay=0"
        return ""


class RowState(NamedTuple):
    """Rows, and what their optimizer has in store of them.

    Attributes:
        rows: ``[k, c]``.
        states: ``[k, c]`` each, or ``[k]``.
    """

    rows: Tensor
    states: list[Tensor]

    def doubled(self) -> RowState:
        """The same in float64, in which differences of close numbers are exact."""
        return RowState(self.rows.double(), [state.double() for state in self.states])


class GradientReading(NamedTuple):
    """What a step tells of the gradients of its rows, ``[k]`` each.

    Attributes:
        products: ``<x, g>``, x the rows before it.
        squares: ``|g|²``.
        errors: how far rounding may have taken ``g`` from what it was, relative to ``|g|``.
    """

    products: Tensor
    squares: Tensor
    errors: Tensor


def read_gradients(settings: FusedSettings, start: RowState, end: RowState) -> GradientReading:
    """The gradients by which a fused optimizer has taken rows from one state to another.

    Args:
        settings: of the optimizer in that step.
        start: rows and their state before it.
        end: the same after it.

    Example:
        >>> settings = FusedSettings("exact_sgd", 0.5, 0.0, (0.9, 0.999), 0.0, 0)
        >>> start, end = (RowState(torch.tensor([row]), []) for row in ([1.0, 0.0], [0.0, 2.0]))
        >>> reading = read_gradients(settings, start, end)  # g = (2, -4)
        >>> reading.products, reading.squares
        (tensor([2.], dtype=torch.float64), tensor([20.], dtype=torch.float64))
    """
    eps = torch.finfo(start.rows.dtype).eps
    return _READERS[settings.kind](settings, start.doubled(), end.doubled(), eps)


def _read_sgd(settings: FusedSettings, start: RowState, end: RowState, eps: float) -> GradientReading:
    update = end.rows - start.rows
    return _of_gradient(start.rows, _per_lr(update, settings), _update_error(start.rows, update, eps))


def _read_rowwise_adagrad(settings: FusedSettings, start: RowState, end: RowState, eps: float) -> GradientReading:
    update, decay = end.rows - start.rows, settings.weight_decay
    if settings.decay_mode == _DECOUPLED:
        update = update + settings.lr * decay * start.rows
    sums = end.states[0]
    summand = _per_lr(update * (sums.sqrt() + settings.eps)[:, None], settings)
    growth = sums - start.states[0]
    reading = _by_the_finer(
        _of_gradient(start.rows, summand, _update_error(start.rows, update, eps)),
        growth * update.shape[1],
        sums / growth,
    )
    return reading if settings.decay_mode != _L2 or not decay else _without_decay(start.rows, reading, decay)


def _read_adagrad(settings: FusedSettings, start: RowState, end: RowState, eps: float) -> GradientReading:
    update, sums = end.rows - start.rows, end.states[0]
    gradient = _per_lr(update * (sums.sqrt() + settings.eps), settings)
    growth = (sums - start.states[0]).sum(1)
    reading = _of_gradient(start.rows, gradient, _update_error(start.rows, update, eps))
    return _by_the_finer(reading, growth, sums.sum(1) / growth)


def _read_adam(settings: FusedSettings, start: RowState, end: RowState, eps: float) -> GradientReading:
    del eps  # the averages are float32
    beta, average = settings.betas[0], end.states[0]
    gradient = (average - beta * start.states[0]) / (1 - beta)
    error = _ROUNDING * _EPS * average.norm(dim=1) / ((1 - beta) * gradient.norm(dim=1))
    return _of_gradient(start.rows, gradient, error)


def _per_lr(update: Tensor, settings: FusedSettings) -> Tensor:
    """What a step descends; nothing at a learning rate of zero, where rows stay and do not tell."""
    return -update / settings.lr if settings.lr else torch.zeros_like(update)


def _of_gradient(rows: Tensor, gradient: Tensor, errors: Tensor) -> GradientReading:
    return GradientReading((rows * gradient).sum(1), gradient.square().sum(1), errors)


def _update_error(rows: Tensor, update: Tensor, eps: float) -> Tensor:
    error: Tensor = _ROUNDING * eps * rows.norm(dim=1) / update.norm(dim=1)
    return error


def _by_the_finer(reading: GradientReading, squares: Tensor, sum_over_growth: Tensor) -> GradientReading:
    """Takes lengths from the accumulator where its growth is rounded less than the row's step is, as it is early on."""
    errors = _ROUNDING * _EPS * sum_over_growth / 2
    is_finer = errors < reading.errors
    return reading._replace(
        squares=torch.where(is_finer, squares, reading.squares), errors=torch.where(is_finer, errors, reading.errors)
    )


def _without_decay(rows: Tensor, reading: GradientReading, decay: float) -> GradientReading:
    """The gradient alone, where a reading is of ``g + lambda·x``."""
    norms = rows.square().sum(1)
    squares = reading.squares - 2 * decay * reading.products + decay**2 * norms
    errors = reading.errors * (reading.squares / squares).sqrt()
    return GradientReading(reading.products - decay * norms, squares, errors)


_EPS = torch.finfo(torch.float32).eps
_Reader = Callable[[FusedSettings, RowState, RowState, float], GradientReading]
_READERS: dict[str, _Reader] = {
    "exact_sgd": _read_sgd,
    "exact_row_wise_adagrad": _read_rowwise_adagrad,
    "exact_adagrad": _read_adagrad,
    "adam": _read_adam,
    "partial_row_wise_adam": _read_adam,
}
