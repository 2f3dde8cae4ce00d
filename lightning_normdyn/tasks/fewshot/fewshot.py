"""Few-shot classification with prototypical networks and any similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_normdyn.core.contrast.similarity import rescale
from lightning_normdyn.core.number_checks import check_count, check_flag, check_share
from lightning_normdyn.datasets import LabelledImages
from lightning_normdyn.losses.euclidean import SquaredEuclidean
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData, Split, check_source
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask, refuse_diverged
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.encoders import ImageEncoder, SmallImageEncoder, TextEncoder
from lightning_normdyn.tasks.encoders.text_towers import check_encoder
from lightning_normdyn.tasks.fewshot.episodes import ClassDraws, EpisodeShape, EpisodeSplit, draw_episodes
from lightning_normdyn.tasks.group_split import split_by_group
from lightning_normdyn.tasks.sources import LabelledImagesSource, LabelledTextsSource, StandardLibraryGlyphClasses

_INTERVAL = 1.96


class FewShot(ContrastiveTask):
    """Prototypical Networks (Snell et al., arXiv 1703.05175), with any similarity.

    The loss is the cross-entropy of each query over the prototypes of its episode. Documents are prototypes, means of
    raw embeddings; every one of an evaluation is relevant to as many queries as any other, so that its norm cannot tell
    relevant from irrelevant, and Cohen's d has nothing to say here.

    Args:
        normalization: ``euclidean`` for minus the squared distance, as published, or a cell of the grid.
        encoder: of images, or of texts; a :class:`~lightning_normdyn.tasks.encoders.SmallImageEncoder` for grey images
            of 28 x 28 pixels if left out.
        options: of :class:`ContrastiveTask` and its loss.
    """

    symmetry = FunctionalSymmetry(False, "queries are single items, prototypes are means that classes are known by")
    headline = "accuracy"
    caveat = (
        "Test items are episodes drawn again and again from the held-out classes: intervals are those of other draws, "
        "not of other classes."
    )
    variants = (*ContrastiveTask.variants, "euclidean")

    def __init__(
        self,
        *,
        normalization: Normalization | Literal["euclidean"] = "euclidean",
        encoder: ImageEncoder | TextEncoder | None = None,
        **options: Any,
    ) -> None:
        super().__init__(normalization="dot" if normalization == "euclidean" else normalization, **options)
        if normalization == "euclidean":
            self.contrast.similarity = SquaredEuclidean()
        check_encoder(encoder)
        self.encoder = SmallImageEncoder() if encoder is None else encoder

    def encode_queries(self, inputs: Any) -> Tensor:
        """Embeddings ``[b, d]`` of items."""
        return self._encode(inputs)

    def encode_documents(self, inputs: Any) -> Tensor:
        """Embeddings ``[b, d]`` of items: those of a class make its prototype."""
        return self._encode(inputs)

    def _encode(self, inputs: Any) -> Tensor:
        of_texts = isinstance(self.encoder, TextEncoder)
        if of_texts == isinstance(inputs, Tensor):
            kinds = ("texts", "images") if of_texts else ("images", "texts")
            raise ValueError(
                f"encoder: expected {kinds[0]} for a {type(self.encoder).__name__}, got {kinds[1]}; choose another "
                f"source, or --model.encoder {'SmallImageEncoder' if of_texts else 'SmallTextEncoder'}"
            )
        return self.encoder.encode(inputs)

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Cross-entropy over prototypes, the mean over queries.

        Args:
            batch: an episode, its ways one after the other: ``documents`` the shots ``[ways, shots, ...]`` of each,
                ``queries`` ``[ways, queries, ...]``; or lists of lists of texts.
        """
        shots, class_queries = len(batch["documents"][0]), len(batch["queries"][0])
        # In one batch, as published: batch normalisation must not know shots from queries.
        embeddings = self.encoder.encode(_joined(batch["documents"], batch["queries"]))
        supports, queries = embeddings.split([len(batch["documents"]) * shots, len(batch["queries"]) * class_queries])
        prototypes = reduce(supports, "(way shot) d -> way d", "mean", shot=shots)
        ids = {name: batch[name] for name in ("query_ids", "document_ids")}
        losses = [
            self.contrastive_loss(query_group, prototypes, **ids)
            for query_group in rearrange(queries, "(way query) d -> query way d", query=class_queries)
        ]
        return torch.stack(losses).mean()

    def measures(self, encoded: Encoded, exponents: Exponents) -> dict[str, Tensor]:
        """Accuracy of every episode, ``[episodes]``."""
        return episode_accuracy(encoded, encoded.queries, rescale(encoded.documents, exponents[1]))

    def trained_measures(self, encoded: Encoded) -> dict[str, Tensor]:
        """Accuracy of every episode under the similarity that trains."""
        if isinstance(self.contrast.similarity, SquaredEuclidean):
            return nearest_accuracy(encoded)
        return super().trained_measures(encoded)

    def _take_encoded(self, split: Split) -> Encoded:
        table, self._tables = self._tables[0], (type(self._tables[0])(), type(self._tables[1])())
        sides = self._data().evaluation(split)
        assert isinstance(sides, EpisodeSplit)
        items, has_item = table.gathered(self, len(sides.queries))
        refuse_diverged(split, items=items)
        return sides.assemble(items, has_item)

    def _evaluate(self, stage: Literal["val", "test"]) -> None:
        super()._evaluate(stage)
        encoded = self.encoded
        if encoded is None or not encoded.episodes:
            return
        accuracy = self.trained_measures(encoded)["accuracy"]
        floor = {"accuracy_interval": half_interval(accuracy), "chance": chance(encoded)}
        values = {f"{stage}/{name}": value.float().to(self.device) for name, value in floor.items()}
        self.log_dict(values, sync_dist=True)


def episode_accuracy(encoded: Encoded, queries: Tensor, documents: Tensor) -> dict[str, Tensor]:
    """Share of queries whose own prototype has the largest inner product, by episode.

    Args:
        encoded: what belongs together.
        queries: its queries, ready for inner products, ``[n, e]``.
        documents: its prototypes likewise, ``[m, e]``.

    Returns:
        ``accuracy``, ``[episodes]``; a tie counts as right for the prototype that comes first alone.

    Raises:
        ValueError: if the split is not made of episodes.
    """
    if encoded.episodes is None:
        raise ValueError("encoded: expected episodes, got a split without; few-shot models are measured on FewShotData")
    if not encoded.episodes:
        return {"accuracy": queries.new_zeros(0)}
    scores = torch.bmm(*_by_episode(queries, documents, encoded.episodes))
    ways = scores.shape[2]
    right = torch.arange(ways).repeat_interleave(scores.shape[1] // ways)
    return {"accuracy": (scores.argmax(2) == right).float().mean(1)}


def nearest_accuracy(encoded: Encoded) -> dict[str, Tensor]:
    """The same where the nearest prototype wins."""
    nearness = SquaredEuclidean()
    return episode_accuracy(
        encoded, nearness.rescale_queries(encoded.queries), nearness.rescale_documents(encoded.documents)
    )


def _by_episode(queries: Tensor, documents: Tensor, episodes: int) -> tuple[Tensor, Tensor]:
    """Factors of a batched product: queries ``[episodes, queries, e]``, prototypes ``[episodes, e, ways]``."""
    return (
        rearrange(queries, "(episode query) e -> episode query e", episode=episodes),
        rearrange(documents, "(episode way) e -> episode e way", episode=episodes),
    )


def half_interval(values: Tensor) -> Tensor:
    """Half the width of the 95% interval of the mean of independent values ``[n]``: 1.96 standard errors.

    Example:
        >>> half_interval(torch.tensor([0.0, 1.0, 0.0, 1.0]))
        tensor(0.5658)
    """
    return _INTERVAL * values.std() / len(values) ** 0.5 if len(values) > 1 else values.new_zeros(())


def chance(encoded: Encoded) -> Tensor:
    """Accuracy of guessing: one over the ways."""
    assert encoded.episodes
    return torch.tensor(encoded.episodes / len(encoded.documents))


def _joined(*sides: Any) -> Any:
    """The items of both sides, one after the other."""
    if isinstance(sides[0], Tensor):
        return torch.cat([rearrange(side, "way item ... -> (way item) ...") for side in sides])
    return list(chain.from_iterable(chain.from_iterable(sides)))


class FewShotData(ContrastData):
    """Classes of items, whole groups of which are held out.

    An epoch takes every class of training once, ``ways`` of them a step. Validation and test ask the same seeded
    episodes of every model.

    Args:
        source: where the items come from; glyphs of fonts if left out, one class a character.
        ways: classes in an episode of training; more than are asked for later helps (Snell et al., section 3.1).
        shots: labelled items of each class, in training.
        queries: items of each class whose class is asked for, in training.
        evaluation_ways: classes of an episode of an evaluation.
        evaluation_shots: labelled items of each.
        evaluation_queries: items asked for, of each.
        episodes: of an evaluation.
        rotations: whether images turned by quarters are of further classes, in training.
        validation_share: of the classes, by whole groups.
        test_share: likewise.
        seed: of the split and of the episodes of evaluations.
        evaluation_batch_size: items that are encoded at once when evaluating.
        workers: processes that load data.

    Raises:
        ValueError: if a number is out of its range, or too few classes have enough items.
    """

    def __init__(
        self,
        source: LabelledImagesSource | LabelledTextsSource | None = None,
        *,
        ways: int = 40,
        shots: int = 1,
        queries: int = 5,
        evaluation_ways: int = 5,
        evaluation_shots: int = 1,
        evaluation_queries: int = 5,
        episodes: int = 1000,
        rotations: bool = True,
        validation_share: float = 0.15,
        test_share: float = 0.2,
        seed: int = 0,
        evaluation_batch_size: int = 512,
        workers: int = 0,
    ) -> None:
        training_shape = EpisodeShape(ways, shots, queries).check()
        super().__init__(batch_size=ways, evaluation_batch_size=evaluation_batch_size, workers=workers)
        check_count(episodes=episodes)
        check_count(0, seed=seed)
        check_flag(rotations=rotations)
        check_share(validation_share=validation_share, test_share=test_share, hint="0.2 is usual")
        self.source = StandardLibraryGlyphClasses() if source is None else source
        check_source(self.source)
        self.training_shape = training_shape
        self.evaluation_shape = EpisodeShape(evaluation_ways, evaluation_shots, evaluation_queries).check("evaluation_")
        self.episodes = episodes
        self.rotations = rotations
        self.shares = {"test": test_share, "validation": validation_share}
        self.seed = seed
        self._splits: dict[str, EpisodeSplit] = {}

    @cached_property
    def _labelled(self) -> tuple[Any, Tensor, Sequence[str]]:
        """Items, the label of each, and the group of each label."""
        items = self.source.read()
        if isinstance(items, LabelledImages):
            return items.images, items.labels, items.groups
        return items.texts, items.labels, items.classes

    @cached_property
    def _classes(self) -> dict[str, Tensor]:
        """Split to its labels."""
        return split_by_group(self._labelled[2], self.shares, seed=self.seed)

    def _items(self, split: str) -> tuple[Any, Tensor]:
        """Items of a split and their labels."""
        items, labels, _ = self._labelled
        places = torch.isin(labels, self._classes[split]).nonzero().squeeze(1)
        if isinstance(items, Tensor):
            return items[places], labels[places]
        return [items[place] for place in places.tolist()], labels[places]

    @cached_property
    def _training(self) -> ClassDraws:
        items, labels = self._items("train")
        turns = 4 if self.rotations and isinstance(items, Tensor) else 1
        draws = ClassDraws(items, labels, self.training_shape, turns=turns)
        if not len(draws):
            shots, queries = self.training_shape.shots, self.training_shape.queries
            raise ValueError(
                f"shots, queries: expected classes of the train split with {shots} + {queries} items or more, got "
                "none; ask for fewer of either"
            )
        return draws

    def training_pairs(self) -> ClassDraws:
        """The classes of the training split."""
        return self._training

    def evaluation(self, split: Split) -> EpisodeSplit:
        """The items of a split, and its episodes."""
        if split not in self._splits:
            items, labels = self._items(split)
            try:
                episodes = draw_episodes(labels, self.evaluation_shape, episodes=self.episodes, seed=self.seed)
            except ValueError as error:
                raise ValueError(
                    f"evaluation_{error}; this is the {split} split, for which {split}_share={self.shares[split]:g} "
                    "holds classes out"
                ) from error
            self._splits[split] = EpisodeSplit.of(items, episodes)
        return self._splits[split]

    def floors(self, split: Split) -> dict[str, float]:
        """Accuracy of guessing and, of images, of the nearest mean of pixels."""
        sides = self.evaluation(split)
        floors = {"chance": 1 / self.evaluation_shape.ways}
        items: Any = sides.queries
        if isinstance(items, Tensor):
            pixels = items.flatten(1) / 255
            encoded = sides.assemble(pixels, torch.ones(len(pixels), dtype=torch.bool))
            floors["nearest pixels"] = float(nearest_accuracy(encoded)["accuracy"].mean())
        return floors

    def _evaluation_loaders(self, split: Split) -> list[DataLoader[Any]]:
        """One: prototypes are made of the same items as queries."""
        return super()._evaluation_loaders(split)[:1]
