"""Base of the families of texts: one encoder or two, rates that fall from layer to layer, and a gradient cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from einops import rearrange
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count, check_positive
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask, pair_ids, refuse_single_pair
from lightning_normdyn.tasks.encoders import TextEncoder
from lightning_normdyn.tasks.encoders.text_towers import TextTowers


class TextContrast(ContrastiveTask):
    """A contrastive task whose queries and documents are texts.

    Args:
        encoder: of texts, such as :class:`~lightning_normdyn.tasks.encoders.SmallTextEncoder`, the default, or
            :class:`~lightning_normdyn.tasks.encoders.PretrainedTextEncoder` with a name or a local path.
        shared_encoder: whether one encoder serves queries and documents.
        mini_batch_size: texts that are encoded with a graph at a time, so that memory is that of so few while the loss
            and its gradient are those of the whole batch (gradient cache, see
            :func:`~lightning_normdyn.losses.cached_loss`); all at once if left out.
        layer_decay: factor of the learning rate from each layer to the one below it: 1 trains all alike, 0.9 trains
            what a pretrained encoder does first most gently. The top layer, and what comes after it, train at ``lr``,
            the token embeddings a layer below the first.
        options: of :class:`ContrastiveTask` and its loss.

    Raises:
        ValueError: if an argument is out of its range, or the encoder has no layers for ``layer_decay`` to part.
    """

    def __init__(
        self,
        *,
        encoder: TextEncoder | None = None,
        shared_encoder: bool = True,
        mini_batch_size: int | None = None,
        layer_decay: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if mini_batch_size is not None:
            check_count(mini_batch_size=mini_batch_size, hint="32 is usual")
        check_positive(layer_decay=layer_decay, hint="0.9 is usual, 1 trains all layers alike")
        if layer_decay > 1:
            raise ValueError(
                f"layer_decay: expected at most 1, at which all layers train alike, got {layer_decay}; 0.9 is usual"
            )
        self.towers = TextTowers(encoder, shared_encoder=shared_encoder)
        self.mini_batch_size = mini_batch_size
        self.layer_decay = layer_decay
        if layer_decay < 1:
            self.encoder_groups()  # which refuses an encoder without layers, better now than when training starts

    def encode_queries(self, inputs: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts."""
        return self.towers.encode_queries(inputs)

    def encode_documents(self, inputs: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts."""
        return self.towers.encode_documents(inputs)

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """The loss of a batch, with few texts in memory at a time where that was asked for."""
        if self.mini_batch_size is None:
            return super().loss(batch)
        pairs, negatives = len(batch["queries"]), list(batch.get("hard_negatives", ()))
        if not negatives:
            refuse_single_pair(self, pairs)

        def with_negatives(queries: Tensor, documents: Tensor, **options: Any) -> Tensor:
            hard_negatives = rearrange(documents[pairs:], "(query k) d -> query k d", query=pairs)
            value: Tensor = self.contrast(queries, documents[:pairs], hard_negatives=hard_negatives, **options)
            return value

        return self.cached_contrastive_loss(
            list(batch["queries"]),
            [*batch["documents"], *negatives],
            encode_query=self.encode_queries,
            encode_document=self.encode_documents,
            chunk_size=self.mini_batch_size,
            loss=with_negatives if negatives else None,
            **pair_ids(batch),
        )

    def encoder_groups(self) -> list[dict[str, Any]]:
        """A parameter group a layer, from the lowest that trains to the top, each with its rate."""
        groups = super().encoder_groups()
        if self.layer_decay == 1:
            return groups
        towers = {id(tower): tower for tower in (self.towers.document, self.towers.query)}.values()
        by_tower = [tower.layer_parameters() if isinstance(tower, TextEncoder) else [] for tower in towers]
        layers = [[p for layer in level for p in layer if p.requires_grad] for level in zip(*by_tower, strict=True)]
        if len(layers) < 2:
            raise ValueError(
                f"layer_decay: expected an encoder whose layers can be told apart, as those of PretrainedTextEncoder, "
                f"got a {type(self.towers.document).__name__}; leave layer_decay at 1"
            )
        placed_ids = {id(p) for layer in layers for p in layer}
        layers[-1] += [p for group in groups for p in group["params"] if id(p) not in placed_ids]
        rates = [self.lr * self.layer_decay**depth for depth in reversed(range(len(layers)))]
        return [{"params": layer, "lr": rate} for layer, rate in zip(layers, rates, strict=True) if layer]

    def on_validation_epoch_end(self) -> None:
        """Measures the validation split, and says once if texts were cut."""
        super().on_validation_epoch_end()
        self.towers.tell_truncation()
