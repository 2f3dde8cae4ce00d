"""What a batch says about training beside its loss: accuracy, rank, alignment, uniformity, effective temperature."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_normdyn.core.contrast.score_readings import ScoreReading
from lightning_normdyn.core.dynamics.geometry import most_precise
from lightning_normdyn.losses.gather import Ranks, Rows


class BatchMetrics(NamedTuple):
    """Reads the tiles of one sweep, and sums up over all ranks.

    Attributes:
        scores: of the pairs over the temperature, ``[n]``.
        lengths: of the scaled queries ``[n]`` and of the rescaled candidates ``[m]``.
        reading: of the tiles.
        by_column: whether documents pick their queries.
        has_directions: whether scores are inner products of the embeddings' own directions and lengths.
    """

    scores: Tensor
    lengths: tuple[Tensor, Tensor]
    reading: ScoreReading
    by_column: bool
    has_directions: bool

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        anchors: Tensor,
        vectors: Tensor,
        rows: Rows,
        ranks: Ranks,
        *,
        by_column: bool,
        has_directions: bool,
        counts_columns: bool,
    ) -> BatchMetrics:
        """Ready to read.

        Args:
            anchors: this rank's queries over the temperature, ``[n, d]``.
            vectors: the candidates of all ranks, the pairs' documents first, ``[m, d]``.
            rows: how many pairs each rank has.
            ranks: all of them.
            by_column: whether documents pick their queries.
            has_directions: see the attribute.
            counts_columns: whether the negatives of documents are counted.
        """
        scores = (anchors * vectors[rows.local_slice]).sum(-1)
        lengths = tuple(torch.linalg.vector_norm(side, dim=1) for side in (anchors, vectors))
        inverses = tuple(length.where(length > 0, 1).reciprocal() for length in lengths)
        of_columns = ranks.gather(scores, rows) if counts_columns else scores[:0]
        reading = ScoreReading(scores, of_columns, (inverses[0], inverses[1]) if has_directions else None)
        return cls(scores, (lengths[0], lengths[1]), reading, by_column, has_directions)

    @torch.no_grad()
    def values(self, rows: Rows, ranks: Ranks) -> dict[str, Tensor]:
        """Means over the pairs of all ranks, by the name under which they are logged; no dimension, float32.

        - ``accuracy``: share of the pairs whose score leads that of every negative.
        - ``mean_rank``: mean place of the positive among it and its negatives, from 1 on.
        - ``alignment``: mean ``|x - y|^2`` of the unit vectors of a pair (arXiv 2005.10242, section 4.1).
        - ``uniformity``: ``log mean exp(-2 |x - y|^2)`` over queries and their negatives (likewise, between the sides).
        - ``effective_temperature``: what a cosine would be divided by for scores of this size: the temperature over the
          mean product of the norms that the similarity keeps.
        """
        leads, numbers = self.reading.leads[0], self.reading.numbers[0]
        pair_leads = leads
        if self.by_column:
            pair_leads = ranks.sum(self.reading.leads[1])[rows.local_slice]
        scores = most_precise(self.scores)
        cosines = scores / (most_precise(self.lengths[0]) * self.lengths[1][rows.local_slice]).clamp(min=1e-300)
        sums = ranks.sum(
            torch.stack(
                [
                    (pair_leads == 0).sum().to(scores.dtype),
                    (pair_leads + 1).sum().to(scores.dtype),
                    (2 - 2 * cosines).sum(),
                    most_precise(self.reading.nearness),
                    numbers.sum().to(scores.dtype),
                    most_precise(self.lengths[0]).sum(),
                ]
            )
        )
        values = {"accuracy": sums[0] / rows.total, "mean_rank": sums[1] / rows.total}
        if self.has_directions:
            scale = sums[5] / rows.total * most_precise(self.lengths[1]).mean()
            values |= {
                "alignment": sums[2] / rows.total,
                "uniformity": (sums[3] / sums[4]).log(),
                "effective_temperature": scale.reciprocal(),
            }
        return {name: value.float() for name, value in values.items()}
