"""``TableSizes``: a mixin for LightningModules whose embedding tables get their row counts from the data module."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule


class TableSizes(LightningModule):
    """A module that makes its tables once the numbers of their rows are known.

    They come from the data module of the trainer, or from a checkpoint. A family overrides :meth:`make_tables`; its
    data module has a property ``table_sizes``, name to rows. Put it before the class whose hooks it extends.
    """

    table_sizes: dict[str, int] | None = None

    def make_tables(self, **sizes: int) -> None:
        """Makes what has rows by number, by the names that the data module gives."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Makes the tables as the trainer's data wants them, unless they are there."""
        if self._trainer is None:
            return  # loaded without a trainer: what the checkpoint says comes next
        sizes: dict[str, int] | None = getattr(getattr(self.trainer, "datamodule", None), "table_sizes", None)
        if sizes is None and self.table_sizes is None:
            raise ValueError(
                f"data: expected a data module that knows the sizes of the tables of {type(self).__name__}, got "
                f"{type(getattr(self.trainer, 'datamodule', None)).__name__}; pass it as trainer.fit(model, "
                "datamodule=...)"
            )
        if self.table_sizes is None and sizes is not None:
            self._make(sizes)
        elif sizes is not None and sizes != self.table_sizes:
            raise ValueError(
                f"data: expected {self.table_sizes} as the model was made for, got {sizes}; train a model on this data"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the sizes."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["table_sizes"] = self.table_sizes

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the tables that the checkpoint fills, so that it loads without the data."""
        super().on_load_checkpoint(checkpoint)
        if self.table_sizes is None:
            self._make(checkpoint["table_sizes"])

    def _make(self, sizes: dict[str, int]) -> None:
        self.make_tables(**sizes)
        self.table_sizes = dict(sizes)
        self.train(self.training)  # what was just made does as the rest
