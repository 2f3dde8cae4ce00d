"""N-way K-shot episodes: sampling, and splits made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.tasks.contrast.contrast_data import TrainingPair
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit


class EpisodeShape(NamedTuple):
    """The numbers of an episode.

    Attributes:
        ways: classes.
        shots: labelled items of each class, whose mean is its prototype.
        queries: further items of each class, whose class is asked for.
    """

    ways: int
    shots: int
    queries: int

    def check(self, prefix: str = "") -> EpisodeShape:
        """Refuses numbers that make no episode.

        Args:
            prefix: what the names of the arguments begin with.
        """
        for name, value in self._asdict().items():
            check_count(2 if name == "ways" else 1, **{f"{prefix}{name}": value})
        return self


class Episodes(NamedTuple):
    """Episodes of one shape, by the places of their items.

    Attributes:
        supports: int64 ``[episodes, ways, shots]``.
        queries: int64 ``[episodes, ways, queries]``; none is among the supports of its episode.
    """

    supports: Tensor
    queries: Tensor


def draw_episodes(labels: Tensor, shape: EpisodeShape, *, episodes: int, seed: int) -> Episodes:
    """Draws classes, and items of each, without replacement within an episode.

    Args:
        labels: class of each item, int64 ``[n]``. Classes with fewer items than an episode takes are never drawn.
        shape: of every episode.
        episodes: how many.
        seed: equal seeds give equal episodes.

    Raises:
        ValueError: if too few classes have enough items.

    Example:
        >>> episodes = draw_episodes(torch.tensor([0, 0, 1, 1, 1, 2]), EpisodeShape(2, 1, 1), episodes=3, seed=0)
        >>> episodes.supports.shape, int(episodes.queries.max())
        (torch.Size([3, 2, 1]), 4)
    """
    shape.check()
    class_size = shape.shots + shape.queries
    classes = [places for places in places_by_class(labels) if len(places) >= class_size]
    if len(classes) < shape.ways:
        raise ValueError(
            f"ways: expected at most the {len(classes)} classes with {class_size} items or more, got {shape.ways}; ask "
            "for fewer ways, shots or queries, or hold out more classes"
        )
    generator = torch.Generator().manual_seed(seed)
    places = torch.stack([_draw(classes, shape.ways, class_size, generator) for _ in range(episodes)])
    return Episodes(places[:, :, : shape.shots], places[:, :, shape.shots :])


def places_by_class(labels: Tensor) -> list[Tensor]:
    """Where the items of each class that occurs are, by ascending label."""
    order = labels.argsort(stable=True)
    return list(order.split(labels.unique(return_counts=True)[1].tolist()))


def _draw(classes: Sequence[Tensor], ways: int, class_size: int, generator: torch.Generator) -> Tensor:
    """Items of one episode, ``[ways, each]``."""
    class_numbers = torch.randperm(len(classes), generator=generator)[:ways].tolist()
    return torch.stack(
        [
            classes[number][torch.randperm(len(classes[number]), generator=generator)[:class_size]]
            for number in class_numbers
        ]
    )


@dataclass(frozen=True)
class EpisodeSplit(EvaluationSplit):
    """A split whose items, its queries, are encoded once and then serve many episodes.

    Attributes:
        episodes: places among the queries.
    """

    episodes: Episodes = field(kw_only=True)

    @classmethod
    def of(cls, items: Sequence[Any], episodes: Episodes) -> EpisodeSplit:
        """Makes one; which query belongs to which prototype follows from the episodes."""
        return cls(items, [], Judgements.of([]), episodes=episodes)

    def assemble(self, items: Tensor, has_item: Tensor) -> Encoded:
        """The queries and prototypes of all episodes whose items were all encoded.

        Args:
            items: embeddings ``[n, d]``.
            has_item: which of them were encoded, bool ``[n]``.

        Returns:
            One document for each prototype, the mean of its shots. Every prototype is relevant to the queries of its
            class, so that none is irrelevant to all.
        """
        supports, queries = self.episodes
        is_complete = has_item[supports].flatten(1).all(1) & has_item[queries].flatten(1).all(1)
        supports, queries = supports[is_complete], queries[is_complete]
        episodes, ways, class_queries = queries.shape
        judgements = Judgements(
            torch.arange(episodes * ways * class_queries),
            torch.arange(episodes * ways).repeat_interleave(class_queries),
            torch.ones(episodes * ways * class_queries),
        )
        prototypes = reduce(items[supports], "episode way shot d -> (episode way) d", "mean")
        embeddings = rearrange(items[queries], "episode way query d -> (episode way query) d")
        split = self if bool(is_complete.all()) else None
        return Encoded(embeddings, prototypes, judgements, split=split, episodes=episodes)


class ClassDraws:
    """Classes to train on: each gives shots and queries, drawn anew every time from the global generator.

    A batch of ``n`` of them is an n-way episode.

    Args:
        items: uint8 images ``[n, channels, height, width]``, or texts.
        labels: int64 ``[n]``.
        shape: of episodes.
        turns: 4 if an image turned by 90, 180 and 270 degrees is of a class of its own, else 1.
    """

    def __init__(self, items: Any, labels: Tensor, shape: EpisodeShape, *, turns: int = 1) -> None:
        self.items = items
        self.shape = shape
        self.turns = turns
        class_size = shape.shots + shape.queries
        self.classes = [places for places in places_by_class(labels) if len(places) >= class_size]

    def __len__(self) -> int:
        return len(self.classes) * self.turns

    def __getitem__(self, place: int) -> TrainingPair:
        number, turn = divmod(place, self.turns)
        places = self.classes[number]
        sample = places[torch.randperm(len(places))[: self.shape.shots + self.shape.queries]]
        supports, queries = sample[: self.shape.shots], sample[self.shape.shots :]
        return TrainingPair(self._take(queries, turn), self._take(supports, turn), place, place)

    def _take(self, places: Tensor, turn: int) -> Any:
        if isinstance(self.items, Tensor):
            return torch.rot90(self.items[places], turn, (-2, -1))
        return [self.items[place] for place in places.tolist()]
