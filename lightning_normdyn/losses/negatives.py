"""Which negatives of a batch take part, and how much each weighs: guides, bounds beside the positive, hardness."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_normdyn.core.contrast.tile_edits import Ceiling, GuideCeiling, HardnessWeight, TileCall, TileEdits
from lightning_normdyn.core.dynamics.geometry import most_precise_dtype
from lightning_normdyn.core.number_checks import check_not_negative, check_positive
from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates, excluded_pairs, gather_candidates
from lightning_normdyn.losses.options import Hardness


class NegativeRules(NamedTuple):
    """How negatives are judged by what they and their positive score.

    Attributes:
        guide_margin: a negative is left out where the guide scores it above ``g - guide_relative_margin |g| -
            guide_margin`` with ``g`` its score of the positive (GISTEmbed, arXiv 2402.16829).
        guide_relative_margin: likewise.
        negative_margin: a negative is left out where it scores above ``s - negative_margin`` with ``s`` the score of
            the positive (TopK-MarginPos of NV-Retriever, arXiv 2407.15831); ``None`` leaves all in.
        negative_share: or above ``negative_share · s`` (TopK-PercPos).
        hardness: which negatives weigh more the more they score.
        hardness_strength: they weigh ``exp(strength · score)``, by a score that is constant to the gradient
            (EmbeddingGemma, arXiv 2509.20354).
    """

    guide_margin: float = 0.0
    guide_relative_margin: float = 0.0
    negative_margin: float | None = None
    negative_share: float | None = None
    hardness: Hardness = "none"
    hardness_strength: float = 5.0

    @classmethod
    def check(cls, **options: Any) -> NegativeRules:
        """Refuses what is out of range.

        Raises:
            ValueError: naming the argument, what came, and the likely fix.
        """
        rules = cls(**options)
        check_not_negative(
            guide_margin=rules.guide_margin, guide_relative_margin=rules.guide_relative_margin, hint="0.05 is common"
        )
        if rules.negative_margin is not None:
            check_not_negative(negative_margin=rules.negative_margin, hint="0.05 is common for a cosine")
        if rules.negative_share is not None:
            check_positive(negative_share=rules.negative_share, hint="0.95 is common")
        if rules.hardness not in get_args(Hardness):
            raise ValueError(f"hardness: expected one of {', '.join(get_args(Hardness))}, got {rules.hardness!r}")
        check_positive(hardness_strength=rules.hardness_strength, hint="5 is common")
        return rules

    @property
    def has_bounds(self) -> bool:
        """Whether negatives are held against their positive's score."""
        return self.negative_margin is not None or self.negative_share is not None

    def bounds(self, scores: Tensor, factor: float | Tensor) -> Tensor:
        """Scores over the temperature above which there are no negatives, ``[n]``, of those of the positives."""
        bounds = torch.full_like(scores, torch.inf)
        if self.negative_margin is not None:
            bounds = scores - self.negative_margin * factor
        if self.negative_share is not None:
            bounds = torch.minimum(bounds, self.negative_share * scores)
        return bounds

    def guide_bounds(self, scores: Tensor) -> Tensor:
        """The same of the guide's scores."""
        return scores - self.guide_relative_margin * scores.abs() - self.guide_margin


class Guides(NamedTuple):
    """A second model's embeddings of unit length.

    Attributes:
        queries: this rank's, ``[n, g]``.
        candidates: of all ranks, in the order of the candidates, ``[m, g]``.
        bounds: of each pair, ``[n]``.
    """

    queries: Tensor
    candidates: Tensor
    bounds: Tensor


class NegativeEdits:
    """The edits of the tiles of one batch.

    Args:
        rules: what negatives are judged by.
        batch: of this rank.
        candidates: of all.
        scores: of this rank's pairs over the temperature, ``[n]``.
        factor: one over the temperature, a number or one for each query.
        ranks: all of them.
    """

    def __init__(
        self,
        rules: NegativeRules,
        batch: Batch,
        candidates: Candidates,
        scores: Tensor,
        factor: float | Tensor,
        ranks: Ranks,
    ) -> None:
        self._rules, self._candidates, self._ranks = rules, candidates, ranks
        self._factor = factor.detach() if isinstance(factor, Tensor) else factor
        self._bounds = rules.bounds(scores.detach(), self._factor) if rules.has_bounds else None
        self._guides = None if batch.query_guides is None else self._guided(batch)
        self._positives = None
        if batch.labels is not None or batch.positives is not None:
            self._positives = excluded_pairs(batch, candidates._replace(keys=[]), without_positives=True)
        self._hard_per_query = len(batch.hard_negatives) // len(batch.queries)

    @property
    def has_sides(self) -> bool:
        """Whether queries and documents judge the same pair each by its own positive."""
        return self._bounds is not None or self._guides is not None

    def of_rows(self) -> TileEdits:
        """Of this rank's queries and all candidates, judged by the queries' positives."""
        masks: list[TileCall] = []
        if self._bounds is not None:
            masks.append(Ceiling(self._bounds, positives=self._positives))
        if self._guides is not None:
            ceiling = Ceiling(self._guides.bounds, positives=self._positives)
            masks.append(GuideCeiling(self._guides.queries, self._guides.candidates, ceiling))
        return TileEdits(tuple(masks), weights=self._weights())

    def of_columns(self) -> TileEdits:
        """Of the same pairs, judged by the documents' positives."""
        rows = self._candidates.positives
        masks: list[TileCall] = []
        if self._bounds is not None:
            masks.append(Ceiling(self._ranks.gather(self._bounds, rows), by_column=True, positives=self._positives))
        if self._guides is not None:
            bounds = self._ranks.gather(self._guides.bounds, rows)
            ceiling = Ceiling(bounds, by_column=True, positives=self._positives)
            masks.append(GuideCeiling(self._guides.queries, self._guides.candidates, ceiling))
        return TileEdits(tuple(masks), weights=self._weights())

    def among_queries(self) -> TileEdits:
        """Of this rank's queries and all queries."""
        if self._guides is None:
            return self._among(None, None)
        return self._among(self._guides.queries, self._ranks.gather(self._guides.queries, self._candidates.positives))

    def among_documents(self) -> TileEdits:
        """Of the documents of this rank's queries and all candidates."""
        if self._guides is None:
            return self._among(None, None)
        return self._among(self._guides.candidates[self._candidates.positives.local_slice], self._guides.candidates)

    def _among(self, rows: Tensor | None, columns: Tensor | None) -> TileEdits:
        masks: list[TileCall] = [] if self._bounds is None else [Ceiling(self._bounds)]
        if rows is not None and columns is not None and self._guides is not None:
            masks.append(GuideCeiling(rows, columns, Ceiling(self._guides.bounds)))
        return TileEdits(tuple(masks))

    def _guided(self, batch: Batch) -> Guides:
        assert batch.query_guides is not None
        assert batch.document_guides is not None
        assert batch.hard_negative_guides is not None
        sides = [batch.query_guides, batch.document_guides, batch.hard_negative_guides]
        queries, documents, hard = (F.normalize(side.detach().float(), dim=-1) for side in sides)
        candidates = gather_candidates(documents, hard, self._candidates.groups, self._ranks)
        scores = (queries * documents[: len(queries)]).sum(-1)
        return Guides(queries, candidates, self._rules.guide_bounds(scores))

    def _weights(self) -> tuple[TileCall, ...]:
        if self._rules.hardness == "none":
            return ()
        rows, groups = self._candidates.positive_columns, self._candidates.groups
        first = groups[0].total + groups[1].total + groups[2].local_slice.start
        ones = torch.ones(len(rows), dtype=most_precise_dtype(rows.device), device=rows.device)
        strengths = ones * self._rules.hardness_strength / self._factor
        numbers = torch.arange(len(rows), device=rows.device)
        weight = HardnessWeight(
            strengths,
            first + numbers * self._hard_per_query,
            self._hard_per_query,
            in_own=self._rules.hardness != "in_batch_negatives",
            in_others=self._rules.hardness != "hard_negatives",
        )
        return (weight,)
