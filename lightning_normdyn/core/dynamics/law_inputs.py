"""What a law of the norm sees: how an optimizer is set, what reaches the rows, and what it has in store of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class DecayCorrection(NamedTuple):
    """Decay that falls with the learning rate, as in AdamC: ``lambda_rad = full_decay·lr/peak_lr``.

    Attributes:
        full_decay: ``lambda_rad`` at the peak.
        peak_lr: effective learning rate there.
    """

    full_decay: float
    peak_lr: float

    def radial_decay(self, lr: float) -> float:
        """``lambda_rad`` at an effective learning rate."""
        return self.full_decay * lr / self.peak_lr


class StepMemory(NamedTuple):
    """Steps of a set size that stay alike for a while.

    Attributes:
        mean_square: of the numbers of a step, per unit of lr².
        persistence: sum over all lags of the autocorrelation of steps: by how much a walk outgrows independent ones.
    """

    mean_square: float
    persistence: float


class Settings(NamedTuple):
    """What a parameter group is set to.

    Attributes:
        lr: ``e``, effective learning rate.
        radial_decay: ``lambda_rad``, shrinkage per unit of it.
        first_beta: decay of the average of gradients that makes the step, beta1 or momentum; 0 where there is none.
        second_beta: decay of the second-moment average; 0 where there is none.
        nesterov: whether a step looks ahead along that average.
        correction: how decay follows the learning rate; ``None`` where it does not.
        step_memory: size and persistence of steps, where the optimizer's shape and options alone set them.
        steps_made: optimizer steps before those that a law is asked about.
    """

    lr: float
    radial_decay: float
    first_beta: float
    second_beta: float
    nesterov: bool
    correction: DecayCorrection | None = None
    step_memory: StepMemory | None = None
    steps_made: int = 0

    def decay_share(self, lr: float, lr_squared: float) -> float:
        """The share of a norm that decay takes in a step, ``e·lambda_rad``, averaged over a segment of rates.

        Args:
            lr: mean effective rate of the segment.
            lr_squared: mean square of it, which counts where decay follows the rate.
        """
        if self.correction is None:
            return lr * self.radial_decay
        return self.correction.full_decay * lr_squared / self.correction.peak_lr

    @property
    def step_share(self) -> float:
        """``q = sum(h²)/(sum h)²``, h the weight in a step of the gradient of so many steps ago.

        The mean square of one step over the growth of ``R²`` that the same noise makes in the long run, where steps in
        a row are alike: (1 - beta)/(1 + beta).
        """
        beta = self.first_beta
        if self.nesterov:
            return (1 - beta**2) ** 2 + beta**4 * (1 - beta) / (1 + beta)
        return (1 - beta) / (1 + beta)


class Noise(NamedTuple):
    """What reaches the rows.

    Attributes:
        second_moment: ``V²``, mean of ``|R·g_tan|²`` with absent steps counted as zero, ``[n]``.
        dim: ``d``, length of a row.
        update_probability: ``p``, share of steps in which a row gets a gradient, ``[n]``.
        kurtosis: ``kappa = E[s⁴]/E[s²]²`` over the steps in which a row gets a gradient, ``[n]``: 1 where all of them
            are alike. ``None`` where nobody knows: a law then says nothing of errors.
        accumulated: ``A`` of :class:`OptimizerMemory`, ``[n]``; for laws that name it in ``path_needs`` alone.
        averages: likewise, ``[n, 2]``.
    """

    second_moment: Tensor
    dim: int
    update_probability: Tensor
    kurtosis: Tensor | None = None
    accumulated: Tensor | None = None
    averages: Tensor | None = None


class OptimizerMemory(NamedTuple):
    """What an optimizer has in store of each row that its law cannot do without.

    Attributes:
        accumulated: ``A``, sum of the squared gradients of a row under Adagrad, ``[n]``.
        averages: ``<z, z>`` and ``<z, y>`` under a schedule-free optimizer, y the row and z what takes the steps,
            ``[n, 2]``.
    """

    accumulated: Tensor | None = None
    averages: Tensor | None = None

    @classmethod
    def from_state(cls, state: Iterable[Tensor | None], device: torch.device) -> OptimizerMemory:
        """What a list of the attributes in a checkpoint holds."""
        return cls(*(None if values is None else values.to(device) for values in state))
