"""Audits the norms of ready embeddings: distribution, saturation, covariates, groups, extremes and rankings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_columns, as_tensor
from lightning_normdyn.core.dynamics.geometry import precise_norm
from lightning_normdyn.core.embedding_codes import as_embeddings
from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_sequence
from lightning_normdyn.core.statistics.correlation import LENGTH, Correlation, correlate
from lightning_normdyn.core.statistics.near_dead import NearDead, near_dead_rows
from lightning_normdyn.retrieval.audit.directions import DirectionHealth, health_of
from lightning_normdyn.retrieval.audit.groups import GroupNorms, group_norms
from lightning_normdyn.retrieval.audit.ranking_audit import (
    JudgedQueries,
    LengthControl,
    RankingAudit,
    audit_ranking,
    check_judged,
    without_zero_queries,
)
from lightning_normdyn.retrieval.audit.saturation import LastLayer, Saturation, norm_saturation
from lightning_normdyn.retrieval.audit.scan import NormDistribution, PartScanner, joined_scans, norm_distribution
from lightning_normdyn.retrieval.exponent.calibration import Calibration
from lightning_normdyn.retrieval.exponent.residual_norms import residual_norms
from lightning_normdyn.retrieval.search.document_chunks import Spread, in_one_part

_MOST_CORRELATED = 20_000
_RESAMPLES = 500
_LISTED_ROWS = 20


class Audit(NamedTuple):
    """The findings of an audit, in the order of the page.

    Attributes:
        dim: of the vectors.
        distribution: of their norms, zero and near-dead ones apart.
        saturation: whether norms are free.
        correlations: covariate to its correlation with norms, ``partial_r`` holding length and all other controls
            fixed; ``length`` last. Over ``correlated_rows`` of the items that are neither zero nor near dead.
        correlated_rows: how many; fewer than there are where they are a random sample.
        controls: what is held fixed: ``length`` where it is known, and further covariates.
        groups: that norms were compared between, largest effect first.
        longest: rows of the longest vectors, longest first.
        shortest: rows of the shortest ones that are neither zero nor near dead, shortest first.
        zeros: rows of the first zero vectors.
        near_dead: rows of the first vectors that are not zero and shorter than the others by so much that nothing but
            decay, underflow or a broken input makes them so (:func:`~lightning_normdyn.core.near_dead_rows`).
        directions: their health, of a random sample of the vectors that are neither zero nor near dead; ``None`` of
            fewer than 20.
        ranking: what norms do to judged rankings; ``None`` without queries or with vectors of length one.
        norms: of every row, float64 ``[n]``.
    """

    dim: int
    distribution: NormDistribution
    saturation: Saturation
    correlations: dict[str, Correlation]
    correlated_rows: int
    controls: tuple[str, ...]
    groups: list[GroupNorms]
    longest: tuple[int, ...]
    shortest: tuple[int, ...]
    zeros: tuple[int, ...]
    near_dead: tuple[int, ...]
    directions: DirectionHealth | None
    ranking: RankingAudit | None
    norms: Tensor

    @property
    def says_nothing(self) -> bool:
        """Whether norms have nothing to say, all vectors having length one."""
        return self.saturation.kind == "unit"


def audit_norms(
    open_chunks: Callable[[], Iterable[ArrayLike]],
    rows: int,
    *,
    length: ArrayLike | None = None,
    covariates: Mapping[str, ArrayLike] | None = None,
    controls: Sequence[str] = (),
    groups: Mapping[str, Sequence[str | None]] | None = None,
    judged_queries: JudgedQueries | None = None,
    last_layer: LastLayer | None = None,
    extremes: int = 12,
    name: str = "embeddings",
    spread: Spread | None = None,
) -> Audit:
    """Audits embeddings that are read a chunk at a time.

    Args:
        open_chunks: opens the embeddings anew and gives their chunks ``[some, d]``, in order; called once, and once
            more for the ranking if there is one.
        rows: of all chunks together, n.
        length: of each item (letters, tokens, pixels), not negative, ``[n]``.
        covariates: name to a number for each item, NaN where unknown, ``[n]``.
        controls: names of covariates that are held fixed beside length, and taken out of norms with it; what is unknown
            counts as the median there.
        groups: column to the group of each item, ``None`` where unknown.
        judged_queries: queries and judgements of the items as documents; zero queries are in no ranking.
        last_layer: of the model that made them, where known.
        extremes: how many of the longest and of the shortest vectors to name.
        name: what an error calls the embeddings.
        spread: makes the passes in ``open_chunks``' place, in parts and on other machines; numbers are the same.

    Returns:
        The record.

    Raises:
        ValueError: if a vector is not finite, something has not one entry for each item, or dimensions differ.

    Example:
        >>> vectors = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
        >>> audit = audit_norms(lambda: [vectors], 500, length=vectors.norm(dim=1) ** 2)
        >>> audit.saturation.kind, round(audit.correlations["length"].r, 3)
        ('free', 1.0)
    """
    check_count(0, rows=rows, extremes=extremes)
    columns = as_columns("covariates", covariates or {})
    length = None if length is None else as_tensor("length", length)
    _check(rows, length, columns, groups)
    _check_controls(controls, columns, length)
    spread = in_one_part(partial(_tensors, open_chunks, name), rows) if spread is None else spread
    scan = joined_scans(spread(PartScanner(rows, name)), name)
    norms = scan.norms
    if judged_queries is not None:
        judged_queries = judged_queries.as_tensors()
        check_judged(judged_queries, scan.dim)
        judged_queries = without_zero_queries(judged_queries)
        check_judged(judged_queries, scan.dim)
    census = near_dead_rows(norms, scan.dim)
    # Whatever looks at norms looks at those of the living: a zero and what is as good as one count apart.
    living_norms = norms.where(norms >= census.limit, 0)
    distribution = norm_distribution(norms, near_dead_limit=census.limit)
    sample = scan.sample[precise_norm(scan.sample) >= census.limit]
    saturation = norm_saturation(living_norms, sample, last_layer=last_layer)
    zeros = tuple((norms == 0).nonzero().squeeze(1)[:_LISTED_ROWS].tolist())
    near_dead = tuple(_shortest_but_zero(census, norms))
    directions = health_of(sample, int((living_norms > 0).sum()))
    if saturation.kind == "unit":
        return Audit(
            scan.dim, distribution, saturation, {}, 0, (), [], (), (), zeros, near_dead, directions, None, norms
        )
    # Of equal norms the earlier row comes first, whatever their number.
    order = norms.argsort(stable=True)
    shortest = order[living_norms[order] > 0][:extremes]
    longest = norms.neg().argsort(stable=True)[: min(extremes, rows - distribution.zeros)]
    control_columns = {control: columns[control] for control in controls}
    residual = (
        None
        if length is None or not groups
        else residual_norms(norms, length, controls=control_columns, fitted_rows=living_norms > 0)
    )
    correlations = _correlations(living_norms, length, columns, controls)
    control = None if length is None else LengthControl(length, control_columns, correlations.by_name[LENGTH])
    return Audit(
        scan.dim,
        distribution,
        saturation,
        correlations.by_name,
        correlations.rows,
        (*([] if length is None else [LENGTH]), *controls),
        group_norms(living_norms, groups or {}, residual=residual),
        tuple(longest.tolist()),
        tuple(shortest.tolist()),
        zeros,
        near_dead,
        directions,
        None
        if judged_queries is None
        else audit_ranking(spread, norms, judged_queries, control=control, living_rows=living_norms > 0),
        norms,
    )


def _tensors(open_chunks: Callable[[], Iterable[ArrayLike]], name: str) -> Iterator[Tensor]:
    for chunk in open_chunks():
        yield as_embeddings(**{name: chunk})[0]


def _shortest_but_zero(census: NearDead, norms: Tensor) -> list[int]:
    rows: list[int] = census.rows[norms[census.rows] > 0][:_LISTED_ROWS].tolist()
    return rows


class _CorrelationTable(NamedTuple):
    """Correlations by name, and of how many items."""

    by_name: dict[str, Correlation]
    rows: int


def _correlations(
    norms: Tensor, length: Tensor | None, covariates: Mapping[str, Tensor], controls: Sequence[str]
) -> _CorrelationTable:
    """Over 20,000 items at random where there are more: ranks of a million, resampled, take an hour."""
    nonzero_rows = (norms > 0).nonzero().squeeze(1)
    sample_rows = nonzero_rows[
        torch.randperm(len(nonzero_rows), generator=torch.Generator().manual_seed(0))[:_MOST_CORRELATED]
    ]
    columns = {name: column[sample_rows] for name, column in covariates.items()}
    if length is not None:
        columns[LENGTH] = length[sample_rows]
    fixed_names = [*([] if length is None else [LENGTH]), *controls]

    def with_norms(name: str) -> Correlation:
        held = [columns[other].double() for other in fixed_names if other != name]
        stacked = torch.stack(held, dim=1) if held else None
        return correlate(norms[sample_rows], columns[name], stacked, resamples=_RESAMPLES)

    return _CorrelationTable({name: with_norms(name) for name in columns}, len(sample_rows))


def _check_controls(controls: Sequence[str], covariates: Mapping[str, Tensor], length: Tensor | None) -> None:
    check_sequence(controls=controls)
    missing = next((name for name in controls if name not in covariates), None)
    if missing is not None:
        listed = ", ".join(covariates) or "there is none"
        raise ValueError(f"controls: expected columns of numbers among the covariates ({listed}), got {missing!r}")
    if controls and length is None:
        raise ValueError(
            f"controls: expected lengths beside '{controls[0]}', which is held fixed with them, got none; give texts, "
            "or a column 'length'"
        )


def _check(
    rows: int,
    length: Tensor | None,
    covariates: Mapping[str, Tensor] | None,
    groups: Mapping[str, Sequence[str | None]] | None,
) -> None:
    columns = {**(covariates or {}), **({} if length is None else {LENGTH: length})}
    for name, column in columns.items():
        if column.shape != (rows,):
            raise ValueError(f"{name}: expected one number for each of {rows} vectors, got {tuple(column.shape)}")
    for name, labels in (groups or {}).items():
        if len(labels) != rows:
            raise ValueError(f"{name}: expected one group for each of {rows} vectors, got {len(labels)}")
    if length is not None and LENGTH in (covariates or {}):
        raise ValueError("covariates: expected names other than 'length', got 'length' beside known lengths; rename it")


_FILE_KEYS = {"lost_gain": "lost", "judged_count": "judged", "had_unit_step": "normalised"}
"""Fields that are no nouns in the file: its keys stay for its readers, while a field says what it counts or holds."""
_FLAT_INTERVALS = ("alpha", "gain")
_WEIGHTS = "weights"  # of a last layer: hundreds of numbers that the model has


def json_fields(record: Any) -> dict[str, object]:
    """Fields of a record of the audit by their keys in the file.

    The intervals of a calibration are three numbers each there: ``alpha``, ``alpha_low``, ``alpha_high``.

    Args:
        record: a NamedTuple.

    Example:
        >>> json_fields(LastLayer("LayerNorm", is_norm=True, pooling="mean", had_unit_step=False))
        {'name': 'LayerNorm', 'is_norm': True, 'pooling': 'mean', 'normalised': False}
    """
    fields: dict[str, object] = {}
    for name, value in record._asdict().items():
        if isinstance(record, LastLayer) and name == _WEIGHTS:
            continue
        if isinstance(record, Calibration) and name in _FLAT_INTERVALS:
            fields |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            fields[_FILE_KEYS.get(name, name)] = value
    return fields
