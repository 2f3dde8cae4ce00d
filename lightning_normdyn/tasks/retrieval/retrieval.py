"""Retrieval: queries seek the documents that answer them."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_normdyn.callbacks import HardNegativeMining
from lightning_normdyn.core.number_checks import check_count, check_flag, check_share
from lightning_normdyn.core.object_checks import check_instance, check_name, check_texts
from lightning_normdyn.core.statistics.ranking import (
    grade_ranking,
    ranking_map,
    ranking_mrr,
    ranking_ndcg,
    ranking_recall,
)
from lightning_normdyn.datasets import JudgedTexts, Judgements
from lightning_normdyn.datasets.formats import MsMarcoTriples
from lightning_normdyn.retrieval.mining.source import MiningSource
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData, Pairs, Split, check_source
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.contrast.ranking_measures import ranking_measures
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.contrast.text_contrast import TextContrast
from lightning_normdyn.tasks.retrieval.bm25 import BM25
from lightning_normdyn.tasks.retrieval.relevant_pairs import RelevantPairs, TriplePairs, with_validation
from lightning_normdyn.tasks.retrieval.training_floor import TrainingMemory, memory_floors
from lightning_normdyn.tasks.sources import BeirFolder, JudgedTextsSource, StandardLibraryDocstrings

_DEPTH = 100


class Retrieval(TextContrast):
    """A dual encoder that finds documents by query.

    Args:
        options: of :class:`~lightning_normdyn.tasks.TextContrast`, :class:`ContrastiveTask` and its loss.
    """

    symmetry = FunctionalSymmetry(False, "queries seek, documents are found")
    headline = "ndcg@10"

    def measures(self, encoded: Encoded, exponents: Exponents) -> dict[str, Tensor]:
        """NDCG@10, MRR@10, recall at 10 and 100, and MAP@100 of every query."""
        of_depth = {
            "ndcg@10": partial(ranking_ndcg, top_k=10),
            "mrr@10": partial(ranking_mrr, top_k=10),
            "recall@10": partial(ranking_recall, top_k=10),
            "recall@100": partial(ranking_recall, top_k=100),
            "map@100": partial(ranking_map, top_k=100),
        }
        return ranking_measures(encoded, exponents, of_depth, depth=_DEPTH)


class RetrievalData(ContrastData):
    """Queries, documents and judgements.

    Training pairs are the relevant pairs of ``train``. Every split searches all documents.

    Args:
        source: where they come from; the docstrings of the running Python's standard library if left out.
        validation_share: of the training queries, kept for validation where the source has no such split.
        bm25: whether to report, once a split, what BM25 finds; it reads all documents, a second for some ten thousand.
            Where queries want documents that training wants, also what it finds with memory of the training judgements.
        hard_negatives: documents that go with every training pair and do not answer its query.
        hard_negatives_from: which these are: ``bm25``, those that it ranks first; ``mining``, those that the callback
            :class:`~lightning_normdyn.callbacks.HardNegativeMining` mines while the model trains (beside ``bm25`` it
            replaces these at its first step); or a file that it or ``write_hard_negatives`` wrote, such as
            ``runs/retrieval/version_0/hard_negatives/step-000100.jsonl``.
        triples: what to train on instead, streamed, each with its own hard negative; the source then only evaluates.
            Trains for the trainer's ``max_steps``, in the order of the file.
        also: folders in BEIR's layout, or names on the hub, of sets that a grid measures besides, out of domain.
        options: of :class:`ContrastData`.

    Raises:
        ValueError: if an argument is out of its range, or the source lacks a split.
    """

    def __init__(
        self,
        source: JudgedTextsSource | None = None,
        *,
        validation_share: float = 0.1,
        bm25: bool = True,
        hard_negatives: int = 0,
        hard_negatives_from: str = "bm25",
        triples: MsMarcoTriples | None = None,
        also: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_share(validation_share=validation_share, hint="0.1 is usual")
        check_flag(bm25=bm25)
        if also is not None:
            check_texts(also=also)
        check_instance(MsMarcoTriples, optional=True, triples=triples)
        if not 0 < validation_share <= 0.5:
            raise ValueError(f"validation_share: expected a share above 0, at most 0.5, got {validation_share}")
        check_count(0, hard_negatives=hard_negatives)
        self.source = StandardLibraryDocstrings() if source is None else source
        check_source(self.source)
        self.bm25 = bm25
        check_name(hard_negatives_from=hard_negatives_from)
        self.hard_negatives = hard_negatives
        self.hard_negatives_from = hard_negatives_from
        if hard_negatives_from != "bm25" and not hard_negatives:
            raise ValueError(
                f"hard_negatives: expected 1 or more beside hard_negatives_from={hard_negatives_from!r}, got 0; 4 is "
                "usual"
            )
        if hard_negatives and triples is not None:
            raise ValueError(f"hard_negatives: expected 0 where triples bring their own, got {hard_negatives}")
        self.triples = triples
        self.also = tuple(also or ())
        self.validation_share = validation_share
        self._splits: dict[str, EvaluationSplit] = {}

    @cached_property
    def texts(self) -> JudgedTexts:
        """The set, read on first use."""
        return self.source.read()

    def training_pairs(self) -> Pairs:
        """The relevant pairs of the training split, or the triples."""
        if self.triples is not None:
            self.triples.rank, self.triples.ranks = self.rank_of_ranks
            return TriplePairs(self.triples)
        return self._training

    @cached_property
    def _training(self) -> RelevantPairs:
        return RelevantPairs(
            self.texts,
            self._judged("train"),
            excluded_pairs=self.texts.excluded_pairs.get("train"),
            hard_negatives=self.hard_negatives,
            hard_negatives_from=self.hard_negatives_from,
        )

    def mining_source(self) -> MiningSource:
        """What the callback :class:`~lightning_normdyn.callbacks.HardNegativeMining` mines from, and where it puts it.

        Raises:
            ValueError: if pairs have no hard negatives.
        """
        source = None if self.triples is not None else self._training.source
        if source is None:
            raise ValueError(
                "hard_negatives: expected 1 or more where they are mined, got "
                + ("triples, which bring their own" if self.triples is not None else "0")
                + "; set it beside hard_negatives_from: mining"
            )
        return source

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled pairs, see :meth:`ContrastData.train_dataloader`.

        Raises:
            ValueError: if hard negatives are to be mined, and no callback of the trainer does so.
        """
        if self.hard_negatives_from == "mining" and self.trainer is not None:
            callbacks: Any = self.trainer
            if not any(isinstance(callback, HardNegativeMining) for callback in callbacks.callbacks):
                raise ValueError(
                    "hard_negatives_from: 'mining' expected the callback HardNegativeMining beside it, got a trainer "
                    "without; add lightning_normdyn.callbacks.HardNegativeMining to trainer.callbacks, or take 'bm25'"
                )
        return super().train_dataloader()

    def evaluation(self, split: Split) -> EvaluationSplit:
        """The queries that the split judges, and all documents."""
        if split not in self._splits:
            evaluated = _evaluated(self.texts, split, self._judged(split))
            self._splits[split] = replace(evaluated, in_training=self._in_training(evaluated))
        return self._splits[split]

    def out_of_domain(self) -> dict[str, ContrastData]:
        """The sets of ``also``, by the last part of their names, or all of it where two share that."""
        return dict(self._out_of_domain)

    @cached_property
    def _out_of_domain(self) -> dict[str, ContrastData]:
        short_names = [Path(folder).name for folder in self.also]
        names = short_names if len(set(short_names)) == len(short_names) else self.also
        batch_size = self.evaluation_batch_size
        return {
            name: type(self)(BeirFolder(folder), bm25=False, batch_size=batch_size, workers=self.workers)
            for name, folder in zip(names, self.also, strict=True)
        }

    def rank_by_words(self, split: Split, depth: int) -> Tensor:
        """What BM25 finds for every query of a split, see :meth:`~lightning_normdyn.tasks.retrieval.bm25.BM25.rank`."""
        sides = self.evaluation(split)
        excluded_pairs = (
            None if sides.excluded_pairs is None else (sides.excluded_pairs.queries, sides.excluded_pairs.documents)
        )
        return BM25(sides.documents).rank(sides.queries, depth, excluded_pairs=excluded_pairs)

    def floors(self, split: Split) -> dict[str, float]:
        """NDCG@10 of BM25, and of BM25 that knows the training judgements where a query wants what training wants."""
        if not self.bm25:
            return {}
        sides = self.evaluation(split)
        ranked = grade_ranking(self.rank_by_words(split, 10), sides.judgements, len(sides.queries))
        floors = {"bm25": float(ranking_ndcg(ranked, 10).nanmean())}
        if sides.in_training is None or not sides.in_training.any():
            return floors
        memory = TrainingMemory(sides.documents, self.texts.queries.texts, self._judged("train"))
        return floors | memory_floors(memory, self.evaluation("validation"), sides)

    def _in_training(self, sides: EvaluationSplit) -> Tensor | None:
        """Whether training wants a document that a query wants; ``None`` where judgements do not say what trains."""
        if self.triples is not None or "train" not in self._judgements:
            return None
        train, relevant = self._judgements["train"].relevant(), sides.judgements.relevant()
        in_training = torch.zeros(len(sides.queries), dtype=torch.bool)
        in_training[relevant.queries[torch.isin(relevant.documents, train.documents)]] = True
        return in_training

    @cached_property
    def _judgements(self) -> dict[str, Judgements]:
        return with_validation(self.texts.judgements, self.validation_share)

    def _judged(self, split: str) -> Judgements:
        if split not in self._judgements:
            raise ValueError(
                f"source: expected a split '{split}', got {', '.join(self._judgements) or 'none'}; a BEIR folder needs "
                "qrels/train.tsv and qrels/test.tsv, and dev.tsv is validation (without it, a share of train is kept)"
            )
        return self._judgements[split]


def _evaluated(texts: JudgedTexts, split: str, judgements: Judgements) -> EvaluationSplit:
    places = judgements.queries.unique()
    query_places = places.tolist()
    return EvaluationSplit(
        [texts.queries.texts[place] for place in query_places],
        texts.documents.texts,
        _numbered(judgements, places),
        _numbered(texts.excluded_pairs[split], places) if split in texts.excluded_pairs else None,
        answers=[texts.answers.get(place, ()) for place in query_places] if texts.answers else None,
        query_ids=[texts.queries.ids[place] for place in query_places],
        document_ids=texts.documents.ids,
    )


def _numbered(judgements: Judgements, places: Tensor) -> Judgements:
    """The pairs of some queries, which get the numbers of their places."""
    is_listed = torch.isin(judgements.queries, places)
    queries, documents, grades = (column[is_listed] for column in judgements)
    return Judgements(torch.searchsorted(places, queries), documents, grades)
