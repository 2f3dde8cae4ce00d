"""What weight decay alone makes of a row that gets no gradient: one factor for all of its numbers."""

from __future__ import annotations

import math

from lightning_normdyn.core.dynamics.rule import EquilibriumRule


class DecayAlone:
    """Follows a row without gradients, step by step, as a share of what it was.

    Where decay is apart from the gradient, ``x(t)/x(0) = Π (1 - lr·lambda)``. Under SGD's momentum decay passes through
    the velocity ``v``, here relative to ``x(0)``: ``v <- μ·v + (1 - dampening)·lambda·x``, ``x <- x - lr·v``.

    Args:
        rule: the law of the parameter group.

    Attributes:
        factor: ``x(t)/x(0)``.
        steps: ``t``.

    Example:
        >>> import torch
        >>> from lightning_normdyn import equilibrium_rule
        >>> decay = DecayAlone(equilibrium_rule(torch.optim.AdamW([torch.ones(1)], lr=0.1, weight_decay=0.5)))
        >>> for _ in range(2):
        ...     decay.step(0.1)
        >>> decay.factor, decay.steps  # (1 - 0.05)²
        (0.9025, 2)
    """

    def __init__(self, rule: EquilibriumRule) -> None:
        self.factor, self.steps = 1.0, 0
        self._velocity, self._swings = 0.0, False
        self._set(rule)

    def _set(self, rule: EquilibriumRule) -> None:
        self.is_known = decays_apart(rule)
        self._through_velocity = rule.family == "sgd" and rule.first_beta > 0 and rule.decay_gain == 1
        self._rate = rule.radial_decay if self._through_velocity else rule.lr_gain * rule.radial_decay
        if rule.family in _TOUCHED_ONLY:
            self._rate = 0.0
        self._momentum, self._nesterov = rule.first_beta, rule.nesterov
        self._critical = (1 - rule.first_beta**0.5) ** 2 if self._through_velocity else math.inf
        self._intake = rule.lr_gain * (1 - rule.first_beta)

    def step(self, lr: float) -> None:
        """Makes a step at this nominal learning rate."""
        self.steps += 1
        pull = self._rate * self.factor
        if self._through_velocity:
            # torch takes the first gradient whole, and dampens the later ones
            intake = self._intake if self._velocity else 1.0
            self._velocity = self._momentum * self._velocity + intake * pull
            pull = pull + self._momentum * self._velocity if self._nesterov else self._velocity
        self.factor -= lr * pull
        self._swings |= lr * self._rate > self._critical

    @property
    def memory(self) -> float:
        """Steps that the velocity remembers."""
        return 1 / (1 - self._momentum) if self._through_velocity else 0.0

    def restart(self, rule: EquilibriumRule) -> bool:
        """Counts from now on.

        Args:
            rule: the law now.

        Returns:
            Whether the rows were followed: the law is known and was the same from the last restart on, and rows did not
            swing through zero, where rounding is all that is left of them.
        """
        before, swung = self._settings(), self._swings
        self._velocity = self._velocity / self.factor if self.factor else 0.0
        self._swings = False
        self.factor, self.steps = 1.0, 0
        self._set(rule)
        return self.is_known and before == self._settings() and not swung and math.isfinite(self._velocity)

    def _settings(self) -> tuple[float, ...]:
        course = (self._momentum, self._nesterov, self._intake) if self._through_velocity else ()
        return (self.is_known, self._rate, *course)

    def state_dict(self) -> dict[str, float]:
        """Where the row is, and how it got there."""
        return {
            "factor": self.factor,
            "steps": self.steps,
            "velocity": self._velocity,
            "swings": self._swings,
            "rate": self._rate,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.factor, self.steps = state["factor"], int(state["steps"])
        self._velocity, self._rate, self._swings = state["velocity"], state["rate"], bool(state["swings"])


_SPARING = ("sgd", "adamw", "lion")
"""Families under which a step moves a row without gradients by its decay and by nothing else."""


_TOUCHED_ONLY = ("rowwise_adagrad", "rowwise_adagradw", "sparse_adam")
"""Families under which such a row stays as it is."""


def decays_apart(rule: EquilibriumRule) -> bool:
    """Whether a row without gradients loses ``lr·lambda`` of itself in every step, or nothing, and does nothing else.

    Not under Muon, which turns all rows of a matrix together, nor where decay falls with the rate in a way of its own
    (AdamC), or cannot be told from the gradient.
    """
    if rule.family in _TOUCHED_ONLY:
        return True
    if rule.family == "adagrad" and not rule.radial_decay:
        return True
    return rule.family in _SPARING and rule.decay_is_separable and rule.correction is None
