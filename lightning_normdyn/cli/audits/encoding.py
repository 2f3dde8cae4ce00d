"""Encodes the texts or images of an audit with its model, and shows how far it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from rich.progress import Progress

from lightning_normdyn.cli.audits.items import AuditedItems
from lightning_normdyn.cli.user_errors import require
from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.reading.picture import open_image
from lightning_normdyn.retrieval.audit import LastLayer

if TYPE_CHECKING:
    from lightning_normdyn.tasks.audited_model import AuditedModel


_BATCH = 32
QUERIES = "Queries"
"""Inputs that are encoded as queries, where a model treats those in another way."""


class EncoderRequest(NamedTuple):
    """The model of an audit, as the command's options have it.

    Attributes:
        model: folder or name; ``None`` for ready embeddings.
        pretrained: weights for a plain name of open_clip.
        batch_size: inputs at a time, by default 32.
        max_length: tokens of a text, by default what the model's folder says.
        device: where it runs, by default a GPU if there is one.
        save: file for the embeddings of the documents.
        dtype: of the weights, by default float32.
        query_prompt: name or text of what comes before queries, by default what the model says.
        document_prompt: the same before documents.
        trust_remote_code: whether code that came with the model may run.
    """

    model: str | None = None
    pretrained: str | None = None
    batch_size: int | None = None
    max_length: int | None = None
    device: str | None = None
    save: str | None = None
    dtype: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    trust_remote_code: bool = False


class Encoding:
    """A model that encodes the items of an audit.

    Args:
        model: folder or name.
        request: how it is used.
        folder: where embeddings that nobody asked to keep are put.
        bar: shows how far it is.
        images: whether documents are images.

    Raises:
        ValueError: if the model cannot be had.
    """

    def __init__(self, model: str, request: EncoderRequest, folder: Path, bar: Progress, *, images: bool) -> None:
        require("transformers", extra="text")
        from lightning_normdyn.tasks.audited_model import load_audited

        self.batch_size, self.folder, self.bar, self.images = request.batch_size or _BATCH, folder, bar, images
        self.model: AuditedModel = load_audited(
            model,
            pretrained=request.pretrained,
            images=images,
            device=_device(request.device),
            max_length=request.max_length,
            dtype=request.dtype,
            query_prompt=request.query_prompt,
            document_prompt=request.document_prompt,
            trust_remote_code=request.trust_remote_code,
        )

    @property
    def last_layer(self) -> LastLayer:
        """Of the model, for documents."""
        return self.model.last_layer(images=self.images)

    def notes(self) -> list[str]:
        """What to know of the model, and of texts that were too long for it."""
        share = self.model.truncated_share
        note = f"{share:.1%} of the texts are longer than {self.model.length_limit}, and their ends were left out."
        return [*self.model.notes, *[note] * bool(share)]

    def encode(self, items: AuditedItems, kind: str, *, file: Path | None = None) -> EmbeddingFile:
        """Encodes items in their order.

        Args:
            items: texts or images.
            kind: what the bar calls them; :data:`QUERIES` are encoded as queries.
            file: where the embeddings go, a temporary place if left out.
        """
        from lightning_normdyn.tasks.audited_model import encode_to_file

        target = self.folder / f"{kind.lower()}.npy" if file is None else file
        size = self.batch_size
        task = self.bar.add_task(kind, total=len(items.ids))

        def watched(batches: Sequence[list[int]]) -> Iterable[list[int]]:
            for batch in batches:
                yield batch
                self.bar.advance(task, len(batch))

        if items.images is not None:
            files = items.images
            encode_to_file(target, files, self._images, batch_size=size, progress=watched)
        else:
            texts, model = items.texts or [], self.model
            encode = model.encode_queries if kind == QUERIES else model.encode_texts
            encode_to_file(target, texts, encode, batch_size=size, size_of=len, progress=watched)
        return EmbeddingFile(target)

    def _images(self, files: Sequence[Path]) -> torch.Tensor:
        return self.model.encode_images([open_image(file, name=file) for file in files])


def _device(name: str | None) -> str:
    """Where the model runs.

    Raises:
        ValueError: if it cannot run there.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for such a device
        complaint = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"device: expected one that this torch can use, got '{name}' ({complaint}); take cpu"
        ) from error
    return name
