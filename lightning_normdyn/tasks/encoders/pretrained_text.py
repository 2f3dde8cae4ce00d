"""Pretrained text encoders of transformers, with their norms left as they come out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.tasks.encoders.sentence_modules import Pooling, sentence_modules
from lightning_normdyn.tasks.encoders.text import TextEncoder


class PretrainedTextEncoder(TextEncoder):
    """A transformer with its tokens pooled, and nothing after that: no projection and no normalisation.

    Takes what ``transformers.AutoModel`` loads: encoders, decoders (pool the last token of those), and the encoder of
    encoder-decoders. A sentence-transformers model says itself how it pools; if it ends in a normalisation, that is
    left out with a warning, because norms are what this package is about; a cosine similarity divides by them anyway.
    Tokens are pooled in float32, whatever the precision of the weights.

    Args:
        model: a name on the model hub, or a local folder.
        pooling: ``mean`` over the tokens, ``cls`` (the first), ``max`` or ``last``; left out, what a
            sentence-transformers model says, ``mean`` for others.
        max_length: tokens of a text, special ones counted too; the rest is left out, and counted. Never more than
            the model has positions.
        frozen: whether the weights stay as they are.

    Raises:
        ModuleNotFoundError: if transformers is not installed.
        ValueError: if an argument is out of its range, or the model ends in layers of another kind.
    """

    def __init__(
        self, model: str, *, pooling: Pooling | None = None, max_length: int = 256, frozen: bool = False
    ) -> None:
        super().__init__()
        if pooling is not None and pooling not in _POOLED:
            raise ValueError(f"pooling: expected one of {', '.join(_POOLED)}, got {pooling!r}")
        check_count(max_length=max_length)
        auto_model, auto_tokenizer = transformers_classes("AutoModel", "AutoTokenizer")
        modules = sentence_modules(model, pooling)
        self.pooling: Pooling = modules.pooling
        if modules.has_normalize:
            warnings.warn(
                f"model: the final normalisation of {model} is left out, so that norms are free", stacklevel=2
            )
        with _named_in_errors(model):
            self.tokenizer = auto_tokenizer.from_pretrained(model)
            loaded = auto_model.from_pretrained(model)
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = _tokens_encoder(loaded)
        # Loaded in evaluation mode, which a trainer would keep: dropout would never be on.
        self.model.train().requires_grad_(not frozen)
        self.dim: int = self.model.config.hidden_size
        self.max_length = min(max_length, _most_tokens(self.model) or max_length)
        _leave_out_pooler(self.model)

    def tokenize(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Token ids, masks and what else the model takes, int64 ``[b, most]``."""
        # Cut by hand: the tokenizer does not say which texts it cut.
        full_ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        room = self.max_length - self.tokenizer.num_special_tokens_to_add()
        self.texts += len(texts)
        self.truncated_texts += sum(len(ids) > room for ids in full_ids)
        tokens: Mapping[str, Tensor] = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return dict(tokens)

    def forward(self, attention_mask: Tensor, **tokens: Tensor) -> Tensor:  # type: ignore[override]
        """Embeddings ``[b, dim]`` in float32, not normalised; padding does not enter.

        Args:
            attention_mask: 1 for tokens of the text, 0 for padding, ``[b, t]``.
            tokens: ``input_ids`` and what else :meth:`tokenize` gives.
        """
        hidden = self.model(attention_mask=attention_mask, **tokens).last_hidden_state
        return _POOLED[self.pooling](hidden.float(), attention_mask.bool())


@contextmanager
def _named_in_errors(model: str) -> Iterator[None]:
    """Says in one sentence that there is no such model, at once where the name can only be a path, or a damaged one.

    Raises:
        ValueError: in place of the errors of transformers.
    """
    if not Path(model).is_dir() and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise ValueError(f"model: expected a folder, got nothing of that name at '{model}'; check the path")
    try:
        yield
    except (ImportError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        if Path(model).is_dir():
            complaint = " ".join(str(error).partition("\n")[0].split())[:200]
            raise ValueError(
                f"model: expected a model of transformers, got one in '{model}' that cannot be loaded "
                f"({type(error).__name__}: {complaint}); its files may be damaged or not fit together: save or "
                "download it again"
            ) from error
        if not isinstance(error, OSError | ValueError):
            raise
        raise ValueError(
            f"model: expected a folder or a name on the model hub, got '{model}': there is no such folder here, and "
            "the hub has no such model or cannot be reached; check the name"
        ) from error


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask.unsqueeze(-1), 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden)), mask.int().argmax(1)]


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask.unsqueeze(-1), torch.finfo(hidden.dtype).min).amax(1)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return hidden[torch.arange(len(hidden)), (places * mask).argmax(1)]


_POOLED: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "cls": _first, "max": _max, "last": _last}


def _tokens_encoder(model: Any) -> Any:
    return model.get_encoder() if model.config.is_encoder_decoder else model


def _most_tokens(model: Any) -> int | None:
    """Tokens that the model has positions for, special ones included; ``None`` if it does not say."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    # RoBERTa and its like number positions from the one after that of padding.
    return positions if positions is None or padding is None else positions - padding - 1


def _leave_out_pooler(model: Any) -> None:
    """Freezes BERT's own pooler, whose output nobody takes: ranks wait for gradients that never come."""
    pooler = getattr(model, "pooler", None)
    if pooler is not None:
        pooler.requires_grad_(False)


def transformers_classes(*names: str) -> list[Any]:
    """Imports classes.

    Raises:
        ModuleNotFoundError: if transformers is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "transformers: expected it for a pretrained text model, found nothing; install lightning-normdyn[text]"
        ) from error
    return [getattr(transformers, name) for name in names]
