"""Reads what a sentence-transformers model is made of: its first module, pooling, later layers, limits and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lightning_normdyn.tasks.encoders.model_files import ModelFiles, damaged
from lightning_normdyn.tasks.encoders.prompts import Prompts
from lightning_normdyn.tasks.encoders.token_pooling import POOLINGS, Pooling, stated_pooling

Kind = Literal["Transformer", "StaticEmbedding", "WordEmbeddings"]

_KINDS: tuple[Kind, ...] = ("Transformer", "StaticEmbedding", "WordEmbeddings")
LATER_KINDS = ("Dense", "LayerNorm", "Normalize", "Dropout")
"""Modules that may follow the pooling."""
_BACKBONES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_CONFIGS: dict[str, tuple[str, ...]] = {
    "Transformer": tuple(f"sentence_{name}_config.json" for name in _BACKBONES),
    "WordEmbeddings": ("wordembedding_config.json",),
    "StaticEmbedding": (),
}
_OPTIONS = {
    "model": ("model_kwargs", "model_args"),
    "tokenizer": ("processor_kwargs", "tokenizer_args"),
    "config": ("config_kwargs", "config_args"),
}
# These concern machines, or would run code that came with the model.
_IDLE_OPTIONS = (
    "torch_dtype",
    "dtype",
    "device_map",
    "attn_implementation",
    "trust_remote_code",
    "provider",
    "file_name",
)


class Module(NamedTuple):
    """A module by its class, its folder inside the model and its configuration."""

    kind: str
    path: str
    config: Mapping[str, Any]

    def file(self, name: str) -> str:
        """The name of one of its files inside the model."""
        return f"{self.path}/{name}" if self.path else name


class SentenceModules(NamedTuple):
    """How a text becomes an embedding.

    Attributes:
        first: what makes vectors of tokens, or at once of a text (``StaticEmbedding``).
        pooling: of the tokens; several are joined.
        include_prompt: whether tokens of a prompt are pooled too.
        layers: what follows the pooling, without a final normalisation.
        has_normalize: whether the model ends in a normalisation to length one.
        prompts: of the model.
    """

    first: Module
    pooling: tuple[Pooling, ...]
    include_prompt: bool
    layers: tuple[Module, ...]
    has_normalize: bool
    prompts: Prompts

    @property
    def max_length(self) -> int | None:
        """Tokens of a text that the model's own folder allows, ``None`` where it leaves that to the tokenizer."""
        length = self.first.config.get("max_seq_length", self.options("tokenizer").get("model_max_length"))
        return length if isinstance(length, int) and length > 0 else None

    def options(self, of: Literal["model", "tokenizer", "config"]) -> dict[str, Any]:
        """What the folder passes on to transformers, without what concerns machines and code."""
        options: dict[str, Any] = {}
        for name in reversed(_OPTIONS[of]):
            options |= self.first.config.get(name) or {}
        return {name: value for name, value in options.items() if name not in _IDLE_OPTIONS}


def sentence_modules(model: str, pooling: Pooling | None = None) -> SentenceModules:
    """Reads ``modules.json`` and the configurations that it names, where the model has them.

    Args:
        model: a name on the model hub, or a local folder.
        pooling: what the user asks for; wins over what the model says.

    Returns:
        The modules; a plain model of transformers is one with mean pooling.

    Raises:
        ValueError: if the model has modules of another kind, or pools in a way that is not known, or a file of it is
            damaged.
    """
    files = ModelFiles(model)
    entries = files.array("modules.json")
    modules = [] if entries is None else _modules(files, entries)
    if not modules:
        return SentenceModules(Module("Transformer", "", {}), (pooling or "mean",), True, (), False, _prompts(files))
    first, *rest = modules
    pooling_module = rest.pop(0) if rest and rest[0].kind == "Pooling" else None
    _check_kinds(model, first, rest)
    has_normalize = bool(rest) and rest[-1].kind == "Normalize"
    return SentenceModules(
        first,
        (pooling,) if pooling is not None else _stated(model, pooling_module),
        pooling_module is None or bool(pooling_module.config.get("include_prompt", True)),
        tuple(rest[:-1] if has_normalize else rest),
        has_normalize,
        _prompts(files),
    )


def other_way(model: str) -> str:
    """What can be done with a model that is not taken apart here."""
    return (
        f"encode with SentenceTransformer('{model}').encode, save its vectors with numpy.save and audit them with "
        "--embeddings, or write a TextEncoder of your own around it"
    )


def _modules(files: ModelFiles, entries: Sequence[Any]) -> list[Module]:
    modules = []
    for entry in entries:
        try:
            package, _, kind = entry["type"].rpartition(".")
            path = entry["path"]
        except (TypeError, KeyError, AttributeError) as error:
            raise damaged(f"{files.model}/modules.json", error) from error
        if package.partition(".")[0] not in ("", "sentence_transformers"):
            raise ValueError(
                f"model: expected modules of sentence-transformers itself, got {files.model} with {entry['type']}, "
                f"which is code that came with the model and is not run here; {other_way(files.model)}"
            )
        modules.append(_module(files, kind, path))
    return modules


def _module(files: ModelFiles, kind: str, path: str) -> Module:
    module = Module(kind, path, {})
    for name in _CONFIGS.get(kind, ("config.json",)):
        config = files.object(module.file(name))
        if config is not None:
            return module._replace(config=config)
    return module


def _check_kinds(model: str, first: Module, rest: Sequence[Module]) -> None:
    unknown_kinds = [module.kind for module in rest if module.kind not in LATER_KINDS]
    if first.kind not in _KINDS:
        unknown_kinds.insert(0, first.kind)
    if unknown_kinds:
        raise ValueError(
            f"model: expected {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, then Pooling, then {', '.join(LATER_KINDS)}, "
            f"got {model} with {', '.join(unknown_kinds)}; {other_way(model)}"
        )
    task = first.config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ValueError(f"model: expected a model of embeddings, got {model} for {task}; {other_way(model)}")
    for module in rest:
        sides = {module.config.get(f"module_{side}_name") or "sentence_embedding" for side in ("input", "output")}
        if sides != {"sentence_embedding"}:
            raise ValueError(
                f"model: expected layers of whole texts after the pooling, got {model} with {module.kind} of "
                f"{', '.join(sorted(sides))}; {other_way(model)}"
            )


def _stated(model: str, module: Module | None) -> tuple[Pooling, ...]:
    try:
        return ("mean",) if module is None else stated_pooling(module.config)
    except ValueError as error:
        raise ValueError(
            f"pooling: expected {model} to pool in one of the ways {', '.join(POOLINGS)}, got {error}; "
            f"{other_way(model)}"
        ) from error


def _prompts(files: ModelFiles) -> Prompts:
    name = "config_sentence_transformers.json"
    config = files.object(name) or {}
    texts, default_name = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(texts, Mapping) or not all(text is None or isinstance(text, str) for text in texts.values()):
        raise damaged(f"{files.model}/{name}", TypeError(f"expected texts by name as prompts, got {texts!r}"))
    if default_name is not None and default_name not in (*texts, "query", "document"):
        raise damaged(f"{files.model}/{name}", KeyError(f"no prompt of the default name {default_name!r}"))
    return Prompts({str(key): text or "" for key, text in texts.items()}, default_name)
