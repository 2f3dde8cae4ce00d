"""Pretrained text encoders of transformers, with their norms left as they come out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_count, check_flag
from lightning_normdyn.core.object_checks import check_instance
from lightning_normdyn.tasks.encoders.layer_stack import LayerStack
from lightning_normdyn.tasks.encoders.lora import Lora
from lightning_normdyn.tasks.encoders.model_files import ModelFiles, unknown
from lightning_normdyn.tasks.encoders.prompts import PromptedTextEncoder
from lightning_normdyn.tasks.encoders.sentence_layers import SentenceLayers
from lightning_normdyn.tasks.encoders.sentence_modules import SentenceModules, other_way, sentence_modules
from lightning_normdyn.tasks.encoders.token_pooling import POOLINGS, Pooling, pool_tokens

Precision = Literal["float32", "float16", "bfloat16", "auto"]

_HALF = (torch.float16, torch.bfloat16)
_NO_LIMIT = 10**9


class PretrainedTextEncoder(PromptedTextEncoder):
    """A transformer with its tokens pooled, and no normalisation after that.

    Takes what ``transformers.AutoModel`` loads: encoders, decoders (pool the last token of those), and the encoder of
    encoder-decoders. A sentence-transformers model says itself how it pools, which layers follow, how many tokens it
    takes, and which prompts come before queries, documents and other texts; all of that is obeyed, and the prompts are
    said in a warning. If it ends in a normalisation, that is left out with a warning, because norms are what this
    package is about; a cosine similarity divides by them anyway. Tokens are pooled in float32, whatever the precision
    of the weights.

    Args:
        model: a name on the model hub, or a local folder.
        pooling: ``mean`` over the tokens, ``cls`` (the first), ``max``, ``last``, ``mean_sqrt_len`` or
            ``weightedmean``; left out, what a sentence-transformers model says, ``mean`` for others.
        max_length: tokens of a text, special ones and a prompt counted too; the rest is left out, and counted. Left
            out, what the model's folder says (``max_seq_length``, else its tokenizer). Never more than the model has
            positions.
        frozen: whether the weights stay as they are.
        frozen_layers: layers from the bottom that stay as they are, and the token embeddings with them, which alone do
            so at 0; left out, all train.
        lora: adapters that train in place of the transformer's weights; layers behind the pooling train as ever.
        dtype: of the weights; ``auto`` as they are stored. Left out, float32, which is said where they are stored in
            half precision: steps of a fine-tuning rate are lost in half precision.
        prompt: before texts that are neither queries nor documents: a name of the model's prompts, or a text, which
            may be empty. Left out, what the model says.
        query_prompt: the same for queries.
        document_prompt: the same for documents.
        trust_remote_code: whether code that came with the model may be run.

    Raises:
        ModuleNotFoundError: if transformers is not installed.
        ValueError: if an argument is out of its range, or the model has layers of another kind.
    """

    def __init__(
        self,
        model: str,
        *,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        frozen: bool = False,
        frozen_layers: int | None = None,
        lora: Lora | None = None,
        dtype: Precision | None = None,
        prompt: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        if pooling is not None and pooling not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")
        if dtype is not None and dtype not in get_args(Precision):
            raise ValueError(f"dtype: expected one of {', '.join(get_args(Precision))}, got {dtype!r}")
        if max_length is not None:
            check_count(max_length=max_length)
        check_flag(frozen=frozen, trust_remote_code=trust_remote_code)
        _check_training(frozen, frozen_layers, lora)
        transformers_classes()
        modules = _transformer_modules(model, pooling)
        self.set_prompts(modules.prompts, prompt=prompt, query_prompt=query_prompt, document_prompt=document_prompt)
        self.modes = modules.pooling
        self.include_prompt = modules.include_prompt
        self.has_normalize = modules.has_normalize
        files = ModelFiles(model)
        with _named_in_errors(model):
            self.tokenizer = _tokenizer(files, modules, trust_remote_code)
            loaded = _loaded(files, modules, dtype or "float32", trust_remote_code)
        self.model = _tokens_encoder(loaded)
        # Loaded in evaluation mode, which a trainer would keep: dropout would never be on.
        self.layers = SentenceLayers(files, modules.layers, self.model.config.hidden_size * len(self.modes))
        self.train().requires_grad_(not frozen)
        if frozen_layers is not None:
            LayerStack(self.model).freeze(frozen_layers)
        if lora is not None:
            lora.adapt(self.model)
        self.dim: int = self.layers.dim
        self.stated_length = modules.max_length or _tokenizer_length(self.tokenizer)
        self.positions = _most_tokens(self.model)
        lengths = [max_length or self.stated_length, self.positions]
        self.max_length = min((length for length in lengths if length is not None), default=None)
        _leave_out_pooler(self.model)
        stored = files.stored_dtype(modules.first.path)
        trained_weights = self.model.parameters() if lora is None else ()
        is_frozen = not any(weight.requires_grad for weight in trained_weights)
        self.cautions = [*self.notes(model), *_on_precision(self.model, stored, dtype, frozen=is_frozen)]
        for caution in self.cautions:
            warnings.warn(f"model: {caution}", stacklevel=2)

    @property
    def pooling(self) -> str:
        """How tokens are pooled; ways that are joined have a plus between them."""
        return "+".join(self.modes)

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Mapping[str, Tensor]:
        """Token ids, masks and what else the model takes, int64 ``[b, most]``."""
        inputs = [prompt + text for text in texts]
        if self.max_length is not None:
            # Cut by hand: the tokenizer does not say which texts it cut.
            full_ids = self.tokenizer(inputs, add_special_tokens=False, verbose=False)["input_ids"]
            room = self.max_length - self.tokenizer.num_special_tokens_to_add()
            self.truncated_texts += sum(len(ids) > room for ids in full_ids)
        self.texts += len(texts)
        limits = {"truncation": self.max_length is not None, "max_length": self.max_length}
        tokens = dict(self.tokenizer(inputs, padding=True, return_tensors="pt", **limits))
        if prompt and not self.include_prompt:
            tokens["pooled_mask"] = tokens["attention_mask"].clone()
            tokens["pooled_mask"][:, : self._prompt_tokens(prompt)] = 0
        return tokens

    def forward(self, attention_mask: Tensor, pooled_mask: Tensor | None = None, **tokens: Tensor) -> Tensor:  # type: ignore[override]
        """Embeddings ``[b, dim]`` in float32 at least, not normalised; padding does not enter.

        Args:
            attention_mask: 1 for tokens of the text, 0 for padding, ``[b, t]``.
            pooled_mask: the same without tokens of a prompt, where those are not pooled.
            tokens: ``input_ids`` and what else :meth:`tokenize` gives.
        """
        hidden = self.model(attention_mask=attention_mask, **tokens).last_hidden_state
        pooled = pool_tokens(at_least_float32(hidden), attention_mask, self.modes, pooled_mask)
        embeddings: Tensor = self.layers(pooled)
        return embeddings

    def layer_parameters(self) -> list[list[Parameter]]:
        """Parameters of the token embeddings and of each layer; those behind the pooling go with the top layer."""
        layers = LayerStack(self.model).parameters()
        layers[-1] += self.layers.parameters()
        return layers

    def _prompt_tokens(self, prompt: str) -> int:
        """Tokens that come before those of a text, without a special one at the end."""
        ids = self.tokenizer([prompt], truncation=self.max_length is not None, max_length=self.max_length)["input_ids"][
            0
        ]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)


def _check_training(frozen: bool, frozen_layers: int | None, lora: Lora | None) -> None:
    """Refuses ways to train a part of the weights that exclude each other."""
    if frozen_layers is not None:
        check_count(0, frozen_layers=frozen_layers)
    check_instance(Lora, optional=True, lora=lora, hint="Lora(rank=8) is usual")
    choices = {"frozen": frozen, "frozen_layers": frozen_layers is not None, "lora": lora is not None}
    names = [name for name, is_chosen in choices.items() if is_chosen]
    if len(names) > 1:
        raise ValueError(
            f"{names[1]}: expected one of frozen, frozen_layers and lora at most, got {' and '.join(names)}; each says "
            "by itself which weights stay as they are"
        )


def _transformer_modules(model: str, pooling: Pooling | None) -> SentenceModules:
    with _named_in_errors(model, loads=False):
        modules = sentence_modules(model, pooling)
    if modules.first.kind != "Transformer":
        raise ValueError(
            f"model: expected a transformer, got {model}, which begins with {modules.first.kind}; take "
            "lightning_normdyn.tasks.encoders.StaticTextEncoder for it"
        )
    return modules


def _tokenizer(files: ModelFiles, modules: SentenceModules, trust_remote_code: bool) -> Any:
    (auto_tokenizer,) = transformers_classes("AutoTokenizer")
    options = {**_place(files, modules), **modules.options("tokenizer"), "trust_remote_code": trust_remote_code}
    tokenizer = auto_tokenizer.from_pretrained(files.model, **options)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if modules.first.config.get("do_lower_case"):
        _lower(tokenizer)
    return tokenizer


def _loaded(files: ModelFiles, modules: SentenceModules, dtype: str, trust_remote_code: bool) -> Any:
    import transformers

    config = files.object(modules.first.file("config.json")) or {}
    names = [name for name in config.get("architectures") or [] if name.endswith("EncoderModel")]
    # Of an encoder that was saved without its decoder, AutoModel would make a decoder of random weights.
    auto_model = getattr(transformers, names[0], None) if names else None
    (auto_model,) = transformers_classes("AutoModel") if auto_model is None else [auto_model]
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    options = {**_place(files, modules), **modules.options("config"), **modules.options("model")}
    options["dtype" if version >= (4, 56) else "torch_dtype"] = "auto" if dtype == "auto" else getattr(torch, dtype)
    return auto_model.from_pretrained(files.model, **options, trust_remote_code=trust_remote_code)


def _place(files: ModelFiles, modules: SentenceModules) -> dict[str, Any]:
    """Where transformers is to look; where the hub does not answer, it would ask for each file again and again."""
    folder = {"subfolder": modules.first.path} if modules.first.path else {}
    return folder | ({"local_files_only": True} if files.from_cache else {})


def _lower(tokenizer: Any) -> None:
    """Lower-cases before all else that the tokenizer does, where it does not do so already."""
    from tokenizers.normalizers import Lowercase, Sequence as Normalizers

    backend = tokenizer.backend_tokenizer
    steps = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = Normalizers([Lowercase(), *steps])


def _on_precision(model: Any, stored: torch.dtype | None, dtype: Precision | None, *, frozen: bool) -> list[str]:
    """What to know where stored weights or those in memory are of half precision."""
    numbers, weights = sum(weight.numel() for weight in model.parameters()), next(model.parameters()).dtype
    if stored in _HALF and dtype is None:
        name = str(stored).removeprefix("torch.")
        return [
            f"weights are stored in {name} and are taken as float32, {numbers * 4 / 1e9:.2f} GB instead of "
            f"{numbers * 2 / 1e9:.2f}, so that small steps of training are not lost; dtype 'auto' keeps them as stored"
        ]
    if weights in _HALF and not frozen:
        name = str(weights).removeprefix("torch.")
        return [
            f"weights are trained in {name}, where steps below about a {512 if weights == torch.bfloat16 else 4096}th "
            "of a weight are lost; leave dtype out for float32 weights and set the trainer's precision to bf16-mixed"
        ]
    return []


@contextmanager
def _named_in_errors(model: str, *, loads: bool = True) -> Iterator[None]:
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
        if not loads:
            raise
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"model: expected a model of transformers itself, got '{model}', which needs code that came with it; "
                f"if you trust that code, set trust_remote_code, or {other_way(model)}"
            ) from error
        if Path(model).is_dir():
            complaint = " ".join(str(error).partition("\n")[0].split())[:200]
            raise ValueError(
                f"model: expected a model of transformers, got one in '{model}' that cannot be loaded "
                f"({type(error).__name__}: {complaint}); its files may be damaged or not fit together: save or "
                "download it again"
            ) from error
        if not isinstance(error, OSError | ValueError):
            raise
        raise unknown(model, error) from error


def _tokens_encoder(model: Any) -> Any:
    return model.get_encoder() if model.config.is_encoder_decoder else model


def _tokenizer_length(tokenizer: Any) -> int | None:
    """Tokens that the tokenizer is made for; those without a limit say an enormous number."""
    length = tokenizer.model_max_length
    return int(length) if length is not None and length < _NO_LIMIT else None


def _most_tokens(model: Any) -> int | None:
    """Tokens that the model has positions for, special ones included; ``None`` if it does not say."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions < 1:  # XLNet says -1 for no limit
        return None
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
