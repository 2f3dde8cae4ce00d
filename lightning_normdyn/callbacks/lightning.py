"""Names of Lightning: of pytorch_lightning, or of lightning.pytorch where that alone is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer
        from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
    except ImportError:
        from lightning.pytorch import Callback, LightningModule, Trainer
        from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

__all__ = ["Callback", "LightningModule", "Trainer", "overrides", "rank_zero_info", "rank_zero_only", "rank_zero_warn"]


def overrides(pl_module: LightningModule, hook: str) -> bool:
    """Whether the user's module, of either Lightning package, brings its own version of a hook."""
    owner = next(cls for cls in type(pl_module).__mro__ if hook in vars(cls))
    return owner.__module__.split(".")[0] not in ("pytorch_lightning", "lightning")
