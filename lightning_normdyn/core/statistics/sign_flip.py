"""Randomisation test by sign flips, for several paired comparisons of the same items at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count

_MOST_AT_ONCE = 2**22
# Sums of the same numbers in another order are the same sum.
_ROUNDING = 1e-9


class SignFlipTest(NamedTuple):
    """Whether any of several mean differences is above zero.

    Attributes:
        p_value: of the largest of them, corrected for having looked at all; plain number.
        p_values: of each, corrected in the same way, float64 ``[k]``; the smallest is ``p_value``.
    """

    p_value: float
    p_values: Tensor


def sign_flip_test(
    differences: Tensor, *, flips: int = 2_000, generator: torch.Generator | None = None
) -> SignFlipTest:
    """Tests whether one of ``k`` paired comparisons of ``n`` items gains anything, one-sided.

    If a treatment does nothing, each item's differences are as likely as their negatives. So all differences of an
    item change sign together, at random, which keeps how the comparisons hang together; the statistic is the largest
    ``sum(x) / sqrt(sum(x²))`` over the comparisons (Westfall, Young 1993, single-step max; Phipson, Smyth 2010 for
    ``p = (1 + b) / (1 + flips)``). Exact in any sample if the differences are symmetric about zero: errs with
    probability at most its level when nothing gains, however many comparisons there are.

    Args:
        differences: treatment minus control, ``[k, n]``.
        flips: random sign patterns; the smallest p-value there can be is ``1 / (flips + 1)``.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        The test; all p-values are 1 where nothing differs.

    Raises:
        ValueError: if the differences have another shape or are not finite.

    Example:
        >>> gains = torch.tensor([[0.2, 0.1, 0.3, 0.1, 0.2, 0.2, 0.1, 0.3], [0.1, -0.1, 0.1, -0.1, 0, 0, 0, 0]])
        >>> test = sign_flip_test(gains)
        >>> test.p_value < 0.05, bool(test.p_values[1] > 0.05)
        (True, True)
    """
    if differences.ndim != 2 or not differences.isfinite().all():
        raise ValueError(
            f"differences: expected finite numbers [comparisons, items], got {tuple(differences.shape)}"
            " or NaN; leave out items without a value"
        )
    x = differences.detach().cpu().double()
    size = x.square().sum(1).sqrt()
    unit = x / size.where(size > 0, 1).unsqueeze(1)
    observed = unit.sum(1)

    def at_least_as_large(signs: Tensor) -> Tensor:
        largest = (signs @ unit.T).amax(1, keepdim=True)
        return largest >= observed - _ROUNDING

    p_values = flipped_share(at_least_as_large, x.shape[1], flips=flips, generator=generator)
    return SignFlipTest(float(p_values.min()), p_values)


def flipped_share(
    exceeds: Callable[[Tensor], Tensor], items: int, *, flips: int, generator: torch.Generator | None = None
) -> Tensor:
    """p-values of any statistics whose law is known under sign flips: ``(1 + exceedances) / (1 + flips)``.

    Args:
        exceeds: of signs ``[b, items]`` in float64; whether each statistic of the flipped items reaches the observed
            one, bool ``[b, k]``.
        items: how many there are.
        flips: random sign patterns.
        generator: of random numbers, on the CPU; a fresh one with seed 0 if left out.

    Returns:
        p-values ``[k]`` in float64.
    """
    exceedances = [exceeds(signs).sum(0) for signs in random_signs(items, flips, generator=generator)]
    return (1 + torch.stack(exceedances).sum(0)).double() / (1 + flips)


def random_signs(items: int, flips: int, *, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Yields ``flips`` rows of random signs in parts ``[b, items]`` of bounded size, float64 on the CPU."""
    check_count(flips=flips, hint="2000 is usual")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    at_once = max(1, _MOST_AT_ONCE // max(1, items))
    for start in range(0, flips, at_once):
        rows = min(at_once, flips - start)
        yield torch.randint(2, (rows, items), generator=generator).double() * 2 - 1


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the chance of one false alarm among all stays within the level, whatever depends.

    The j-th smallest of k p-values becomes ``max over i <= j of min(1, (k - i + 1)·p_i)`` (Holm 1979).

    Args:
        p_values: one for each question.

    Returns:
        The corrected ones, in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected_values = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected_values[place] = largest
    return corrected_values
