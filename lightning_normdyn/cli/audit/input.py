"""What an audit is about, gathered from the files that its options name."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from lightning_normdyn.cli.audit.encoding import Encoding
from lightning_normdyn.cli.audit.listed import Listed, items_of
from lightning_normdyn.cli.audit.queries import EMBEDDED, Asked, ask
from lightning_normdyn.datasets import JudgedTexts, Problems
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.formats.beir import read_beir
from lightning_normdyn.datasets.formats.covariates import Covariates, read_covariates
from lightning_normdyn.datasets.formats.listed_texts import read_listed_texts
from lightning_normdyn.retrieval.audit import LastLayer
from lightning_normdyn.retrieval.audit.text_measures import letters, word_frequency

_LENGTH = "length"
_FOLDER = "folder"


@dataclass(frozen=True)
class AuditInput:
    """All that is measured and shown.

    Attributes:
        name: of the model or the file.
        embeddings: of the documents.
        items: what they are of, in the same order.
        length: of each item, where known.
        covariates: name to a number for each item.
        groups: column to the group of each item.
        asked: queries and judgements.
        last_layer: of the model.
        facts: for the line below the heading.
        notes: on what was left out or taken off.
    """

    name: str
    embeddings: EmbeddingFile
    items: Listed
    length: Tensor | None
    covariates: Mapping[str, Tensor]
    groups: Mapping[str, Sequence[str | None]]
    asked: Asked | None
    last_layer: LastLayer | None
    facts: Sequence[str]
    notes: Sequence[str]


def gather_input(options: argparse.Namespace, folder: Path, bar: Progress) -> AuditInput:
    """Reads and encodes what there is to audit.

    Args:
        options: of ``normdyn audit``.
        folder: for embeddings that are not kept.
        bar: shows how far encoding is.

    Raises:
        ValueError: if options or files do not fit together.
        OSError: if a file cannot be read.
    """
    _check(options)
    beir = None if options.beir is None else read_beir(options.beir)
    listed = _listed(options, beir)
    encoding = None
    if options.model is not None:
        assert listed is not None
        encoding = Encoding(options, folder, bar, images=options.images is not None)
        embeddings = encoding.encode(listed, "Documents", file=None if options.save is None else Path(options.save))
    else:
        embeddings = EmbeddingFile(options.embeddings, column=options.column)
    items = items_of(embeddings, listed)
    table, notes = _covariates(options, items.ids)
    asked = ask(options, items.ids, embeddings.dim, encoding=encoding, beir=beir)
    notes += [] if asked is None else asked.notes
    given = table.numbers.pop(_LENGTH, None)
    length, measured = _measured(items, given)
    notes += _of_length(given, length)
    return AuditInput(
        Path(options.model or options.embeddings).name,
        embeddings,
        items,
        length,
        {**measured, **table.numbers},
        {**_folders(items), **table.groups},
        asked,
        None if encoding is None else encoding.last_layer,
        [] if listed is None else [f"of {Path(listed.source).name}"],
        [*([] if encoding is None else encoding.notes()), *notes],
    )


def _check(options: argparse.Namespace) -> None:
    if (options.model is None) == (options.embeddings is None):
        came = "neither" if options.model is None else "both"
        raise ValueError(f"audit: expected either --model or --embeddings, got {came}; see normdyn audit --help")
    listing = [name for name in ("texts", "images", "beir") if getattr(options, name) is not None]
    if len(listing) > 1 or (options.model is not None and not listing):
        raise ValueError(
            f"audit: expected one of --texts, --images and --beir{' with --model' * (not listing)}, got "
            f"{' and '.join(f'--{name}' for name in listing) or 'none'}"
        )
    if options.queries is not None and options.judgements is None and options.beir is None:
        raise ValueError(
            "judgements: expected --judgements with --queries, got none; without them nothing can be ranked"
        )
    if options.judgements is not None and options.queries is None and options.beir is None:
        raise ValueError("queries: expected --queries with --judgements, got none")
    if options.beir is not None and options.queries is not None and not options.queries.endswith(EMBEDDED):
        raise ValueError(
            f"queries: expected a file of embeddings beside --beir, which has the texts, got {options.queries}"
        )
    if options.save is not None and options.model is None:
        raise ValueError("save: expected --model, whose embeddings are kept, got ready ones")
    if options.save is not None and not options.save.endswith(".npy"):
        raise ValueError(f"save: expected a name that ends in .npy, got {options.save!r}")


def _listed(options: argparse.Namespace, beir: JudgedTexts | None) -> Listed | None:
    if beir is not None:
        return Listed.of_texts(options.beir, beir.documents)
    if options.texts is not None:
        return Listed.of_texts(options.texts, read_listed_texts(options.texts))
    return None if options.images is None else Listed.of_folder(options.images)


def _covariates(options: argparse.Namespace, ids: Sequence[str]) -> tuple[Covariates, list[str]]:
    if options.covariates is None:
        return Covariates({}, {}), []
    problems = Problems(options.covariates)
    found = read_covariates(options.covariates, {id: place for place, id in enumerate(ids)}, problems)
    return found, [f"{problems}."] if problems.counts else []


def _measured(items: Listed, given: Tensor | None) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Length, the given one first where all items have it, and what else texts and files tell by themselves."""
    length = given if given is not None and bool(given.isfinite().all()) else None
    if items.texts is not None:
        return letters(items.texts) if length is None else length, {"word frequency": word_frequency(items.texts)}
    if items.images is not None:
        sizes = torch.tensor([file.stat().st_size for file in items.images], dtype=torch.float64)
        return length, {"file size": sizes}
    return length, {}


def _of_length(given: Tensor | None, used: Tensor | None) -> list[str]:
    unknown = 0 if given is None else int((~given.isfinite()).sum())
    if given is None or not unknown:
        return []
    instead = "no length is" if used is None else "the number of letters is"
    return [
        f"The column '{_LENGTH}' lacks {unknown:,} of {len(given):,} items and was left out; {instead} used instead."
    ]


def _folders(items: Listed) -> dict[str, list[str | None]]:
    """The folder of each image, where there are several: often its class."""
    names: list[str | None] = [id.rpartition("/")[0] for id in items.ids] if items.images is not None else []
    return {_FOLDER: names} if len(set(names)) > 1 else {}
