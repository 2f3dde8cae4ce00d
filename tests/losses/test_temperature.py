"""The temperature: where it is stored, how far it may go."""

import math

import pytest
import torch

from lightning_normdyn.losses import InfoNCE


def test_a_learnt_scale_is_set_back_to_its_bound_and_can_leave_it():
    loss = InfoNCE(learnable_temperature=True, temperature=0.02, max_scale=60.0)
    with torch.no_grad():
        loss.scaling.log_scale.fill_(math.log(500.0))
    queries = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    value = loss(queries, -queries)  # wants to be warmer
    assert float(loss.scaling.scale.detach()) == pytest.approx(60.0)
    value.backward()
    assert loss.scaling.log_scale.grad > 0
    before = loss.scaling.log_scale.detach().clone()
    loss.eval()(queries, queries)
    assert torch.equal(loss.scaling.log_scale, before)


def test_a_fixed_temperature_is_the_configs_and_not_the_checkpoints():
    fresh = InfoNCE(temperature=0.1)
    fresh.load_state_dict(InfoNCE(temperature=0.02).state_dict())
    assert float(fresh.temperature) == pytest.approx(0.1)
    learnt = InfoNCE(temperature=0.1, learnable_temperature=True)
    learnt.load_state_dict(InfoNCE(temperature=0.02, learnable_temperature=True).state_dict())
    assert float(learnt.temperature.detach()) == pytest.approx(0.02)
