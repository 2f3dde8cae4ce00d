"""Norm dynamics of embedding tables that TorchRec shards and FBGEMM's fused optimizers train inside of backward."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from typing_extensions import Unpack

from lightning_normdyn.capture.embedding_shards import EmbeddingTable, embedding_tables, entries_of_all_ranks
from lightning_normdyn.capture.fused_gradients import FusedSettings
from lightning_normdyn.capture.fused_table import LR_OF_HOLDERS, SETTINGS, FusedTable
from lightning_normdyn.capture.table import Clipping
from lightning_normdyn.capture.targets import Targets, check_targets, find_targets
from lightning_normdyn.caution import caution
from lightning_normdyn.instruments.observer import Log, NormObserver
from lightning_normdyn.instruments.options import NormOptions, spelled_out
from lightning_normdyn.instruments.ranks import present_ranks
from lightning_normdyn.instruments.safeguard import TargetEndedError, safeguarded

_NAME = "TorchRecObserver"


@spelled_out(NormOptions)
class TorchRecObserver(NormObserver):
    """Norm trajectories, gradient split and equilibrium fit of a model under TorchRec's ``DistributedModelParallel``.

    As a context manager around the loop, on every rank; nothing in the loop changes. Weights of sharded tables move
    inside of ``backward()`` and no gradient is ever there, so gradients are read off the fused optimizer's own state:
    see :mod:`lightning_normdyn.capture.fused_gradients`. A step of a table is a forward pass under grad mode and its
    backward; it is looked at when the model is called for the next one, or at :meth:`after_step`, which puts numbers
    into the log one step earlier and is needed where a loop does not call the model itself but parts of it.

    Of a table that cannot be measured, its name, the reason and the way out are said once. Every rank makes one, with
    the same arguments, after the model was sharded.

    Args:
        model: in ``DistributedModelParallel``, or any module that holds sharded ones.
        optimizer: what trains the rest of the model, one or several; ``None`` where nothing is to be seen of that.
        total_steps: steps that will be made; ``None`` if the run has no set end, and then no forecast.
        scheduler: learning-rate schedulers of ``optimizer``. For one of the fused optimizer, pass its rates as ``lrs``.
        scheduler_every_n_steps: every how many steps these are stepped.
        log: called with the scalars and the number of steps made whenever there are new ones, on the first rank alone.
        log_dir: a history goes to ``<log_dir>/normdyn/``; ``None`` to keep none.

    Raises:
        ValueError: if the model has no sharded table, a pattern matches nothing, or a setting is out of range.

    Example:
        >>> TorchRecObserver(nn.Linear(2, 2))
        Traceback (most recent call last):
            ...
        ValueError: model: expected one with tables that TorchRec has sharded, got Linear without any; wrap it in ...
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        *,
        total_steps: int | None = None,
        scheduler: Any = None,
        scheduler_every_n_steps: int = 1,
        log: Log | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        **options: Unpack[NormOptions],
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: expected a module of torch, got {type(model).__name__}; pass the model itself")
        module = getattr(model, "module", model) if hasattr(model, "_dmp_wrapped_module") else model
        tables = embedding_tables(module)
        if not tables:
            raise ValueError(
                f"model: expected one with tables that TorchRec has sharded, got {type(model).__name__} without any; "
                "wrap it in DistributedModelParallel, or observe it by NormObserver"
            )
        self._root = model
        self._table_optimizer = FusedTableOptimizer(module, tables.values())
        options["targets"] = self._measurable(module, tables, options.get("targets", "auto"))
        super().__init__(
            module,
            [self._table_optimizer, *_dense_optimizers(optimizer)],  # type: ignore[list-item]
            total_steps=total_steps,
            scheduler=scheduler,
            scheduler_every_n_steps=scheduler_every_n_steps,
            log=log,
            log_dir=log_dir,
            name=_NAME,
            **options,
        )
        self._is_open = self._saw_backward = self._calls_root = self._is_inside = self._looked_ahead = False

    def begin(self, steps_made: int = 0) -> None:
        """Starts to listen, after weights and state were restored; on all ranks at once.

        Args:
            steps_made: optimizer steps that the run made before, in case no state tells.
        """
        self._table_optimizer.refresh()
        super().begin(steps_made)
        self._is_open = self._calls_root = self._is_inside = self._looked_ahead = False
        root, kernels = self._root, {id(k): k for table in self._table_optimizer.tables for k in table.kernels()}
        self._handles.append(root.register_forward_pre_hook(self._begin_forward, prepend=True))
        self._handles.append(root.register_forward_hook(self._end_forward, always_call=True))
        for kernel in kernels.values():
            self._handles.append(kernel.register_forward_pre_hook(self._hear_look_up, prepend=True))

    @safeguarded
    def before_step(self, optimizer: torch.optim.Optimizer | None = None, *, clipped: bool = False) -> None:
        """Announces a step of the optimizer that trains the rest of the model: gradients are there and unscaled.

        Args:
            optimizer: the one about to step; ``None`` for all.
            clipped: whether gradients may have been clipped already.
        """
        dense_optimizers = [member for member in self._optimizers if not isinstance(member, FusedTableOptimizer)]
        for stepping in dense_optimizers if optimizer is None else _dense_optimizers(optimizer):
            super().before_step(stepping, clipped=clipped)

    @safeguarded
    def after_step(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Says that a step is over: backward has moved the sharded tables.

        Args:
            optimizer: one that takes no hooks and has stepped besides; ``None`` for all.
        """
        if not self._is_open and not self._calls_root:
            self._open()  # a rank that holds no block of any table
        self._close_step()
        for stepped in self._optimizers if optimizer is None else _dense_optimizers(optimizer):
            if not isinstance(stepped, FusedTableOptimizer):
                super().after_step(stepped)

    @safeguarded
    def finish(self) -> None:
        """Concludes after the last step: logs the last findings, puts the history on disk and removes every hook."""
        self._close_finished_step()
        super().finish()

    @safeguarded(dict)
    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; the same on every rank. The history is on disk before."""
        self._close_finished_step()
        return super().state_dict()

    def _measurable(self, module: nn.Module, tables: Mapping[str, EmbeddingTable], targets: Targets) -> list[str]:
        """The targets that can be measured; says of the others why not.

        Raises:
            ValueError: if there are none.
        """
        targets = check_targets(targets)
        patterns = ["*"] if isinstance(targets, str) else targets
        reasons = {name: table.reason for name, table in tables.items() if table.reason} | self._table_optimizer.reasons
        refusals = {name: reason for name, reason in reasons.items() if any(fnmatchcase(name, p) for p in patterns)}
        for reason in dict.fromkeys(refusals.values()):
            subject = ", ".join(f"'{name}'" for name in refusals if refusals[name] == reason)
            if present_ranks(torch.device("cpu")).rank == 0:
                caution(f"{_NAME}: {subject}: not measured, since {reason}", stacklevel=4)
        measurable = [target.name for target in find_targets(module, targets) if target.name not in reasons]
        if not measurable:
            raise ValueError(f"targets: expected one that can be measured, got {', '.join(refusals)}; see the warning")
        return measurable

    @safeguarded
    def _begin_forward(self, module: nn.Module, args: Any) -> None:
        """The model is called: what the call before did to its tables is over."""
        del module, args
        if not torch.is_grad_enabled():
            return
        self._calls_root = self._is_inside = True
        self._close_finished_step()
        if not self._is_open:
            self._open()

    @safeguarded
    def _end_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        """Has the output tell when backward comes by."""
        del module, args
        if not self._is_inside:
            return
        self._is_inside = False
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        outputs = [tensor for tensor in tensors if tensor.requires_grad]
        for tensor in outputs:
            tensor.register_hook(self._note_backward)
        self._saw_backward |= not tensors  # it may be in something that nobody can look into

    def _note_backward(self, gradient: Tensor) -> None:
        del gradient
        self._saw_backward = True

    @safeguarded
    def _hear_look_up(self, kernel: nn.Module, args: Any) -> None:
        """Rows are looked up, inside of the model's call or, where a loop calls parts of it, without one."""
        del kernel, args
        if not torch.is_grad_enabled() or self._is_inside:
            return
        self._looked_ahead |= self._calls_root
        if not self._is_open and not self._calls_root:
            self._open()

    def _open(self) -> None:
        """Announces a step of the sharded tables, whose rows are still as they were."""
        self._table_optimizer.refresh()
        self._is_open, self._saw_backward = True, False
        self._announce(self._table_optimizer, Clipping.NONE)  # type: ignore[arg-type]

    def _close_finished_step(self) -> None:
        if self._is_open and self._saw_backward:
            self._close_step()

    def _close_step(self) -> None:
        """Looks at a step of the sharded tables, whose rows have moved."""
        if not self._is_open:
            return
        self._is_open = False
        if self._looked_ahead and self._observation is not None:
            self._looked_ahead = False
            self._observation.end_targets(FusedTable, TargetEndedError(_LOOKED_AHEAD))
        self._complete(self._table_optimizer)  # type: ignore[arg-type]


class FusedTableOptimizer:
    """What trains sharded tables inside of backward, as an observer sees it: a parameter group a table, and no step.

    Args:
        module: the model, not wrapped.
        tables: those of TorchRec.

    Attributes:
        tables: those whose gradients can be read.
        reasons: why not, of the others, by name.
        param_groups: a group for each table, with its settings on the ranks that hold it.
    """

    def __init__(self, module: nn.Module, tables: Iterable[EmbeddingTable]) -> None:
        candidates = [table for table in tables if not table.is_replicated and not table.reason]
        settings = _settings_of_all_ranks(candidates)
        self.reasons = {name: reason for name, (_, reason) in settings.items() if reason}
        self.tables = [table for table in candidates if table.name not in self.reasons]
        parameters = dict(module.named_parameters())
        self.state: dict[Any, Any] = {}
        self.defaults: dict[str, Any] = {}
        self.param_groups: list[dict[str, Any]] = [
            {"params": [parameters[table.name]], SETTINGS: settings[table.name][0]} for table in self.tables
        ]
        self._first_lr: float | None = None
        self.refresh()

    def refresh(self) -> None:
        """Reads the settings as they are now.

        A rank that holds no block of a table goes by what those that do had in the last measured step, and by how the
        rate of the first table that it does hold has moved since.
        """
        ratio = self._lr_ratio()
        for table, group in zip(self.tables, self.param_groups, strict=True):
            if table.shards:
                settings = FusedSettings.of(table.shards[0].kernel.emb_module)
            else:
                settings = group[SETTINGS]
                settings = settings._replace(lr=group.pop(LR_OF_HOLDERS, settings.lr) * ratio)
            group.update(_entries(settings))

    def _lr_ratio(self) -> float:
        """By what the rate of the first table with a block on this rank has moved since it was asked last."""
        kernel = next((table.shards[0].kernel.emb_module for table in self.tables if table.shards), None)
        lr = None if kernel is None else float(kernel.get_learning_rate())
        lr_before, self._first_lr = self._first_lr, lr
        return lr / lr_before if lr and lr_before else 1.0


def _entries(settings: FusedSettings) -> dict[str, Any]:
    """What a parameter group says of a fused optimizer."""
    entries = {
        SETTINGS: settings,
        "kind": settings.kind,
        "lr": settings.lr,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "decay_mode": settings.decay_mode,
    }
    return entries | ({"betas": settings.betas} if "adam" in settings.kind else {})


def _settings_of_all_ranks(tables: Sequence[EmbeddingTable]) -> dict[str, tuple[FusedSettings, str]]:
    """The settings of each table's optimizer, and why gradients cannot be read off it; the same on all ranks."""
    settings_here: dict[str, tuple[FusedSettings, str]] = {}
    for table in tables:
        if table.shards:
            settings = FusedSettings.of(table.shards[0].kernel.emb_module)
            settings_here[table.name] = settings, settings.reason()
    return entries_of_all_ranks(tables, settings_here)


def _dense_optimizers(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The optimizers that torch steps, out of TorchRec's containers; its fused ones, which nobody steps, left out."""
    if optimizer is None:
        return []
    if isinstance(optimizer, (list, tuple)):
        return [inner for member in optimizer for inner in _dense_optimizers(member)]
    kind = type(optimizer)
    if kind.__module__.split(".")[0] != "torchrec":
        return [optimizer]
    if hasattr(optimizer, "optimizers"):  # CombinedOptimizer
        return [inner for _, member in optimizer.optimizers for inner in _dense_optimizers(member)]
    inner = getattr(optimizer, "_optimizer", None)
    return [] if inner is None else _dense_optimizers(inner)


_LOOKED_AHEAD = (
    "rows are looked up outside of the model's call, ahead of the backward pass that moves them (a semi-synchronous "
    "pipeline, or a part of the model called by itself), so that what a step did cannot be told; train with "
    "TrainPipelineBase or TrainPipelineSparseDist"
)
