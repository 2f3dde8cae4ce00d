"""WebDataset shards: tar archives in which files that share a name make up a sample."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import IterableDataset, get_worker_info

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.core.object_checks import check_name, check_path, check_texts
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.lines import File
from lightning_normdyn.datasets.reading.picture import EncodedImages, open_image
from lightning_normdyn.datasets.reading.share import check_ranks
from lightning_normdyn.datasets.reading.tar_members import read_tar
from lightning_normdyn.datasets.records import CaptionedImages

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGES = ("jpg", "jpeg", "png", "webp")
_CAPTIONS = ("txt", "json")
_Files = dict[str, bytes]
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


class CaptionedImage(NamedTuple):
    """A sample: its name in the shard, its RGB image and its caption."""

    key: str
    image: Image
    caption: str


class WebDataset(IterableDataset[CaptionedImage]):
    """Samples of shards of any size, an image (``jpg``, ``png``, ``webp``) and a caption (``txt`` or ``json``) each.

    Shards are dealt out to ranks, and those of a rank to its workers: each sample is read once. Samples without an
    image or a caption (img2dataset writes ``null`` for none), and those with a broken image, are left out and counted
    in a warning at the end of a pass; other files of a sample are not looked at. A name ends at its first dot; where no
    image does (``a.1.jpg``), at the last. Of several images with one caption the first is taken, and it is said. Files
    of a sample may lie apart: what is incomplete is held in memory until the end of its shard.

    Args:
        shards: files, or patterns such as ``shard-{000..003}.tar`` and ``{train,extra}.tar``, plain or ``.gz``.
        json_field: the caption's field, where captions are JSON.
        seed: of the order of a rank's shards, another one in each pass, which with workers of a data loader follows
            torch's own seed too; the given order if left out.
        rank: of this process.
        ranks: number of processes; there must be as many shards.

    Raises:
        ValueError: if ``rank`` is out of range or there are fewer shards than ranks.
        MalformedFileError: if a shard is missing; while reading, if one ends early or a caption is malformed.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        *,
        json_field: str = "caption",
        seed: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        super().__init__()
        check_ranks(rank, ranks)
        if seed is not None:
            check_count(0, seed=seed, hint="leave it out to keep the order")
        self.shards = expand_shards(shards)
        if len(self.shards) < ranks:
            raise ValueError(f"shards: expected at least one for each of {ranks} ranks, got {len(self.shards)}")
        self.json_field, self.seed, self.rank, self.ranks = json_field, seed, rank, ranks
        self.epoch = 0

    def __iter__(self) -> Iterator[CaptionedImage]:
        problems = Problems(", ".join(map(str, self.shards[:3])))
        shards = self._own_shards()
        self.epoch += 1
        for sample in _samples(shards, self.json_field, problems):
            image = _open(sample, problems)
            if image is not None:
                yield CaptionedImage(sample.key, image, sample.caption)
        problems.report()

    def _own_shards(self) -> list[Path]:
        worker = get_worker_info()
        shards = self.shards[self.rank :: self.ranks]
        if self.seed is not None:
            # Workers start each pass from the same copy of this object: what they all see change is the loader's seed.
            loader_seed = 0 if worker is None else worker.seed - worker.id
            generator = torch.Generator().manual_seed((self.seed + self.epoch + loader_seed) % 2**63)
            shards = [shards[place] for place in torch.randperm(len(shards), generator=generator).tolist()]
        return shards if worker is None else shards[worker.id :: worker.num_workers]


def read_web_dataset(
    shards: str | Sequence[str], *, limit: int = 100_000, json_field: str = "caption", check_images: bool = True
) -> CaptionedImages:
    """Reads the first samples of shards into memory, where images stay encoded until they are taken.

    Args:
        shards: see :class:`WebDataset`.
        limit: most samples to read; a warning tells if there are more.
        json_field: the caption's field, where captions are JSON.
        check_images: whether each image is opened once now, so that broken ones are left out and reported; otherwise
            a broken one raises when it is taken.

    Raises:
        MalformedFileError: as :class:`WebDataset` does, or if no sample is left.
    """
    check_count(limit=limit)
    check_name(json_field=json_field)
    files = expand_shards(shards)
    problems = Problems(", ".join(map(str, files[:3])))
    stream = _samples(files, json_field, problems)
    samples = [sample for sample in islice(stream, limit) if not check_images or _open(sample, problems) is not None]
    if not samples:
        raise MalformedFileError(files[0], None, "images with captions", str(problems.counts or "none"))
    if next(stream, None) is not None:
        warnings.warn(f"limit: there are more than {limit} samples; use WebDataset to stream them all", stacklevel=2)
    problems.report()
    names = [sample.place for sample in samples]
    images = EncodedImages([sample.image for sample in samples], names, range(len(samples)))
    return CaptionedImages(images, [sample.caption for sample in samples], [sample.key for sample in samples])


def expand_shards(shards: str | Sequence[str]) -> list[Path]:
    """Spells out the patterns of shards.

    Raises:
        MalformedFileError: if a shard is missing.
        ValueError: if there is none.

    Example:
        >>> expand_shards("a-{08..10}.tar")
        Traceback (most recent call last):
        lightning_normdyn.datasets.problems.MalformedFileError: a-08.tar: expected a shard, got nothing of that name...
    """
    if isinstance(shards, str):
        check_path("shard or a pattern", shards=shards)
    else:
        check_texts(shards=shards)
    patterns = [shards] if isinstance(shards, str) else shards
    files = [Path(name) for pattern in patterns for name in _spell_out(str(pattern))]
    for file in files:
        if not file.is_file():
            raise MalformedFileError(file, None, "a shard", "nothing of that name", "check the pattern")
    if not files:
        raise ValueError("shards: expected at least one file, got none")
    return files


class _Sample(NamedTuple):
    key: str
    place: str
    image: bytes
    caption: str


def _open(sample: _Sample, problems: Problems) -> Image | None:
    try:
        return open_image(sample.image, name=sample.place)
    except MalformedFileError:
        problems.count("broken images, left out with their captions", line=sample.place)
        return None


def _spell_out(pattern: str) -> list[str]:
    match = _RANGE.search(pattern) or _CHOICE.search(pattern)
    if match is None:
        return [pattern]
    if match.re is _RANGE:
        first, last = match.groups()
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        choices = match.group(1).split(",")
    return [
        name for choice in choices for name in _spell_out(pattern[: match.start()] + choice + pattern[match.end() :])
    ]


def _samples(shards: Sequence[File], json_field: str, problems: Problems) -> Iterator[_Sample]:
    for shard in shards:
        waiting: dict[str, _Files] = {}
        for key, files in _grouped(shard):
            # Where all images of a shard come before all captions, samples lie in pieces.
            all_files = _merged(shard, key, waiting.pop(key, {}), files)
            samples = _by_last_dot(key, all_files)
            if any(_is_whole(sample_files) for sample_files in samples.values()):
                yield from _whole(shard, samples, json_field, problems)
            else:
                waiting[key] = all_files
        for key, files in waiting.items():
            yield from _whole(shard, _by_last_dot(key, files), json_field, problems)


def _whole(shard: File, samples: Mapping[str, _Files], json_field: str, problems: Problems) -> Iterator[_Sample]:
    """Samples with image and caption; others are counted."""
    for key, files in samples.items():
        place = f"{shard}, sample {key}"
        images = _images_of(files)
        caption = _caption(shard, key, files, json_field)
        if not images:
            problems.count("samples without an image, left out", line=place)
        elif caption is None:
            problems.count("samples without a caption, left out", line=place)
        else:
            if len(images) > 1:
                problems.count("samples with several images, of which the first is taken", line=place)
            if not caption:
                problems.count("empty captions, kept", line=place)
            yield _Sample(key, place, images[0], caption)


def _images_of(files: _Files) -> list[bytes]:
    """Images whose ending is their kind, else those with something before it, as ``0.jpg`` and ``1.jpg``."""
    plain = [files[kind] for kind in _IMAGES if kind in files]
    return plain or [data for ending, data in files.items() if ending.rpartition(".")[2] in _IMAGES]


def _is_whole(files: _Files) -> bool:
    return bool(_images_of(files)) and any(kind in files for kind in _CAPTIONS)


def _merged(shard: File, key: str, earlier: _Files, files: _Files) -> _Files:
    repeated = next((ending for ending in files if ending in earlier), None)
    if repeated is not None:
        came = f"{key}.{repeated} again"
        raise MalformedFileError(shard, None, "each file of a sample once", came, "rename one of them")
    return {**earlier, **files}


def _by_last_dot(key: str, files: _Files) -> dict[str, _Files]:
    """Samples whose names have periods of their own: ``a.1.jpg`` and ``a.1.txt`` are of ``a.1``.

    Files with an image of the bare name, or with one caption for several images, are one sample.
    """
    subsamples: dict[str, _Files] = {}
    for ending, data in files.items():
        name, _, kind = ending.rpartition(".")
        subsamples.setdefault(name, {})[kind] = data
    common_files = subsamples.pop("", {})
    if _is_whole(files) or any(kind in common_files for kind in _IMAGES):
        return {key: files}
    has_images = any(kind in sample_files for sample_files in subsamples.values() for kind in _IMAGES)
    return {f"{key}.{name}": sample_files for name, sample_files in subsamples.items()} if has_images else {key: files}


def _grouped(shard: File) -> Iterator[tuple[str, _Files]]:
    """Neighbouring files of one name by their ending; a name ends at the first dot."""
    current, files = "", _Files()
    for name, data in read_tar(shard):
        folder, slash, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        key, ending = folder + slash + stem, ending.lower()
        if not stem:
            continue
        if key != current:
            if files:
                yield current, files
            current, files = key, {}
        if ending in files:
            raise MalformedFileError(shard, None, "each file of a sample once", f"{name} again", "rename one of them")
        files[ending] = data
    if files:
        yield current, files


def _caption(shard: File, key: str, files: _Files, json_field: str) -> str | None:
    try:
        if "txt" in files:
            return files["txt"].decode().removeprefix("\ufeff").strip()
        if "json" not in files:
            return None
        fields = json.loads(files["json"])
    except UnicodeDecodeError as error:
        raise MalformedFileError(shard, None, f"UTF-8 text in the caption of {key}", f"'{error}'") from None
    except json.JSONDecodeError as error:
        raise MalformedFileError(shard, None, f"JSON in {key}.json", f"'{error}'") from None
    caption = fields.get(json_field) if isinstance(fields, dict) else None
    if isinstance(fields, dict) and json_field in fields and caption is None:
        return None  # img2dataset writes null where a page had no text
    if not isinstance(caption, str):
        raise MalformedFileError(shard, None, f"a text in field '{json_field}' of {key}.json", repr(fields)[:80])
    return caption.strip()
