"""Recommendation: predicts the next item from a user's history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_normdyn.core import safe_norm
from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.number_checks import check_count, check_share
from lightning_normdyn.core.statistics.correlation import correlate
from lightning_normdyn.core.statistics.ranking import (
    grade_ranking,
    ranking_hit_rate,
    ranking_mrr,
    ranking_ndcg,
    ranking_recall,
)
from lightning_normdyn.datasets import Interactions, Judgements
from lightning_normdyn.retrieval.search.top_k import exact_top_k
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData, Split, TrainingPair, check_source
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.contrast.popularity import popularity_bias, popularity_floor, popularity_headline
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.recsys.history_encoders import (
    FIRST_ITEM,
    PADDING,
    START,
    CausalTransformer,
    HistoryEncoder,
    MeanHistory,
    UserTable,
)
from lightning_normdyn.tasks.recsys.interaction_split import Cut, CutHistory, cut_histories
from lightning_normdyn.tasks.sources import InteractionsSource, StandardLibraryNameUses
from lightning_normdyn.tasks.table_sizes import TableSizes

Encoder = Literal["user", "history", "sequential"]
Negatives = Literal["full", "sampled"]
_DEPTH = 10
_NO_TARGET = -1


class Recommendation(TableSizes, ContrastiveTask):
    """Embeddings of users and items that find what a user takes next.

    Trained on every step of every history at once: what came before is the query, the next item its document. ``full``
    lets it choose among all items; ``sampled`` among the targets of the batch and ``uniform_negatives`` items drawn
    alike, each score less the log of how often the item was expected in that sample (Yi et al. 2019,
    doi:10.1145/3298689.3346996, section 4; mixed with uniform ones as in Yang et al. 2020,
    doi:10.1145/3366424.3386195): without that, the popular are pushed away for being drawn often.

    Measured over all items that the user has not seen yet, at 10: NDCG, hit rate, recall, reciprocal rank, and the
    popularity bias, ``popularity@10``: the mean over recommended items of their popularity quantile, 0.5 if
    recommendations ignored popularity; ``target_popularity`` is the same of the items that were taken, so that a
    difference is bias and not taste. ``norm_popularity`` is Spearman's correlation of the norms of items with how often
    training has them: qnorm and dot may store popularity there, cosine and dnorm can not use it.

    Args:
        encoder: of queries: ``user`` (a table, matrix factorisation), ``history`` (mean of the items so far) or
            ``sequential`` (a small causal transformer).
        dim: length of an embedding.
        history_length: the most items that ``sequential`` looks back.
        negatives: ``full`` or ``sampled``.
        uniform_negatives: a step, for ``sampled``.
        options: of :class:`ContrastiveTask` and its loss.

    Raises:
        ValueError: if an argument is out of its range.
    """

    symmetry = FunctionalSymmetry(False, "users seek items; an item is taken by many, and how many is worth a norm")
    headline = "ndcg@10"
    encoder: HistoryEncoder
    items: nn.Embedding
    item_counts: Tensor

    def __init__(
        self,
        *,
        encoder: Encoder = "sequential",
        dim: int = 64,
        history_length: int = 50,
        negatives: Negatives = "full",
        uniform_negatives: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if encoder not in ("user", "history", "sequential"):
            raise ValueError(f"encoder: expected 'user', 'history' or 'sequential', got {encoder!r}")
        if negatives not in ("full", "sampled"):
            raise ValueError(f"negatives: expected 'full' or 'sampled', got {negatives!r}")
        check_count(dim=dim, history_length=history_length)
        if dim % 2:
            raise ValueError(f"dim: expected an even number, for two heads of attention, got {dim}")
        check_count(0, uniform_negatives=uniform_negatives)
        self.encoder_name = encoder
        self.dim = dim
        self.history_length = history_length
        self.negatives = negatives
        self.uniform_negatives = uniform_negatives

    def make_tables(self, *, users: int, items: int) -> None:  # type: ignore[override]
        """Makes what has rows for users and items."""
        make: dict[str, Any] = {
            "user": UserTable,
            "history": MeanHistory,
            "sequential": partial(CausalTransformer, length=self.history_length),
        }
        self.encoder = make[self.encoder_name](users=users, items=items, dim=self.dim)
        self.items = nn.Embedding(items, self.dim)
        nn.init.normal_(self.items.weight, std=self.dim**-0.5)
        self.register_buffer("item_counts", torch.zeros(items))

    def floors(self, data: ContrastData, split: Split) -> dict[str, float]:
        """What counting gets, beside what the data knows."""
        floors = data.floors(split)
        if isinstance(data, RecommendationData):
            floors |= {"popularity": popularity_headline(self, data.by_popularity(split))}
        return floors

    def encode_queries(self, inputs: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` after the last of the codes; user, then codes, ``[b, 1 + l]``."""
        states: Tensor = self.encoder(inputs[:, 0], inputs[:, 1:])
        return states[:, -1]

    def encode_documents(self, inputs: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` of items ``[b]``."""
        embeddings: Tensor = self.items(inputs)
        return embeddings

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Cross entropy of the next item at every step of the histories."""
        inputs, targets = batch["queries"], batch["documents"]
        has_target = targets != _NO_TARGET
        queries, targets = self.encoder(inputs[:, 0], inputs[:, 1:])[has_target], targets[has_target]
        if self.negatives == "full":
            return self.full_softmax_loss(queries, self.items.weight, targets)
        random_items = torch.randint(len(self.item_counts), (self.uniform_negatives,), device=targets.device)
        items = torch.cat((targets, random_items))
        return self.full_softmax_loss(
            queries,
            self.items(items),
            torch.arange(len(targets), device=targets.device),
            document_ids=items,
            log_expected=self._expected(len(targets))[items].log(),
        )

    def on_fit_start(self) -> None:
        """Learns how often each item trains."""
        data = self._data()
        if not isinstance(data, RecommendationData):
            raise ValueError(f"data: expected RecommendationData, got {type(data).__name__}")
        self.item_counts.copy_(data.item_counts)

    def _expected(self, targets: int) -> Tensor:
        """How often each item is expected among the candidates of a step, ``[items]``."""
        share = self.item_counts / self.item_counts.sum()
        return targets * share + self.uniform_negatives / len(share)

    def measures(self, encoded: Encoded, exponents: Exponents) -> dict[str, Tensor]:
        """NDCG, hit rate, recall and reciprocal rank at 10, and popularity where it is known, of every query."""
        excluded_pairs = (
            None
            if encoded.excluded_pairs is None
            else (encoded.excluded_pairs.queries, encoded.excluded_pairs.documents)
        )
        documents = rescale(encoded.documents, exponents[1])
        indices = exact_top_k(encoded.queries, documents, _DEPTH, excluded_pairs=excluded_pairs).indices
        ranked = grade_ranking(indices, encoded.judgements, len(encoded.queries))
        of_depth = {
            "ndcg@10": ranking_ndcg,
            "hits@10": ranking_hit_rate,
            "recall@10": ranking_recall,
            "mrr@10": ranking_mrr,
        }
        values = {name: measure(ranked, _DEPTH) for name, measure in of_depth.items()}
        if encoded.popularity is None:
            return values
        return values | popularity_bias(indices, encoded.judgements, encoded.popularity)

    def _evaluate(self, stage: Literal["val", "test"]) -> None:
        super()._evaluate(stage)
        if self.encoded is not None and self.encoded.popularity is not None:
            norms, popularity = safe_norm(self.encoded.documents), self.encoded.popularity
            r = correlate(norms, popularity, kind="spearman", resamples=0).r
            self.log(f"{stage}/norm_popularity", float(r), sync_dist=True)


class RecommendationData(ContrastData):
    """Histories of users, cut in time.

    ``leave_last_out`` and ``time`` are told apart in :func:`cut_histories`. Every interaction counts, whatever its
    rating. Every split searches all items but those that the user had before the cut; to test, what validated is
    history too. Users with nothing before the cut, or nothing to find after it, are not asked about.

    Args:
        source: where they come from; the names that modules of the running Python's standard library use, if left out,
            whose times are lines of a module and so do not compare between users: leave the last out there.
        cut: ``leave_last_out`` or ``time``.
        validation_share: of all interactions, for ``time``.
        test_share: likewise.
        history_length: items before the one to be found that a query holds; training cuts longer histories into parts
            of this many steps.
        options: of :class:`ContrastData`; a training pair is such a part, with up to ``history_length`` items to find.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        source: InteractionsSource | None = None,
        *,
        cut: Cut = "leave_last_out",
        validation_share: float = 0.1,
        test_share: float = 0.1,
        history_length: int = 50,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if cut not in ("leave_last_out", "time"):
            raise ValueError(f"cut: expected 'leave_last_out' or 'time', got {cut!r}")
        check_share(validation_share=validation_share, test_share=test_share, hint="0.1 is usual")
        for name, share in {"validation_share": validation_share, "test_share": test_share}.items():
            if not 0 < share < 0.5:
                raise ValueError(f"{name}: expected a share above 0, below 0.5, got {share}")
        check_count(history_length=history_length)
        self.source = StandardLibraryNameUses() if source is None else source
        check_source(self.source)
        self.cut: Cut = cut
        self.shares = (validation_share, test_share)
        self.history_length = history_length
        self._splits: dict[str, EvaluationSplit] = {}

    @cached_property
    def interactions(self) -> Interactions:
        """The interactions, read on first use."""
        return self.source.read()

    @cached_property
    def histories(self) -> list[CutHistory]:
        """The history of each user."""
        return cut_histories(self.interactions, cut=self.cut, shares=self.shares)

    @property
    def table_sizes(self) -> dict[str, int]:
        """Rows that a model of these interactions needs."""
        return {"users": len(self.interactions.user_ids), "items": len(self.interactions.item_ids)}

    @cached_property
    def trained_items(self) -> Tensor:
        """The item of every interaction that trains, int64 ``[p]``."""
        return torch.cat([history.items[: history.train_end] for history in self.histories])

    @property
    def item_counts(self) -> Tensor:
        """How often each item trains, ``[items]``."""
        return torch.bincount(self.trained_items, minlength=len(self.interactions.item_ids))

    def training_pairs(self) -> HistoryParts:
        """Parts of the histories that train, with the item that follows each step."""
        return HistoryParts([history.items[: history.train_end] for history in self.histories], self.history_length)

    def evaluation(self, split: Split) -> EvaluationSplit:
        """A query for each user that has something to find, and all items."""
        if split not in self._splits:
            self._splits[split] = self._evaluated(split)
        return self._splits[split]

    def by_popularity(self, split: Split) -> Encoded:
        """Items by how often they train, whoever asks."""
        return popularity_floor(self.evaluation(split), self.trained_items)

    def _evaluated(self, split: Split) -> EvaluationSplit:
        queries: list[Tensor] = []
        relevant_pairs: list[tuple[int, int, float]] = []
        past_pairs: list[tuple[int, int, float]] = []
        for user, history in enumerate(self.histories):
            first = history.train_end if split == "validation" else history.validation_end
            last = history.validation_end if split == "validation" else len(history.items)
            if not 0 < first < last:
                continue
            past = history.items[:first]
            relevant_pairs += [(len(queries), int(item), 1.0) for item in history.items[first:last]]
            past_pairs += [(len(queries), int(item), 0.0) for item in past]
            queries.append(torch.cat((torch.tensor([user]), _codes(past, self.history_length))))
        return EvaluationSplit(
            queries,
            range(len(self.interactions.item_ids)),
            Judgements.of(relevant_pairs),
            Judgements.of(past_pairs),
            self.item_counts,
            query_ids=[self.interactions.user_ids[int(query[0])] for query in queries],
            document_ids=self.interactions.item_ids,
        )


class HistoryParts:
    """Histories in parts of at most ``length`` steps, each with the items that follow its steps.

    Every item is to be found exactly once, the first of a history from nothing but its beginning. The first part of a
    history is the short one, so that what is nearest to the present has most to look back at.
    """

    def __init__(self, histories: Sequence[Tensor], length: int) -> None:
        self.length = length
        self.segments = [
            (user, items[max(0, end - length - 1) : end], min(length, end))
            for user, items in enumerate(histories)
            for end in range(len(items), 0, -length)
        ]

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, place: int) -> TrainingPair:
        user, items, steps = self.segments[place]
        inputs = items[:-1] if steps < len(items) else torch.cat((items.new_tensor([START - FIRST_ITEM]), items[:-1]))
        query = torch.cat((torch.tensor([user]), _padded(inputs + FIRST_ITEM, self.length, PADDING)))
        return TrainingPair(query, _padded(items[-steps:], self.length, _NO_TARGET), user, place)


def _codes(past: Tensor, length: int) -> Tensor:
    """The last codes of a history, ``[length]``."""
    codes = torch.cat((past.new_tensor([START]), past + FIRST_ITEM))
    return _padded(codes[-length:], length, PADDING)


def _padded(values: Tensor, length: int, padding: int) -> Tensor:
    return nn.functional.pad(values, (length - len(values), 0), value=padding)
