"""Optimizers that use ``.grad`` as scratch space: gradients are those that they were given, not what they left."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from lightning_normdyn import NormDynamics, NormObserver

KEYS = ("gradient_norm", "radial_fraction", "clip_ratio", "effective_lr")


class Descent(torch.optim.Optimizer):
    """Plain SGD that is not torch's, and leaves rubbish in the gradient where it is told to."""

    def __init__(self, parameters, lr, scratch):
        super().__init__(parameters, {"lr": lr})
        self.scratch = scratch

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad.clone()
                if self.scratch:
                    values = parameter.grad._values() if parameter.grad.is_sparse else parameter.grad
                    values.fill_(7.0)
                parameter -= self.param_groups[0]["lr"] * gradient
        return loss


def loss_of(table, step, tied):
    x = table.weight if tied else table(torch.tensor([step % 5, 1, 7]))
    return (x[:, 0] * x.square().sum(1)).sum()


def observe(scratch, *, closure=False, tied=False, sparse=False):
    torch.manual_seed(3)
    table, logged = nn.Embedding(12, 4, sparse=sparse), []
    optimizer = Descent(table.parameters(), 0.01, scratch)
    with NormObserver(table, optimizer, every_n_steps=2, log=lambda metrics, _: logged.append(metrics)) as observer:
        for step in range(9):

            def backward(step=step):
                optimizer.zero_grad()
                loss = loss_of(table, step, tied)
                loss.backward()
                if closure:
                    observer.before_step()
                return loss

            if closure:
                optimizer.step(backward)
            else:
                backward()
                optimizer.step()
    return [{key: metrics.get(f"normdyn/weight/{key}") for key in KEYS} for metrics in logged]


@pytest.mark.parametrize("case", [{}, {"closure": True}, {"tied": True}, {"sparse": True}])
def test_in_a_plain_loop(case):
    clean, scratch = observe(False, **case), observe(True, **case)
    assert sum(metrics["gradient_norm"] is not None for metrics in clean) >= 4
    for metrics, other in zip(clean, scratch, strict=True):
        assert metrics == pytest.approx(other)


class Lit(LightningModule):
    def __init__(self, scratch, closes):
        super().__init__()
        torch.manual_seed(3)
        self.table, self.scratch = nn.Embedding(12, 4), scratch
        self.automatic_optimization = closes

    def training_step(self, batch, batch_idx):
        loss = loss_of(self.table, batch_idx, False)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self):
        return Descent(self.parameters(), 0.01, self.scratch)

    def train_dataloader(self):
        return [torch.zeros(1)] * 9


@pytest.mark.parametrize(("automatic", "clip"), [(True, None), (True, 0.5), (False, None)])
def test_in_lightning(tmp_path, automatic, clip):
    readings = []
    for scratch in (False, True):
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=clip,
            default_root_dir=tmp_path,
            callbacks=[NormDynamics(every_n_steps=2, save_history=False)],
        )
        trainer.fit(Lit(scratch, automatic))
        readings.append({key: float(trainer.callback_metrics[f"normdyn/table.weight/{key}"]) for key in KEYS})
    assert readings[1] == pytest.approx(readings[0])
    assert (readings[0]["clip_ratio"] < 0.99) == (clip is not None)
