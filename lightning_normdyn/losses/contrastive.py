"""The base of all contrastive losses: a similarity, a temperature, and the places where embeddings can be watched."""

from __future__ import annotations

import inspect

from torch import Tensor, nn
from typing_extensions import Never

from lightning_normdyn.core.embedding_tap import Published
from lightning_normdyn.core.number_checks import check_count, check_flag
from lightning_normdyn.losses.options import SharedOptions
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
        self.gather = gather
        self.check_finite = check_finite

    @property
    def shared_options(self) -> SharedOptions:
        """What every loss takes, as it was given to this one."""
        return {
            "max_scale": self.scaling.max_scale,
            "shared_gamma": self.similarity.shared_gamma,
            "chunk_size": self.chunk_size,
            "gather": self.gather,
            "check_finite": self.check_finite,
        }

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
