"""Encoding of texts and images for an audit, with a bar."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import Progress

from lightning_normdyn.cli.audit.listed import Listed
from lightning_normdyn.cli.extras import require
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.reading.picture import open_image
from lightning_normdyn.retrieval.audit import LastLayer

if TYPE_CHECKING:
    from lightning_normdyn.tasks.audited_model import AuditedModel


class Encoding:
    """A model that encodes what an audit lists.

    Args:
        options: of ``normdyn audit``.
        folder: where embeddings that nobody asked to keep are put.
        bar: shows how far it is.
        images: whether documents are images.

    Raises:
        ValueError: if the model cannot be had.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, bar: Progress, *, images: bool) -> None:
        require("transformers", extra="text")
        from lightning_normdyn.tasks.audited_model import load_audited

        self.options, self.folder, self.bar, self.images = options, folder, bar, images
        self.model: AuditedModel = load_audited(
            options.model,
            pretrained=options.pretrained,
            max_length=options.max_length,
            images=images,
            device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )

    @property
    def last_layer(self) -> LastLayer:
        """Of the model, for documents."""
        return self.model.last_layer(images=self.images)

    def notes(self) -> list[str]:
        """What to know of the model, and of texts that were too long for it."""
        cut = self.model.truncated_share
        said = f"{cut:.1%} of the texts are longer than the model takes, and their ends were left out."
        return [*self.model.notes, *[said] * bool(cut)]

    def encode(self, items: Listed, kind: str, *, file: Path | None = None) -> EmbeddingFile:
        """Encodes items in their order.

        Args:
            items: texts or images.
            kind: what the bar calls them.
            file: where the embeddings go, a temporary place if left out.
        """
        from lightning_normdyn.tasks.audited_model import encode_to_file

        target = self.folder / f"{kind.lower()}.npy" if file is None else file
        size = self.options.batch_size
        task = self.bar.add_task(kind, total=len(items.ids))

        def watched(batches: Sequence[list[int]]) -> Iterable[list[int]]:
            for batch in batches:
                yield batch
                self.bar.advance(task, len(batch))

        if items.images is not None:
            files = items.images
            encode_to_file(target, files, self._images, batch_size=size, progress=watched)
        else:
            texts = items.texts or []
            encode_to_file(target, texts, self.model.encode_texts, batch_size=size, size_of=len, progress=watched)
        return EmbeddingFile(target)

    def _images(self, files: Sequence[Path]) -> torch.Tensor:
        return self.model.encode_images([open_image(file, name=file) for file in files])
