"""CoSENT: pairs whose order by score is to be their order by grade."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_normdyn.caution import caution
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.batch_checks import check_finite, scores_error
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.options import SoftmaxOptions, Unpack
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.uncompiled import uncompiled


class CoSENT(ContrastiveLoss):
    """``L = log[1 + sum_{g_i > g_k} exp((s_k - s_i)/tau)]`` over pairs i and k of the batch with grades ``g``.

    A pair that is graded higher is to score higher, whatever the grades' unit: the loss of graded pairs as in semantic
    similarity (Huang et al. 2024, doi:10.1109/TASLP.2024.3402087), for any cell of the grid of normalizations. Nothing
    but pairs of a row is scored, and pairs are compared in order of their grades, in ``n log n`` steps. On several
    ranks pairs of all ranks are compared.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`; the loss is one number of
            the whole batch, so that there is no ``reduction``.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = CoSENT(temperature=1.0)
        >>> loss(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([5.0, 0.0]))  # log(1 + exp(-1))
        tensor(0.3133)
    """

    def __init__(self, *, normalization: Normalization = "cosine", **options: Unpack[SoftmaxOptions]) -> None:
        super().__init__(normalization=normalization, **options)
        if self.reduction != "mean":
            raise ValueError(
                f"reduction: the loss is one number of the whole batch, which cannot be reduced by {self.reduction!r}; "
                "leave it out"
            )

    @uncompiled
    def forward(self, queries: Tensor, documents: Tensor, grades: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            queries: one side of the pairs, ``[n, d]``, not normalised.
            documents: the other, ``[n, d]``.
            grades: of the pairs, ``[n]``, any finite numbers; the higher the more alike.

        Returns:
            A scalar, the same on every rank; 0 where all pairs have the same grade, which is said in a warning.

        Raises:
            ValueError: naming the argument that does not fit, or if embeddings are NaN or infinite.
        """
        batch = Batch.check(queries, documents)
        _check_grades(grades, batch)
        queries, documents = self.queries(batch.queries), self.documents(batch.documents)
        if self.training:
            self.scaling.hold_in_training()
        with torch.autocast(queries.device.type, enabled=False):
            ranks = self.ranks(queries, documents)
            self.settle_temperature(queries, documents, ranks)
            scores = (self.scaled_queries(queries, None) * self.similarity.rescale_documents(documents)).sum(-1)
            rows = ranks.rows(len(queries), traits=batch.traits())[0]
            grades = ranks.gather(most_precise(grades.detach()), rows)
            loss = _misorder(ranks.gather(scores, rows), grades).to(scores.dtype)
        if self.check_finite and not bool(loss.isfinite()):
            check_finite(queries=queries, documents=documents)
            raise ValueError(scores_error("queries", loss.dtype, ranks.count))
        if self.check_finite and not bool(loss) and bool((grades == grades[0]).all()):
            caution(
                "grades: all pairs of the batch have the same, so the loss is 0 whatever the embeddings; take larger "
                "or mixed batches, or leave a last batch of one pair out",
                stacklevel=2,
            )
        return loss


def _misorder(scores: Tensor, grades: Tensor) -> Tensor:
    """``log[1 + sum_{g_i > g_k} exp(s_k - s_i)]`` of all pairs ``[n]``."""
    grades, order = grades.sort()
    scores = most_precise(scores)[order]
    # Of each pair, log sum exp(-s) over those of higher grades: of all that are behind the last of its own grade.
    above = torch.logcumsumexp(-scores.flip(0), 0).flip(0)
    first = torch.searchsorted(grades, grades, right=True)
    has_above = first < len(grades)
    gaps = scores[has_above] + above[first[has_above]]
    return torch.cat((gaps.new_zeros(1), gaps)).logsumexp(0)


def _check_grades(grades: object, batch: Batch) -> None:
    n = len(batch.queries)
    if len(batch.documents) != n:
        raise ValueError(f"documents: expected one for each of {n} queries, got {len(batch.documents)}")
    if not isinstance(grades, Tensor) or grades.is_complex() or grades.shape != (n,):
        came = f"{grades.dtype} {list(grades.shape)}" if isinstance(grades, Tensor) else type(grades).__name__
        raise ValueError(f"grades: expected a number for each of {n} pairs, got {came}")
    if grades.device != batch.queries.device:
        raise ValueError(f"grades: expected on the device of queries, {batch.queries.device}, got {grades.device}")
    if not bool(grades.isfinite().all()):
        wrong = int((~grades.isfinite()).sum())
        raise ValueError(f"grades: expected finite numbers, got {wrong} others of {n}")
