"""Tells how a contrastive loss, anyone's, compares with float64 on several ranks, in half precision and cached."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_callable, check_choice, check_sequence
from lightning_normdyn.losses.float64_loop import Float64Loop, PairLoss, mean_of_parts
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.trials import Precision, Step, Trial, reference_step, run_trials

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05, "autocast": 0.05}
"""What factors may be off by, and the residual: a loss that makes its scores in bfloat16 rounds them by about 1%."""
Finding = Literal["right", "scaled", "value", "constants", "parts", "none", "different", "not finite", "failed"]
_CAUSELESS = ("failed", "none", "not finite")  # the number of ranks is not what brings them about
_COLUMNS = ("ranks", "precision", "batches", "cached", "loss", "gradient", "residual", "finding")


class Comparison(NamedTuple):
    """A way of training beside its reference.

    Attributes:
        trial: the way.
        loss_factor: the loss, a mean over ranks, in units of the reference's.
        gradient_factor: the multiple of the reference's gradient that is nearest to the loss's.
        residual: what that multiple leaves, as a share of the loss's gradient: 0 for the same direction.
        finding: what it comes to.
        parts: in how many the batch falls whose pairs do not meet, where that is the finding.
        failure: the error, where there was one.
    """

    trial: Trial
    loss_factor: float
    gradient_factor: float
    residual: float
    finding: Finding
    parts: int = 1
    failure: str = ""

    @property
    def place(self) -> str:
        """The way in words."""
        trial = self.trial
        words = ["one process" if trial.ranks == 1 else f"{trial.ranks} ranks", trial.precision]
        words += [f"{trial.accumulate} batches accumulated"] * (trial.accumulate > 1) + ["cached"] * trial.is_cached
        return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class LossVerification:
    """A table of factors, printed with what they mean.

    Attributes:
        comparisons: its rows.
    """

    comparisons: tuple[Comparison, ...]

    @property
    def is_right(self) -> bool:
        """Whether every row is."""
        return all(row.finding == "right" for row in self.comparisons)

    @property
    def verdict(self) -> str:
        """A sentence for each thing that is wrong, at the first place where it is, or one that nothing is."""
        base = self.comparisons[0]
        if self.is_right:
            return f"Loss and gradient are those of float64 in all {len(self.comparisons)} rows."
        if base.finding == "different":
            return _sentence(base, base)
        sentences: dict[tuple[object, ...], str] = {}
        for row in self.comparisons:
            is_known = row.finding == base.finding and _is_near(row.gradient_factor, base.gradient_factor, row)
            if row.finding != "right" and (row is base or not is_known or row.finding == "failed"):
                scale = (row.trial.ranks, row.parts, f"{row.gradient_factor:.1f}")
                key = (row.finding, row.failure) if row.finding in _CAUSELESS else (row.finding, *scale)
                sentences.setdefault(key, _sentence(row, base))
        return "\n".join(sentences.values())

    def __str__(self) -> str:
        lines = [_COLUMNS, *(_cells(row) for row in self.comparisons)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*(row.rstrip() for row in rows), "", self.verdict])


def verify_loss(
    loss: PairLoss,
    reference: PairLoss | None = None,
    *,
    normalization: Normalization = "cosine",
    temperature: float = 0.05,
    symmetric: bool = False,
    ranks: int = 2,
    precisions: Sequence[Precision] = PRECISIONS,
    accumulate: int = 2,
    pairs: int = 8,
) -> LossVerification:
    """Trains a step of two small encoders in every way and compares loss and gradient with a float64 loop.

    Gradients are those that an optimizer meets: under DistributedDataParallel, which averages those of ranks, in
    processes on the CPU. What is compared with is the loss of all pairs of all ranks on one process, and the mean over
    batches where they are accumulated (which have negatives of their own each). Each row has a copy of the loss.

    Args:
        loss: of queries and documents ``[pairs, 16]``, those of a row being a pair, to a number. A function or module
            of a file that can be imported, since other processes get it too; there is a process group in each, and on
            one process a group of one.
        reference: the same in float64, for all ranks on one process; ``None`` for InfoNCE by a loop.
        normalization: which norms the loop's scores keep.
        temperature: of the loop.
        symmetric: whether the loop goes both ways, as CLIP's does.
        ranks: the largest number of processes; 1 up to it are tried.
        precisions: of the embeddings: ``"float32"``, ``"bfloat16"``, or ``"autocast"`` for bfloat16 with the loss under
            autocast.
        accumulate: batches of a step; 1 leaves the rows of accumulation out.
        pairs: of a rank in a batch, a multiple of 4.

    Returns:
        The table. ``print`` shows it, ``is_right`` and ``verdict`` sum it up.

    Raises:
        ValueError: if an argument makes no sense, a process group runs already, or the loss cannot be sent to processes
            or ends them.

    Example:
        >>> from lightning_normdyn.losses import InfoNCE
        >>> def doubled(queries, documents):
        ...     return 2 * InfoNCE()(queries, documents)
        >>> print(verify_loss(doubled, ranks=1, precisions=["float32"], accumulate=1))
        ranks  precision  batches  cached  loss    gradient  residual  finding
        1      float32    1        no      2.0000  2.0000    ...       scaled
        1      float32    1        yes     2.0000  2.0000    ...       scaled
        <BLANKLINE>
        On one process, float32: the gradient is 2.00 times the right one; divide the loss by 2.00.
    """
    _check(loss, reference, precisions, pairs)
    check_count(ranks=ranks, accumulate=accumulate)
    truth = Float64Loop(normalization=normalization, temperature=temperature, symmetric=symmetric)
    comparisons: list[Comparison] = []
    with torch.enable_grad():
        for count in range(1, ranks + 1):
            trials = [
                Trial(count, precision, batches, is_cached, pairs)
                for precision in precisions
                for batches in sorted({1, accumulate})
                for is_cached in (False, True)
            ]
            steps = run_trials(loss, trials)
            comparisons += [_comparison(*row, reference or truth) for row in zip(trials, steps, strict=True)]
    return LossVerification(tuple(comparisons))


def _check(loss: object, reference: object, precisions: Sequence[str], pairs: object) -> None:
    check_callable("of queries and documents to a number", loss=loss)
    check_callable("of queries and documents to a number", optional=True, reference=reference)
    check_sequence(precisions=precisions)
    if not len(precisions):
        raise ValueError(f"precisions: expected some of {', '.join(PRECISIONS)}, got none")
    for precision in precisions:
        check_choice(PRECISIONS, precisions=precision)
    check_count(4, pairs=pairs)
    if isinstance(pairs, int) and pairs % 4:
        raise ValueError(f"pairs: expected a multiple of 4, since batches are cut in 2 and 4, got {pairs}")
    if dist.is_available() and dist.is_initialized():
        raise ValueError(
            "ranks: a process group runs already, and verify_loss starts its own; call it without torchrun"
        )


def _comparison(trial: Trial, step: Step, reference: PairLoss) -> Comparison:
    if step.failure:
        return Comparison(trial, math.nan, math.nan, math.nan, "failed", failure=step.failure)
    expected = reference_step(trial, reference)
    factor, residual = _fit(step.gradient, expected.gradient)
    row = Comparison(trial, step.loss / expected.loss, factor, residual, "right")
    tolerance = TOLERANCES[trial.precision]
    if not math.isfinite(row.loss_factor + residual):
        return row._replace(finding="not finite")
    if not step.gradient.any():
        return row._replace(finding="none")
    if residual <= tolerance:
        if not _is_near(factor, 1, row):
            return row._replace(finding="scaled")
        return row if _is_near(row.loss_factor, 1, row) else row._replace(finding="value")
    return _known_mistake(row, step.gradient, reference)


def _known_mistake(row: Comparison, gradient: Tensor, reference: PairLoss) -> Comparison:
    """Which wrong loss has this gradient, up to a factor."""
    trial, tolerance = row.trial, TOLERANCES[row.trial.precision]
    if isinstance(reference, Float64Loop) and trial.ranks > 1:
        for keeps_rank in (True, False):
            constants = reference_step(trial, partial(reference.of_constants, ranks=trial.ranks, keeps_rank=keeps_rank))
            if _fit(gradient, constants.gradient)[1] <= tolerance:
                return row._replace(finding="constants")
    for parts in sorted({2, 4, trial.ranks, 2 * trial.ranks} - {1}):
        if trial.ranks * trial.pairs % parts:
            continue
        part_step = reference_step(trial, mean_of_parts(reference, parts))
        if _fit(gradient, part_step.gradient)[1] <= tolerance:
            return row._replace(finding="parts", parts=parts)
    return row._replace(finding="different")


def _fit(gradient: Tensor, expected: Tensor) -> tuple[float, float]:
    """The least-squares factor, and what is left as a share of the gradient."""
    factor = (gradient @ expected) / (expected @ expected)
    remainder = (gradient - factor * expected).norm() / gradient.norm().clamp(min=1e-300)
    return float(factor), float(remainder)


def _is_near(factor: float, target: float, row: Comparison) -> bool:
    return abs(factor - target) <= TOLERANCES[row.trial.precision] * abs(target)


def _cells(row: Comparison) -> tuple[str, ...]:
    trial = row.trial
    numbers = (f"{row.loss_factor:.4f}", f"{row.gradient_factor:.4f}", f"{row.residual:.1e}")
    setting = (str(trial.ranks), trial.precision, str(trial.accumulate), "yes" if trial.is_cached else "no")
    return *setting, *numbers, row.finding


def _sentence(row: Comparison, base: Comparison) -> str:
    """What a row says, and what to do."""
    factor = row.gradient_factor
    sentences = {
        "scaled": f"the gradient is {factor:.2f} times the right one" + _why_scaled(row, base),
        "value": f"the gradient is right, and the loss that is shown {row.loss_factor:.2f} times the right one",
        "constants": (
            "embeddings are gathered as constants, so that a part of the gradient is missing "
            f"(residual {row.residual:.2f}); gather with a function that has a backward"
        ),
        "parts": _why_parts(row),
        "none": "no gradient arrives at the encoders; look for detach, no_grad and numpy on the way",
        "different": _why_different(row, base),
        "not finite": "loss or gradient is not finite; look for a logarithm or root of 0",
        "failed": f"the loss raised {row.failure}",
    }
    return f"On {row.place}: {sentences[row.finding]}."


def _why_scaled(row: Comparison, base: Comparison) -> str:
    ranks, factor = row.trial.ranks, row.gradient_factor
    if ranks > 1 and _is_near(factor, base.gradient_factor / ranks, row):
        return (
            ": DDP averages the gradients of ranks, and each has that of its own embeddings alone; multiply the loss "
            f"by {ranks}, or gather with a function whose backward adds up the gradients of all ranks"
        )
    if ranks > 1 and _is_near(factor, base.gradient_factor * ranks, row):
        return (
            ", the number of ranks: the loss is multiplied by it or summed over them, as suits gradients that are "
            f"added up, and DDP averages them; divide the loss by {ranks}"
        )
    if _is_near(factor, row.trial.pairs * ranks, row):
        return ", the number of pairs: it is their sum; take the mean"
    return f"; divide the loss by {factor:.2f}"


def _why_parts(row: Comparison) -> str:
    if row.parts == row.trial.ranks:
        return (
            f"each rank meets its own {row.trial.pairs} documents alone, and those of the others are no negatives "
            f"(residual {row.residual:.2f}); gather the embeddings of all ranks with their gradient"
        )
    return (
        f"it is the mean of {row.parts} parts of the batch whose pairs do not meet, so that negatives are missing "
        f"(residual {row.residual:.2f}); compute the scores of the whole batch (cached_loss saves the memory)"
    )


def _why_different(row: Comparison, base: Comparison) -> str:
    if row is base:
        return (
            f"the gradient is no multiple of the reference's (residual {row.residual:.2f}), and nothing else can be "
            "told before this row is right; say its normalization, temperature and symmetric, or pass a reference"
        )
    return f"the gradient has another direction than the right one (residual {row.residual:.2f})"
