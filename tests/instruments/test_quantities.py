"""The registry of quantities: every key that is logged stands in it, and everything in it is logged by something."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from encoders import Contrast, relu_layers, views
from fused_tables import Block, Kind, Pairs, first_rows, pair_ids
from small_models import Lit, PairTable, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.instruments import QUANTITIES
from lightning_normdyn.integrations.torchrec import TorchRecObserver
from lightning_normdyn.losses import ContrastiveMixin

STEPS = 120


def scheduled(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.5, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Learning(ContrastiveMixin, pl.LightningModule):
    """A loss that learns all that it can."""

    def __init__(self, **options):
        super().__init__(**options)
        self.table = torch.nn.Embedding(30, 8)

    def training_step(self, batch, batch_idx):
        return self.contrastive_loss(self.table(batch[:, 0]), self.table(batch[:, 1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quantities_of(trainer):
    """The last part of every key below ``normdyn/``."""
    keys = {key for _, metrics in trainer.logger.calls for key in metrics} | set(trainer.callback_metrics)
    return {key.rpartition("/")[2] for key in keys if key.startswith("normdyn/")}


def of_a_fused_table():
    """What is logged where the optimizer is fused into backward."""
    model, names = Pairs(Block(first_rows(), Kind.ROWWISE)), set()
    with TorchRecObserver(model, log=lambda metrics, _: names.update(key.rpartition("/")[2] for key in metrics)):
        for pairs in pair_ids(3):
            model(pairs).backward()
    return names


@pytest.fixture
def logged(fit):
    options = {"every_n_steps": 5, "window": 20, "save_history": False}
    table = fit(Lit(seeded(PairTable), scheduled), pair_batches(STEPS), NormDynamics(**options))
    encoder = Contrast(seeded(relu_layers), scheduled)
    inputs = torch.randn(40, 16, generator=torch.Generator().manual_seed(2))
    probe = fit(encoder, views(STEPS), NormDynamics(targets=["encoder"], probe=inputs, **options))
    losses = [
        fit(Learning(normalization="learnable", learnable_temperature=True, **options), pair_batches(3), NormDynamics())
        for options in ({"with_metrics": True}, {"loss": "sigmoid"})
    ]
    return {"table": quantities_of(table), "encoder": quantities_of(probe), "fused table": of_a_fused_table()} | {
        f"loss {number}": quantities_of(trainer) for number, trainer in enumerate(losses)
    }


def test_every_key_is_registered_and_every_entry_is_logged(logged):
    for source, names in logged.items():
        assert names <= QUANTITIES.keys(), (source, names - QUANTITIES.keys())
    assert set().union(*logged.values()) == QUANTITIES.keys()


def test_entries_are_complete():
    for name, quantity in QUANTITIES.items():
        assert quantity.name == name
        assert all(quantity), name
    with pytest.raises(TypeError):
        QUANTITIES["norm_mean"] = None
