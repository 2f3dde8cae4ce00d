"""The oracle: the same training in a plain PyTorch loop that keeps a float64 copy of everything it passes."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PlainStep:
    """One optimizer step of one parameter, dense and in float64.

    Attributes:
        raw: gradient before clipping, without loss scale.
        gradient: gradient that the optimizer used.
        before: weights before the step.
        after: weights after it.
        lr: learning rate of the step.
    """

    raw: Tensor
    gradient: Tensor
    before: Tensor
    after: Tensor
    lr: float


def train_plainly(
    net, batches, configure, table, *, accumulate=1, clip=None, autocast=None, scaler=None, precise=False
):
    """Trains a copy of a network.

    Args:
        net: maps a batch to a loss; it is left alone.
        batches: what it is trained on, one epoch of it.
        configure: maps the network to an optimizer, or to ``([optimizer], [scheduler stepped with the optimizer])``.
        table: qualified name of the parameter whose steps are wanted.
        accumulate: batches to a step.
        clip: called on the parameters before each step.
        autocast: data type of mixed precision.
        scaler: loss scaler.
        precise: whether to train in float64.

    Returns:
        The trained copy and its steps; those that the scaler skipped are left out.
    """
    net = copy.deepcopy(net)
    if precise:
        net.double()
    parameter = dict(net.named_parameters())[table]
    optimizer, scheduler = _optimizer(configure(net))
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    steps = []
    for index, batch in enumerate(batches):
        if index % accumulate == 0:
            optimizer.zero_grad()
        with torch.autocast("cpu", autocast, cache_enabled=False) if autocast else contextlib.nullcontext():
            loss = net(batch) / accumulate
        scaler.scale(loss).backward()
        if (index + 1) % accumulate and index + 1 < len(batches):
            continue
        scaler.unscale_(optimizer)
        made = (
            all(p.grad is None or _copy(p.grad).isfinite().all() for p in net.parameters()) or not scaler.is_enabled()
        )
        raw, before, lr = _copy(parameter.grad), _copy(parameter), _lr_of(optimizer, parameter)
        if clip is not None:
            clip(list(net.parameters()))
        gradient = _copy(parameter.grad)
        scaler.step(optimizer)
        scaler.update()
        if made:
            steps.append(PlainStep(raw, gradient, before, _copy(parameter), lr))
        if scheduler is not None:
            scheduler.step()
    return net, steps


def _optimizer(configured):
    if isinstance(configured, torch.optim.Optimizer):
        return configured, None
    (optimizer,), (scheduler,) = configured
    return optimizer, scheduler["scheduler"] if isinstance(scheduler, dict) else scheduler


def _lr_of(optimizer, parameter):
    (lr,) = (group["lr"] for group in optimizer.param_groups if any(p is parameter for p in group["params"]))
    return float(lr)


def _copy(tensor):
    tensor = tensor.detach()
    return (tensor.to_dense() if tensor.is_sparse else tensor).double().clone()
