"""Both towers of a model of open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.tasks.encoders.image_text_towers import ImageTextTowers


class OpenClip(ImageTextTowers):
    """A model of open_clip by name, its embeddings as they are before its own normalisation.

    Images must come in the size that the model takes, and are then standardised as it wants them.

    Args:
        model: a name such as ``ViT-B-32``, which may have the tag of its weights behind it
            (``ViT-B-32/laion2b_s34b_b79k``), ``hf-hub:ORGANISATION/REPOSITORY``, or ``local-dir:FOLDER`` with
            ``open_clip_config.json`` and the weights.
        pretrained: a tag or a file of weights, for a plain name; random weights if left out.

    Raises:
        ImportError: if open_clip is not installed.
        ValueError: if the model or its weights cannot be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: str = "ViT-B-32", *, pretrained: str | None = None) -> None:
        super().__init__()
        library = _open_clip()
        model, tag = _parted(model, library)
        if tag is not None and pretrained is not None:
            raise ValueError(
                f"pretrained: expected no other weights beside {model}/{tag}, got {pretrained!r}; leave it out"
            )
        pretrained = pretrained if tag is None else tag
        self.is_pretrained = pretrained is not None or ":" in model
        try:
            self.model = library.create_model(model, pretrained=pretrained, require_pretrained=self.is_pretrained)
            self.tokenizer = library.get_tokenizer(model)
        except (ImportError, MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            raise ValueError(
                f"model: expected a model of open_clip and weights that are here or can be had, got {model!r} with "
                f"pretrained={pretrained!r}: {' '.join(str(error).partition(chr(10))[0].split())[:200]}"
            ) from error
        preprocessing = self.model.visual.preprocess_cfg
        size = preprocessing["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(preprocessing[name]).view(3, 1, 1), persistent=False)

    def encode_images(self, images: Tensor) -> Tensor:
        """Embeddings ``[b, d]`` of uint8 RGB images ``[b, 3, height, width]``.

        Raises:
            ValueError: if the images are of another size than the model takes.
        """
        if tuple(images.shape[2:]) != self.size:
            raise ValueError(
                f"images: expected {self.size[0]} x {self.size[1]} pixels, as the model takes, got "
                f"{images.shape[2]} x {images.shape[3]}; set the data's image_size={self.size[0]}"
            )
        pixels = (images.to(self.mean.device) / 255 - self.mean) / self.std
        embeddings: Tensor = self.model.encode_image(pixels)
        return embeddings

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, d]`` of texts."""
        tokens = self._tokenize(list(texts))
        embeddings: Tensor = self.model.encode_text(tokens.to(self.mean.device))
        return embeddings

    def _tokenize(self, texts: list[str]) -> Tensor:
        self.texts += len(texts)
        tokens: Tensor = self.tokenizer(texts)
        # One place more than the model has: what fills it would have been cut.
        longer = self.tokenizer(texts, context_length=tokens.shape[1] + 1)
        padding = getattr(getattr(self.tokenizer, "tokenizer", None), "pad_token_id", 0) or 0
        self.truncated_texts += int((longer[:, -1] != padding).sum())
        return tokens


def names_open_clip(model: str) -> bool:
    """Whether a name is one of open_clip's own, with or without a tag behind it; not where open_clip is missing.

    Example:
        >>> names_open_clip("intfloat/e5-small-v2")
        False
    """
    if model.count("/") > 1:
        return False
    try:
        return _parted(model, _open_clip())[0] in _open_clip().list_models()
    except ImportError:
        return False


def _parted(model: str, library: Any) -> tuple[str, str | None]:
    """Name and tag.

    Raises:
        ValueError: if open_clip has no such weights of that model.
    """
    name, slash, tag = model.partition("/")
    if not slash or name not in library.list_models():
        return model, None
    tags = library.list_pretrained_tags_by_model(name)
    if tag.lower().replace("-", "_") not in tags:
        raise ValueError(
            f"model: expected weights that open_clip has of {name} ({', '.join(tags) or 'none'}), got '{tag}'; name "
            "one of those, or pass a file as pretrained"
        )
    return name, tag


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise ImportError("OpenClip needs open_clip; install with: pip install 'lightning-normdyn[clip]'") from None
    return open_clip
