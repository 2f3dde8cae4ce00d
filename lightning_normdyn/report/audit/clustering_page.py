"""The files of a comparison of clusterings: a page and the same numbers as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.core.statistics.interval import Interval
from lightning_normdyn.history.origin import Origin
from lightning_normdyn.report.audit.page import as_plain
from lightning_normdyn.report.kit.numbers import NONE, fixed, percent
from lightning_normdyn.report.kit.page import Page, render, write_page
from lightning_normdyn.report.kit.table import table
from lightning_normdyn.retrieval.uses.clustering_comparison import ClusteringComparison, ClusteringScore

PAGE, NUMBERS = "clusters.html", "clusters.json"


class ClusteringSubject(NamedTuple):
    """What was clustered.

    Attributes:
        name: of the embeddings.
        notes: what a reader should know about the input.
        command: that made the comparison.
        file: of the embeddings, as the command named it.
        column: of it.
    """

    name: str
    notes: Sequence[str] = ()
    command: str = ""
    file: str = "FILE"
    column: str | None = None


def clustering_advice(comparison: ClusteringComparison, subject: ClusteringSubject) -> str:
    """How to run what the verdict says, in any library."""
    if not comparison.significant:
        return (
            "Give vectors length 1 and run spherical k-means, such as faiss.Kmeans(d, k, spherical=True); or keep the "
            "k-means that you have, if the table does not say that it is worse."
        )
    exponent = comparison.best.exponent
    if exponent is None:
        return "Run any k-means on the vectors as they are; do not normalise them."
    source = f"--embeddings {shlex.quote(subject.file)}"
    source += "" if subject.column is None else f" --column {shlex.quote(subject.column)}"
    return (
        f"For a k-means that takes weights: points = lightning_normdyn.retrieval.norm_weights(x, {exponent:g}), then "
        "KMeans(k).fit(points.directions, sample_weight=points.weights). For one that takes none: normdyn export "
        f"{source} --alpha {exponent:g} --to npy --out folded.npy, then faiss.Kmeans(d, k, spherical=True) on the "
        "folded vectors, as long as they are."
    )


def clustering_rows(comparison: ClusteringComparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table, a row a way."""
    headings = ["way", "V-measure", "gain", "p, one-sided", "silhouette", "its gain", "as if items"]
    return headings, [_row(score, comparison) for score in comparison.scores]


def _row(score: ClusteringScore, comparison: ClusteringComparison) -> list[str]:
    is_reference = score.exponent == 0
    name = "spherical" if is_reference else score.name
    of_labels = [NONE] * 3
    if comparison.has_labels:
        gain = [NONE] * 2 if is_reference else [_gain(score.gain), f"{score.p_value:.2g}"]
        of_labels = [fixed(score.v_measure, 4), *gain]
    silhouette_gain = NONE if is_reference else _gain(score.silhouette_gain)
    return [name, *of_labels, fixed(score.silhouette, 4), silhouette_gain, percent(score.effective_share)]


def _gain(interval: Interval) -> str:
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*interval).replace("-", "−")


def write_clustering_numbers(folder: Path, comparison: ClusteringComparison, subject: ClusteringSubject) -> Path:
    """Writes ``clusters.json``, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    sentences = {
        "name": subject.name,
        "finding": comparison.sentence,
        "advice": clustering_advice(comparison, subject),
        "significant": comparison.significant,
        "notes": list(subject.notes),
        "command": subject.command,
    }
    write_json(folder / NUMBERS, sentences | as_plain(comparison), indent=1)
    return folder / NUMBERS


def write_clustering_page(folder: Path, comparison: ClusteringComparison, subject: ClusteringSubject) -> Path:
    """Writes ``clusters.html``, self-contained.

    Raises:
        DrawingError: if the figure cannot be drawn.
        OSError: if it cannot be written.
    """
    from lightning_normdyn.report.audit.figures import clustering_figure
    from lightning_normdyn.report.kit.card import Card, arrange
    from lightning_normdyn.report.kit.figure import drawing_style, to_svg

    what = "V-measure" if comparison.has_labels else "Silhouette"
    gains = [
        f"{score.name} {_gain(score.gain if comparison.has_labels else score.silhouette_gain)}"
        for score in comparison.scores
        if score.exponent != 0
    ]
    description = f"{what} gained over spherical k-means, with intervals that hold at once: {', '.join(gains)}."
    with drawing_style():
        svg = to_svg(clustering_figure(comparison), name="gains", description=description)
    caption = (
        f"{what} over spherical k-means; lines are {comparison.level:.0%} intervals that hold for all ways at once."
    )
    headings, rows = clustering_rows(comparison)
    main = render(
        "clustering.html.j2",
        advice=clustering_advice(comparison, subject),
        notes=subject.notes,
        cards=arrange([Card("What norms gain", caption, (("", svg),))]),
        table=table("ways", "Ways to cluster", headings, rows, note=_TABLE_NOTE),
    )
    page = Page(
        title=f"Clustering: {subject.name}",
        main=main,
        facts=[f"{comparison.items:,} items, {comparison.clusters:,} clusters", f"k-means of {comparison.engine}"],
        lead=comparison.sentence,
        origin=Origin(data=subject.name, command=subject.command),
    )
    return write_page(folder / PAGE, page)


_TABLE_NOTE = (
    "The silhouette is that of directions under cosine distance. 'As if items' is the share of equally weighted items "
    "that would say as much as all with their weights. p asks for gains alone, so a loss has 1."
)
