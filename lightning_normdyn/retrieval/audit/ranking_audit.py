"""Audits rankings with judgements: sweeps of the exponent, confounding by length, and norms as confidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.statistics.correlation import LENGTH, Correlation
from lightning_normdyn.core.statistics.interval import Interval, bootstrap_intervals
from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.retrieval.audit.groups import difference
from lightning_normdyn.retrieval.audit.hubs import AdvisedRanking, Hubs, RankedDocuments, find_hubs
from lightning_normdyn.retrieval.audit.judged_pairs import JudgedPairs
from lightning_normdyn.retrieval.exponent.calibration import Calibration, calibrate
from lightning_normdyn.retrieval.exponent.confounds import ConfoundReport, explain_gain
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts
from lightning_normdyn.retrieval.exponent.residual_norms import (
    length_exponents,
    length_norms,
    predicted_norms,
    rescaled,
    residual_norms,
)
from lightning_normdyn.retrieval.exponent.scoring import norm_aware_top_k
from lightning_normdyn.retrieval.exponent.sweep import ALPHAS, AlphaSearch, AlphaSweep, PartBest, alpha_exponents
from lightning_normdyn.retrieval.exponent.verdict import ScoringVerdict, scoring_verdict
from lightning_normdyn.retrieval.search.document_chunks import Spread
from lightning_normdyn.retrieval.search.shared_pass import ChunkConsumer, share_pass
from lightning_normdyn.retrieval.search.top_k import TopK, checked_queries, merged_top_k
from lightning_normdyn.retrieval.uses.confidence import Confidence, confidence_table
from lightning_normdyn.retrieval.uses.hubness import Popularity, popularity_share

FOLDS = 5
_LEAST_SPREAD = 1e-3
# Each of four consumers holds several chunks of this many numbers.
_CHUNK_NUMBERS = 2**22


class JudgedQueries(NamedTuple):
    """Queries and what answers them.

    Attributes:
        queries: as encoded, ``[n, d]``.
        judgements: by position in queries and documents.
        measure: such as ``ndcg@10``.
        alphas: exponents to try, 0 among them.
        parts: which document each vector is a part of, where documents have several; judgements go by documents then.
    """

    queries: Tensor
    judgements: Judgements
    measure: str = "ndcg@10"
    alphas: Sequence[float] = ALPHAS
    parts: DocumentParts | None = None

    def as_tensors(self) -> JudgedQueries:
        """The same with tensors where arrays came.

        Raises:
            ValueError: if queries are codes, or something is no array of numbers.
        """
        (queries,) = as_embeddings(queries=self.queries)
        return self._replace(queries=queries, judgements=Judgements.require(self.judgements))


class LengthControl(NamedTuple):
    """What is known of the length of documents, and of what else may stand behind their norms.

    Attributes:
        length: of each document, ``[m]``.
        columns: further columns that are taken out of norms with it, by name, ``[m]``.
        correlation: of norms with length, for the verdict's words.
    """

    length: Tensor
    columns: Mapping[str, Tensor]
    correlation: Correlation


class RankingAudit(NamedTuple):
    """The findings.

    Attributes:
        alphas: exponents of the norm tried.
        curves: ``norm``, and where lengths are known ``residual norm`` and ``predicted norm``, to the mean measure at
            each exponent, with a pointwise bootstrap interval over queries.
        length_curve: the same by exponents of length, which are its own; ``None`` without lengths.
        calibration: by norms.
        confounds: whether length explains the gain; ``None`` without lengths.
        confidence: how well a query's norm, its best document's norm, similarity and margin tell good rankings from
            bad ones at exponent 0; norms that are all alike are left out, and ``None`` stands for a single document.
        relevance: Cohen's d between the norms of documents that some query wants and of the rest.
        popularity: what the documents that are returned most take of the rankings' places, at each exponent; vectors
            that are zero or near dead, and the places that they take, do not count.
        near_dead_share: share of the rankings' places that zero and near-dead vectors take, at each exponent.
        hubs: documents that more queries are answered with than chance would have, by name.
        alignment: mean squared distance of the unit vectors of a query and of a document that is relevant to it, the
            best of its vectors where it has several; the interval is over queries.
        queries: in all.
        judged_count: queries with a direction and a relevant document.
    """

    alphas: tuple[float, ...]
    curves: dict[str, list[Interval]]
    length_curve: LengthCurve | None
    calibration: Calibration
    confounds: ConfoundReport | None
    confidence: dict[str, Confidence] | None
    relevance: Interval
    popularity: tuple[Popularity, ...]
    near_dead_share: tuple[float, ...]
    hubs: Hubs
    alignment: Interval
    queries: int
    judged_count: int

    @property
    def has_popularity(self) -> bool:
        """Whether there are queries enough, by cosine, to tell popular documents from those that chance prefers."""
        return math.isfinite(self.popularity[self.place_of(0.0)].held_out.value)

    def place_of(self, alpha: float) -> int:
        """Of the exponent tried that is next to one."""
        return min(range(len(self.alphas)), key=lambda place: abs(self.alphas[place] - alpha))

    @property
    def verdict(self) -> ScoringVerdict:
        """How to score, in numbers and words."""
        return scoring_verdict(self.calibration, self.confounds)


class LengthCurve(NamedTuple):
    """The mean measure where documents are scored by ``cos · (1 + length)^e``.

    Attributes:
        exponents: tried, ascending.
        values: at each of them, with a pointwise bootstrap interval over queries.
    """

    exponents: tuple[float, ...]
    values: list[Interval]


def check_judged(judged_queries: JudgedQueries, dim: int) -> None:
    """Refuses what an hour of reading would end in.

    Raises:
        ValueError: if dimensions differ, or too few queries are judged.
    """
    if judged_queries.queries.ndim != 2 or judged_queries.queries.shape[1] != dim:
        raise ValueError(
            f"queries: expected vectors of the documents' length, {dim}, got {judged_queries.queries.shape[-1]}; are "
            "both of one model?"
        )
    count = len(judged_queries.judgements.relevant().queries.unique())
    if count < FOLDS:
        raise ValueError(
            f"judgements: expected {FOLDS} or more queries with a relevant document, to choose an exponent on some and "
            f"measure it on others, got {count}"
        )


def without_zero_queries(judged_queries: JudgedQueries) -> JudgedQueries:
    """The same queries, judgements of zero vectors left out: all documents score alike, so files' order would rank.

    Example:
        >>> queries, judgements = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), Judgements.of([(0, 3, 1.0), (1, 4, 1.0)])
        >>> without_zero_queries(JudgedQueries(queries, judgements)).judgements.documents
        tensor([4])
    """
    judgements = judged_queries.judgements
    judgements.check(len(judged_queries.queries))
    has_direction = (judged_queries.queries != 0).any(1).cpu()[judgements.queries]
    return judged_queries._replace(judgements=Judgements(*(column[has_direction] for column in judgements)))


@torch.no_grad()
def audit_ranking(
    spread: Spread,
    norms: Tensor,
    judged_queries: JudgedQueries,
    *,
    control: LengthControl | None = None,
    living_rows: Tensor | None = None,
) -> RankingAudit:
    """Sweeps exponents of norms, of norms without length and of lengths, and measures confidence, in one pass.

    Args:
        spread: makes the pass over the documents.
        norms: of the documents, ``[m]``.
        judged_queries: queries and judgements.
        control: lengths, where they are known.
        living_rows: documents whose norms are compared and predicted from length, ``[m]`` of bool: all but those that
            are zero or near dead.

    Returns:
        The record.

    Raises:
        ValueError: if something does not fit.
    """
    living_rows = norms > 0 if living_rows is None else living_rows
    norm_sweeps = _norm_sweeps(norms, judged_queries, control, living_rows)
    norm_sweeps["norm"].search.check(len(norms))
    parts = judged_queries.parts
    depth = 2 if parts is None else parts.depth(2)
    pairs = JudgedPairs.of(judged_queries.queries, judged_queries.judgements, parts)
    part_rankings = list(spread(RankingPass(tuple(norm_sweeps.values()), judged_queries.queries, depth, pairs)))
    rankings = {
        name: norm_sweep.search.rankings([part.sweeps[number] for part in part_rankings])
        for number, (name, norm_sweep) in enumerate(norm_sweeps.items())
    }
    sweeps = {name: norm_sweeps[name].search.measured(ranking) for name, ranking in rankings.items()}
    best = None
    if len(norms) > 1:
        first_rows = [part.first_row for part in part_rankings]
        best = merged_top_k((part.best for part in part_rankings), first_rows, depth)
        best = best if parts is None else _best_two_documents(best, parts)
    by_length = sweeps.pop("length", None)
    confounds = None if control is None or by_length is None else _confounds(sweeps, by_length, control)
    norm_sweep = sweeps["norm"]
    zero = int(norm_sweep.alphas.abs().argmin())
    collection = RankedDocuments.of(norms, living_rows, parts)
    is_relevant = torch.zeros(len(collection.norms), dtype=torch.bool)
    is_relevant[judged_queries.judgements.relevant().documents] = True
    is_relevant = is_relevant if parts is None else is_relevant[parts.owners]
    length_curve = None if by_length is None else LengthCurve(tuple(by_length.alphas.tolist()), _curve(by_length))
    calibration = calibrate(norm_sweep) if confounds is None else confounds.norm
    advised = _advised_ranking(rankings, norm_sweep.alphas, length_curve, scoring_verdict(calibration, confounds))
    return RankingAudit(
        tuple(norm_sweep.alphas.tolist()),
        {name: _curve(sweep) for name, sweep in sweeps.items()},
        length_curve,
        calibration,
        confounds,
        None if best is None else _confidence(judged_queries.queries, norms, best, 1 - norm_sweep.values[zero]),
        difference(norms[is_relevant & living_rows], norms[~is_relevant & living_rows]),
        tuple(popularity_share(collection.living(ranking), len(collection.norms)) for ranking in rankings["norm"]),
        tuple(collection.near_dead_share(ranking) for ranking in rankings["norm"]),
        find_hubs(rankings["norm"][zero], collection, judged_queries.judgements, advised=advised),
        pairs.alignment(part.pair_cosines for part in part_rankings),
        len(judged_queries.queries),
        int(norm_sweep.values[zero].isfinite().sum()),
    )


def _advised_ranking(
    rankings: Mapping[str, Sequence[Tensor]],
    alphas: Tensor,
    length_curve: LengthCurve | None,
    verdict: ScoringVerdict,
) -> AdvisedRanking | None:
    """Rankings at the exponent tried that is next to the advised one; ``None`` where that is the cosine."""
    if verdict.alpha:
        place = int((alphas - verdict.alpha).abs().argmin())
        score, ranking = f"cos · norm^{float(alphas[place]):.2f}", rankings["norm"][place]
        return AdvisedRanking(score, ranking, _nearest_tried(score, f"{verdict.alpha:.2f}")) if alphas[place] else None
    if verdict.length_exponent and length_curve is not None:
        exponents = torch.tensor(length_curve.exponents)
        place = int((exponents - verdict.length_exponent).abs().argmin())
        score, ranking = f"cos · (1 + length)^{float(exponents[place]):.3f}", rankings["length"][place]
        tried = _nearest_tried(score, f"{verdict.length_exponent:.3f}")
        return AdvisedRanking(score, ranking, tried) if exponents[place] else None
    return None


def _nearest_tried(score: str, advised: str) -> str:
    """That lists were made with an exponent beside the advised one; nothing where they read the same.

    Example:
        >>> _nearest_tried("cos · norm^0.40", "0.47"), _nearest_tried("cos · norm^0.40", "0.40")
        ('the exponent tried that is next to the advised 0.47', '')
    """
    is_advised = score.endswith(f"^{advised}")
    return "" if is_advised else f"the exponent tried that is next to the advised {advised}"


class NormSweep(NamedTuple):
    """A sweep to make.

    Attributes:
        search: with its queries, judgements and exponents.
        norms: of all documents ``[m]`` to sweep with; ``None`` for the vectors' own.
    """

    search: AlphaSearch
    norms: Tensor | None


def _norm_sweeps(
    norms: Tensor, judged_queries: JudgedQueries, control: LengthControl | None, living_rows: Tensor
) -> dict[str, NormSweep]:
    search = _search_of(judged_queries)
    sweeps = {"norm": NormSweep(search, None)}
    if control is not None:
        for name, make in (("residual norm", residual_norms), ("predicted norm", predicted_norms)):
            column = make(norms, control.length, controls=control.columns, fitted_rows=living_rows)
            sweeps[name] = NormSweep(search, column)
        exponents = alpha_exponents(length_exponents(control.length, search.exponents.alphas))
        sweeps["length"] = NormSweep(search._replace(exponents=exponents), length_norms(control.length))
    return sweeps


def _confounds(sweeps: Mapping[str, AlphaSweep], by_length: AlphaSweep, control: LengthControl) -> ConfoundReport:
    return explain_gain(
        sweeps["norm"],
        sweeps["residual norm"],
        by_length,
        predicted=sweeps["predicted norm"],
        correlations={LENGTH: control.correlation},
        controls=(LENGTH, *control.columns),
    )


def _search_of(judged_queries: JudgedQueries) -> AlphaSearch:
    queries, chunk_size = judged_queries.queries, _chunk_size(judged_queries.queries)
    return AlphaSearch(
        checked_queries(queries, [], chunk_size),
        judged_queries.judgements,
        alpha_exponents(judged_queries.alphas),
        judged_queries.measure,
        chunk_size,
        judged_queries.parts,
    )


class PartRankings(NamedTuple):
    """The best of some of the documents.

    Attributes:
        first_row: the position of the first of them among all.
        sweeps: by the vectors' own norms, and by each that was put in their place.
        best: of each query, at exponent 0: as many as surely hold two documents.
        pair_cosines: of judged pairs, minus infinity where the document is in another part, ``[p]``.
    """

    first_row: int
    sweeps: tuple[PartBest, ...]
    best: TopK
    pair_cosines: Tensor


@dataclass(frozen=True)
class RankingPass:
    """Ranks some of the documents in all ways while they are read once.

    Attributes:
        norm_sweeps: to make.
        queries: as encoded, ``[n, d]``.
        depth: vectors of each ranking at exponent 0.
        pairs: whose cosines are taken.
    """

    norm_sweeps: tuple[NormSweep, ...]
    queries: Tensor
    depth: int
    pairs: JudgedPairs

    def __call__(self, chunks: Iterable[Tensor], rows: range) -> PartRankings:
        """Ranks these rows.

        Args:
            chunks: in order.
            rows: that they are.
        """
        consumers: list[ChunkConsumer] = [_sweep_consumer(norm_sweep, rows) for norm_sweep in self.norm_sweeps]
        consumers.append(
            lambda chunks: norm_aware_top_k(self.queries, chunks, self.depth, chunk_size=_chunk_size(self.queries))
        )
        consumers.append(lambda chunks: self.pairs.cosines(chunks, rows))
        *sweeps, best, cosines = share_pass(chunks, consumers)
        return PartRankings(
            rows.start, tuple(cast("list[PartBest]", sweeps)), cast("TopK", best), cast("Tensor", cosines)
        )


def _best_two_documents(best: TopK, parts: DocumentParts) -> TopK:
    """The best vector of the best document, and the best of the next; both the same where there is no other."""
    ranked = parts.ranked(best.indices, 2)
    owners = parts.owners.to(best.indices.device)[best.indices.clamp(min=0)].where(best.indices >= 0, -1)
    second = (owners == ranked[:, 1:]).int().argmax(1, keepdim=True)
    places = torch.cat((torch.zeros_like(second), second), dim=1)
    return TopK(best.scores.gather(1, places), best.indices.gather(1, places))


def _sweep_consumer(norm_sweep: NormSweep, rows: range) -> ChunkConsumer:
    """A consumer that sweeps with the vectors' own norms or with others, ``[m]``."""
    if norm_sweep.norms is None:
        return norm_sweep.search.best
    norms = norm_sweep.norms[rows.start : rows.stop]
    return lambda chunks: norm_sweep.search.best(_with_norms(chunks, norms))


def _with_norms(chunks: Iterator[Tensor], norms: Tensor) -> Iterator[Tensor]:
    offset = 0
    for chunk in chunks:
        yield rescaled(chunk, norms[offset : offset + len(chunk)])
        offset += len(chunk)


def _chunk_size(queries: Tensor) -> int:
    return max(1, _CHUNK_NUMBERS // max(1, queries.shape[1]))


def _curve(sweep: AlphaSweep) -> list[Interval]:
    values = sweep.values[:, sweep.values.isfinite().all(0)].T
    return bootstrap_intervals(
        lambda counts: counts @ values / len(values), len(values), resamples=1_000, width=values.shape[1]
    )


def _confidence(queries: Tensor, norms: Tensor, best: TopK, loss: Tensor) -> dict[str, Confidence]:
    """As :func:`~lightning_normdyn.retrieval.uses.confidence.retrieval_confidences`, from the top two of the pass."""
    lengths = torch.linalg.vector_norm(queries.double(), dim=1).cpu()
    top = norms[best.indices[:, 0].cpu()]
    first, second = best.scores.double().cpu().unbind(1)
    confidences = {"max_similarity": first, "margin": first - second}
    for name, values in (("query_norm", lengths), ("top_document_norm", top)):
        # Of norms that are equal but for rounding an order would be noise.
        if float(values.std() / values.mean()) > _LEAST_SPREAD:
            confidences |= {name: values, f"short_{name}": -values}
    return confidence_table(confidences, loss)
