"""InfoNCE: each query picks its document among all others, or the other way round."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.positive_pairs import PairSums
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_count, check_flag
from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.fused import FusedKernels
from lightning_normdyn.losses.gather import Ranks, Rows, Trait
from lightning_normdyn.losses.in_batch import Candidates, excluded_pairs, gather_candidates, warn_of_one_candidate
from lightning_normdyn.losses.negatives import NegativeRules
from lightning_normdyn.losses.options import Direction, Hardness, Joint, SameSide, SoftmaxOptions, Unpack
from lightning_normdyn.losses.prefixes import Prefixes
from lightning_normdyn.losses.queue import DocumentQueue
from lightning_normdyn.losses.shared_parts import SharedPart, shared_losses
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.softmax_settings import SoftmaxSettings
from lightning_normdyn.losses.softmax_sweeps import ScoreSums, SoftmaxSweep
from lightning_normdyn.losses.softmax_terms import SoftmaxTerms


class InfoNCE(SoftmaxSettings):
    """The contrastive loss with in-batch negatives, for any cell of the 2x2 grid of normalizations.

    ``L = mean_i [log sum_j exp(s(q_i, d_j)/tau) - s(q_i, d_i)/tau]`` with the score ``s`` of
    :class:`NormalizedSimilarity` (arXiv 2602.09229, eq. 1; docs/theory.md, "Scores with an exponent of the norm").
    The scores are made and thrown away a tile at a time, so that memory grows with ``batch x chunk_size`` and not with
    the square of the batch. On several ranks, queries of each meet the documents of all, and every gradient is that of
    the whole batch on a single rank.

    A positive is taken off its row before anything is added up, so that value and gradients are right to the rounding
    of the scores however small the loss is, where each query has one positive: within 1e-5 of float64 in float32 at
    losses from 10 down to 1e-9, where a float32 softmax less its target is off by 1e-4 at 2.5e-4 and by 1e-2 at 1e-6.
    Several positives of a query are equal at best, and differ by the rounding of their scores then, as in plain
    float32: gradients are off by 1e-4 where the loss is 2.5e-4 above its minimum, and by 2e-3 at 1.5e-5. The fused
    kernels are off by 6e-8 over the loss.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``.
        symmetric: whether documents pick their queries too; the loss is the mean of both directions.
        direction: which way to go if not both.
        same_side: whose own side gives negatives too: with ``"both"`` and ``symmetric`` that is SimCLR's loss. With
            ``labels`` those of a class are positives there too, which makes it SupCon's (arXiv 2004.11362, eq. 2) of
            two views; :class:`SupCon` takes a single set.
        joint: whether all negatives of a pair, those of its query and those of its document, share one sum, after the
            improved InfoNCE of GTE (arXiv 2308.03281, eq. 2). ``True`` counts the positive once, and hard negatives for
            queries alone; ``"sentence_transformers"`` is what that package takes GTE's to be, its
            MultipleNegativesRankingLoss with ``partition_mode="joint"``: with both directions the positive counts
            twice, and among the negatives of a document are the hard negatives of other queries.
        queue_size: past documents that serve as further negatives of the queries.
        queue_positives: whether those of a query's class (``labels``) are further positives of it instead of left out,
            as in a cross-batch memory (arXiv 1912.06798).
        shared_hard_negatives: whether those of one query serve all; else each meets its own, and nothing is gathered.
        fused: whether Triton kernels compute the loss where they can, see :class:`FusedKernels`: of bfloat16 or float16
            embeddings on CUDA, with any normalization, direction, ids, hard negatives and ranks. Anything else goes
            the usual way. Exact in Triton's interpreter, but not yet timed on a GPU: hence not the default.
        label_smoothing: share of the target that is spread evenly over all candidates, the positives among them.
        margin: taken off the score of a positive, in the unit of scores before the temperature, so that a positive has
            to lead by it (CosFace, arXiv 1801.09414).
        relative_margin: the same as a share of the score's size: ``s - relative_margin |s|``.
        decoupled: whether the positive is left out of the sum (DCL, arXiv 2110.06848), so that pairs which are nearly
            solved go on to train; a query without any negative has a loss of 0.
        prior: share of the negatives that are taken to be positives, whose part of the sum is taken out (debiased
            contrastive loss, Chuang et al. 2020, arXiv 2007.00224).
        guide_margin: where a batch brings guides, a second model's embeddings, a negative is left out that the guide
            scores above its score ``g`` of the positive, less this margin (GISTEmbed, arXiv 2402.16829).
        guide_relative_margin: and less this share of ``|g|``.
        negative_margin: negatives that score above the positive's score less this margin, before the temperature, are
            left out (TopK-MarginPos of NV-Retriever, arXiv 2407.15831); ``None`` leaves all in.
        negative_share: as are those above this share of the positive's score (TopK-PercPos).
        hardness: negatives that weigh more the more they score: ``"hard_negatives"`` those that were given with a
            query, for it alone (EmbeddingGemma, arXiv 2509.20354), ``"in_batch_negatives"`` all others (LLaVE,
            arXiv 2503.04812, eq. 5), ``"all_negatives"`` both.
        hardness_strength: their weight is ``exp(strength · score)``, of the score before the temperature and constant
            to the gradient.
        prefixes: widths of prefixes, ascending, each of which is to serve by itself (Matryoshka, arXiv 2205.13147):
            the loss is the weighed sum of theirs, and the embeddings' own width is one only if it is listed.
            Every prefix is scored by norms of its own, and learns exponents of its own. All are computed in one sweep
            over queries and documents, unless there is a queue, hard negatives of a query's own, or bounds or guides
            in both directions.
        prefix_weights: of the prefixes' losses; 1 for each if left out.
        with_metrics: whether each batch leaves what :meth:`metrics` gives, which costs a few reductions a tile.
        options: temperature and whatever else all losses share, see :class:`ContrastiveLoss`.

    Raises:
        ValueError: if an argument is out of its range, or makes no sense with another.

    Example:
        >>> queries, documents = torch.eye(2), 2 * torch.eye(2)
        >>> InfoNCE(normalization="dot", temperature=1.0)(queries, documents)
        tensor(0.1269)
        >>> InfoNCE(normalization="cosine", temperature=1.0, symmetric=True)(queries, documents)
        tensor(0.3133)
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        symmetric: bool = False,
        direction: Direction = "query_to_document",
        same_side: SameSide = "none",
        joint: Joint = False,
        queue_size: int = 0,
        queue_positives: bool = False,
        shared_hard_negatives: bool = True,
        fused: bool = False,
        label_smoothing: float = 0.0,
        margin: float = 0.0,
        relative_margin: float = 0.0,
        decoupled: bool = False,
        prior: float = 0.0,
        guide_margin: float = 0.0,
        guide_relative_margin: float = 0.0,
        negative_margin: float | None = None,
        negative_share: float | None = None,
        hardness: Hardness = "none",
        hardness_strength: float = 5.0,
        prefixes: Sequence[int] | None = None,
        prefix_weights: Sequence[float] | None = None,
        with_metrics: bool = False,
        **options: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(normalization=normalization, **options)
        if direction not in ("query_to_document", "document_to_query"):
            raise ValueError(f"direction: expected 'query_to_document' or 'document_to_query', got {direction!r}")
        if same_side not in ("none", "queries", "documents", "both"):
            raise ValueError(f"same_side: expected 'none', 'queries', 'documents' or 'both', got {same_side!r}")
        if joint != "sentence_transformers":
            check_flag(joint=joint, hint="or 'sentence_transformers'")
        check_flag(symmetric=symmetric, fused=fused, with_metrics=with_metrics)
        self.with_metrics = with_metrics
        self.terms = SoftmaxTerms.check(
            label_smoothing=label_smoothing,
            margin=margin,
            relative_margin=relative_margin,
            decoupled=decoupled,
            prior=prior,
        )
        self.rules = NegativeRules.check(
            guide_margin=guide_margin,
            guide_relative_margin=guide_relative_margin,
            negative_margin=negative_margin,
            negative_share=negative_share,
            hardness=hardness,
            hardness_strength=hardness_strength,
        )
        self.joint = joint
        self._refuse_terms()
        self.from_queries = symmetric or direction == "query_to_document"
        self.from_documents = symmetric or direction == "document_to_query"
        self.query_negatives = same_side in ("queries", "both")
        self.document_negatives = same_side in ("documents", "both")
        self.kernels = FusedKernels() if fused else None
        self._refuse_idle()
        check_count(0, queue_size=queue_size)
        if queue_size and not self.from_queries:
            raise ValueError(
                "queue_size: past documents are negatives of queries; choose symmetric=True or the direction"
            )
        if queue_size and not self.gather:
            raise ValueError("queue_size: ranks share one queue of everybody's documents; leave gather=True")
        self.queue = DocumentQueue(queue_size) if queue_size else None
        if prefix_weights is not None and prefixes is None:
            raise ValueError("prefix_weights: there are no prefixes; name them, or leave the weights out")
        self.prefixes = None
        if prefixes is not None:
            shared_gamma = self.similarity.shared_gamma
            self.prefixes = Prefixes(prefixes, prefix_weights, normalization=normalization, shared_gamma=shared_gamma)
        check_flag(queue_positives=queue_positives, shared_hard_negatives=shared_hard_negatives)
        if queue_positives and self.queue is None:
            raise ValueError("queue_positives: there is no queue without queue_size; leave it out or set both")
        if queue_positives and self.terms.decoupled:
            raise ValueError("queue_positives: the decoupled sum has no positives; leave one of them out")
        self.queue_positives, self.shared_hard_negatives = queue_positives, shared_hard_negatives
        self._refuse_unshareable()

    def _candidates(self, batch: Batch, ranks: Ranks) -> Candidates:
        if not self.shared_hard_negatives:
            if batch.query_guides is not None:
                raise ValueError(
                    "query_guides: they judge hard negatives that all queries share; leave one of them out"
                )
            batch = batch._replace(hard_negatives=batch.hard_negatives[:0])
        return super()._candidates(batch, ranks)

    def _losses(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        if self.prefixes is None:
            return self._losses_of(batch, candidates, ranks)
        self.prefixes.check_width(batch.queries, self.similarity)
        if self._streams_prefixes(batch):
            return self.prefixes.total(
                batch.queries,
                candidates.vectors,
                self.similarity,
                scale=self.factor(batch),
                positives=candidates.positive_columns,
                exclusion=excluded_pairs(batch, candidates),
                chunk_size=self.chunk_size,
            )
        if self.reason_apart(batch) is None:
            parts = self.parts(batch, candidates, ranks)
            return torch.stack(shared_losses(batch.queries, candidates.vectors, parts, self.chunk_size)).sum(0)
        losses = []
        # Wide before they are cut, or the gradients of prefixes would be added up in half precision.
        wide = at_least_float32(batch.queries), at_least_float32(batch.hard_negatives)
        batch = batch._replace(queries=wide[0], hard_negatives=wide[1])
        for number, weight in enumerate(self.prefixes.weights):
            part, cut = self._of_prefix(self.prefixes, number), slice(self.prefixes.widths[number])
            vectors = part.similarity.rescale_documents(candidates.vectors[:, cut])
            losses.append(weight * part._losses_of(batch.cut(cut), candidates._replace(vectors=vectors), ranks))
            self._metrics = part._metrics
        return torch.stack(losses).sum(0)

    def parts(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> list[SharedPart]:
        """See :meth:`InBatchLoss.parts`: one, or one for each prefix."""
        self._check_pairs(batch)
        if self.prefixes is None:
            return [self._part(self, 1.0, batch, candidates, ranks)]
        self.prefixes.check_width(batch.queries, self.similarity)
        parts = [
            self._part(self._of_prefix(self.prefixes, number), weight, batch, candidates, ranks)
            for number, weight in enumerate(self.prefixes.weights)
        ]
        return [part._replace(factor=parts[0].factor) for part in parts]

    def _part(self, loss: InfoNCE, weight: float, batch: Batch, candidates: Candidates, ranks: Ranks) -> SharedPart:
        """The loss of a prefix, or this one."""
        width = loss._width or batch.queries.shape[1]
        vectors = loss.similarity.rescale_documents(candidates.vectors[:, :width])
        sweep = loss._sweep(batch.cut(slice(width)), candidates._replace(vectors=vectors), ranks)

        def losses(outcome: tuple[Tensor, ...]) -> Tensor:
            rows, columns, scores, *of_targets = outcome
            sums = ScoreSums(rows, columns, scores, PairSums(*of_targets), sweep.reading)
            of_pairs = sweep.pair_losses(sums)
            self._take_metrics(sweep)
            return of_pairs if weight == 1 else weight * of_pairs

        return SharedPart(loss.similarity, sweep.factor, width, sweep.term, losses)

    def _rescaled(self, batch: Batch, groups: Sequence[Rows], ranks: Ranks) -> Tensor:
        """Of all ranks; as they came where they are yet to be cut into prefixes."""
        if self.prefixes is None:
            return super()._rescaled(batch, groups, ranks)
        return gather_candidates(
            at_least_float32(batch.documents), at_least_float32(batch.hard_negatives), groups, ranks
        )

    def setting_traits(self) -> list[Trait]:
        """How many prefixes there are and how wide they are together."""
        widths = () if self.prefixes is None else self.prefixes.widths
        return [Trait("prefixes", "how many", len(widths)), Trait("prefixes", "sum of widths", sum(widths))]

    def _streams_prefixes(self, batch: Batch) -> bool:
        """Whether one sweep can serve all prefixes: one direction, one positive, and nothing that edits tiles."""
        is_edited = self.judges_negatives(batch) or self.with_metrics or self.queue is not None
        return self.from_queries and self.is_one_direction(batch) and self.wants_sum(batch.weights) and not is_edited

    def _of_prefix(self, prefixes: Prefixes, number: int) -> InfoNCE:
        """This loss with the similarity of a prefix, sharing everything else."""
        part = copy.copy(self)
        similarity = prefixes.similarity_of(number, self.similarity)
        part._modules = self._modules | {"similarity": similarity, "prefixes": None}
        part._width = prefixes.widths[number]
        return part

    def _losses_of(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        self._check_pairs(batch)
        if candidates.factored_vectors is not None:
            return self._fused(batch, ranks, candidates, candidates.factored_vectors)
        sweep = self._sweep(batch, candidates, ranks)
        losses = sweep.losses()
        self._take_metrics(sweep)
        return losses

    def _take_metrics(self, sweep: SoftmaxSweep) -> None:
        """What a sweep has read."""
        if self.with_metrics:
            assert sweep.reading is not None
            self._metrics = sweep.reading.values(sweep.candidates.positives, sweep.ranks)

    def _sweep(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> SoftmaxSweep:
        """The batch as it is scored."""
        anchors = self.scaled_queries(batch.queries, batch.temperatures)
        without_positives = self.terms.decoupled and batch.has_several_positives
        exclusion = excluded_pairs(batch, candidates, without_positives=without_positives)
        vectors = candidates.vectors
        if self.queue is not None:
            vectors, exclusion = self._with_queue(self.queue, batch, candidates, exclusion)
        if len(vectors) == 1 and self.queue is None:
            warn_of_one_candidate("larger batches, hard negatives or a queue_size")
        return SoftmaxSweep(self, batch, candidates, ranks, anchors, vectors, exclusion, self.factor(batch))
