"""The base of all contrastive losses: a similarity, a temperature, and the places where embeddings can be watched."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Never

from lightning_normdyn.core.embedding_tap import Published
from lightning_normdyn.core.number_checks import check_count, check_flag, check_positive
from lightning_normdyn.losses.gather import OneRank, Ranks, Rows
from lightning_normdyn.losses.options import Reduction, SharedOptions, StartTemperature
from lightning_normdyn.losses.rank_group import RankGroup
from lightning_normdyn.losses.similarity import Normalization, NormalizedSimilarity
from lightning_normdyn.losses.temperature import (
    VARIANCE_SAMPLE,
    AutoTemperature,
    Temperature,
    cosine_variance,
    score_variance,
)
from lightning_normdyn.nearest_word import nearest

_SCALES = frozenset({"s", "scale", "logit_scale"})  # what papers and other packages call the inverse of a temperature


class ContrastiveLoss(nn.Module):
    """What scores are made of, and what of it trains.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``, see
            :class:`NormalizedSimilarity`.
        temperature: what scores are divided by, at the start; ``"auto"`` finds it in the first training batch, so that
            scores of any normalization spread as cosines do at the default, see :class:`AutoTemperature`.
        learnable_temperature: whether it trains.
        max_scale: largest learnt ``1/temperature``.
        shared_gamma: whether one learnt exponent serves both sides.
        chunk_size: scores that are looked at together are as many times the batch; ``None`` picks what is fastest.
        gather: whether the loss is that of all ranks, whose documents then serve as negatives too where they come from
            the batch; they must then compute the loss equally often.
        process_group: the ranks whose batches differ, a process group of torch or a device mesh of one dimension:
            under tensor parallelism ``mesh["data_parallel"]``, which :class:`ContrastiveMixin` finds in Lightning by
            itself. ``None`` for all ranks; two that have the same first batch are then refused.
        check_finite: whether to name NaN and infinite embeddings; an accelerator is waited for to do so.
        reduction: ``"mean"`` and ``"sum"`` are over the queries of all ranks, by their weights where they have some;
            ``"none"`` gives the loss of each query of this rank, ``[n]``, unweighted. Under data parallelism, which
            takes the mean over ranks, the mean of those is the whole batch's where ranks have equally many queries.

    Raises:
        TypeError: if there is no such argument.
        ValueError: if an argument is out of its range.
    """

    with_metrics = False
    has_options_of_mixin = False
    """Whether it has what a :class:`ContrastiveMixin` was given, as far as that is known."""
    cosine_temperature = 0.05
    """Where cosines are taken to start well, which ``temperature="auto"`` goes by."""

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        temperature: StartTemperature = 0.05,
        learnable_temperature: bool = False,
        max_scale: float = 100.0,
        shared_gamma: bool = False,
        chunk_size: int | None = None,
        gather: bool = True,
        process_group: Any = None,
        check_finite: bool = True,
        reduction: Reduction = "mean",
        **unknown: Never,
    ) -> None:
        super().__init__()
        if unknown:
            names = _option_names(type(self))
            raise TypeError(
                f"{type(self).__name__}: got an unexpected keyword argument {min(unknown)!r}; it takes "
                f"{', '.join(names)}{option_hint(min(unknown), names)}"
            )
        if chunk_size is not None:
            check_count(chunk_size=chunk_size)
        check_flag(learnable_temperature=learnable_temperature, gather=gather, check_finite=check_finite)
        self.similarity = NormalizedSimilarity(normalization, shared_gamma=shared_gamma)
        self.scaling = (
            AutoTemperature(self.cosine_temperature, learnable=learnable_temperature, max_scale=max_scale)
            if temperature == "auto"
            else Temperature(temperature, learnable=learnable_temperature, max_scale=max_scale)
        )
        self.queries, self.documents = Published("queries"), Published("documents")
        self.chunk_size = chunk_size
        if process_group is not None and not gather:
            raise ValueError("process_group: nothing is gathered over it where gather=False; leave one of them out")
        self.gather = gather
        self.rank_group = RankGroup(process_group)
        self.check_finite = check_finite
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
        self.reduction = reduction
        self._metrics: dict[str, Tensor] = {}

    @property
    def shared_options(self) -> SharedOptions:
        """What every loss takes, as it was given to this one."""
        return {
            "max_scale": self.scaling.max_scale,
            "shared_gamma": self.similarity.shared_gamma,
            "chunk_size": self.chunk_size,
            "gather": self.gather,
            "process_group": self.process_group,
            "check_finite": self.check_finite,
            "reduction": self.reduction,
        }

    @property
    def process_group(self) -> Any:
        """The process group or mesh dimension that the loss was given; may be set later, as in ``configure_model``."""
        return self.rank_group.process_group

    @process_group.setter
    def process_group(self, process_group: Any) -> None:
        self.rank_group = RankGroup(process_group)

    def ranks(self, *sides: Tensor) -> Ranks:
        """The ranks that the loss of a batch is computed over.

        Args:
            sides: embeddings and numbers of this rank's batch, which must not be those of another rank too.
        """
        if not self.gather:
            return OneRank()
        ranks = self.rank_group.ranks()
        if self.training and torch.is_grad_enabled():
            self.rank_group.refuse_copies(ranks, *sides)
        return ranks

    @property
    def summands(self) -> list[ContrastiveLoss]:
        """The losses that it is the sum of: itself."""
        return [self]

    @property
    def temperature(self) -> Tensor:
        """What scores are divided by, no dimension; carries gradient if it is learnt."""
        return self.scaling.scale.reciprocal()

    @property
    def exponents(self) -> tuple[Tensor, Tensor]:
        """The exponents of the norms (query, document), no dimension; carry gradient if they are learnt."""
        return self.similarity.exponents

    def scale(self, vectors: Tensor, temperatures: Tensor | None) -> Tensor:
        """Rescaled vectors ``[n, d]`` over the temperature, or over that of each, ``[n]``, where it has one."""
        if temperatures is None:
            return vectors * self.scaling.factor
        return vectors / temperatures.to(vectors.dtype)[:, None]

    def scaled_queries(self, queries: Tensor, temperatures: Tensor | None) -> Tensor:
        """Queries ``[n, d]`` as their inner product with rescaled documents is the score over the temperature."""
        if temperatures is None:
            return self.similarity.rescale_queries(queries, self.scaling.factor)
        return self.scale(self.similarity.rescale_queries(queries), temperatures)

    def wants_sum(self, weights: Tensor | None) -> bool:
        """Whether nobody will ask for the losses of single queries, so that a sum is enough."""
        return self.reduction != "none" and weights is None

    def check_reducible(self, weights: Tensor | None, temperatures: Tensor | None) -> None:
        """Refuses what a batch brings along and the loss would leave out.

        Raises:
            ValueError: naming it.
        """
        if weights is not None and self.reduction == "none":
            raise ValueError("weights: reduction='none' weighs nothing; multiply what it returns, or leave them out")
        if temperatures is not None and self.scaling.learnable:
            raise ValueError(
                "temperatures: they stand in for the loss's own temperature, which would not train; give one of "
                "temperatures and learnable_temperature=True"
            )

    def reduce(self, losses: Tensor, dtype: torch.dtype, weights: Tensor | None, rows: Rows, ranks: Ranks) -> Tensor:
        """Mean, sum or neither of what this rank's queries lose.

        Args:
            losses: of the queries, ``[n]``, or where :meth:`wants_sum` their sum.
            dtype: of the result.
            weights: of the queries, ``[n]``.
            rows: how many queries each rank has.
            ranks: all of them.

        Returns:
            A scalar, the same on every rank, with the gradient of this rank's share; or ``[n]``.
        """
        if self.reduction == "none":
            return losses.to(dtype)
        total: Tensor | float = 1.0
        if weights is not None:
            losses = losses * weights
            if self.reduction == "mean":
                total = ranks.sum(weights.sum()[None])[0]
                if not float(total.detach()) > 0:
                    raise ValueError("weights: all of them are 0, on every rank; skip such a batch")
        elif self.reduction == "mean":
            total = rows.total
        return ranks.whole((losses.sum() * (ranks.count / total)).to(dtype))

    def metrics(self) -> dict[str, Tensor]:
        """What the latest batch says beside its loss, see :meth:`BatchMetrics.values`; detached, nothing before one.

        Raises:
            ValueError: if the loss was not built to keep them.
        """
        if not self.with_metrics:
            raise ValueError(
                f"with_metrics: this {type(self).__name__} keeps no metrics; InfoNCE, DistillKLDiv and MarginMSE do, "
                "built with with_metrics=True"
            )
        return dict(self._metrics)

    def parameter_group(self, *, lr: float | None = None) -> dict[str, Any]:
        """What the loss learns as a group of an optimizer's parameters, with a rate of its own and without decay.

        At an encoder's rate (2e-5) temperature and exponents stay where they start, and weight decay would pull them to
        1 and to a half.

        Args:
            lr: 1e-2 suits Adam; ``None`` for the optimizer's own.

        Example:
            >>> model, loss = nn.Linear(2, 2), ContrastiveLoss(normalization="learnable")
            >>> groups = [{"params": model.parameters()}, loss.parameter_group(lr=1e-2)]
            >>> torch.optim.AdamW(groups, lr=2e-5).param_groups[1]["lr"]
            0.01
        """
        group: dict[str, Any] = {"params": list(self.parameters()), "weight_decay": 0.0}
        if lr is None:
            return group
        check_positive(lr=lr, hint="1e-2 suits Adam")
        return {**group, "lr": lr}

    def settle_temperature(self, queries: Tensor, documents: Tensor, ranks: Ranks) -> None:
        """Finds the temperature in the first batch of all ranks, where it is to be found.

        Args:
            queries: ``[n, d]``, not normalised.
            documents: ``[m, d]``, likewise; their positives first, where each has one.
            ranks: all of which find the same.
        """
        if not isinstance(self.scaling, AutoTemperature) or self.scaling.is_settled:
            return
        is_training = torch.is_grad_enabled()
        with torch.no_grad():
            sides = [side.detach()[:VARIANCE_SAMPLE] for side in (queries, documents)]
            rows = ranks.rows(*map(len, sides))
            queries, documents = (ranks.gather(side, group) for side, group in zip(sides, rows, strict=True))
            scores = self.similarity.rescale_queries(queries), self.similarity.rescale_documents(documents)
            of_scores, of_cosines = float(score_variance(*scores)), float(cosine_variance(queries, documents))
        self.scaling.settle(of_scores, of_cosines, stays=self.training and is_training)

    def take_auto_temperature(self, factor: float = 1.0) -> None:
        """Lets the first training batch find the temperature, see :class:`AutoTemperature`; before training alone.

        Scores of any normalization then spread as cosines do at ``factor`` times the temperature that the loss was
        built with, or with ``"auto"`` times its default. A learnt temperature starts there.

        Args:
            factor: of the temperature.

        Example:
            >>> loss = ContrastiveLoss(temperature=0.1)
            >>> loss.take_auto_temperature(0.5)
            >>> loss.temperature
            tensor(0.0500)
        """
        check_positive(factor=factor, hint="1 for the temperature of the loss")
        for loss in self.summands:
            scaling = loss.scaling
            reference = loss.cosine_temperature if scaling.start == "auto" else scaling.start
            loss.scaling = AutoTemperature(reference * factor, learnable=scaling.learnable, max_scale=scaling.max_scale)

    def learnt(self) -> dict[str, Tensor]:
        """What trains in the loss itself, by the name under which it is logged; detached."""
        values: dict[str, Tensor] = {}
        if self.scaling.learnable or isinstance(self.scaling, AutoTemperature):
            values["temperature"] = self.temperature.detach()
        if self.similarity.normalization == "learnable":
            query, document = self.exponents
            values |= {"gamma_query": query.detach(), "gamma_document": document.detach()}
        return values


def _option_names(loss: type[ContrastiveLoss]) -> list[str]:
    """The keywords that the constructors of a loss and of its bases take, in alphabetical order."""
    parameters = [
        parameter
        for base in loss.__mro__
        if issubclass(base, ContrastiveLoss)
        for parameter in inspect.signature(base.__init__).parameters.values()
    ]
    return sorted({parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY})


def option_hint(name: str, options: Iterable[str]) -> str:
    """What may be meant by an option that there is not; empty where nothing is like it.

    Example:
        >>> option_hint("scale", ["max_scale"]), option_hint("temperatur", ["temperature"])
        ('; a scale s is temperature=1/s', "; did you mean 'temperature'?")
    """
    return "; a scale s is temperature=1/s" if name in _SCALES else nearest(name, options)
