"""Distillation of a teacher's scores: of its distribution over documents (KL), or of its margins (MarginMSE)."""

from __future__ import annotations

from typing import Any, cast, get_args

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.target_scores import EmbeddingTargets, MatrixTargets, TargetScores
from lightning_normdyn.core.contrast.tile_edits import Tile
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.core.object_checks import check_choice
from lightning_normdyn.losses.batch import Batch, PairOptions, check_names
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates, InBatchLoss, gather_candidates
from lightning_normdyn.losses.options import (
    Direction,
    DistillationCandidates,
    SoftmaxOptions,
    TeacherNormalization,
    Unpack,
)
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.soft_targets import Directions
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


class DistillKLDiv(TeacherLoss):
    """``L = mean_i sum_j t_ij (log t_ij - log p_ij)``, ``p = softmax_j(s_ij/tau)``, ``t = softmax_j(T_ij/tau_T)``.

    Listwise distillation: the distribution of the scores ``s`` of :class:`NormalizedSimilarity` over a query's
    candidates is to be that of a teacher's scores ``T``, as of a cross-encoder or a larger model (TCT-ColBERT,
    arXiv 2010.11386; temperatures after Hinton et al., arXiv 1503.02531, section 2). Candidates are listed, a positive
    and hard negatives of a query's own, or all documents of the batch on all ranks, whose scores are made a tile at a
    time, the teacher's too where it comes as embeddings: neither matrix is ever held.

    The value is 0 where both distributions are equal, and is not multiplied by ``tau^2``, as Hinton et al. do to weigh
    it against another loss: a learnt temperature would lower it by falling.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        candidates: ``"listed"`` for documents that are named for each query, ``"in_batch"`` for all.
        symmetric: whether documents have a distribution over queries too, the teacher's scores being read by column;
            the loss is the mean of both directions. Of candidates in the batch alone.
        direction: which way to go if not both.
        teacher_temperature: what the teacher's scores are divided by, ``tau_T``: so that they spread by a few units.
            1 suits the logits of a cross-encoder, 0.05 the cosines of embeddings.
        teacher_normalization: which norms the teacher's own scores keep, where it comes as embeddings.
        with_metrics: whether each batch leaves what :meth:`metrics` gives: ``agreement``, the share of queries whose
            best candidate is the teacher's, and ``teacher_entropy``, in nats.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`.

    Raises:
        ValueError: if an argument is out of its range, or makes no sense with another.

    Example:
        >>> loss = DistillKLDiv(normalization="dot", temperature=1.0)
        >>> queries, documents, hard = torch.eye(2), torch.eye(2), torch.zeros(2, 1, 2)
        >>> loss(queries, documents, hard_negatives=hard, teacher_scores=torch.tensor([[5.0, 4.0], [3.0, 3.0]]))
        tensor(0.0601)
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        candidates: DistillationCandidates = "listed",
        symmetric: bool = False,
        direction: Direction = "query_to_document",
        teacher_temperature: float = 1.0,
        teacher_normalization: TeacherNormalization = "cosine",
        with_metrics: bool = False,
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(
            normalization=normalization,
            teacher_temperature=teacher_temperature,
            teacher_normalization=teacher_normalization,
            with_metrics=with_metrics,
            **options,
        )
        check_choice(get_args(DistillationCandidates), candidates=candidates)
        self.candidates = candidates
        self.directions = Directions.check(symmetric=symmetric, direction=direction)
        if self.is_listed and self.directions.from_documents:
            raise ValueError(
                f"{'symmetric' if symmetric else 'direction'}: listed documents belong to a query, and have no queries "
                "to choose from; leave it out, or take candidates='in_batch'"
            )

    def _losses(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        if self.is_listed:
            return self._listed(batch, candidates, ranks)
        reading = _TopCandidates(len(batch.queries), batch.queries.device) if self.with_metrics else None
        targets = self._targets(batch, candidates, ranks)
        of_batch = self.directions.streamed(
            self, batch, candidates, ranks, targets, with_entropies=self.with_metrics, reading=reading
        )
        rows = of_batch.rows
        if self.directions.from_queries:
            # A query that the teacher gave nothing, which _refuse_infinite_targets names.
            rows = rows.where(of_batch.row_entropies.isfinite(), torch.nan)
        if reading is not None:
            entropies = self.directions.mean(of_batch.row_entropies, of_batch.column_entropies)
            self._keep_metrics(reading.agree, entropies.nan_to_num(0), candidates, ranks)
        return self.directions.mean(rows, of_batch.columns)

    def _targets(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> TargetScores:
        """Of this rank's queries and the candidates of all."""
        teacher, dtype = batch.teacher, candidates.vectors.dtype
        assert teacher is not None
        if teacher.scores is None:
            queries, documents, hard = self._rescaled_teacher(teacher, dtype)
            return EmbeddingTargets(queries, gather_candidates(documents, hard, candidates.groups, ranks))
        if teacher.scores.shape[1] != len(candidates.vectors):
            raise ValueError(
                f"teacher_scores: expected one for each of {len(candidates.vectors)} candidates of all ranks, got "
                f"{teacher.scores.shape[1]}; teacher_queries and teacher_documents are gathered like documents"
            )
        return MatrixTargets(teacher.scores, 1 / self.teacher_temperature, dtype, leaves_out=True)

    def _listed(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        scores, targets = self._lists(batch, candidates)
        log_p, log_t = scores.log_softmax(1), targets.log_softmax(1)
        has_share = log_t != -torch.inf
        gaps = (log_t - log_p).where(has_share, 0.0)
        if self.with_metrics:
            entropies = -(log_t.exp() * log_t.where(has_share, 0.0)).sum(1)
            self._keep_metrics(scores.argmax(1) == targets.argmax(1), entropies, candidates, ranks)
        return (log_t.exp() * gaps).sum(1)

    @torch.no_grad()
    def _keep_metrics(self, agree: Tensor, entropies: Tensor, candidates: Candidates, ranks: Ranks) -> None:
        sums = ranks.sum(torch.stack((agree.to(entropies.dtype).sum(), entropies.sum())))
        agreement, entropy = (sums / candidates.positives.total).float().unbind()
        self._metrics = {"agreement": agreement, "teacher_entropy": entropy}

    def _lacks_target(self, left_out: Tensor) -> Tensor:
        return left_out.all(1)

    def _words_on_lack(self, queries: str) -> str:
        return f"every candidate of {queries} queries is left out"

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return (
            f"candidates={'listed' if self.is_listed else 'in_batch'!r}, teacher_temperature={self.teacher_temperature}"
        )


class MarginMSE(TeacherLoss):
    """``L = mean_i mean_j [(s_i+ - s_ij)/tau - (T_i+ - T_ij)/tau_T]^2`` over the negatives j of each query.

    A teacher's margin between the first of a query's listed documents and each other one is to be the scorer's own
    (MarginMSE of Hofstätter et al., arXiv 2010.02666). Only margins count, so that teacher and scorer may differ by a
    number of each query's own. Scores are those of :class:`NormalizedSimilarity`, and no other documents meet.

    The paper's scores are inner products: ``normalization="dot", temperature=1.0``. Cosines span 2 at most and margins
    of cross-encoders 10 and more, hence the temperature, which may be learnt. A learnt one may make up for a teacher
    whose unit nobody knows; with ``dot`` lengths do.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        teacher_temperature: what the teacher's scores are divided by, ``tau_T``.
        teacher_normalization: which norms the teacher's own scores keep, where it comes as embeddings.
        with_metrics: whether each batch leaves what :meth:`metrics` gives: ``agreement``, the share of pairs that are
            in the teacher's order.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = MarginMSE(normalization="dot", temperature=1.0)
        >>> queries, documents, hard = torch.eye(2), torch.eye(2), torch.zeros(2, 1, 2)
        >>> loss(queries, documents, hard_negatives=hard, teacher_scores=torch.tensor([[5.0, 4.0], [3.0, 3.0]]))
        tensor(0.5000)
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        teacher_temperature: float = 1.0,
        teacher_normalization: TeacherNormalization = "cosine",
        with_metrics: bool = False,
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        # Written out: jsonargparse up to 4.49 shows no help for the options of a constructor that is inherited.
        super().__init__(
            normalization=normalization,
            teacher_temperature=teacher_temperature,
            teacher_normalization=teacher_normalization,
            with_metrics=with_metrics,
            **options,
        )

    def _losses(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        scores, targets = self._lists(batch, candidates)
        takes_part = targets[:, 1:] != -torch.inf
        margins = (scores[:, :1] - scores[:, 1:].where(takes_part, 0.0)).where(takes_part, 0.0)
        of_teacher = (targets[:, :1] - targets[:, 1:].where(takes_part, 0.0)).where(takes_part, 0.0)
        if self.with_metrics:
            self._keep_metrics((margins * of_teacher > 0) | (margins == of_teacher), takes_part, ranks)
        return (margins - of_teacher).square().sum(1) / takes_part.sum(1)

    @torch.no_grad()
    def _keep_metrics(self, agree: Tensor, takes_part: Tensor, ranks: Ranks) -> None:
        sums = ranks.sum(torch.stack([(x & takes_part).sum() for x in (agree, takes_part)]).to(torch.float64))
        self._metrics = {"agreement": (sums[0] / sums[1]).float()}

    def _refuse_infinite_targets(self, batch: Batch) -> None:
        super()._refuse_infinite_targets(batch)
        scores = None if batch.teacher is None else batch.teacher.scores
        if scores is None:
            return
        largest = float(scores.where(scores.isfinite(), 0.0).abs().max()) / self.teacher_temperature
        if largest > torch.finfo(torch.float32).max ** 0.5 / 2:
            raise ValueError(
                f"teacher_scores: up to {largest:.3g} over teacher_temperature, whose margins squared leave float32; "
                "raise teacher_temperature, or look at the teacher"
            )

    def _lacks_target(self, left_out: Tensor) -> Tensor:
        return left_out[:, 0] | left_out[:, 1:].all(1)

    def _words_on_lack(self, queries: str) -> str:
        return f"{queries} queries have no margin, since the first candidate or all others are left out"


class _TopCandidates:
    """Remembers the best candidate of each query by the loss's scores and by the teacher's, tile by tile."""

    def __init__(self, n: int, device: torch.device) -> None:
        self._best = [torch.full((n,), -torch.inf, device=device) for _ in range(2)]
        self._columns = [torch.full((n,), -1, device=device) for _ in range(2)]

    @property
    def agree(self) -> Tensor:
        """Where both have the same, ``[n]``."""
        return self._columns[0] == self._columns[1]

    def __call__(self, scores: Tensor, targets: Tensor, tile: Tile) -> None:
        for values, best, columns in zip((scores, targets), self._best, self._columns, strict=True):
            top, place = values.float().max(1)
            leads = top > best[tile.rows]
            best[tile.rows] = top.where(leads, best[tile.rows])
            columns[tile.rows] = (place + tile.columns.start).where(leads, columns[tile.rows])
