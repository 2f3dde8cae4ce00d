"""Several losses of one batch added up, which share the inner products of queries and documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_normdyn.core.dynamics.geometry import at_least_float32, most_precise
from lightning_normdyn.core.embedding_tap import Published
from lightning_normdyn.core.number_checks import check_not_negative
from lightning_normdyn.losses.batch import Batch
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.gather import Ranks
from lightning_normdyn.losses.in_batch import Candidates, InBatchLoss, gather_candidates
from lightning_normdyn.losses.rank_group import RankGroup
from lightning_normdyn.losses.shared_parts import shared_losses
from lightning_normdyn.losses.similarity import NormalizedSimilarity
from lightning_normdyn.losses.temperature import Temperature


class SummedLoss(InBatchLoss):
    """``L = sum_k w_k L_k`` of losses that see the same batch, in one sweep over its inner products.

    Each keeps its normalization, temperature and what it learns. The scores of all are made of the same inner products,
    computed once on the way forward and once on the way back; what a loss adds beyond that is work of its own. A loss
    that cannot share (a queue, other ranks, candidates of its own) is computed by itself, with the same value;
    :attr:`apart` says which, and why.

    ``similarity`` and ``temperature`` are those of the first loss, by which scores go where a sum has none.

    Args:
        losses: weight and loss, by the name under which the loss is logged; each an :class:`InfoNCE` or a
            :class:`SigmoidContrastive`, all with one ``reduction``.

    Attributes:
        weights: of the losses, by name.
        apart: losses that had a sweep of their own in the latest batch, and why, by name.

    Raises:
        TypeError: if one is no loss of pairs.
        ValueError: if there is none, a name is no identifier, weights are negative or all 0, or losses differ in what
            a sum has once.

    Example:
        >>> from lightning_normdyn.losses import InfoNCE, SigmoidContrastive
        >>> pairs = SigmoidContrastive(temperature=1.0, bias=0.0)
        >>> loss = SummedLoss({"infonce": (1.0, InfoNCE(temperature=1.0)), "sigmoid": (0.5, pairs)})
        >>> loss(torch.eye(2), torch.eye(2)).detach()
        tensor(0.8165)
        >>> loss.metrics()
        {'infonce/loss': tensor(0.3133), 'sigmoid/loss': tensor(1.0064)}
    """

    with_metrics = True

    def __init__(self, losses: Mapping[str, tuple[float, InBatchLoss]]) -> None:
        super(ContrastiveLoss, self).__init__()  # which would make a similarity and a temperature of its own
        _check(losses)
        self.weights = {name: float(weight) for name, (weight, _) in losses.items()}
        self.members = nn.ModuleDict({name: loss for name, (_, loss) in losses.items()})
        self.queries, self.documents = Published("queries"), Published("documents")
        first = self._first
        self.gather, self.reduction = first.gather, first.reduction
        self.check_finite = any(loss.check_finite for loss in self.losses.values())
        sizes = [loss.chunk_size for loss in self.losses.values() if loss.chunk_size is not None]
        self.chunk_size = min(sizes, default=None)
        self.apart: dict[str, str] = {}
        self._metrics: dict[str, Tensor] = {}
        for loss in self.losses.values():
            loss.queries, loss.documents = self.queries, self.documents  # callbacks know one of each
            if self._has_same_ranks(loss):
                loss.rank_group = first.rank_group

    @property
    def losses(self) -> dict[str, InBatchLoss]:
        """The losses by name."""
        return {name: loss for name, loss in self.members.items() if isinstance(loss, InBatchLoss)}

    @property
    def summands(self) -> list[ContrastiveLoss]:
        """The losses."""
        return list(self.losses.values())

    @property
    def _first(self) -> InBatchLoss:
        return next(iter(self.losses.values()))

    @property
    def similarity(self) -> NormalizedSimilarity:  # type: ignore[override]
        """That of the first loss."""
        return self._first.similarity

    @property
    def scaling(self) -> Temperature:  # type: ignore[override]
        """That of the first loss."""
        return self._first.scaling

    @property
    def rank_group(self) -> RankGroup:
        """That of the first loss, and of all that gather over the same ranks."""
        return self._first.rank_group

    @rank_group.setter
    def rank_group(self, rank_group: RankGroup) -> None:
        of_first = self._first.rank_group
        for loss in self.losses.values():
            if loss.rank_group is of_first:
                loss.rank_group = rank_group

    def _has_same_ranks(self, loss: InBatchLoss) -> bool:
        first = self._first
        return loss.gather == first.gather and loss.process_group is first.process_group

    def compute(self, queries: Tensor, documents: Tensor, **options: Any) -> Tensor:
        """See :meth:`InBatchLoss.compute`."""
        batch = Batch.check(queries, documents, **options)
        self.apart = self._reasons(batch)
        values: dict[str, Tensor] = {}
        sharing = [name for name in self.losses if name not in self.apart]
        if sharing:
            values = self._compute_shared({name: self.losses[name] for name in sharing}, batch)
        for name in self.apart:
            values[name] = self.losses[name].compute(queries, documents, **options)
        self._metrics = {}
        for name, loss in self.losses.items():
            of_loss = loss.metrics() if loss.with_metrics else {}
            values_of_loss = {"loss": values[name].detach().mean(), **of_loss}
            self._metrics |= {f"{name}/{key}": value for key, value in values_of_loss.items()}
        return torch.stack([self.weights[name] * values[name] for name in self.losses]).sum(0)

    def _reasons(self, batch: Batch) -> dict[str, str]:
        """Why losses cannot share, by name; all of them where a single one could."""
        reasons = {
            name: loss.reason_apart(batch) if self._has_same_ranks(loss) else "it gathers over other ranks"
            for name, loss in self.losses.items()
        }
        apart = {name: reason for name, reason in reasons.items() if reason is not None}
        if len(apart) + 1 == len(reasons):
            return {name: reason or "no other loss could share" for name, reason in reasons.items()}
        return apart

    def _compute_shared(self, losses: dict[str, InBatchLoss], batch: Batch) -> dict[str, Tensor]:
        """What each loss comes to, in one sweep."""
        for loss in losses.values():
            loss.check_reducible(batch.weights, batch.temperatures)
        with torch.autocast(batch.queries.device.type, enabled=False):
            ranks = self.ranks(batch.queries, batch.documents)
            for loss in losses.values():
                loss.settle(batch.queries, batch.documents[: len(batch.queries)], ranks)
            candidates = self._candidates(batch, ranks)
            parts = {name: loss.parts(batch, candidates, ranks) for name, loss in losses.items()}
            every_part = [part for of_loss in parts.values() for part in of_loss]
            shared = iter(shared_losses(batch.queries, candidates.vectors, every_part, self.chunk_size))
            wide = torch.promote_types(batch.queries.dtype, torch.float32)
            values = {}
            for name, loss in losses.items():
                of_pairs = torch.stack([most_precise(next(shared)) for _ in parts[name]]).sum(0)
                values[name] = loss.reduce(of_pairs, wide, batch.weights, candidates.positives, ranks)
        for value in values.values():
            self._check_outcome(value, batch, candidates)
        return values

    def _losses(self, batch: Batch, candidates: Candidates, ranks: Ranks) -> Tensor:
        raise NotImplementedError("compute asks each loss for its own")

    def _rescaled(self, batch: Batch, groups: Any, ranks: Ranks) -> Tensor:
        """Of all ranks, as they came: each loss rescales them by itself."""
        documents, hard_negatives = at_least_float32(batch.documents), at_least_float32(batch.hard_negatives)
        return gather_candidates(documents, hard_negatives, groups, ranks)

    def metrics(self) -> dict[str, Tensor]:
        """What each loss came to in the latest batch, ``<name>/loss``, and its metrics if it keeps them; detached."""
        return dict(self._metrics)

    def learnt(self) -> dict[str, Tensor]:
        """What trains in the losses, ``<name>/temperature`` and so on; detached."""
        return {f"{name}/{key}": value for name, loss in self.losses.items() for key, value in loss.learnt().items()}

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"weights={self.weights}" + (f", apart={self.apart}" if self.apart else "")


def _check(losses: Mapping[str, tuple[float, InBatchLoss]]) -> None:
    if not isinstance(losses, Mapping) or not losses:
        raise ValueError(
            f'losses: expected weights and losses by name, as in {{"infonce": (1.0, InfoNCE())}}, got {_shown(losses)}'
        )
    for name, entry in losses.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"losses: expected names of letters, digits and underscores, got {name!r}")
        if hasattr(nn.ModuleDict, name) or name == "training":
            raise ValueError(f"losses: {name!r} is a name of torch's modules themselves; take another")
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            raise ValueError(f"losses: expected (weight, loss) under {name!r}, got {_shown(entry)}")
        if not isinstance(entry[1], InBatchLoss):
            raise TypeError(
                f"losses: expected an InfoNCE or SigmoidContrastive under {name!r}, got {type(entry[1]).__name__}; add "
                "other losses to this one's value"
            )
        check_not_negative(losses=entry[0], hint="a weight of 1 for each is common")
    if not any(weight for weight, _ in losses.values()):
        raise ValueError("losses: all weights are 0, so that nothing would train; 1 for each is common")
    if len({id(loss) for _, loss in losses.values()}) < len(losses):
        raise ValueError("losses: one stands under two names; add the weights up under one of them")
    reductions = {name: loss.reduction for name, (_, loss) in losses.items()}
    if len(set(reductions.values())) > 1:
        raise ValueError(f"losses: expected one reduction for all, got {reductions}; a sum has one")


def _shown(came: object) -> str:
    """What came, on one line, and what takes it where weights came for words."""
    if isinstance(came, nn.Module):
        return f"{type(came).__name__} alone; write (1.0, {type(came).__name__}(...))"
    if isinstance(came, (int, float)):
        return f"{came!r} alone; write ({came!r}, InfoNCE(...)), or give the words to ContrastiveMixin(loss=...)"
    if isinstance(came, (list, tuple)) and came:
        return f"{type(came).__name__} of {type(came[0]).__name__}"
    return repr(came)
