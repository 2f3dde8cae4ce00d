"""The hard negatives of each query with their scores, and what mining them found out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_normdyn.datasets.records import MinedRow
from lightning_normdyn.retrieval.mining.options import MiningOptions
from lightning_normdyn.retrieval.mining.positives import PositivePairs
from lightning_normdyn.retrieval.search.running_top_k import NO_DOCUMENT

_QUANTILES = {"min": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "max": 1.0}


@dataclass(frozen=True)
class HardNegatives:
    """What :func:`mine_hard_negatives` found; all tensors are on the CPU.

    Attributes:
        indices: positions of the negatives of each query, closest first, int64 ``[n, num_negatives]``; -1 where there
            are no more.
        scores: of them, ``[n, num_negatives]``; minus infinity where there are no more.
        positives: the pairs of query and positive.
        positive_scores: of these pairs, ``[p]``.
        above_limits: of each query how many documents that are no positives score above ``max_score`` or what a margin
            leaves, int64 ``[n]``; where ``range_max`` was given, of those that it let in.
        options: that it was mined with.
    """

    indices: Tensor
    scores: Tensor
    positives: PositivePairs
    positive_scores: Tensor
    above_limits: Tensor
    options: MiningOptions

    @property
    def counts(self) -> Tensor:
        """Negatives of each query, int64 ``[n]``."""
        return (self.indices >= 0).sum(1)

    @property
    def lacking(self) -> Tensor:
        """Queries that have fewer negatives than were asked for, as positions ``[l]``."""
        return (self.counts < self.options.num_negatives).nonzero().flatten()

    @property
    def false_negative_share(self) -> float:
        """Of each query's ``num_negatives`` closest documents that are no positives, what share the limits left out.

        It is what a miner without limits would have taken; NaN without queries.
        """
        most = self.options.num_negatives
        return float((self.above_limits.clamp(max=most) / most).mean())

    def triples(self) -> Tensor:
        """Positions of query, positive and negative, int64 ``[t, 3]``: every positive with every negative.

        Example:
            >>> from lightning_normdyn.retrieval import mine_hard_negatives
            >>> vectors = torch.eye(3)
            >>> mine_hard_negatives(vectors, vectors + 0.1, [0, 1, 2], num_negatives=1).triples()
            tensor([[0, 0, 1],
                    [1, 1, 0],
                    [2, 2, 0]])
        """
        queries, documents = self.positives
        negatives = self.indices[queries]
        pairs, columns = (negatives >= 0).nonzero().unbind(1)
        return torch.stack([queries[pairs], documents[pairs], negatives[pairs, columns]], dim=1)

    def rows(self, queries: Sequence[str], documents: Sequence[str]) -> Iterator[MinedRow]:
        """A row a pair of query and positive, as the writers take them.

        Args:
            queries: id, or text, of each query.
            documents: the same of each document.

        Yields:
            Rows with as many negatives as there are, none included.

        Raises:
            ValueError: if there are fewer than were mined from.
        """
        _check_names("queries", queries, len(self.indices))
        _check_names("documents", documents, 1 + max(map(_highest, (self.indices, self.positives.documents))))
        columns = (*self.positives, self.positive_scores)
        for query, document, score in zip(*(column.tolist() for column in columns), strict=True):
            count = int((self.indices[query] >= 0).sum())
            yield MinedRow(
                queries[query],
                documents[document],
                tuple(documents[negative] for negative in self.indices[query, :count].tolist()),
                (score, *self.scores[query, :count].tolist()),
            )

    def statistics(self) -> dict[str, dict[str, float]]:
        """Count, mean, standard deviation and quantiles of the scores of positives, negatives, and of their difference.

        The difference is of each triple; NaN where there is nothing.
        """
        queries = self.positives.queries
        is_negative = self.indices >= 0
        differences = (self.positive_scores.unsqueeze(1) - self.scores[queries])[is_negative[queries]]
        columns = {"positive": self.positive_scores, "negative": self.scores[is_negative], "difference": differences}
        return {name: _statistics(values.double()) for name, values in columns.items()}

    def __str__(self) -> str:
        """The statistics as a table, and what was left out, as sentence-transformers prints them."""
        columns = self.statistics()
        lines = [f"{'':8}" + "".join(f"{name:>14}" for name in columns)]
        for row in columns["positive"]:
            values = [column[row] for column in columns.values()]
            lines.append(
                f"{row:8}" + "".join(f"{value:14,.0f}" if row == "count" else f"{value:14.4f}" for value in values)
            )
        lines.append(
            f"Of the {self.options.num_negatives} closest documents that are no positives, the limits left out "
            f"{self.false_negative_share:.2%}."
        )
        return "\n".join([*lines, *([self.shortage()] if len(self.lacking) else [])])

    def shortage(self, fewer: str = "lower num_negatives") -> str:
        """How many queries have too few negatives, and what would give them more.

        Args:
            fewer: how to ask for fewer.
        """
        options = self.options
        lowered = ("range_min", "absolute_margin", "relative_margin", "min_score")
        ways = [f"lower {name}" for name in lowered if getattr(options, name)]
        ways += [f"raise {name}" for name in ("range_max", "max_score") if getattr(options, name) is not None]
        return (
            f"{len(self.lacking)} of {len(self.indices)} queries have fewer than {options.num_negatives} hard "
            f"negatives, {int((self.counts == 0).sum())} have none; {' or '.join(ways) or 'add documents'}, or "
            f"{fewer}"
        )


def _highest(places: Tensor) -> int:
    return int(places.max()) if places.numel() else NO_DOCUMENT


def _check_names(name: str, names: Sequence[str], least: int) -> None:
    if len(names) < least:
        raise ValueError(
            f"{name}: expected an id or a text for each that was mined from, {least} or more, got {len(names)}"
        )


def _statistics(values: Tensor) -> dict[str, float]:
    statistics = {"count": float(len(values)), "mean": float("nan"), "std": float("nan")}
    if not len(values):
        return statistics | dict.fromkeys(_QUANTILES, float("nan"))
    statistics["mean"] = float(values.mean())
    if len(values) > 1:
        statistics["std"] = float(values.std())
    places = torch.tensor(list(_QUANTILES.values()), dtype=values.dtype)
    return statistics | dict(zip(_QUANTILES, _quantiles(values, places).tolist(), strict=True))


def _quantiles(values: Tensor, places: Tensor) -> Tensor:
    """By linear interpolation, of any number of values: ``torch.quantile`` takes at most 2^24."""
    ordered = values.sort().values
    positions = places * (len(values) - 1)
    low, high = ordered[positions.floor().long()], ordered[positions.ceil().long()]
    return low + (high - low) * (positions - positions.floor())
