"""Loads a trained model for an audit and encodes texts or images without normalizing."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.atomic_file import atomic_file
from lightning_normdyn.retrieval.audit.saturation import LastLayer, NormWeights
from lightning_normdyn.tasks.clip.pixels import center_crop
from lightning_normdyn.tasks.encoders.open_clip import OpenClip, names_open_clip
from lightning_normdyn.tasks.encoders.pretrained_text import PretrainedTextEncoder
from lightning_normdyn.tasks.encoders.sentence_modules import sentence_modules
from lightning_normdyn.tasks.encoders.static_text import StaticTextEncoder

if TYPE_CHECKING:
    from PIL.Image import Image


_PROBE = "a probe"
_OF_OPEN_CLIP = "open_clip_config.json"
_CAUTION = "model: "


class AuditedModel(ABC):
    """Base of models that can be audited.

    Attributes:
        notes: what a reader should know of how the model is used.
    """

    notes: list[str]

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]``, not normalised, on the CPU."""

    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Embeddings ``[b, d]`` of RGB images, not normalised, on the CPU."""
        raise ValueError(
            "model: expected one of open_clip for images, got a model of texts; name a folder of open_clip"
        )

    @abstractmethod
    def last_layer(self, *, images: bool) -> LastLayer:
        """What the embeddings come out of."""

    def encode_queries(self, texts: Sequence[str]) -> Tensor:
        """The same of texts that are queries."""
        return self.encode_texts(texts)

    @property
    @abstractmethod
    def truncated_share(self) -> float:
        """Share of the texts so far whose end was left out."""

    @property
    def length_limit(self) -> str:
        """How long a text may be."""
        return "the model takes"


class TextModel(AuditedModel):
    """A model of transformers or sentence-transformers.

    Args:
        name: a local folder, or a name on the model hub.
        options: of :class:`~lightning_normdyn.tasks.encoders.PretrainedTextEncoder`.
        device: where it runs.

    Raises:
        ValueError: if it has modules that cannot be taken apart, or an option is not one of its kind.
    """

    def __init__(self, name: str, *, device: str = "cpu", **options: Any) -> None:
        with warnings.catch_warnings(record=True) as cautions:
            # They are said in the notes, where a reader of the page looks.
            warnings.simplefilter("always")
            self.encoder = _text_encoder(name, options)
        self.encoder.eval().to(device)
        self.chosen_length: int | None = options.get("max_length")
        self.notes = []
        for caution in cautions:
            text = str(caution.message)
            if not text.startswith(_CAUTION):
                warnings.warn_explicit(caution.message, caution.category, caution.filename, caution.lineno)
            elif "final normalisation" not in text:
                note = text.removeprefix(_CAUTION)
                self.notes.append(f"{note[0].upper()}{note[1:]}.")
        self.notes = list(dict.fromkeys(self.notes))
        if self.encoder.has_normalize:
            self.notes.insert(0, "The model's final step to length one was taken off: it would hide every norm.")

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of documents, not normalised, on the CPU."""
        return self.encoder.encode_documents(texts).cpu()

    @torch.inference_mode()
    def encode_queries(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of queries, not normalised, on the CPU."""
        return self.encoder.encode_queries(texts).cpu()

    def last_layer(self, *, images: bool) -> LastLayer:
        """What the embeddings, or else the tokens' vectors, come out of."""
        encoder = self.encoder
        device = next(encoder.parameters()).device
        tokens = {name: values.to(device) for name, values in encoder.tokenize([_PROBE]).items()}
        encoder.texts -= 1
        if len(encoder.layers):
            return find_last_layer(encoder, lambda: encoder(**tokens), had_unit_step=encoder.has_normalize)
        if isinstance(encoder, StaticTextEncoder):
            return LastLayer("Embedding", False, encoder.pooling, encoder.has_normalize)

        def run() -> Tensor:
            hidden: Tensor = encoder.model(**tokens).last_hidden_state
            return hidden

        return find_last_layer(encoder.model, run, pooling=encoder.pooling, had_unit_step=encoder.has_normalize)

    @property
    def truncated_share(self) -> float:
        """Share of the texts so far whose end was left out."""
        return self.encoder.truncated_texts / max(1, self.encoder.texts)

    @property
    def length_limit(self) -> str:
        """How long a text may be and who says so."""
        encoder = self.encoder
        if isinstance(encoder, StaticTextEncoder):
            return f"the {encoder.words.max_length} words that the model's folder sets"
        limit, most = encoder.max_length, encoder.positions
        if limit == self.chosen_length:
            return f"the {limit} tokens that max_length sets"
        if limit == most:
            return f"the {limit} tokens that the model has positions for"
        room = f", {most} at most" if most else ""
        return f"the {limit} tokens that the model's folder sets (max_length sets others{room})"


def _text_encoder(name: str, options: Mapping[str, Any]) -> PretrainedTextEncoder | StaticTextEncoder:
    """The encoder of the kind that the model begins with; a name that is no model is refused by the first of them.

    Raises:
        ValueError: if an option is of no use to static vectors.
    """
    if sentence_modules(name).first.kind == "Transformer":
        return PretrainedTextEncoder(name, frozen=True, **options)
    idle_names = [option for option in ("max_length", "dtype") if options.get(option) is not None]
    if idle_names:
        raise ValueError(
            f"{idle_names[0]}: expected a transformer with it, got {name}, whose words have vectors of their own; "
            "leave it out"
        )
    prompts = {option: value for option, value in options.items() if option.endswith("prompt")}
    return StaticTextEncoder(name, frozen=True, **prompts)


class ClipModel(AuditedModel):
    """A model of open_clip.

    Args:
        name: as :class:`~lightning_normdyn.tasks.encoders.open_clip.OpenClip` takes it.
        pretrained: likewise.
        device: where it runs.

    Raises:
        ValueError: if the model or its weights cannot be had.
    """

    def __init__(self, name: str, *, pretrained: str | None = None, device: str = "cpu") -> None:
        self.towers = OpenClip(name, pretrained=pretrained)
        self.towers.eval().to(device)
        self.notes = []
        if not self.towers.is_pretrained:
            self.notes.append("The model has random weights: name trained ones with --pretrained.")

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]``, not normalised, on the CPU."""
        return self.towers.encode_texts(texts).cpu()

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Embeddings ``[b, d]`` of images, their middle in the model's size, not normalised, on the CPU."""
        height, width = self.towers.size
        if height != width:
            raise ValueError(f"model: expected one that takes square images, got {height} x {width} pixels")
        pixels = torch.stack([center_crop(image, height) for image in images])
        return self.towers.encode_images(pixels).cpu()

    def last_layer(self, *, images: bool) -> LastLayer:
        """What the embeddings of images or of texts come out of."""
        if images:
            blank = torch.zeros(1, 3, *self.towers.size, dtype=torch.uint8)
            return find_last_layer(self.towers.model, lambda: self.towers.encode_images(blank))
        layer = find_last_layer(self.towers.model, lambda: self.towers.encode_texts([_PROBE]))
        self.towers.texts -= 1
        return layer

    @property
    def truncated_share(self) -> float:
        """Share of the texts so far whose end was left out."""
        return self.towers.truncated_texts / max(1, self.towers.texts)


def load_audited(
    name: str, *, pretrained: str | None = None, images: bool = False, device: str = "cpu", **options: Any
) -> AuditedModel:
    """Loads a model of open_clip where the folder says so or images ask for it, else one of transformers.

    Args:
        name: a local folder; a name of open_clip such as ``ViT-B-32``, ``ViT-B-32/laion2b_s34b_b79k`` or
            ``hf-hub:...``; or one on the model hub.
        pretrained: tag or file of weights for a plain name of open_clip.
        images: whether images are to be encoded.
        device: where it runs.
        options: of :class:`TextModel`, for models of texts; ``None`` stands for one that is left out.

    Raises:
        ValueError: if there is no such model.
    """
    folder = Path(name)
    if not folder.is_dir() and name.startswith((".", "/", "~")):
        raise ValueError(f"model: expected a folder, got nothing of that name at {name}; check the path")
    options = {option: value for option, value in options.items() if value not in (None, False)}
    if (folder / _OF_OPEN_CLIP).is_file():
        _refuse_text_options(name, options)
        return ClipModel(f"local-dir:{name}", device=device)
    if folder.is_dir() and not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ValueError(
            f"model: expected a folder of transformers, sentence-transformers or open_clip, got {name} without "
            f"config.json, modules.json or {_OF_OPEN_CLIP}; name the folder that holds the weights"
        )
    is_clip = images or pretrained is not None or name.startswith(("local-dir:", "hf-hub:"))
    if not folder.is_dir() and (is_clip or names_open_clip(name)):
        _refuse_text_options(name, options)
        return ClipModel(name, pretrained=pretrained, device=device)
    return TextModel(name, device=device, **options)


def _refuse_text_options(name: str, options: Mapping[str, Any]) -> None:
    if options:
        raise ValueError(
            f"{next(iter(options))}: expected a model of transformers or sentence-transformers with it, got '{name}' "
            "of open_clip; leave it out"
        )


Input = TypeVar("Input")


def encode_to_file(
    file: Path,
    inputs: Sequence[Input],
    encode: Callable[[Sequence[Input]], Tensor],
    *,
    batch_size: int = 32,
    size_of: Callable[[Input], int] | None = None,
    progress: Callable[[Sequence[list[int]]], Iterable[list[int]]] | None = None,
) -> None:
    """Encodes a batch at a time into ``.npy``, float32 ``[n, d]``; the file is there whole or not at all.

    Args:
        file: where it goes.
        inputs: one at least; a batch of them is taken at a time.
        encode: embeddings of a batch, ``[b, d]``.
        batch_size: b.
        size_of: of an input; those of about one size then share a batch, which spares padding.
        progress: wraps the batches, each a list of places, as ``tqdm`` does.

    Raises:
        ValueError: if there is no input.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> file = Path(tempfile.mkdtemp()) / "lengths.npy"
        >>> encode_to_file(file, ["a", "bcd"], lambda texts: torch.tensor([[float(len(text))] for text in texts]))
        >>> np.load(file).tolist()
        [[1.0], [3.0]]
    """
    order = list(range(len(inputs)))
    if size_of is not None:
        sizes = [size_of(item) for item in inputs]
        # The largest first: what does not fit into memory fails at once.
        order.sort(key=sizes.__getitem__, reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with atomic_file(file) as temporary:
        table: np.memmap[tuple[int, int], np.dtype[np.float32]] | None = None
        for places in progress(batches) if progress is not None else batches:
            vectors = encode([inputs[place] for place in places]).float().cpu().numpy()
            if table is None:
                table = np.lib.format.open_memmap(
                    temporary, mode="w+", dtype=np.float32, shape=(len(inputs), vectors.shape[1])
                )
            table[places] = vectors
        if table is None:
            raise ValueError("inputs: expected one at least, got none; there is nothing to encode")
        table.flush()


@torch.no_grad()
def find_last_layer(
    model: nn.Module, run: Callable[[], Tensor], *, pooling: str = "", had_unit_step: bool = False
) -> LastLayer:
    """Runs a model once and sees which of its layers made the output.

    Args:
        model: whose layers are watched; nothing stays hooked.
        run: calls the model, and gives the output that is asked about.
        pooling: what happens to that output afterwards.
        had_unit_step: whether a step to length one is left out after that.

    Returns:
        The layer; where the output is the work of no layer but of the code around them, the last layer that ran, with
        ``and a step after it``.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.Dropout(0.0)).eval()
        >>> find_last_layer(model, lambda: model(torch.ones(1, 2))).name
        'LayerNorm'
    """
    outputs: list[tuple[nn.Module, Tensor]] = []  # outputs are held, so that no address is used twice

    def record(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.append((module, output))

    handles: list[RemovableHandle] = []
    try:
        handles += [leaf.register_forward_hook(record) for leaf in model.modules() if not any(leaf.children())]
        output = run()
    finally:
        for handle in handles:
            handle.remove()
    # Dropout that is off hands on what it got: the first to have made the output is meant.
    makers = [
        module
        for module, candidate in outputs
        if candidate.data_ptr() == output.data_ptr() and candidate.shape == output.shape
    ]
    if makers:
        name, gains = type(makers[0]).__name__, getattr(makers[0], "weight", None)
        is_norm = "norm" in name.lower()
        weights = (
            NormWeights.of(gains, getattr(makers[0], "bias", None), output) if is_norm and gains is not None else None
        )
        return LastLayer(name, is_norm, pooling, had_unit_step, weights)
    name = f"{type(outputs[-1][0]).__name__} and a step after it" if outputs else type(model).__name__
    return LastLayer(name, False, pooling, had_unit_step)
