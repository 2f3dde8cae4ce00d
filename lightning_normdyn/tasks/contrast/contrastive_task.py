"""Base of the Lightning modules: contrastive loss, optimizer, and evaluation of a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import AdamW

from lightning_normdyn.core.number_checks import check_not_negative, check_positive
from lightning_normdyn.losses import ContrastiveMixin
from lightning_normdyn.losses.similarity import NORMALIZATION_NAMES, Normalization
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData, Split
from lightning_normdyn.tasks.contrast.embedding_table import EmbeddingTable
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.contrast.schedules import Schedule, check_schedule, decayed
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry


class ContrastiveTask(ContrastiveMixin, LightningModule):
    """A model with a query and a document side, trained by contrast and measured on judged pairs.

    Trained as in arXiv 2602.09229: AdamW with betas (0.9, 0.98) and weight decay 0.01, cosine decay after a short
    warm-up, in-batch negatives; pairs with equal ids are no negatives of each other. Evaluation encodes both sides of
    a split (see :class:`ContrastData`), over all ranks, and logs the mean over queries of every measure as
    ``<val|test>/<measure>``, ``<val|test>/relevant_norm`` and ``irrelevant_norm``, the mean norms of documents that
    some query wants and of all others, and ``<val|test>/floor/<name>``, the headline measure of what needs no training.

    A family overrides :meth:`encode_queries`, :meth:`encode_documents` and :meth:`measures`, and states its
    :attr:`symmetry` and :attr:`headline`.

    Args:
        normalization: which norms scores keep: ``cosine``, ``dot``, ``qnorm``, ``dnorm`` or ``learnable``.
        temperature: what scores are divided by.
        lr: the peak of the learning rate.
        weight_decay: decoupled; the loss's own parameters have none.
        schedule: ``cosine`` or ``linear`` down to nothing over the trainer's steps, or ``constant``.
        warmup: share of the steps in which the rate rises to its peak.
        contrastive: further options of :class:`lightning_normdyn.losses.InfoNCE`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    symmetry: ClassVar[FunctionalSymmetry]
    headline: ClassVar[str]
    """The measure that variants are compared by; larger is better."""
    variants: ClassVar[tuple[str, ...]] = NORMALIZATION_NAMES
    """The words that ``normalization`` may be, in the order of tables."""
    caveat: ClassVar[str] = ""
    """What intervals over the items of a test leave out, in a sentence."""
    measures_floors: bool = True
    """Whether an evaluation also measures what is reached without training, :meth:`floors`."""

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        temperature: float = 0.05,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        schedule: Schedule = "cosine",
        warmup: float = 0.05,
        **contrastive: Any,
    ) -> None:
        super().__init__(normalization=normalization, temperature=temperature, **contrastive)
        check_positive(lr=lr)
        check_not_negative(weight_decay=weight_decay)
        check_not_negative(warmup=warmup)
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup: expected a share of the steps from 0 to below 1, got {warmup}")
        check_schedule(schedule)
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warmup = warmup
        self.encoded: Encoded | None = None
        self._tables = (EmbeddingTable(), EmbeddingTable())
        self._floors: dict[str, dict[str, float]] = {}
        self._held: Encoded | None = None

    def encode_queries(self, inputs: Any) -> Tensor:
        """Embeddings ``[b, d]`` of a batch of query inputs, before any normalisation."""
        raise NotImplementedError

    def encode_documents(self, inputs: Any) -> Tensor:
        """Embeddings ``[b, d]`` of a batch of document inputs, before any normalisation."""
        raise NotImplementedError

    def measures(self, encoded: Encoded, exponents: Exponents) -> dict[str, Tensor]:
        """How well a similarity does on a split.

        Args:
            encoded: the split.
            exponents: of the norms (query, document), as in ``NORMALIZATIONS``; not always those trained with.

        Returns:
            Name to one value a query, ``[n]``, whose mean is the measure; NaN for a query that nothing is known about.
        """
        raise NotImplementedError

    def trained_measures(self, encoded: Encoded) -> dict[str, Tensor]:
        """:meth:`measures` under what trains; a family that can score in a way beside the grid overrides it."""
        return self.measures(encoded, self.trained_exponents)

    def floors(self, data: ContrastData, split: Split) -> dict[str, float]:
        """What is reached without training, name to the headline measure; what the data knows unless overridden."""
        return data.floors(split)

    @property
    def trained_exponents(self) -> Exponents:
        """The exponents of the similarity that trains, as numbers."""
        query, document = self.contrast.similarity.exponents
        return float(query), float(document)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int = 0) -> Tensor:
        """The loss of one batch, see :class:`ContrastData`."""
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """The contrastive loss of a batch; a family with a loss of another kind overrides it."""
        queries, documents = self.encode_queries(batch["queries"]), self.encode_documents(batch["documents"])
        options = pair_ids(batch)
        if "hard_negatives" in batch:
            negatives = self.encode_documents(batch["hard_negatives"])
            options["hard_negatives"] = rearrange(negatives, "(query k) d -> query k d", query=len(queries))
        else:
            refuse_single_pair(self, len(queries))
        return self.contrastive_loss(queries, documents, **options)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encodes a batch of one side."""
        encode = (self.encode_queries, self.encode_documents)[dataloader_idx]
        self._tables[dataloader_idx].add(batch["places"], encode(batch["inputs"]))

    def test_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encodes a batch of one side."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Measures the validation split."""
        self._evaluate("val")

    def on_test_epoch_end(self) -> None:
        """Measures the test split."""
        self._evaluate("test")

    def _evaluate(self, stage: Literal["val", "test"]) -> None:
        split: Split = "validation" if stage == "val" else "test"
        self.encoded = encoded = self._take_encoded(split)
        if not len(encoded.judgements.relevant().grades):
            return  # a few batches of a trial run need not hold a query together with its document
        values = {name: value.nanmean() for name, value in self.trained_measures(encoded).items()}
        norms = encoded.relevance_norms()
        values["relevant_norm"] = norms.relevant.mean()
        if len(norms.irrelevant):
            values["irrelevant_norm"] = norms.irrelevant.mean()
        # The same on every rank: the mean over them changes nothing, and Lightning warns of each name without it. NCCL
        # reduces nothing that is on the CPU.
        for name, value in values.items():
            self.log(f"{stage}/{name}", value.float().to(self.device), prog_bar=name == self.headline, sync_dist=True)
        floors = {f"{stage}/floor/{name}": value for name, value in self._floors_of(split, encoded).items()}
        self.log_dict(floors, sync_dist=True)

    def _floors_of(self, split: Split, encoded: Encoded) -> dict[str, float]:
        """Of the whole split, once; nothing in a trial run of a few batches."""
        data = self._data()
        if not self.measures_floors or encoded.split is not data.evaluation(split):
            return {}
        if split not in self._floors:
            self._floors[split] = self.floors(data, split)
        return self._floors[split]

    def _take_encoded(self, split: Split) -> Encoded:
        tables, self._tables = self._tables, (EmbeddingTable(), EmbeddingTable())
        sides = self._data().evaluation(split)
        if not len(sides.queries):
            raise ValueError(
                f"{split}: expected at least one query, got none; give the source a {split} split, or keep a larger "
                "share for it"
            )
        queries, has_query = tables[0].gathered(self, len(sides.queries))
        if self._held is not None and self.has_documents(sides.documents):
            documents = self._held.documents
            has_document = torch.ones(len(documents), dtype=torch.bool)
        else:
            documents, has_document = tables[1].gathered(self, len(sides.documents))
        refuse_diverged(split, queries=queries, documents=documents)
        if has_query.all() and has_document.all():
            return Encoded.of(queries, documents, sides)
        sides = sides.select(has_query, has_document)
        return Encoded.of(queries[has_query], documents[has_document], sides)

    @contextmanager
    def holding_documents(self, encoded: Encoded | None) -> Iterator[None]:
        """Evaluations inside take over the embeddings of an encoded split, where they search the very same documents.

        Weights must not change in between.

        Args:
            encoded: the split; ``None``, or one that lacks documents of its source, for nothing to take over.
        """
        self._held = encoded
        try:
            yield
        finally:
            self._held = None

    def has_documents(self, documents: Sequence[Any]) -> bool:
        """Whether these very documents are held."""
        split = None if self._held is None else self._held.split
        if split is None or not len(documents):
            return False
        return split.documents is documents or (isinstance(documents, range) and split.documents == documents)

    def _data(self) -> ContrastData:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ContrastData):
            raise ValueError(
                f"data: expected a data module of lightning_normdyn.tasks, which knows the judgements, got "
                f"{type(data).__name__}; pass it as trainer.fit(model, datamodule=...)"
            )
        return data

    def encoder_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of all but what the loss learns; a family with rates of its own overrides it."""
        loss_ids = {id(parameter) for parameter in self.contrast.parameters()}
        trained = [p for p in self.parameters() if p.requires_grad and id(p) not in loss_ids]
        return [{"params": trained}] if trained else []

    def configure_optimizers(self) -> Any:
        """AdamW; what the loss learns has no length to decay.

        Raises:
            ValueError: if nothing trains.
        """
        groups, loss_parameters = self.encoder_groups(), list(self.contrast.parameters())
        if loss_parameters:
            groups.append({"params": loss_parameters, "weight_decay": 0.0})
        if not groups:
            raise ValueError(
                "encoder: expected parameters that train, got none: all of it is frozen and the loss learns nothing; "
                "thaw a part of it, take normalization='learnable', or measure it as it is by normdyn validate"
            )
        optimizer = AdamW(groups, lr=self.lr, betas=(0.9, 0.98), weight_decay=self.weight_decay)
        steps = float("inf") if self.schedule == "constant" else self.trainer.estimated_stepping_batches
        scheduler = decayed(optimizer, self.schedule, steps, warmup=self.warmup)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Nothing of an evaluation is kept."""
        self.encoded = None


def pair_ids(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a batch that say which queries and documents are the same."""
    return {name: batch[name] for name in ("query_ids", "document_ids", "hard_negative_ids") if name in batch}


def refuse_diverged(split: Split, **sides: Tensor) -> None:
    """Refuses embeddings that training has ruined, before they are ranked as if they were any.

    Raises:
        ValueError: if a side has NaN or infinite ones.
    """
    for side, vectors in sides.items():
        if not vectors.isfinite().all():
            raise ValueError(
                f"training diverged: {side} of the {split} split have embeddings that are NaN or infinite; lower lr, "
                "or train in higher precision"
            )


def refuse_single_pair(task: Any, pairs: int) -> None:
    """Refuses to train on a pair that has no negative anywhere, and so a loss of 0 whatever the embeddings.

    Args:
        task: a module with a :class:`ContrastiveMixin`, and a trainer if it trains in one.
        pairs: of a batch of this rank, without hard negatives.

    Raises:
        ValueError: if there is no other pair on any rank, and no queue of past documents.
    """
    trainer = getattr(task, "_trainer", None)  # the property raises where there is none
    ranks = 1 if trainer is None else trainer.world_size
    if pairs * ranks == 1 and getattr(task.contrast, "queue", None) is None:
        raise ValueError(
            "batch_size: expected 2 pairs a step or more, which are negatives of each other, got 1, whose loss is 0 "
            "whatever the embeddings; take larger batches, hard negatives or a queue_size"
        )
