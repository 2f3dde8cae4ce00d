"""Which embeddings to watch: patterns over a module's parameters and submodules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lightning_normdyn.capture.embedding_shards import EmbeddingTable, embedding_tables
from lightning_normdyn.capture.fused_table import FusedTable
from lightning_normdyn.capture.names import ModulePath, ParameterIndex, plain_name, plain_parameters
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.table import TableTarget, check_rows
from lightning_normdyn.capture.vectors import TEXT_VECTORS, TOKEN_VECTORS
from lightning_normdyn.core.embedding_tap import Published
from lightning_normdyn.core.object_checks import check_instance
from lightning_normdyn.nearest_word import nearest

EMBEDDING_TYPES = (nn.Embedding, nn.EmbeddingBag)
ROOT = "root"
"""The name of the model itself, where none of its parts has that name."""

Targets = str | Sequence[str]


def find_targets(
    module: nn.Module, targets: Targets = "auto", *, max_tracked_rows: int = 16_384
) -> list[TableTarget | OutputTarget]:
    """Resolves target patterns against a module.

    A pattern that matches 2-D parameters names *tables*, whose rows are embeddings; one that matches submodules alone
    names *outputs*, the vectors those return, and where the submodule is an embedding layer its table. ``*`` and ``?``
    match as in file names. The wrappers of ``torch.compile`` and activation checkpointing have no part in a name.
    ``root`` is the model itself. A method that returns vectors, of the model (``encode``) or of a submodule
    (``clip.encode_text``), is named in full; it can be followed on a probe, but its calls in training are not heard.
    Of the dict that modules of sentence-transformers hand on, the vectors that a module writes are followed, one a text
    where there are such; ``token_embeddings`` asks for those of the model's tokens, ``0.token_embeddings`` for those of
    its first module's.

    Args:
        module: the model.
        targets: ``"auto"`` for the trainable weights of every embedding layer and what the model's losses publish
            (``queries`` and ``documents``), or a pattern or several over qualified names and published ones.
        max_tracked_rows: most rows of a table that keep statistics of their own.

    Returns:
        The targets, each once, in the order of the module.

    Raises:
        ValueError: if a pattern matches nothing, or only what is no table of embeddings.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))
        >>> [target.name for target in find_targets(model)]
        ['0.weight']
        >>> [target.name for target in find_targets(model, ["1.weight", "1"])]
        ['1.weight', '1']
        >>> [target.name for target in find_targets(model, "0")]  # an embedding layer
        ['0.weight']
        >>> [target.name for target in find_targets(model, "root")]
        ['root']
    """
    check_instance(nn.Module, module=module, hint="pass the model itself")
    targets = check_targets(targets)
    check_rows(max_tracked_rows)
    index = ParameterIndex(module)
    sharded_tables = embedding_tables(module)
    if isinstance(targets, str):
        names, outputs = _embedding_tables(module, sharded_tables), _published(module)
        if not names and not outputs:
            raise ValueError(
                f"targets: 'auto' found no trainable embedding table and no contrastive loss; {_candidates(module)}"
            )
        tables = [_table(name, index, sharded_tables, max_tracked_rows) for name in names]
        return [*tables, *(_output(name, child, module) for name, child in outputs.items())]
    by_name: dict[str, TableTarget | OutputTarget] = {}
    for pattern in targets:
        for target in _match(module, index, pattern, max_tracked_rows, sharded_tables):
            by_name.setdefault(target.name, target)
    return list(by_name.values())


def check_targets(targets: Targets) -> Targets:
    """``"auto"`` or a list of patterns, which a single pattern is made; anything else is refused."""
    if isinstance(targets, str) and targets.strip():
        return targets if targets == "auto" else [targets]
    is_list = isinstance(targets, Sequence) and not isinstance(targets, str)
    if is_list and all(isinstance(pattern, str) and pattern.strip() for pattern in targets) and len(targets):
        return targets
    received = "an empty list" if is_list and not len(targets) else repr(targets)
    raise ValueError(f"targets: expected 'auto' or a list of patterns, got {received}")


def _match(
    module: nn.Module,
    index: ParameterIndex,
    pattern: str,
    max_tracked_rows: int,
    sharded_tables: Mapping[str, EmbeddingTable],
) -> list[TableTarget | OutputTarget]:
    parameters = {name: p for name, p in index.parameters.items() if fnmatchcase(name, pattern)}
    tables = [name for name, p in parameters.items() if p.ndim == 2 or name in sharded_tables]
    tables = [name for name in tables if name not in sharded_tables or not sharded_tables[name].reason] or tables[:1]
    if tables:
        return [_table(name, index, sharded_tables, max_tracked_rows) for name in tables]
    if parameters:
        name, parameter = next(iter(parameters.items()))
        raise ValueError(
            f"targets: {pattern!r} matches '{name}' of shape {tuple(parameter.shape)}, which is no table of embeddings "
            f"[rows, d]; {_candidates(module)}"
        )
    children = _children(module)
    outputs = [(name, child) for name, child in children.items() if fnmatchcase(name, pattern)]
    outputs = outputs or [(name, child) for name, child in _published(module).items() if fnmatchcase(name, pattern)]
    outputs = outputs or ([(ROOT, module)] if pattern == ROOT else []) or _method(module, children, pattern)
    if outputs:
        names_by_id = {id(parameter): name for name, parameter in index.parameters.items()}
        return [_of_submodule(name, child, module, index, names_by_id, max_tracked_rows) for name, child in outputs]
    owner, _, key = pattern.rpartition(".")
    if key in (TEXT_VECTORS, TOKEN_VECTORS) and owner in {"", *children}:
        return [_output(pattern, children[owner] if owner else module, module, key)]
    hint = nearest(pattern, [*children, *index.parameters, *_published(module)])
    raise ValueError(f"targets: {pattern!r} matches no parameter or submodule{hint or ';'} {_candidates(module)}")


def _table(
    name: str, index: ParameterIndex, sharded_tables: Mapping[str, EmbeddingTable], max_tracked_rows: int
) -> TableTarget:
    """A table of a name, which TorchRec may have sharded.

    Raises:
        ValueError: if it is one of which nothing can be read.
    """
    table = sharded_tables.get(name)
    if table is None or table.is_replicated:
        return TableTarget(name, index, max_tracked_rows=max_tracked_rows)
    if table.reason:
        raise ValueError(f"targets: '{name}' cannot be measured: {table.reason}")
    return FusedTable(table, index, max_tracked_rows=max_tracked_rows)


def _of_submodule(
    name: str,
    child: nn.Module,
    module: nn.Module,
    index: ParameterIndex,
    names_by_id: Mapping[int, str],
    max_tracked_rows: int,
) -> TableTarget | OutputTarget:
    """The output of a submodule; of an embedding layer its table, whose rows are what it returns."""
    table_name = names_by_id.get(id(table_parameter(child))) if isinstance(child, EMBEDDING_TYPES) else None
    if table_name is None:
        return _output(name, child, module)
    return TableTarget(table_name, index, max_tracked_rows=max_tracked_rows)


def _output(name: str, child: nn.Module, module: nn.Module, key: str | None = None) -> OutputTarget:
    called = child.owner if isinstance(child, Method) else child
    full_name = next(path for path, member in module.named_modules() if member is called)
    return OutputTarget(name, child, ModulePath(module, full_name), key=key)


def table_parameter(layer: nn.Module) -> nn.Parameter | None:
    """The table of an embedding layer; ``None`` where it is computed.

    To ask a layer that is parametrized for its weight may change a state, as under ``spectral_norm``.
    """
    parameters = layer._parameters
    return parameters["weight"] if "weight" in parameters else None  # noqa: SIM401 - a scripted one has no get


def _embedding_tables(module: nn.Module, sharded_tables: Mapping[str, EmbeddingTable]) -> list[str]:
    weights = {id(table_parameter(layer)) for layer in module.modules() if isinstance(layer, EMBEDDING_TYPES)}
    parameters = plain_parameters(module).items()
    names = [name for name, p in parameters if id(p) in weights and p.requires_grad and p.numel()]
    return names + [name for name, table in sharded_tables.items() if not table.reason]


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Submodules by plain name; of a module and what it wraps, the outer one, which is what a model calls."""
    children: dict[str, nn.Module] = {}
    for name, child in module.named_modules():
        if name:
            children.setdefault(plain_name(name), child)
    return children


def _method(module: nn.Module, children: dict[str, nn.Module], name: str) -> list[tuple[str, nn.Module]]:
    """A method of the model or a submodule, which has a name of its own, not a pattern; none that all modules have."""
    owner_name, _, method = name.rpartition(".")
    owner = children.get(owner_name) if owner_name else module
    if owner is None or hasattr(nn.Module, method) or not callable(getattr(type(owner), method, None)):
        return []
    return [(name, Method(owner, method))]


def _published(module: nn.Module) -> dict[str, Published]:
    """What losses publish, by its own name; by its qualified one where several losses would give the same."""
    outputs = [(path, child) for path, child in module.named_modules() if isinstance(child, Published)]
    names = [child.name for _, child in outputs]
    return {child.name if names.count(child.name) == 1 else path: child for path, child in outputs}


def _candidates(module: nn.Module, most_names: int = 8) -> str:
    tables = [name for name, p in plain_parameters(module).items() if p.ndim == 2]
    children = [name for name, _ in module.named_children()]
    return (
        f"candidates are the tables {_listing(tables, most_names)} and the submodules {_listing(children, most_names)}"
        f", or '{ROOT}' for the model itself"
    )


def _listing(names: list[str], most_names: int) -> str:
    listing = ", ".join(names[:most_names]) or "(none)"
    return listing if len(names) <= most_names else f"{listing} and {len(names) - most_names} more"


class Method(nn.Module):
    """Calls a method of the module that has it, whose parameters it shares.

    Args:
        owner: the module.
        name: of the method.
    """

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self.owner = owner
        self.name = name
        self.training = owner.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the call."""
        return getattr(self.owner, self.name)(*args, **kwargs)
