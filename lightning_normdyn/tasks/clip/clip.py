"""Image-text contrast: images find their captions, and captions their images."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count, check_share
from lightning_normdyn.core.object_checks import check_instance
from lightning_normdyn.core.statistics.ranking import RankedGrades, ranking_hit_rate
from lightning_normdyn.datasets import CaptionedImages, Judgements
from lightning_normdyn.tasks.clip.pixels import ImageSubset, Pixels, random_shift
from lightning_normdyn.tasks.contrast.contrast_data import ContrastData, Split, TrainingPair, check_source
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask
from lightning_normdyn.tasks.contrast.encoded import Encoded, Exponents
from lightning_normdyn.tasks.contrast.evaluation_split import EvaluationSplit
from lightning_normdyn.tasks.contrast.ranking_measures import ranking_measures
from lightning_normdyn.tasks.contrast.symmetry import FunctionalSymmetry
from lightning_normdyn.tasks.encoders.image_text_towers import ApartTowers, ImageTextTowers
from lightning_normdyn.tasks.group_split import split_by_group
from lightning_normdyn.tasks.sources import CaptionedImagesSource, StandardLibraryGlyphCaptions

_PLACES = (1, 5, 10)


class ImageText(ContrastiveTask):
    """Two towers that bring images and their captions together, as CLIP does (arXiv 2103.00020).

    Queries are images and documents captions, and the loss asks in both directions. So do the measures; for a caption
    that seeks images the roles of the sides change, and with them those of the exponents.

    Args:
        towers: :class:`~lightning_normdyn.tasks.encoders.open_clip.OpenClip` with the name of a model, or
            :class:`~lightning_normdyn.tasks.encoders.image_text_towers.ApartTowers`, the default: small ones that need
            no download.
        symmetric: whether captions pick their images too, in the loss.
        options: of :class:`ContrastiveTask` and its loss.
    """

    symmetry = FunctionalSymmetry(True, "images seek texts and texts seek images, in the loss and in the measures")
    headline = "recall@1"

    def __init__(self, *, towers: ImageTextTowers | None = None, symmetric: bool = True, **options: Any) -> None:
        super().__init__(symmetric=symmetric, **options)
        check_instance(ImageTextTowers, optional=True, towers=towers, hint="ApartTowers pairs any two encoders")
        self.towers = ApartTowers() if towers is None else towers

    def encode_queries(self, inputs: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` of images."""
        return self.towers.encode_images(inputs)

    def encode_documents(self, inputs: list[str]) -> Tensor:
        """Embeddings ``[b, d]`` of captions."""
        return self.towers.encode_texts(inputs)

    def measures(self, encoded: Encoded, exponents: Exponents) -> dict[str, Tensor]:
        """Recall at 1, 5 and 10 in both directions.

        As in the literature on CLIP, recall@k is 1 where any right answer is among the first k: the caption of an
        image, or one of the images of a caption. ``image_to_text_recall@k`` has one value an image, ``[n]``,
        ``text_to_image_recall@k`` one a caption, ``[m]``, and ``recall@k``, one an image, the mean of its own and its
        caption's.
        """
        hits: dict[str, Callable[[RankedGrades], Tensor]] = {
            f"recall@{k}": partial(ranking_hit_rate, top_k=k) for k in _PLACES
        }
        to_text = ranking_measures(encoded, exponents, hits, depth=max(_PLACES))
        to_image = ranking_measures(swap_sides(encoded), exponents[::-1], hits, depth=max(_PLACES))
        relevant = encoded.judgements.relevant()
        caption = torch.zeros(len(encoded.queries), dtype=torch.int64)
        caption[relevant.queries] = relevant.documents
        mean_recall = {name: (to_text[name] + to_image[name][caption]) / 2 for name in hits}
        to_text_recall = {f"image_to_text_{name}": values for name, values in to_text.items()}
        to_image_recall = {f"text_to_image_{name}": values for name, values in to_image.items()}
        return {**mean_recall, **to_text_recall, **to_image_recall}

    def on_validation_epoch_end(self) -> None:
        """Measures the validation split, and says once if captions were cut."""
        super().on_validation_epoch_end()
        self.towers.tell_truncation()


def swap_sides(encoded: Encoded) -> Encoded:
    """The same pairs with documents for queries."""

    def swap(judgements: Judgements) -> Judgements:
        return Judgements(judgements.documents, judgements.queries, judgements.grades)

    excluded_pairs = None if encoded.excluded_pairs is None else swap(encoded.excluded_pairs)
    return Encoded(encoded.documents, encoded.queries, swap(encoded.judgements), excluded_pairs)


class ImageTextData(ContrastData):
    """Captioned images, whole groups of which are held out.

    Images with one caption are right answers to it all; in a batch they are no negatives of each other. Relatives with
    captions of their own, such as skin tones, are negatives: their captions tell them apart.

    Args:
        source: where they come from; glyphs of fonts and their Unicode names if left out.
        image_size: height and width that images are brought to.
        shift: most pixels that images move by in training.
        validation_share: of the images, by whole groups.
        test_share: likewise.
        seed: of the split.
        options: of :class:`ContrastData`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        source: CaptionedImagesSource | None = None,
        *,
        image_size: int = 32,
        shift: int = 2,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_count(image_size=image_size)
        check_count(0, shift=shift)
        check_share(validation_share=validation_share, test_share=test_share, hint="0.1 is usual")
        if not 0 <= shift < image_size:
            raise ValueError(f"shift: expected 0 to less than image_size={image_size} pixels, got {shift}")
        check_count(0, seed=seed)
        self.source = StandardLibraryGlyphCaptions() if source is None else source
        check_source(self.source)
        self.image_size = image_size
        self.shift = shift
        self.shares = {"test": test_share, "validation": validation_share}
        self.seed = seed
        self._splits: dict[str, EvaluationSplit] = {}

    @cached_property
    def pairs(self) -> CaptionedImages:
        """The set, read on first use."""
        return self.source.read()

    @cached_property
    def _pixels(self) -> Pixels:
        return Pixels(self.pairs.images, self.image_size)

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """Split to the places of its pairs."""
        split = split_by_group(self.pairs.groups, self.shares, seed=self.seed)
        return {name: places.tolist() for name, places in split.items()}

    def training_pairs(self) -> CaptionedPairs:
        """The pairs of the training split."""
        return CaptionedPairs(self._pixels, self.pairs.captions, self.places["train"], self.shift)

    def evaluation(self, split: Split) -> EvaluationSplit:
        """The images of the split, and their captions, each once."""
        if split not in self._splits:
            places = self.places[split]
            captions = [self.pairs.captions[place] for place in places]
            numbers = _numbers(captions)
            judgements = Judgements.of((image, numbers[text], 1.0) for image, text in enumerate(captions))
            self._splits[split] = EvaluationSplit(ImageSubset(self._pixels, places), list(numbers), judgements)
        return self._splits[split]

    def floors(self, split: Split) -> dict[str, float]:
        """Recall at 1 of guessing, the mean of both directions over images."""
        sides = self.evaluation(split)
        images_of = torch.bincount(sides.judgements.documents)[sides.judgements.documents]
        to_image = float(images_of.float().mean()) / len(sides.queries)
        return {"chance": (1 / len(sides.documents) + to_image) / 2}


class CaptionedPairs:
    """Images with their captions, as pairs to train on; ids of documents tell equal captions."""

    def __init__(self, pixels: Pixels, captions: Any, places: list[int], shift: int) -> None:
        self.pixels = pixels
        self.captions = captions
        self.places = places
        self.shift = shift
        self._numbers = _numbers(captions[place] for place in places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> TrainingPair:
        source = self.places[place]
        caption = self.captions[source]
        return TrainingPair(random_shift(self.pixels[source], self.shift), caption, place, self._numbers[caption])


def _numbers(captions: Any) -> dict[str, int]:
    """Each caption, in the order of its first appearance."""
    return {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
