"""Memory is bounded by the tracked rows, whatever is called and never stepped."""

import pytest
import torch
from torch import nn

from lightning_normdyn.capture import OutputTarget, TableTarget


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
