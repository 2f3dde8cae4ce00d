import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_normdyn.levers import cut_init


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32, bias=False), nn.ReLU(), nn.Linear(32, 8, bias=False))


def steps_to_align(module, optimizer_type, lr, wanted=0.95, most=20_000):
    """Steps until the embeddings of a few inputs point to their targets, under a cosine loss."""
    generator = torch.Generator().manual_seed(1)
    inputs, targets = (torch.randn(8, width, generator=generator) for width in (16, 8))
    optimizer = optimizer_type(module.parameters(), lr=lr)
    for step in range(most):
        alike = F.cosine_similarity(module(inputs), targets, dim=-1).mean()
        if alike.item() > wanted:
            return step
        optimizer.zero_grad()
        (-alike).backward()
        optimizer.step()
    raise AssertionError("it never aligned")


def test_directions_learn_faster_from_cut_weights():
    plain, cut = (steps_to_align(module, torch.optim.SGD, lr=1e-2) for module in (encoder(), cut_init(encoder(), 2.0)))
    assert plain > 3 * cut


def test_a_cut_table_learns_as_the_square_of_the_cut():
    def table():
        torch.manual_seed(0)
        return nn.Embedding(8, 8)

    class Rows(nn.Module):
        def __init__(self, table):
            super().__init__()
            self.table = table

        def forward(self, _):
            return self.table.weight

    plain, cut = (steps_to_align(Rows(t), torch.optim.SGD, lr=0.1) for t in (table(), cut_init(table(), 3.0)))
    assert plain / cut == pytest.approx(9, rel=0.05)


def test_an_encoder_without_biases_starts_shorter_by_the_cut_to_the_power_of_its_layers():
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(cut_init(encoder(), 3.0)(x), encoder()(x) / 9)


def test_gains_biases_and_frozen_weights_stay():
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    module[2].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert cut_init(module, 4.0) is module
    after = module.state_dict()
    assert torch.equal(after.pop("0.weight"), before["0.weight"] / 4)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_tied_weights_are_cut_once():
    table, head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    head.weight = table.weight
    before = table.weight.detach().clone()
    cut_init(nn.ModuleList([table, head]), 2.0)
    assert torch.equal(table.weight, before / 2)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_is_no_cut_is_named(factor):
    with pytest.raises(ValueError, match="factor: expected a positive number, got"):
        cut_init(encoder(), factor)


def test_a_module_without_weights_is_named():
    with pytest.raises(
        ValueError, match="module: expected trainable weights of two dimensions or more, got none in ReLU"
    ):
        cut_init(nn.ReLU())
