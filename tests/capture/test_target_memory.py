"""Memory is bounded by the tracked rows, whatever is called and never stepped."""

import gc
import weakref

import pytest
import torch
from small_models import Lit, NoisyModel, pair_batches, seeded
from torch import nn

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.capture import OutputTarget, TableTarget
from lightning_normdyn.instruments import NormObserver


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)


def test_ids_of_a_table_that_never_steps_are_boiled_down():
    model = nn.Sequential(nn.Embedding(50, 4))
    target = TableTarget("0.weight", model)
    target.attach()
    target.arm(True)
    for _ in range(2_000):
        model(torch.randint(50, (8, 16)))
    assert len(target._ids) <= 256
    assert sum(ids.numel() for ids in target._ids) <= 256 * 8 * 16
    model(torch.tensor([3])).sum().backward()
    assert set(range(50)) >= set(target.touched().tolist())


def test_outputs_of_a_step_that_never_comes_stop_being_kept():
    layer = nn.Linear(4, 4)
    target = OutputTarget("layer", layer)
    target.attach()
    target.arm(True)
    for _ in range(3_000):
        layer(torch.ones(2, 4))
    assert target.step().norms.numel() <= 2 * 1_024


@pytest.mark.parametrize("shape", [(2, 3, 5), (), (0,)])
def test_ids_of_any_shape_are_heard(shape):
    model = nn.Sequential(nn.Embedding(9, 4))
    target = TableTarget("0.weight", model)
    target.attach()
    target.arm(True)
    ids = torch.randint(9, shape)
    model(ids).sum().backward()
    touched = target.touched()
    assert (set() if touched is None else set(touched.tolist())) <= set(ids.reshape(-1).tolist())


TARGETS = ["table.weight", "encoder"]


def is_freed(*references):
    """Trainer and module refer to each other, so it takes the cycle collector."""
    gc.collect()
    return [reference() for reference in references] == [None] * len(references)


def references_of(trainer):
    return [weakref.ref(thing) for thing in (trainer, trainer.lightning_module, trainer.optimizers[0])]


def test_a_trained_module_is_freed_with_its_callback(fit):
    targets = [f"net.{name}" for name in TARGETS]
    trainer = fit(Lit(seeded(NoisyModel), adamw), pair_batches(20), NormDynamics(targets=targets, every_n_steps=5))
    references = references_of(trainer)
    assert not is_freed(*references)
    del trainer
    assert is_freed(*references)


def test_a_callback_keeps_its_last_run_alone(fit):
    callback = NormDynamics(targets=[f"net.{name}" for name in TARGETS], every_n_steps=5)
    references = references_of(fit(Lit(seeded(NoisyModel), adamw), pair_batches(20), callback))
    fit(Lit(seeded(NoisyModel), adamw), pair_batches(20), callback)
    assert is_freed(*references)


def test_a_module_trained_in_a_plain_loop_is_freed_with_its_observer():
    net = seeded(NoisyModel)
    optimizer = adamw(net)
    with NormObserver(net, optimizer, targets=TARGETS, every_n_steps=5, log=lambda *_: None) as observer:
        for batch in pair_batches(10):
            optimizer.zero_grad()
            net(batch).backward()
            optimizer.step()
    references = [weakref.ref(net), weakref.ref(optimizer)]
    del net, optimizer, observer
    assert is_freed(*references)
