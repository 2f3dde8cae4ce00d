"""The model of the token task: one embedding table, trained by contrast."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from lightning_normdyn.core.number_checks import check_count, check_not_negative, check_positive
from lightning_normdyn.losses import ContrastiveMixin
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.tasks.contrast.contrastive_task import refuse_single_pair

FLOOR = 0.1
"""Where the cosine schedule ends, as a share of the peak."""


class _Recipe(NamedTuple):
    build: Callable[..., Optimizer]
    lr: float
    weight_decay: float
    options: dict[str, Any]


_RECIPES = {
    "sgd": _Recipe(SGD, lr=1.0, weight_decay=1e-3, options={"momentum": 0.0}),
    # Relaxation 1 / (2 lr weight_decay) = 1,000 steps at the peak. With beta2 = 0.99 rows rarer than one step in a
    # hundred stay visibly shorter than d lr / (2 weight_decay) allows.
    "adamw": _Recipe(AdamW, lr=1e-2, weight_decay=5e-2, options={"betas": (0.9, 0.99)}),
}


class TokenContrast(ContrastiveMixin, LightningModule):
    """A token table trained with in-batch contrast.

    The task is functionally symmetric: a centre and its context come from one table and are exchanged with equal
    probability, so neither side's length means anything to the loss. Two queries of a batch may share their
    document; such duplicates are not masked, and count as negatives of each other.

    Args:
        table_rows: rows of the table; the vocabulary of the data.
        dim: length of an embedding.
        temperature: what scores are divided by.
        normalization: which norms scores keep, see :class:`lightning_normdyn.losses.InfoNCE`; the equilibrium law is
            that of cosine, which keeps neither.
        optimizer: ``"sgd"`` (lr 1.0, weight decay 1e-3, no momentum) or ``"adamw"`` (lr 1e-2, weight decay 5e-2,
            betas 0.9 and 0.99).
        schedule: ``"cosine"`` from the peak down to a tenth of it over the trainer's steps, or ``"constant"``.
        lr: the peak, in place of the optimizer's own default.
        weight_decay: in place of the optimizer's own default.
        contrastive: further options of the loss.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        table_rows: int | None,
        *,
        dim: int = 64,
        temperature: float = 0.1,
        normalization: Normalization = "cosine",
        optimizer: Literal["sgd", "adamw"] = "sgd",
        schedule: Literal["cosine", "constant"] = "cosine",
        lr: float | None = None,
        weight_decay: float | None = None,
        **contrastive: Any,
    ) -> None:
        super().__init__(normalization=normalization, temperature=temperature, **contrastive)
        if table_rows is None:
            raise ValueError(
                "table_rows: expected the number of words, got None; give the trainer a data module that knows it, "
                "such as lightning_normdyn.tasks.TokenPairs"
            )
        check_count(table_rows=table_rows, dim=dim)
        if optimizer not in _RECIPES:
            raise ValueError(f"optimizer: expected one of {sorted(_RECIPES)}, got {optimizer!r}")
        if schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule: expected 'cosine' or 'constant', got {schedule!r}")
        if lr is not None:
            check_positive(lr=lr)
        if weight_decay is not None:
            check_not_negative(weight_decay=weight_decay)
        self.save_hyperparameters()
        self.optimizer = optimizer
        self.schedule = schedule
        self.lr = lr
        self.weight_decay = weight_decay
        self.table = nn.Embedding(table_rows, dim)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of one batch.

        Args:
            batch: ``{"queries": ids[n], "documents": ids[n]}``, document i being the positive of query i.
        """
        refuse_single_pair(self, len(batch["queries"]))
        loss = self.contrastive_loss(self.table(batch["queries"]), self.table(batch["documents"]))
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """The optimizer of the recipe, its rate set anew at every step."""
        recipe = _RECIPES[self.optimizer]
        lr = recipe.lr if self.lr is None else self.lr
        weight_decay = recipe.weight_decay if self.weight_decay is None else self.weight_decay
        groups: list[dict[str, Any]] = [{"params": [self.table.weight]}]
        of_loss = list(self.contrast.parameters())
        if of_loss:  # a temperature and exponents have no length to decay
            groups.append({"params": of_loss, "weight_decay": 0.0})
        optimizer = recipe.build(groups, lr=lr, weight_decay=weight_decay, **recipe.options)
        if self.schedule == "constant":
            return optimizer
        scheduler = CosineAnnealingLR(optimizer, T_max=self._total_steps(), eta_min=FLOOR * lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _total_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError(
                "schedule: 'cosine' needs to know where training ends; set the trainer's max_steps or max_epochs, or "
                "choose schedule='constant'"
            )
        return int(steps)
