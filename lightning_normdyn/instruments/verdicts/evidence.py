"""What rules judge by: how a target's quantities went so far, and the facts of its training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal, NamedTuple

import torch

from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.core.dynamics.weight_decay import weight_decay_for

_LATEST = 16
LR = "lr"
"""The course of the nominal learning rate, which is no logged quantity."""
SECOND_MOMENT = "second_moment"
"""The course of the middle row's ``V²`` from window to window, which is none either."""
_WIDE_SPAN = 1.1
_FAR = 1.5
_UNSEEN = 1.3
"""How far norms came to lie from a law whose ``V²`` was measured at norms that were ``_FAR`` off (tests of levers)."""


@dataclass
class Course:
    """How one quantity went, in bounded memory.

    Attributes:
        first: its first value.
        first_step: the step of that.
        last: its latest value.
        last_step: the step of that.
        lowest: of all.
        highest: of all.
        total: sum of all.
        count: how many there were.
        latest: the latest few, oldest first.
    """

    first: float
    first_step: int
    last: float = math.nan
    last_step: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    total: float = 0.0
    count: int = 0
    latest: list[float] = field(default_factory=list)

    def note(self, step: int, value: float) -> None:
        """Adds a value."""
        self.last, self.last_step = value, step
        if value < self.lowest:
            self.lowest = value
        if value > self.highest:
            self.highest = value
        self.total += value
        self.count += 1
        self.latest = [*self.latest, value][-_LATEST:]

    @property
    def mean(self) -> float:
        """Of all values."""
        return self.total / self.count

    @property
    def recent(self) -> float:
        """Median of the latest values."""
        return median(self.latest)

    @property
    def later_mean(self) -> float:
        """Mean of all values but the first, which an optimizer's first step may make unlike the rest; NaN of one."""
        return (self.total - self.first) / (self.count - 1) if self.count > 1 else math.nan


class Courses:
    """The courses of all quantities of a target.

    Args:
        step: steps made before the first value.

    Attributes:
        relaxations: relaxation times that have passed, ``sum(power·lr·lambda_rad)`` over the steps so far.

    Example:
        >>> courses = Courses()
        >>> for step in (100, 200):
        ...     courses.note(step, {"relaxation_steps": 50.0})
        >>> courses.relaxations, courses["relaxation_steps"].count
        (4.0, 2)
    """

    def __init__(self, step: int = 0) -> None:
        self._courses: dict[str, Course] = {}
        self.relaxations = 0.0
        self._relaxed_until = step

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of a step; what is not finite is left out."""
        for name, value in values.items():
            if math.isfinite(value):
                if name not in self._courses:
                    self._courses[name] = Course(value, step)
                self._courses[name].note(step, value)
        relaxation = values.get("relaxation_steps", math.nan)
        if relaxation > 0:  # the mean of the window that ends here
            self.relaxations += (step - self._relaxed_until) / relaxation
            self._relaxed_until = step

    def __getitem__(self, name: str) -> Course:
        return self._courses[name]

    def __contains__(self, name: str) -> bool:
        return name in self._courses

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {
            "relaxations": self.relaxations,
            "relaxed_until": self._relaxed_until,
            "courses": {name: asdict(course) for name, course in self._courses.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.relaxations, self._relaxed_until = state["relaxations"], state["relaxed_until"]
        self._courses = {name: Course(**course) for name, course in state["courses"].items()}


class TypicalRow(NamedTuple):
    """The gradients of the middle row of those that got any in a window, and the rows that never got one.

    Attributes:
        second_moment: ``V²``, the median.
        update_probability: ``p``, the median.
        unmet_rows: tracked rows that got no gradient in any window so far.
    """

    second_moment: float
    update_probability: float
    unmet_rows: int = 0


@dataclass(frozen=True)
class Facts:
    """What is known of the training of a target besides its quantities.

    Attributes:
        target: its name.
        kind: a table, the output of a submodule, a single learnt number, or a loss with all that it learns.
        rule: the law of its parameter group now.
        lr: nominal learning rate now.
        weight_decay: as the optimizer calls it.
        step: steps made.
        total_steps: steps of the whole run; ``None`` if it has no set end.
        has_ended: whether no step will follow.
        skipped_steps: steps that a loss scaler skipped.
        tracked_rows: rows of a table that keep statistics.
        dim: length of a row, or of an output's vectors.
        dtype: of the weights, or of those vectors.
        loss_scale: by which the loss is scaled up now; 1 without a scaler.
        clip_value: the norm to which gradients are clipped, where that is known.
        owners: parameter groups that hold it.
        loss_normalizations: what the model's losses normalise, such as ``("cosine",)``.
        meets_loss: whether the model learns nothing that could lie between it and the loss.
        typical_row: of the latest window; ``None`` before one closed.
        resets_norms: whether something was seen to set norms back between steps.
        least_temperature: below which a loss does not let its learnt temperature fall.
        eps: that the optimizer adds to what it divides a step by; ``None`` for one that divides by nothing.
        gradient_scale: of a table, the median of what it divides by, eps left out; ``None`` if that is not known.
    """

    target: str
    kind: Literal["table", "output", "scalar", "loss"]
    rule: EquilibriumRule
    lr: float
    weight_decay: float
    step: int
    total_steps: int | None = None
    has_ended: bool = False
    skipped_steps: int = 0
    tracked_rows: int = 0
    dim: int | None = None
    dtype: torch.dtype = torch.float32
    loss_scale: float = 1.0
    clip_value: float | None = None
    owners: int = 1
    loss_normalizations: tuple[str, ...] = ()
    meets_loss: bool = False
    typical_row: TypicalRow | None = None
    resets_norms: bool = False
    least_temperature: float = 0.01
    eps: float | None = None
    gradient_scale: float | None = None

    @property
    def horizon(self) -> int | None:
        """Steps of the whole run, as far as anybody knows."""
        return self.step if self.has_ended else self.total_steps


class Evidence(NamedTuple):
    """All that is known of one target.

    Attributes:
        facts: of its training.
        courses: of its quantities.
    """

    facts: Facts
    courses: Courses

    def last(self, name: str) -> float:
        """The latest value of a quantity; NaN where it was never logged, so that every comparison with it is false."""
        return self.courses[name].last if name in self.courses else math.nan

    def first(self, name: str) -> float:
        """Its first value, or NaN."""
        return self.courses[name].first if name in self.courses else math.nan

    def recent(self, name: str, *, readings: int = 1) -> float:
        """Median of its latest values; NaN where there are fewer than so many."""
        if name not in self.courses or self.courses[name].count < readings:
            return math.nan
        return self.courses[name].recent

    @property
    def is_table(self) -> bool:
        """Whether rows of a table are followed."""
        return self.facts.kind == "table"

    @property
    def chance_radial_fraction(self) -> float:
        """The radial share of a gradient that points anywhere: ``1/sqrt(d)``."""
        return 1 / math.sqrt(self.facts.dim or 1)

    @property
    def sees_lengths(self) -> bool:
        """Whether the gradient points along the rows about as much as anywhere else.

        So it is where scores are products of lengths. The loss then holds norms too, and where decay alone would have
        them settle is no place that they must reach.
        """
        return self.recent("radial_fraction", readings=3) >= 0.1 * self.chance_radial_fraction

    @property
    def rounding(self) -> float:
        """The radial share of a gradient below which rounding explains it."""
        return max(1e-4, 2 * torch.finfo(self.facts.dtype).eps)

    @property
    def meets_loss(self) -> bool:
        """Whether nothing lies between the vectors and the loss.

        Rows that get a gradient in each step meet it, since all of them are scored each time.
        """
        row = self.facts.typical_row
        return self.facts.meets_loss or (row is not None and row.update_probability >= 1)

    @property
    def was_trained_before(self) -> bool:
        """Whether rows start with norms more unlike than those of a fresh draw, which scatter by ``1/sqrt(2·d)``."""
        return self.is_table and self.first("norm_cv") > 2 / math.sqrt(2 * (self.facts.dim or 1))

    @property
    def turn(self) -> float:
        """The most radians by which a row can turn in the run, each step going the same way; NaN if unknown."""
        if "angular_update" not in self.courses:
            return math.nan
        return self.courses["angular_update"].mean * (self.facts.horizon or self.facts.step)

    @property
    def awaits_fit(self) -> bool:
        """Whether a window may still close that gives levers their values."""
        return self.facts.typical_row is None and not self.facts.has_ended

    @property
    def peak_lr(self) -> float:
        """The highest nominal learning rate so far."""
        return self.courses[LR].highest if LR in self.courses else self.facts.lr

    @property
    def mean_lr(self) -> float:
        """The mean of the nominal learning rate so far."""
        return self.courses[LR].mean if LR in self.courses else self.facts.lr

    @property
    def expected_relaxations(self) -> float:
        """Relaxation times in the whole run: those that passed, and those left at the latest window's rate.

        NaN where no law, no decay or no end is known.
        """
        horizon, relaxation = self.facts.horizon, self.last("relaxation_steps")
        if horizon is None or not relaxation > 0:
            return math.nan
        return self.courses.relaxations + max(0, horizon - self.courses["relaxation_steps"].last_step) / relaxation

    def decay_for_norm(self, norm: float, rule: EquilibriumRule | None = None) -> float | None:
        """The ``weight_decay`` at which the middle row settles at a norm, at the mean rate of the run so far.

        Args:
            norm: the wanted norm.
            rule: the law, if it is another than the present one.
        """
        row, rule = self.facts.typical_row, rule or self.facts.rule
        if row is None or not rule.settles or not norm > 0 or not self.mean_lr > 0:
            return None
        decay = weight_decay_for(
            rule.at(nominal_lr=self.mean_lr),
            target_norm=norm,
            second_moment=row.second_moment,
            dim=self.facts.dim,
            update_probability=row.update_probability,
        )
        return decay if math.isfinite(decay) else None

    def place(self, norm: float) -> str:
        """Where rows settle that a law has at a norm, in words: how far they may be off it if gradients change again.

        The law takes the gradients for as large as they are now. Where steps go by the gradient, the norm goes by
        ``V²`` to one over the law's power, and ``V²`` may be anywhere that it was so far. Where the optimizer divides
        by the gradient's size, it divides by that of the past: gradients that have shrunk leave steps, and norms,
        short by ``sqrt(V² now/V² on the average)`` until its second-moment average has forgotten them. Gradients that
        are alike from step to step make them longer, by the root of what the budget grows by over what the law has.

        Args:
            norm: the law's.
        """
        if SECOND_MOMENT not in self.courses or not self.courses[SECOND_MOMENT].lowest > 0:
            return f"at {amount(norm)}"
        course, rule = self.courses[SECOND_MOMENT], self.facts.rule
        if rule.ignores_gradient_scale:
            factors = [1.0, (course.last / course.mean) ** 0.5, self._growth_over_law() ** 0.5]
        else:
            factors = [1.0, *((bound / course.last) ** (1 / rule.power) for bound in (course.lowest, course.highest))]
        low, high = norm * min(factors), norm * max(factors)
        if not 1 / _FAR < norm / self.last("norm_p50") < _FAR:  # nobody has seen the gradients there
            low, high = low / _UNSEEN, high * _UNSEEN
        if high < _WIDE_SPAN * low:
            return f"at {amount(norm)}"
        return f"at {amount(norm)} ({amount(low)} to {amount(high)} as far as gradients may change)"

    def _growth_over_law(self) -> float:
        """What steps add to ``R²`` in a step by the measured budget, over what the law has them add; 1 if unknown."""
        growth = self.recent("budget_growth", readings=5) + self.recent("budget_drift", readings=5)
        decay = self.decay_for_norm(self.last("norm_p50"))
        if decay is None or not growth > 0:
            return 1.0
        rule = self.facts.rule
        return growth / (2 * rule.lr_gain * self.mean_lr * rule.decay_gain * decay)

    def norm_at_decay(self, weight_decay: float) -> float:
        """The norm at which the middle row settles under another ``weight_decay``, at the mean rate; NaN if unknown."""
        row, rule = self.facts.typical_row, self.facts.rule
        if row is None or not rule.settles or not self.facts.weight_decay > 0 or self.facts.dim is None:
            return math.nan
        factor: float = (weight_decay / self.facts.weight_decay) ** (-1 / rule.power)
        norm = rule.at(nominal_lr=self.mean_lr).predict(row.second_moment, self.facts.dim, row.update_probability)
        return float(norm) * factor


def amount(value: float) -> str:
    """A number of a sentence: three digits that matter, thousands set apart.

    Example:
        >>> amount(31000.4), amount(0.0340128), amount(6.17)
        ('31,000', '0.034', '6.17')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
