"""The tables of an audit: norms, correlations, groups, gains by exponent, confidence."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.report.kit.numbers import NONE, fixed, percent, plain
from lightning_normdyn.report.kit.table import Column, Table
from lightning_normdyn.retrieval.audit import Audit
from lightning_normdyn.retrieval.audit.ranking_audit import RankingAudit
from lightning_normdyn.retrieval.exponent.model_comparison import ModelComparison

SHOWN_GROUPS = 16


def audit_tables(audit: Audit) -> list[Table]:
    """All tables, in the order of reading; those without rows are left out."""
    tables = [_norms(audit), _directions(audit), _correlations(audit), _groups(audit)]
    if audit.ranking is not None:
        tables += [_gains(audit.ranking), _confidence(audit.ranking)]
    return [table for table in tables if table.rows]


def _norms(audit: Audit) -> Table:
    distribution = audit.distribution
    rows = [(_level(level), plain(value, 4)) for level, value in distribution.quantiles.items()]
    rows += [("mean", plain(distribution.mean, 4)), ("deviation / mean", plain(distribution.cv))]
    return _table("norms", "Norms", ("statistic", "norm"), rows)


def _directions(audit: Audit) -> Table:
    """Health of directions; alignment where queries are judged."""
    health = audit.directions
    if health is None:
        return _table("directions", "", ("statistic", "value, 95%"), [])
    hubs, ranking = health.hubness, audit.ranking
    rows = [
        (f"effective rank of {health.effective_rank.dim}", interval_text(health.effective_rank.interval, 1)),
        ("the same of these rows alone", fixed(health.effective_rank.sample_rank, 1)),
        ("share of the common direction", percent_interval(health.common_direction)),
        ("uniformity, less is more even", interval_text(health.uniformity)),
        (f"hubness: skewness among {hubs.k} nearest", interval_text(hubs.skewness)),
        ("anti-hubs, among nobody's nearest", percent_interval(hubs.anti_hubs)),
    ]
    if ranking is not None:
        rows += [("alignment of judged pairs, less is nearer", interval_text(ranking.alignment))]
    return _table("directions", f"Directions{health.sample_note}", ("statistic", "value, 95%"), rows)


def percent_interval(interval: Interval) -> str:
    """A share with its interval, as percentages.

    Example:
        >>> percent_interval(Interval(0.5, 0.25, 1.0))
        '50% (25% to 100%)'
    """
    value, low, high = map(percent, interval)
    return f"{value} ({low} to {high})"


def _correlations(audit: Audit) -> Table:
    fixed_names = " and ".join(audit.controls)
    rows = [
        (name, interval_text(correlation.interval))
        + ((NONE if (name,) == audit.controls else fixed(correlation.partial_r, 2),) if fixed_names else ())
        + (f"{correlation.n:,}",)
        for name, correlation in audit.correlations.items()
    ]
    head = ("covariate", "Spearman, 95%", *((f"{fixed_names} fixed",) if fixed_names else ()), "items")
    return _table("correlations", f"Correlation of norms{correlated_items(audit)}", head, rows)


def correlated_items(audit: Audit) -> str:
    """Words that call a sample a sample; none where all items were correlated."""
    distribution = audit.distribution
    living = distribution.rows - distribution.zeros - distribution.near_dead
    if audit.correlated_rows == living:
        return ""
    return f", over a random sample of {audit.correlated_rows:,} of {living:,} items"


def _groups(audit: Audit) -> Table:
    rows = [
        (f"{group.column}: {group.group}", f"{group.items:,}", plain(group.mean), interval_text(group.effect))
        for group in audit.groups[:SHOWN_GROUPS]
    ]
    return _table("groups", "Groups", ("group", "items", "mean norm", "Cohen's d"), rows)


def _gains(ranking: RankingAudit) -> Table:
    calibrations = {"norm": ranking.calibration}
    if ranking.confounds is not None:
        controls = " and ".join(ranking.confounds.controls)
        calibrations[f"norm without {controls}"] = ranking.confounds.residual
        if ranking.confounds.predicted is not None:
            calibrations[f"norm that {controls} predicts"] = ranking.confounds.predicted
        calibrations["length alone (its own exponent)"] = ranking.confounds.length
    rows = [
        (
            name,
            interval_text(calibration.alpha, 2 if abs(calibration.alpha.value) >= 0.1 else 3),
            interval_text(calibration.gain, 4),
            plain(calibration.p_value, 2),
        )
        for name, calibration in calibrations.items()
    ]
    share = f"{ranking.judged_count:,} of {ranking.queries:,} queries judged"
    caption = f"{ranking.calibration.measure}: {share}; cosine {fixed(ranking.calibration.baseline, 4)}"
    return _table("gains", caption, ("by", "best exponent", "held-out gain", "p, one-sided"), rows)


def _confidence(ranking: RankingAudit) -> Table:
    rows = [
        (name.replace("_", " "), interval_text(confidence.aurc), interval_text(confidence.over_baseline))
        for name, confidence in (ranking.confidence or {}).items()
    ]
    head = ("confidence", "AURC, less is better", "better than similarity by")
    return _table("confidence", "Confidence", head, rows)


def comparison_table(comparison: ModelComparison) -> Table:
    """Two models beside each other, and what changes from the one to the other."""
    before, after = comparison.before, comparison.after
    rows = [
        (
            name,
            fixed(first, digits),
            fixed(second, digits),
            "" if change is None else interval_text(change.interval, 4),
            "" if change is None else plain(change.p_value, 2),
        )
        for name, first, second, digits, change in (
            ("cosine", before.baseline, after.baseline, 4, comparison.cosine),
            ("best exponent", before.alpha.value, after.alpha.value, 2, None),
            ("gain by norms, held out", before.gain.value, after.gain.value, 4, comparison.norm_gain),
            (
                "cosine and gain",
                before.baseline + before.gain.value,
                after.baseline + after.gain.value,
                4,
                comparison.best,
            ),
        )
    ]
    caption = f"{comparison.measure} before and after: {comparison.queries:,} queries, paired"
    return _table("comparison", caption, ("", "before", "after", "change", "p"), rows)


def _table(name: str, caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(f"table-{name}", caption, [Column(heading) for heading in headings], rows, style="wrap")


def interval_text(interval: Interval, digits: int = 2) -> str:
    """A value with its interval, to as many digits behind the point.

    Example:
        >>> interval_text(Interval(0.5, -0.25, 1.0))
        '0.50 (−0.25 to 1.00)'
    """
    value, low, high = (fixed(number, digits) for number in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def _level(level: float) -> str:
    return {0.0: "smallest", 0.5: "median", 1.0: "largest"}.get(level, f"{level:.0%}")
