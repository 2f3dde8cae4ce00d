"""Fisher condition numbers of every normalisation, and whether they speak for QNorm or DNorm, as a metric."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
from einops import rearrange
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_normdyn.core import NORMALIZATIONS, fisher_condition_number, recommend_normalization
from lightning_normdyn.core.number_checks import check_count, check_flag, check_positive
from lightning_normdyn.core.statistics.fisher import FisherForm
from lightning_normdyn.core.tensor_checks import check_real_tensors

_SHARE = "fisher_qnorm_share"


class FisherConditionNumber(Metric):
    """``log10`` of the Fisher condition number of every normalisation, at the first pairs that it sees.

    See :func:`~lightning_normdyn.core.fisher_condition_number`. All kept documents are candidates of every query.

    Args:
        form: which derivatives: ``diagonal``, ``eigenvalues`` or ``polar``.
        temperature: as in training.
        symmetric: average over both directions of the loss.
        pairs: so many are kept on each rank and looked at in all; memory is ``pairs·2d`` numbers.
        resamples: of the bootstrap behind ``fisher_qnorm_share``.
        kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: if the form is unknown, or a number out of its range.

    Example:
        >>> queries, documents = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(0))
        >>> metric = FisherConditionNumber(form="polar")
        >>> metric.update(queries, documents)
        >>> [(name, round(float(value), 2)) for name, value in metric.compute().items()]
        [('fisher_cosine', 0.0), ('fisher_dot', 1.38), ('fisher_qnorm', 1.31), ('fisher_dnorm', 1.19),
         ('fisher_qnorm_share', 0.03)]
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    queries: list[Tensor]
    documents: list[Tensor]
    width: Tensor

    def __init__(
        self,
        *,
        form: FisherForm = "diagonal",
        temperature: float = 0.05,
        symmetric: bool = True,
        pairs: int = 1_000,
        resamples: int = 200,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if form not in get_args(FisherForm):
            raise ValueError(f"form: expected one of {list(get_args(FisherForm))}, got {form!r}")
        check_positive(temperature=temperature, hint="0.05 is usual")
        check_flag(symmetric=symmetric)
        check_count(pairs=pairs, hint="1000 is usual")
        check_count(resamples=resamples, hint="200 is usual")
        self.form, self.pairs, self.resamples = form, pairs, resamples
        self.temperature, self.symmetric = temperature, symmetric
        # Flat, because a rank that saw nothing gathers a flat empty list.
        self.add_state("queries", [], dist_reduce_fx="cat")
        self.add_state("documents", [], dist_reduce_fx="cat")
        self.add_state("width", torch.tensor(0), dist_reduce_fx="max")

    def update(self, queries: Tensor, documents: Tensor) -> None:
        """Keeps pairs as long as there is room.

        Args:
            queries: embeddings before any normalisation, ``[n, d]``.
            documents: ``[m >= n, d]``; document i belongs to query i, those beyond the n-th are left out.

        Raises:
            ValueError: if they do not fit together.
        """
        check_real_tensors(queries=queries, documents=documents)
        if queries.ndim != 2 or documents.shape[1:] != queries.shape[1:] or len(documents) < len(queries):
            raise ValueError(
                f"documents: expected [m >= n, d] for queries [n, d], {tuple(queries.shape)}, got "
                f"{tuple(documents.shape)}; document i belongs to query i"
            )
        self.width = self.width.new_tensor(queries.shape[1])
        room = self.pairs - sum(batch.numel() for batch in self.queries) // max(1, queries.shape[1])
        count = min(room, len(queries))
        self.queries.append(rearrange(queries[:count].detach().to(self.dtype), "n d -> (n d)"))
        self.documents.append(rearrange(documents[:count].detach().to(self.dtype), "n d -> (n d)"))

    def compute(self) -> dict[str, Tensor]:
        """``fisher_cosine``, ``fisher_dot``, ``fisher_qnorm``, ``fisher_dnorm``; ``fisher_qnorm_share``.

        The last is the share of resamples in which QNorm has the smaller condition number: at 0.975 and above it is
        recommended, at 0.025 and below DNorm. NaN with fewer than two pairs.
        """
        sides = [_rows(side, int(self.width)) for side in (self.queries, self.documents)]
        return {
            name: self.width.new_tensor(value, dtype=torch.float64)
            for name, value in self._condition_numbers(*sides).items()
        }

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Condition numbers, or a list of them over time, as torchmetrics draws them: figure and axes."""
        val = self.compute() if val is None else val
        return self._plot(_kappas(val) if isinstance(val, dict) else [_kappas(values) for values in val], ax)

    def _condition_numbers(self, queries: Tensor, documents: Tensor) -> dict[str, float]:
        names = [f"fisher_{name}" for name in NORMALIZATIONS]
        if len(queries) < 2:
            return dict.fromkeys([*names, _SHARE], math.nan)
        options: dict[str, Any] = {"temperature": self.temperature, "symmetric": self.symmetric, "pairs": self.pairs}
        condition_numbers = [
            getattr(fisher_condition_number(queries, documents, *exponents, **options), self.form)
            for exponents in NORMALIZATIONS.values()
        ]
        advice = recommend_normalization(queries, documents, form=self.form, resamples=self.resamples, **options)
        return dict(zip(names, condition_numbers, strict=True)) | {_SHARE: advice.qnorm_share}


def _rows(flat: list[Tensor], width: int) -> Tensor:
    # One tensor instead of a list once the ranks are gathered.
    return rearrange(dim_zero_cat(flat), "(n d) -> n d", d=width) if len(flat) and width else torch.empty(0, 1)


def _kappas(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if name != _SHARE}
