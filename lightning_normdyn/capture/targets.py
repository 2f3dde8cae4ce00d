"""Which embeddings to watch: patterns over a module's parameters and submodules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lightning_normdyn.capture.embedding_shards import EmbeddingTable, embedding_tables
from lightning_normdyn.capture.fused_table import FusedTable
from lightning_normdyn.capture.names import ModulePath, ParameterIndex, plain_name, plain_parameters
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.row_sample import RowCounts, check_counts_source
from lightning_normdyn.capture.table import TableTarget, check_rows
from lightning_normdyn.capture.vectors import TEXT_VECTORS, TOKEN_VECTORS
from lightning_normdyn.core.embedding_tap import Published
from lightning_normdyn.core.object_checks import check_instance
from lightning_normdyn.core.sharded_tensor import are_flat_pieces
from lightning_normdyn.nearest_word import nearest

EMBEDDING_TYPES = (nn.Embedding, nn.EmbeddingBag)
ROOT = "root"
"""The name of the model itself, where none of its parts has that name."""

COLUMNS = ":columns"
"""Behind a pattern: the embeddings are the columns of the parameters that it names."""

Targets = str | Sequence[str]


def find_targets(
    module: nn.Module,
    targets: Targets = "auto",
    *,
    max_tracked_rows: int = 16_384,
    row_counts: RowCounts = None,
) -> list[TableTarget | OutputTarget]:
    """Resolves target patterns against a module.

    A pattern that matches 2-D parameters names *tables*, whose rows are embeddings; one that matches submodules alone
    names *outputs*, the vectors those return, and where the submodule is an embedding layer its table. ``*`` and ``?``
    match as in file names. The wrappers of ``torch.compile`` and activation checkpointing have no part in a name.
    ``root`` is the model itself. A method that returns vectors, of the model (``encode``) or of a submodule
    (``clip.encode_text``), is named in full; it can be followed on a probe, but its calls in training are not heard.
    Of the dict that modules of sentence-transformers hand on, the vectors that a module writes are followed, one a text
    where there are such; ``token_embeddings`` asks for those of the model's tokens, ``0.token_embeddings`` for those of
    its first module's. A pattern that ends in ``:columns`` names 2-D parameters whose columns are the embeddings.

    Args:
        module: the model.
        targets: ``"auto"`` for the trainable weights of every embedding layer and what the model's losses publish
            (``queries`` and ``documents``), which may be none as long as all tables are frozen, or a pattern or several
            over qualified names and published ones.
        max_tracked_rows: most rows of a table that keep statistics of their own.
        row_counts: how often each row of the only table occurs, or a mapping of names to that, by which rows are
            chosen where there are more; ``None`` for an even stride.

    Returns:
        The targets, each once, in the order of the module.

    Raises:
        ValueError: if a pattern matches nothing, or only what is no table of embeddings; if counts do not fit a table.

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
        >>> [(target.rows, target.dim) for target in find_targets(model, ["1.weight:columns"])]
        [(4, 3)]
    """
    check_instance(nn.Module, module=module, hint="pass the model itself")
    targets = check_targets(targets)
    check_rows(max_tracked_rows)
    sharded_tables = embedding_tables(module)
    make_table = _TableMaker(ParameterIndex(module), max_tracked_rows, row_counts, sharded_tables)
    if isinstance(targets, str):
        names, outputs = _embedding_tables(module, sharded_tables), _published(module)
        if not names and not outputs and not frozen_tables(module):
            raise ValueError(f"targets: 'auto' found no embedding table and no contrastive loss; {_candidates(module)}")
        make_table.count_for(names)
        return [*map(make_table, names), *(_output(name, child, module) for name, child in outputs.items())]
    matches = [match for pattern in targets for match in _matches(module, make_table, pattern)]
    make_table.count_for({name for name, match in matches if isinstance(match, str)})
    by_name: dict[str, TableTarget | OutputTarget] = {}
    for name, match in matches:
        target = by_name.get(name)
        if target is None:
            by_name[name] = make_table(name, match) if isinstance(match, str) else match
        elif isinstance(target, TableTarget) and target.items != match:
            raise ValueError(f"targets: '{name}' has its embeddings in rows or in columns, got both; name one of them")
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


class _TableMaker:
    """Makes tables with the rows that are to be tracked.

    Args:
        index: of the model's parameters.
        max_tracked_rows: see :func:`find_targets`.
        row_counts: likewise.
        sharded_tables: the tables that TorchRec has sharded.
    """

    def __init__(
        self,
        index: ParameterIndex,
        max_tracked_rows: int,
        row_counts: RowCounts,
        sharded_tables: Mapping[str, EmbeddingTable],
    ) -> None:
        self.index, self.sharded_tables = index, sharded_tables
        self._most_rows, self._row_counts = max_tracked_rows, check_counts_source(row_counts)

    def count_for(self, names: Collection[str]) -> None:
        """Finds out whose counts are meant, of the tables that there are.

        Raises:
            ValueError: if they have no name and there are several tables, or none.
        """
        if self._row_counts is None or isinstance(self._row_counts, Mapping):
            return
        if len(names) != 1:
            raise ValueError(
                f"row_counts: expected a dict of target names to counts, since there are {len(names)} tables"
                f"{': ' + ', '.join(sorted(names)) if names else ''}"
            )
        self._row_counts = {next(iter(names)): self._row_counts}

    def __call__(self, name: str, items: str = "rows") -> TableTarget:
        counts = (self._row_counts or {}).get(name)
        table, most_rows = self.sharded_tables.get(name), self._most_rows
        if table is None or table.is_replicated:
            choice: dict[str, Any] = {"max_tracked_rows": most_rows, "items": items}
            return TableTarget(name, self.index, row_counts=counts, **choice)
        if table.reason:
            raise ValueError(f"targets: '{name}' cannot be measured: {table.reason}")
        if items != "rows":
            raise ValueError(
                f"targets: '{name}' has its embeddings in rows, got '{name}{COLUMNS}'; leave {COLUMNS} out"
            )
        return FusedTable(table, self.index, max_tracked_rows=most_rows, row_counts=counts)

    def measurable(self, names: Collection[str]) -> list[str]:
        """Those of which something can be read; the first alone, where nothing can be read of any."""
        tables = self.sharded_tables
        return [name for name in names if name not in tables or not tables[name].reason] or list(names)[:1]


def _matches(module: nn.Module, make_table: _TableMaker, pattern: str) -> list[tuple[str, str | OutputTarget]]:
    """Names of targets; with each, the output or, for a table, whether its embeddings are rows or columns."""
    whole_pattern, pattern = pattern, pattern.removesuffix(COLUMNS)
    items = "rows" if pattern == whole_pattern else "columns"
    index, sharded_tables = make_table.index, make_table.sharded_tables
    parameters = {name: p for name, p in index.parameters.items() if fnmatchcase(name, pattern)}
    tables = make_table.measurable([name for name, p in parameters.items() if p.ndim == 2 or name in sharded_tables])
    if tables:
        return [(name, items) for name in tables]
    if parameters:
        name, parameter = next(iter(parameters.items()))
        raise ValueError(
            f"targets: {pattern!r} matches '{name}' of shape {tuple(parameter.shape)}, which is no table of embeddings "
            f"[rows, d]; {_candidates(module)}"
        )
    if items == "columns":
        hint = nearest(pattern, index.parameters)
        raise ValueError(f"targets: {whole_pattern!r} matches no 2-D parameter{hint or ';'} {_candidates(module)}")
    children = _children(module)
    outputs = [(name, child) for name, child in children.items() if fnmatchcase(name, pattern)]
    outputs = outputs or [(name, child) for name, child in _published(module).items() if fnmatchcase(name, pattern)]
    outputs = outputs or ([(ROOT, module)] if pattern == ROOT else []) or _method(module, children, pattern)
    if outputs:
        names_by_id = {id(parameter): name for name, parameter in index.parameters.items()}
        return [_of_submodule(name, child, module, names_by_id) for name, child in outputs]
    owner, _, key = pattern.rpartition(".")
    if key in (TEXT_VECTORS, TOKEN_VECTORS) and owner in {"", *children}:
        return [(pattern, _output(pattern, children[owner] if owner else module, module, key))]
    hint = nearest(pattern, [*children, *index.parameters, *_published(module)])
    raise ValueError(f"targets: {pattern!r} matches no parameter or submodule{hint or ';'} {_candidates(module)}")


def _of_submodule(
    name: str, child: nn.Module, module: nn.Module, names_by_id: Mapping[int, str]
) -> tuple[str, str | OutputTarget]:
    """The output of a submodule; of an embedding layer its table, whose rows are what it returns."""
    table_name = names_by_id.get(id(table_parameter(child))) if isinstance(child, EMBEDDING_TYPES) else None
    return (name, _output(name, child, module)) if table_name is None else (table_name, "rows")


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
    names = [name for name, p in parameters if id(p) in weights and p.requires_grad and p.numel() and p.ndim == 2]
    return names + [name for name, table in sharded_tables.items() if not table.reason]


def frozen_tables(module: nn.Module) -> list[nn.Parameter]:
    """The weights of embedding layers that are not trained.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4).requires_grad_(False), nn.Embedding(10, 4))
        >>> len(frozen_tables(model))
        1
    """
    weights = {id(table_parameter(layer)) for layer in module.modules() if isinstance(layer, EMBEDDING_TYPES)}
    return [p for p in module.parameters() if id(p) in weights and not p.requires_grad and p.numel()]


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
    if are_flat_pieces(module.parameters()):
        return (
            "FullyShardedDataParallel (FSDP1) keeps tables as flat pieces, which have no rows: shard by fully_shard "
            "(FSDP2), under which tables are followed as they lie, or train by DistributedDataParallel"
        )
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
