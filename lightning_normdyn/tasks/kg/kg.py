"""Knowledge-graph completion: predicts the tail of a head and a relation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_count, check_not_negative
from lightning_normdyn.datasets import Judgements, KnowledgeGraph
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData, Split, TrainingPair, check_source
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.contrast.popularity import popularity_floor, popularity_headline
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.kg.filtered_rank import filtered_ranks
from lightning_normdyn.tasks.kg.triple_scorers import SCORERS, TripleScorer
from lightning_normdyn.tasks.sources import KnowledgeGraphSource, StandardLibraryClassGraph
from lightning_normdyn.tasks.table_sizes import TableSizes

Scorer = Literal["distmult", "complex", "rotate", "dual"]
Negatives = Literal["full", "batch"]
Similarity = Literal["grid", "distance"]
Regularizer = Literal["none", "n3", "l2"]


class KnowledgeGraphCompletion(TableSizes, ContrastiveTask):
    """Embeddings of entities and relations that complete facts.

    A query is made of a head and a relation, and every entity is a document (:mod:`triple_scorers`). Relations are
    reciprocal (Lacroix et al. 2018, arXiv 1806.07297, section 3): each has a row of its own for the way back, so that
    asking for the head is a query like any other, and both are averaged.

    Measured is the filtered rank, see :func:`filtered_ranks`: other tails that train, validation or test know to be
    true are no candidates, and tied scores share the mean of their ranks.

    Functional symmetry: exchanging the *sides* would let entities ask for pairs (head, relation), which nobody does, so
    they differ, whatever the scorer. DistMult's score does not change if head and tail change places under a fixed
    relation, but that is a symmetry of the fact and not of the sides, and reciprocal relations lift it. What ties the
    sides together is that one row of an entity serves both as part of a query and as a document, except in the dual
    encoder; under RotatE the query's norm is even the head's own.

    Args:
        scorer: ``distmult``, ``complex``, ``rotate`` or ``dual``.
        dim: length of an embedding; complex numbers take two each.
        negatives: ``full`` to choose among all entities, ``batch`` among the tails of the batch, ids kept apart.
        similarity: ``grid`` for the inner product under ``normalization``; ``distance`` for RotatE's own
            ``-|h * r - t|`` beside the grid, with the Euclidean norm, to which ``normalization`` is nothing.
        regularizer: of the factors of a batch's facts, their moduli to the third power (``n3``: arXiv 1806.07297, eq.
            6) or the second (``l2``), summed, averaged over facts.
        regularization: its weight.
        options: of :class:`ContrastiveTask` and its loss.

    Raises:
        ValueError: if an argument is out of its range, or makes no sense with another.
    """

    symmetry = FunctionalSymmetry(
        False, "a head with a relation asks, an entity answers; facts may be symmetric, not that"
    )
    headline = "mrr"
    scorer: TripleScorer

    def __init__(
        self,
        *,
        scorer: Scorer = "complex",
        dim: int = 128,
        negatives: Negatives = "full",
        similarity: Similarity = "grid",
        regularizer: Regularizer = "none",
        regularization: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        _check_word("scorer", scorer, tuple(SCORERS))
        _check_word("negatives", negatives, ("full", "batch"))
        _check_word("similarity", similarity, ("grid", "distance"))
        _check_word("regularizer", regularizer, ("none", "n3", "l2"))
        check_count(dim=dim)
        check_not_negative(regularization=regularization)
        if dim % 2 and scorer in ("complex", "rotate"):
            raise ValueError(f"dim: expected an even number for complex and rotate, got {dim}")
        if regularization < 0 or (regularizer != "none") != (regularization > 0):
            raise ValueError(
                f"regularization: expected a weight above 0 with a regularizer and 0 without, got {regularization} "
                f"with {regularizer!r}"
            )
        if similarity == "distance" and ((scorer, negatives) != ("rotate", "full") or self.contrast.learnt()):
            raise ValueError(
                "similarity: distance is the score of scorer='rotate' with negatives='full' and nothing to learn in "
                f"the loss, got scorer={scorer!r}, negatives={negatives!r}, "
                f"normalization={self.contrast.similarity.normalization!r}"
            )
        self.scorer_name = scorer
        self.dim = dim
        self.negatives = negatives
        self.similarity = similarity
        self.power = {"none": 0, "n3": 3, "l2": 2}[regularizer]
        self.regularization = regularization

    def make_tables(self, *, entities: int, relations: int) -> None:  # type: ignore[override]
        """Makes the rows of entities, and of relations for either direction."""
        self.scorer = SCORERS[self.scorer_name](entities, 2 * relations, self.dim)

    def floors(self, data: ContrastData, split: Split) -> dict[str, float]:
        """What counting gets, beside what the data knows."""
        floors = data.floors(split)
        if isinstance(data, KnowledgeGraphData):
            floors |= {"popularity": popularity_headline(self, data.by_popularity(split))}
        return floors

    def encode_queries(self, inputs: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` of heads and directed relations ``[b, 2]``."""
        return self.scorer.queries(inputs[:, 0], inputs[:, 1])

    def encode_documents(self, inputs: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` of entities ``[b]``."""
        return self.scorer.documents(inputs)

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Cross entropy over the entities or the batch, and the regulariser."""
        loss = self._contrast(batch)
        if not self.power:
            return loss
        heads, relations = batch["queries"].unbind(1)
        moduli = self.scorer.moduli(heads, relations, batch["documents"])
        sizes = sum((factor.pow(self.power).sum() for factor in moduli), loss.new_zeros(()))
        return loss + self.regularization * sizes / len(batch["documents"])

    def _contrast(self, batch: Mapping[str, Any]) -> Tensor:
        if self.negatives == "batch":
            return super().loss(batch)
        queries, entities = self.encode_queries(batch["queries"]), self.scorer.entities.weight
        if self.similarity == "distance":
            return distance_softmax_loss(self.contrast, queries, entities, batch["documents"])
        return self.full_softmax_loss(queries, entities, batch["documents"])

    def measures(self, encoded: Encoded, exponents: Exponents) -> dict[str, Tensor]:
        """Reciprocal of the filtered rank, and whether it is at most 1, 3 and 10."""
        documents = rescale(encoded.documents, exponents[1])
        return _of_ranks(filtered_ranks(encoded._replace(documents=documents), lambda q, d: q @ d.T))

    def trained_measures(self, encoded: Encoded) -> dict[str, Tensor]:
        """The same by what trains, the distance included."""
        if self.similarity == "distance":
            return _of_ranks(filtered_ranks(encoded, lambda q, d: -torch.cdist(q, d)))
        return super().trained_measures(encoded)


class KnowledgeGraphData(ContrastData):
    """Facts as queries with answers, in both directions.

    Each fact ``(h, r, t)`` gives the query ``(h, r)`` with answer ``t`` and the query ``(t, r + R)`` with answer ``h``,
    ``R`` being the number of relations. Every split searches all entities, those unseen in training included. Equal
    facts of a split count once.

    Args:
        source: where they come from; the class graph of the running Python's standard library if left out.
        options: of :class:`ContrastData`.

    Raises:
        ValueError: if an argument is out of its range, or the source lacks a split.
    """

    def __init__(self, source: KnowledgeGraphSource | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.source = StandardLibraryClassGraph() if source is None else source
        check_source(self.source)
        self._splits: dict[str, EvaluationSplit] = {}

    @cached_property
    def graph(self) -> KnowledgeGraph:
        """The graph, read on first use."""
        return self.source.read()

    @property
    def table_sizes(self) -> dict[str, int]:
        """Rows that a model of this graph needs."""
        return {"entities": len(self.graph.entities), "relations": len(self.graph.relations)}

    def training_pairs(self) -> FactPairs:
        """The facts of the training split, in both directions."""
        return FactPairs(self.directed("train"), 2 * len(self.graph.relations))

    def evaluation(self, split: Split) -> EvaluationSplit:
        """A query for each fact and direction, and all entities; other facts that are known are excluded."""
        if split not in self._splits:
            facts = self.directed(split)
            all_facts = torch.cat([self.directed(name) for name in self.graph.triples])
            self._splits[split] = EvaluationSplit(
                queries=facts[:, :2],  # type: ignore[arg-type]
                documents=range(len(self.graph.entities)),
                judgements=Judgements(torch.arange(len(facts)), facts[:, 2], torch.ones(len(facts))),
                excluded_pairs=_other_answers(facts, all_facts),
                popularity=torch.bincount(self.directed("train")[:, 2], minlength=len(self.graph.entities)),
                document_ids=self.graph.entities,
            )
        return self._splits[split]

    def directed(self, split: str) -> Tensor:
        """Facts of a split in both directions, ``[2n, 3]``: head, directed relation, tail."""
        if split not in self.graph.triples:
            raise ValueError(f"source: expected a split '{split}', got {', '.join(self.graph.triples) or 'none'}")
        heads, relations, tails = self.graph.triples[split].unique(dim=0).unbind(1)
        facts = torch.stack((heads, relations, tails), 1)
        return torch.cat((facts, torch.stack((tails, relations + len(self.graph.relations), heads), 1)))

    def by_popularity(self, split: Split) -> Encoded:
        """Entities by how often training has them as the answer to the relation, whatever the head."""
        train_facts, sides = self.directed("train"), self.evaluation(split)
        return popularity_floor(sides, train_facts[:, 2], train_facts[:, 1], self.directed(split)[:, 1])


class FactPairs:
    """Directed facts ``[n, 3]``, as pairs to train on."""

    def __init__(self, facts: Tensor, relations: int) -> None:
        self.queries = facts[:, :2].unbind(0)
        self.ids = (facts[:, 0] * relations + facts[:, 1]).tolist()
        self.tails = facts[:, 2].tolist()

    def __len__(self) -> int:
        return len(self.tails)

    def __getitem__(self, place: int) -> TrainingPair:
        tail = self.tails[place]
        return TrainingPair(self.queries[place], tail, self.ids[place], tail)


def _other_answers(facts: Tensor, all_facts: Tensor) -> Judgements:
    """Pairs of a fact's place and another tail that makes it true."""
    answers: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for head, relation, tail in all_facts.tolist():
        answers[head, relation].add(tail)
    return Judgements.of(
        (place, answer, 0.0)
        for place, (head, relation, tail) in enumerate(facts.tolist())
        for answer in sorted(answers[head, relation])
        if answer != tail
    )


def _of_ranks(ranks: Tensor) -> dict[str, Tensor]:
    is_finite = ranks.isfinite()
    hits = {f"hits@{k}": (ranks <= k).double().where(is_finite, torch.nan) for k in (1, 3, 10)}
    return {"mrr": ranks.reciprocal(), **hits}


def _check_word(name: str, word: str, choices: tuple[str, ...]) -> None:
    if word not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {word!r}")


_SCORES_AT_ONCE = 2**23


def distance_softmax_loss(contrast: ContrastiveLoss, queries: Tensor, documents: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of ``-|q - d| / tau`` over all documents.

    Distances are made for a strip of queries at a time, and made again on the way back.

    Args:
        contrast: whose temperature is used, and under whose names the callbacks see the embeddings.
        queries: ``[n, d]``.
        documents: ``[m, d]``.
        targets: the row of each query's document, int64 ``[n]``.

    Returns:
        A scalar, the mean over this rank's queries.

    Example:
        >>> from lightning_normdyn.losses import InfoNCE
        >>> contrast = InfoNCE(temperature=1.0)
        >>> distance_softmax_loss(contrast, torch.zeros(1, 1), torch.tensor([[0.0], [3.0]]), torch.tensor([0]))
        tensor(0.0486)
    """
    queries, documents = contrast.queries(queries), contrast.documents(documents)
    factor = contrast.scaling.factor

    def strip(rows: Tensor, strip_targets: Tensor, table: Tensor) -> Tensor:
        return F.cross_entropy(-_distances(rows, table) * factor, strip_targets, reduction="sum")

    with torch.autocast(queries.device.type, enabled=False):
        queries, documents = at_least_float32(queries), at_least_float32(documents)
        height = max(1, _SCORES_AT_ONCE // len(documents))
        strips = zip(queries.split(height), targets.split(height), strict=True)
        losses: list[Any] = [checkpoint(strip, *strip_rows, documents, use_reentrant=False) for strip_rows in strips]
        total: Tensor = torch.stack(losses).sum()
        return total / len(queries)


def _distances(queries: Tensor, documents: Tensor) -> Tensor:
    squares = queries.square().sum(1)[:, None] + documents.square().sum(1) - 2 * queries @ documents.T
    # A distance of nothing has no direction; what rounding makes of it shall not be negative.
    return squares.clamp(min=1e-12).sqrt()
