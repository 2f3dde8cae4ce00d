"""Losses whose target is a distribution: how far a softmax over the batch is from it, both ways; graded positives."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.divergences import Divergences, Sides, TileReading, divergences
from lightning_normdyn.core.contrast.target_scores import ListedTargets, MatrixTargets, TargetScores
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.core.object_checks import check_choice
from lightning_normdyn.losses.batch import Batch, PairOptions
from lightning_normdyn.losses.batch_checks import check_names
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import (
    Candidates,
    InBatchLoss,
    excluded_pairs,
    positive_columns,
    warn_of_one_candidate,
)
from lightning_normdyn.losses.options import Direction, SoftmaxOptions, Unpack
from lightning_normdyn.losses.positives import distinct_positives
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.teacher import Teacher
from lightning_normdyn.losses.uncompiled import uncompiled


class Directions(NamedTuple):
    """Which side has target distributions over the other.

    Attributes:
        from_queries: whether each query has one over documents.
        from_documents: whether each query's document has one over queries.
    """

    from_queries: bool
    from_documents: bool

    @classmethod
    def check(cls, *, symmetric: bool, direction: Direction) -> Directions:
        """Refuses what is no direction.

        Raises:
            ValueError: naming the argument, what came, and the likely fix.
        """
        check_flag(symmetric=symmetric)
        check_choice(get_args(Direction), direction=direction)
        return cls(symmetric or direction == "query_to_document", symmetric or direction == "document_to_query")

    def streamed(
        self,
        loss: InBatchLoss,
        batch: Batch,
        candidates: Candidates,
        ranks: Ranks,
        targets: TargetScores,
        *,
        with_entropies: bool,
        reading: TileReading | None = None,
    ) -> Divergences:
        """Of this rank's queries and of their documents, over the candidates and queries of all ranks, ``[n]`` each.

        Args:
            loss: whose scores are compared.
            batch: this rank's.
            candidates: everybody's.
            ranks: all of them.
            targets: of this rank's queries and all candidates.
            with_entropies: whether those of the targets are wanted.
            reading: see :func:`divergences`.
        """
        total = candidates.positives.total
        if len(candidates.vectors) == 1:
            warn_of_one_candidate("larger batches or hard negatives")
        streamed = divergences(
            loss.scaled_queries(batch.queries, batch.temperatures),
            candidates.vectors if self.from_queries else candidates.vectors[:total],
            targets,
            sides=Sides(self.from_queries, total if self.from_documents else 0, with_entropies, ranks.log_sum_exp),
            exclusion=excluded_pairs(batch, candidates),
            reading=reading,
            chunk_size=loss.chunk_size,
        )
        if not self.from_documents:
            return streamed
        local_slice = candidates.positives.local_slice
        columns, entropies = (ranks.sum(x)[local_slice] for x in (streamed.columns, streamed.column_entropies))
        return streamed._replace(columns=columns, column_entropies=entropies)

    def mean(self, of_queries: Tensor, of_documents: Tensor) -> Tensor:
        """Of what each side loses, or what the one side does."""
        if self.from_queries and self.from_documents:
            return (of_queries + of_documents) / 2
        return of_queries if self.from_queries else of_documents


class GradedOptions(PairOptions, total=False):
    """What :class:`GradedContrastive` is told of its pairs, see :meth:`GradedContrastive.forward`."""

    grades: Tensor | None


class GradedContrastive(InBatchLoss):
    """``L = mean_i [log sum_j exp(s_ij/tau) - sum_j t_ij s_ij/tau]`` with ``t_ij = g_ij / sum_k g_ik``.

    Cross entropy with graded positives: a query's target is spread over its documents as their grades say, such as
    relevance judgements from 0 to 3, clicks, or the scores of a semantic similarity task. All other candidates are
    negatives, as what is graded 0 is. It is :class:`InfoNCE` where each query has one positive, and where it has
    several that are graded alike. A query that grades nothing above 0, and a document in the other direction, has no
    target, and a loss of 0.

    Grades of one query may have any scale; with ``symmetric`` those of all queries have to have the same.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        symmetric: whether documents choose among queries too, with ``g_ij / sum_k g_kj``; the loss is the mean of both.
        direction: which way to go if not both.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = GradedContrastive(temperature=1.0)
        >>> documents, grades = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.0, 1.0]])
        >>> loss(torch.eye(2), documents, grades=grades)
        tensor(0.4799)
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        symmetric: bool = False,
        direction: Direction = "query_to_document",
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(normalization=normalization, **options)
        self.directions = Directions.check(symmetric=symmetric, direction=direction)

    @uncompiled
    def forward(self, queries: Tensor, documents: Tensor, **options: Unpack[GradedOptions]) -> Tensor:
        """The loss of a batch.

        Args:
            queries: ``[n, d]``, not normalised.
            documents: ``[m, d]`` with m >= n: document i is that of query i, the others belong to nobody.
            options: those of :meth:`InfoNCE.forward` but ``labels`` and guides, and

                - ``grades``: finite numbers from 0 up. Beside ``positives`` ``[n, p]`` those of a query's own document
                  and of the listed ones, ``[n, 1 + p]``. Else of all candidates, ``[n, m + n h]``: documents and then
                  hard negatives, one query's after the other's; on several ranks the documents of all ranks' queries,
                  further documents of all ranks, and then hard negatives of all ranks.

        Returns:
            A scalar, the same on every rank; with ``reduction="none"`` ``[n]``, of this rank's queries.

        Raises:
            TypeError: if there is no such argument.
            ValueError: naming the argument that does not fit, or what is NaN or infinite.
        """
        return self.shown(queries, documents, **options)

    def _batch(self, queries: Tensor, documents: Tensor, options: Any) -> Batch:
        check_names(options, GradedOptions.__annotations__)
        grades = options.pop("grades", None)
        for name in ("labels", "query_guides"):
            if options.get(name) is not None:
                raise ValueError(f"{name}: grades say what is positive, and how much; leave it out")
        batch = super()._batch(queries, documents, options)
        if grades is None:
            raise ValueError("grades: expected one for each positive, got none; without grades take InfoNCE")
        width = None if batch.positives is None else 1 + batch.positives.shape[1]
        n = len(queries)
        fits = isinstance(grades, Tensor) and grades.ndim == 2 and len(grades) == n
        if not fits or grades.is_complex() or width not in (None, grades.shape[1]):
            came = f"{grades.dtype} {list(grades.shape)}" if isinstance(grades, Tensor) else type(grades).__name__
            shape = f"[{n}, {width}]" if width else f"[{n}, c], of all candidates; beside positives, of those alone"
            raise ValueError(
                f"grades: expected numbers {shape}, got {came}; for one grade a pair take CoSENT, or weights of InfoNCE"
            )
        if grades.device != queries.device:
            raise ValueError(f"grades: expected on the device of queries, {queries.device}, got {grades.device}")
        return batch._replace(teacher=Teacher(grades.detach()))

    def _losses(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        of_batch = self.directions.streamed(
            self, batch, candidates, ranks, _targets(batch, candidates), with_entropies=True
        )
        # The entropy is what is left of a cross entropy once its target is met.
        return self.directions.mean(
            of_batch.rows + of_batch.row_entropies.nan_to_num(0),
            of_batch.columns + of_batch.column_entropies.nan_to_num(0),
        )

    def _refuse_infinite_targets(self, batch: Batch) -> None:
        assert batch.teacher is not None
        grades = batch.teacher.scores
        assert grades is not None
        wrong = int((~(grades.isfinite() & (grades >= 0))).sum())
        if wrong:
            raise ValueError(f"grades: expected finite numbers from 0 up, got {wrong} others of {grades.numel()}")


def _targets(batch: Batch, candidates: Candidates) -> TargetScores:
    """The logarithms of grades."""
    assert batch.teacher is not None
    grades = batch.teacher.scores
    assert grades is not None
    logs = grades.to(candidates.vectors.dtype).log()
    if batch.positives is None:
        if logs.shape[1] != len(candidates.vectors):
            raise ValueError(
                f"grades: expected one for each of {len(candidates.vectors)} candidates, got {logs.shape[1]}; list "
                "positives to grade those alone"
            )
        return MatrixTargets(logs, 1.0, logs.dtype, leaves_out=False)
    columns = positive_columns(batch, candidates)
    once = torch.cat((torch.ones_like(columns[:, :1], dtype=torch.bool), distinct_positives(batch.positives)), 1)
    return ListedTargets(columns.where(once, -1), logs)
