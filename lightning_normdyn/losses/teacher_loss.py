"""What losses that learn the scores of a teacher share: their options, their checks and the lists they compare."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.losses.batch import Batch, PairOptions
from lightning_normdyn.losses.batch_checks import check_names
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates, InBatchLoss
from lightning_normdyn.losses.options import (
    DistillationCandidates,
    SoftmaxOptions,
    TeacherNormalization,
    Unpack,
)
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.teacher import Lists, Teacher, TeacherOptions, check_teacher_options, list_scores
from lightning_normdyn.losses.uncompiled import uncompiled

_IDLE = ("labels", "positives", "query_guides", "document_guides", "hard_negative_guides")


class DistillOptions(PairOptions, TeacherOptions, total=False):
    """All that a distilling loss may be told of a batch, see :meth:`TeacherLoss.forward`."""


class TeacherLoss(InBatchLoss):
    """A loss that compares scores with those of a teacher, for documents that are listed for each query.

    Args:
        normalization: which norms the scores keep.
        teacher_temperature: what the teacher's scores are divided by.
        teacher_normalization: which norms the teacher's scores keep, where it comes as embeddings.
        with_metrics: whether each batch leaves what :meth:`metrics` gives.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    candidates: DistillationCandidates = "listed"

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        teacher_temperature: float = 1.0,
        teacher_normalization: TeacherNormalization = "cosine",
        with_metrics: bool = False,
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(normalization=normalization, **options)
        check_teacher_options(teacher_temperature=teacher_temperature, teacher_normalization=teacher_normalization)
        check_flag(with_metrics=with_metrics)
        self.teacher_temperature, self.teacher_normalization = float(teacher_temperature), teacher_normalization
        self.with_metrics = with_metrics

    @uncompiled
    def forward(self, queries: Tensor, documents: Tensor, **options: Unpack[DistillOptions]) -> Tensor:
        """The loss of a batch.

        Args:
            queries: ``[n, d]``, not normalised.
            documents: ``[m, d]`` with m >= n: document i is that of query i, the others belong to nobody.
            options: ``hard_negatives``, ``weights`` and ``temperatures`` of :meth:`InfoNCE.forward`, ids where
                candidates are those of the batch, and

                - ``teacher_scores``: of each query's candidates, ``[n, c]``, before the teacher's temperature. Where
                  they are listed, of its own document and its hard negatives, ``[n, 1 + h]``, or of those in
                  ``listed``. Where they are those of the batch, of all: documents, then hard negatives, one query's
                  after the other's, ``[n, m + n h]``; on several ranks the documents of all ranks' queries, further
                  documents of all ranks, and then hard negatives of all ranks. Minus infinity leaves a candidate out,
                  of both distributions; a query has to have some left, and a document that no query has left loses 0.
                  They get no gradient.
                - ``teacher_queries``, ``teacher_documents``, ``teacher_hard_negatives``: in place of scores the
                  teacher's embeddings of the same, ``[n, g]``, ``[m, g]`` and ``[n, h, g]``; its scores are then made a
                  tile at a time, over the documents of all ranks.
                - ``listed``: numbers of this rank's documents with which each query is compared, ``[n, c]``, -1 for
                  none, instead of its own document and its hard negatives.

        Returns:
            A scalar, the same on every rank; with ``reduction="none"`` ``[n]``, of this rank's queries.

        Raises:
            TypeError: if there is no such argument.
            ValueError: naming the argument that does not fit, or what is NaN or infinite.
        """
        return self.shown(queries, documents, **options)

    def _batch(self, queries: Tensor, documents: Tensor, options: Any) -> Batch:
        check_names(options, DistillOptions.__annotations__)
        for name in _IDLE:
            if options.get(name) is not None:
                raise ValueError(f"{name}: the teacher alone says what is relevant; leave it out, or take InfoNCE")
        named = cast(TeacherOptions, {name: options.pop(name, None) for name in TeacherOptions.__annotations__})
        batch = super()._batch(queries, documents, options)
        hard_per_query = len(batch.hard_negatives) // len(queries)
        if self.is_listed:
            self._refuse_short_lists(batch, named.get("listed") is not None)
        elif named.get("listed") is not None:
            raise ValueError("listed: candidates are those of the batch; leave it out, or take candidates='listed'")
        width = 1 + hard_per_query if self.is_listed else None
        lists = Lists(len(queries), len(documents), hard_per_query, width)
        return batch._replace(teacher=Teacher.check(named, lists, queries))

    def _refuse_short_lists(self, batch: Batch, is_listed: bool) -> None:
        for name in ("query_ids", "document_ids", "hard_negative_ids"):
            if getattr(batch, name) is not None:
                raise ValueError(f"{name}: a list names its documents, and ids exclude none; leave ids out")
        if not len(batch.hard_negatives) and not is_listed:
            raise ValueError(
                "hard_negatives: expected some, since one document alone has nothing to be compared with; give "
                "hard_negatives or listed, or distil candidates='in_batch' by DistillKLDiv"
            )

    @property
    def is_listed(self) -> bool:
        """Whether a query is compared with documents of its own, instead of all that there are."""
        return self.candidates == "listed"

    def _candidates(self, batch: Batch, ranks: Ranks) -> Candidates:
        if not self.is_listed:
            return super()._candidates(batch, ranks)
        n, m, k = len(batch.queries), len(batch.documents), len(batch.hard_negatives)
        groups = ranks.rows(n, m - n, k, traits=batch.traits())
        vectors = self.similarity.rescale_documents(batch.documents)
        return Candidates(vectors, [], None, groups[0], groups[1], groups[2])

    def _lists(self, batch: Batch, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Scores of listed candidates over the temperature, and the teacher's, ``[n, c]``, as precise as can be.

        What either has none of is minus infinity in both.
        """
        teacher = batch.teacher
        assert teacher is not None
        anchors = self.scaled_queries(batch.queries, batch.temperatures)
        hard = self.similarity.rescale_documents(batch.hard_negatives)
        scores = most_precise(list_scores(anchors, candidates.vectors, hard, teacher.places))
        if teacher.scores is not None:
            targets = most_precise(teacher.scores) / self.teacher_temperature
        else:
            sides = self._rescaled_teacher(teacher, anchors.dtype)
            targets = most_precise(list_scores(*sides, teacher.places))
        if teacher.places is not None:
            targets = targets.masked_fill(teacher.places < 0, -torch.inf)
        return scores.masked_fill(targets == -torch.inf, -torch.inf), targets

    def _rescaled_teacher(self, teacher: Teacher, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return teacher.rescaled(self.teacher_normalization, 1 / self.teacher_temperature, dtype)

    def _refuse_infinite_targets(self, batch: Batch) -> None:
        teacher = batch.teacher
        assert teacher is not None
        teacher.refuse_infinite()
        for name, values, nothing in (("teacher_scores", teacher.scores, -torch.inf), ("listed", teacher.places, -1)):
            lacks = None if values is None else self._lacks_target(values == nothing)
            if lacks is not None and bool(lacks.any()):
                words = self._words_on_lack(f"{int(lacks.sum())} of {len(lacks)}")
                raise ValueError(f"{name}: {words}; leave such queries out of the batch")

    def _lacks_target(self, left_out: Tensor) -> Tensor:
        """Which queries have nothing to learn, ``[n]``, of the candidates ``[n, c]`` that are left out."""
        raise NotImplementedError

    def _words_on_lack(self, queries: str) -> str:
        """What is said of so many queries of so many."""
        raise NotImplementedError
