"""Base of the data modules: training pairs, evaluation splits and their loaders."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate as stack

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit

Split = Literal["validation", "test"]


class TrainingPair(NamedTuple):
    """One query with one document that answers it.

    Attributes:
        query: an input of the query encoder: a text, or a tensor or tuple of tensors of one shape.
        document: an input of the document encoder.
        query_id: equal ids mean equal queries, whose documents are no negatives of each other.
        document_id: the same for documents.
        hard_negatives: documents that do not answer the query, as many for every pair.
        hard_negative_ids: of each, as ``document_id``: one that answers another query of the batch is no negative of
            that one. None, or one for each.
        grade: how well the document answers, in the unit of the source, where a loss wants to know.
    """

    query: Any
    document: Any
    query_id: int
    document_id: int
    hard_negatives: tuple[Any, ...] = ()
    hard_negative_ids: tuple[int, ...] = ()
    grade: float | None = None


class Sized(Protocol):
    """Something with a length whose items are taken by place."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> TrainingPair: ...


@runtime_checkable
class DocumentHolder(Protocol):
    """A module that may know embeddings of documents already, whose loader is then left out of an evaluation."""

    def has_documents(self, documents: Sequence[Any]) -> bool:
        """Whether these very documents need not be encoded again."""


Pairs = Sized | IterableDataset[TrainingPair]
"""What is trained on: pairs by place, which are shuffled, or a stream of unknown length, which is not."""


class _PlacedInputs(Dataset[tuple[int, Any]]):
    """Inputs with their place; texts from long to short, so that those encoded at once need little padding."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self.inputs = inputs
        self.places: Sequence[int] = range(len(inputs))
        if len(inputs) and isinstance(inputs[0], str):
            self.places = sorted(self.places, key=[-len(text) for text in inputs].__getitem__)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, item: int) -> tuple[int, Any]:
        place = self.places[item]
        return place, self.inputs[place]


class ContrastData(LightningDataModule):
    """Pairs to train on, and splits to be measured on, in the batches that :class:`ContrastiveTask` takes.

    A training batch is ``{"queries", "documents", "query_ids", "document_ids"}`` and, where the source has any,
    ``"hard_negatives"`` (one after the other, those of the first pair first) with their ``"hard_negative_ids"``
    ``[pairs, k]``, or ``"grades"`` ``[pairs]``; texts stay lists of str, tensors are stacked. An evaluation has two
    loaders, queries first, with batches ``{"places", "inputs"}``; long texts come first.

    A family overrides :meth:`training_pairs` and :meth:`evaluation`, and :meth:`floors` where something needs no
    training.

    Args:
        batch_size: pairs per step and rank.
        evaluation_batch_size: inputs that are encoded at once when evaluating; by default ``batch_size``.
        workers: processes that load data.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(self, *, batch_size: int = 256, evaluation_batch_size: int | None = None, workers: int = 0) -> None:
        super().__init__()
        evaluation_batch_size = batch_size if evaluation_batch_size is None else evaluation_batch_size
        check_count(batch_size=batch_size, evaluation_batch_size=evaluation_batch_size)
        check_count(0, workers=workers)
        self.batch_size = batch_size
        self.evaluation_batch_size = evaluation_batch_size
        self.workers = workers

    def training_pairs(self) -> Pairs:
        """The pairs of the training split."""
        raise NotImplementedError

    def evaluation(self, split: Split) -> EvaluationSplit:
        """A split to be measured on; called often, so keep it."""
        raise NotImplementedError

    def floors(self, split: Split) -> dict[str, float]:
        """What is reached without training, such as by BM25 or by popularity: name to the headline measure.

        Asked for once a split.
        """
        return {}

    def out_of_domain(self) -> dict[str, ContrastData]:
        """Further sets by name, whose test splits a grid measures beside this one's; none unless overridden."""
        return {}

    def setup(self, stage: str) -> None:
        """Reads the data, so that its errors come before training."""
        if stage == "fit":
            pairs = self.training_pairs()
            if not isinstance(pairs, IterableDataset) and not len(pairs):
                raise ValueError("train: expected at least one pair, got none; check the split of the source")
        split: Split = "test" if stage == "test" else "validation"
        self.evaluation(split)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled pairs; a last batch that is not full is left out, unless it is the only one of its rank."""
        pairs: Any = self.training_pairs()
        is_stream = isinstance(pairs, IterableDataset)
        drops_last = is_stream or ceil(len(pairs) / self.rank_of_ranks[1]) >= self.batch_size
        return DataLoader(
            pairs,
            batch_size=self.batch_size,
            shuffle=None if is_stream else True,
            drop_last=drops_last,
            collate_fn=collate_pairs,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    @property
    def rank_of_ranks(self) -> tuple[int, int]:
        """This process and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Queries, then documents, of the validation split."""
        return self._evaluation_loaders("validation")

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Queries, then documents, of the test split."""
        return self._evaluation_loaders("test")

    def _evaluation_loaders(self, split: Split) -> list[DataLoader[Any]]:
        sides = self.evaluation(split)
        task: Any = self.trainer.lightning_module if self.trainer is not None else None
        are_encoded = isinstance(task, DocumentHolder) and task.has_documents(sides.documents)
        return [
            DataLoader(
                _PlacedInputs(inputs),
                batch_size=self.evaluation_batch_size,
                collate_fn=_collate_placed,
                num_workers=self.workers,
            )
            for inputs in ((sides.queries,) if are_encoded else (sides.queries, sides.documents))
        ]


def check_source(source: object) -> None:
    """Refuses what reads no set; a class of sources, or its name, is none.

    Raises:
        ValueError: naming the argument and what came.
    """
    if isinstance(source, type) or not callable(getattr(source, "read", None)):
        came = f"the class {source.__name__}" if isinstance(source, type) else repr(source)[:80]
        raise ValueError(
            f"source: expected an object that reads a set, such as one of lightning_normdyn.tasks.sources, got {came}"
        )


def collate_pairs(pairs: Sequence[TrainingPair]) -> dict[str, Any]:
    """Makes a batch.

    Example:
        >>> batch = collate_pairs([TrainingPair("a", "b", 0, 1), TrainingPair("c", "d", 2, 3)])
        >>> batch["queries"], batch["document_ids"]
        (['a', 'c'], tensor([1, 3]))
    """
    batch: dict[str, Any] = {
        "queries": collate_inputs([pair.query for pair in pairs]),
        "documents": collate_inputs([pair.document for pair in pairs]),
        "query_ids": torch.tensor([pair.query_id for pair in pairs]),
        "document_ids": torch.tensor([pair.document_id for pair in pairs]),
    }
    negatives = [negative for pair in pairs for negative in pair.hard_negatives]
    if negatives:
        batch["hard_negatives"] = collate_inputs(negatives)
        if all(pair.hard_negative_ids for pair in pairs):
            batch["hard_negative_ids"] = torch.tensor([pair.hard_negative_ids for pair in pairs])
    if pairs[0].grade is not None:
        batch["grades"] = torch.tensor([pair.grade for pair in pairs])
    return batch


def collate_inputs(inputs: Sequence[Any]) -> Any:
    """Stacks tensors and numbers, also inside tuples; texts, and whatever does not stack, stay a list."""
    if isinstance(inputs[0], Tensor | int | tuple):
        return stack(list(inputs))
    return list(inputs)


def _collate_placed(batch: Sequence[tuple[int, Any]]) -> dict[str, Any]:
    places, inputs = zip(*batch, strict=True)
    return {"places": torch.tensor(places), "inputs": collate_inputs(inputs)}
