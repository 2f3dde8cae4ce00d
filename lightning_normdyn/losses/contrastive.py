"""The base of all contrastive losses: a similarity, a temperature, and the places where embeddings can be watched."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Never

from lightning_normdyn.core.embedding_tap import Published
from lightning_normdyn.core.number_checks import check_count, check_flag
from lightning_normdyn.losses.gather import OneRank, Ranks
from lightning_normdyn.losses.options import SharedOptions
from lightning_normdyn.losses.rank_group import RankGroup
from lightning_normdyn.losses.similarity import Normalization, NormalizedSimilarity, Temperature
from lightning_normdyn.nearest_word import nearest


class ContrastiveLoss(nn.Module):
    """What scores are made of, and what of it trains.

    Args:
        normalization: ``"cosine"``, ``"dot"``, ``"qnorm"``, ``"dnorm"`` or ``"learnable"``, see
            :class:`NormalizedSimilarity`.
        temperature: what scores are divided by, at the start.
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

    Raises:
        TypeError: if there is no such argument.
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "cosine",
        temperature: float = 0.05,
        learnable_temperature: bool = False,
        max_scale: float = 100.0,
        shared_gamma: bool = False,
        chunk_size: int | None = None,
        gather: bool = True,
        process_group: Any = None,
        check_finite: bool = True,
        **unknown: Never,
    ) -> None:
        super().__init__()
        if unknown:
            names = _option_names(type(self))
            raise TypeError(
                f"{type(self).__name__}: got an unexpected keyword argument {min(unknown)!r}; it takes "
                f"{', '.join(names)}{nearest(min(unknown), names)}"
            )
        if chunk_size is not None:
            check_count(chunk_size=chunk_size)
        check_flag(learnable_temperature=learnable_temperature, gather=gather, check_finite=check_finite)
        self.similarity = NormalizedSimilarity(normalization, shared_gamma=shared_gamma)
        self.scaling = Temperature(temperature, learnable=learnable_temperature, max_scale=max_scale)
        self.queries, self.documents = Published("queries"), Published("documents")
        self.chunk_size = chunk_size
        if process_group is not None and not gather:
            raise ValueError("process_group: nothing is gathered over it where gather=False; leave one of them out")
        self.gather = gather
        self.rank_group = RankGroup(process_group)
        self.check_finite = check_finite

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
    def temperature(self) -> Tensor:
        """What scores are divided by, no dimension; carries gradient if it is learnt."""
        return self.scaling.scale.reciprocal()

    @property
    def exponents(self) -> tuple[Tensor, Tensor]:
        """The exponents of the norms (query, document), no dimension; carry gradient if they are learnt."""
        return self.similarity.exponents

    def learnt(self) -> dict[str, Tensor]:
        """What trains in the loss itself, by the name under which it is logged; detached."""
        values: dict[str, Tensor] = {}
        if self.scaling.learnable:
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
