"""LoRA adapters of a pretrained encoder, by PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_normdyn.core.number_checks import check_count, check_not_negative, check_positive
from lightning_normdyn.core.object_checks import check_name

_ALL = "all-linear"


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters, which train while the weights that they are added to stay as they are.

    ``W + alpha/rank · B·A`` with ``A`` random and ``B`` zero at first (arXiv 2106.09685, eq. 3). Adapters are kept in
    float32 where the weights are in half precision.

    Args:
        rank: of each product ``B·A``.
        alpha: how much it counts.
        dropout: of what goes into it.
        modules: names, or ends of names, of the linear layers that get one, such as ``[query, value]``; all of them
            unless said otherwise.

    Raises:
        ValueError: if a number is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    modules: str | list[str] = _ALL

    def __post_init__(self) -> None:
        check_count(rank=self.rank, hint="8 is usual")
        check_positive(alpha=self.alpha, hint="twice the rank is usual")
        check_not_negative(dropout=self.dropout, hint="0.05 is usual")
        if self.dropout >= 1:
            raise ValueError(f"dropout: expected a share from 0 to below 1, got {self.dropout}; 0.05 is usual")
        for name in [self.modules] if isinstance(self.modules, str) else self.modules:
            check_name(modules=name)

    @property
    def _targets(self) -> str | list[str]:
        """A single name in a list: PEFT takes a text for a pattern of whole names."""
        return self.modules if self.modules == _ALL or not isinstance(self.modules, str) else [self.modules]

    def adapt(self, model: Any) -> None:
        """Puts adapters into a model of transformers, and lets nothing else of it train.

        Args:
            model: as ``AutoModel`` gives it.

        Raises:
            ModuleNotFoundError: if PEFT is not installed.
            ValueError: if the model has no such modules.
        """
        peft = _peft()
        config = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=self._targets
        )
        try:
            peft.inject_adapter_in_model(config, model)
        except ValueError as error:
            names = sorted(
                {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
            )
            raise ValueError(
                f"modules: expected linear layers of {type(model).__name__} ({', '.join(names) or 'it has none'}), got "
                f"{self.modules!r}; name some of those, or take '{_ALL}'"
            ) from error
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = _widened(parameter.data)


def _widened(weights: Tensor) -> Tensor:
    return weights.float() if weights.element_size() < 4 else weights


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "peft: expected it for LoRA adapters, found nothing; install lightning-normdyn[lora]"
        ) from error
    return peft
