"""Which decay acts on which parameter of an encoder, in the unit of the group that counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_normdyn.instruments.parameter_groups import WeightDecays


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))


def rates(net, *optimizers):
    found = WeightDecays(net, optimizers, optimizers[0]).rates()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {names[id(parameter)]: rate for parameter, rate in found}


def test_rates_are_per_unit_of_the_group_that_counts():
    """The group that counts is decayed and has most weights; another that learns twice as fast decays twice as fast."""
    net = network()
    optimizer = torch.optim.SGD(
        [
            {"params": [net[0].bias, net[1].bias]},
            {"params": [net[1].weight], "lr": 0.2, "weight_decay": 0.01},
            {"params": [net[0].weight], "lr": 0.1, "weight_decay": 0.03},
        ],
        lr=0.1,
    )
    decays = WeightDecays(net, [optimizer], optimizer)
    assert decays.group_number == 2
    assert rates(net, optimizer) == pytest.approx({"1.weight": 0.02, "0.weight": 0.03})


def test_momentum_counts_once_with_the_effective_rate():
    net = network()
    groups = [
        {"params": net[0].parameters(), "momentum": 0.9, "weight_decay": 0.01},
        {"params": net[1].parameters(), "momentum": 0.0, "weight_decay": 0.01},
    ]
    found = rates(net, torch.optim.SGD(groups, lr=0.1))
    assert found["0.weight"] == pytest.approx(0.01)
    assert found["1.weight"] == pytest.approx(0.001)


def test_a_warm_up_from_zero_has_the_rates_to_come():
    net = network()
    groups = [{"params": net[0].parameters(), "lr": 0.2}, {"params": net[1].parameters(), "lr": 0.1}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    assert optimizer.param_groups[0]["lr"] == 0
    found = rates(net, optimizer)
    assert found["1.weight"] == pytest.approx(0.05)
    assert found["0.weight"] == pytest.approx(0.1)


def test_a_second_optimizer_decays_too_and_strangers_do_not():
    net, other = network(), nn.Linear(2, 2)
    first = torch.optim.SGD([*net[0].parameters(), *other.parameters()], lr=0.1, weight_decay=0.01)
    second = torch.optim.SGD(net[1].parameters(), lr=0.3, weight_decay=0.01)
    found = rates(net, first, second)
    assert set(found) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert found["1.weight"] == pytest.approx(0.03)


def test_decay_that_cannot_be_told_apart_is_left_out():
    net = network()
    assert rates(net, torch.optim.Adam(net.parameters(), lr=0.1, weight_decay=0.1)) == {}


def test_a_group_that_was_replaced_is_found_again():
    """Loading a checkpoint gives an optimizer new groups."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    decays = WeightDecays(net, [optimizer], optimizer)
    assert decays.group["lr"] == 0.1
    optimizer.load_state_dict(
        optimizer.state_dict() | {"param_groups": [optimizer.state_dict()["param_groups"][0] | {"lr": 0.5}]}
    )
    assert decays.group["lr"] == 0.5
