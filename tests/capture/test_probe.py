"""A probe leaves no trace, whatever happens while it is encoded."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.evaluation import evaluating, stretched, widened
from lightning_normdyn.capture.probe import Probe, UnusableInputsError

CPU = torch.device("cpu")


class Unlucky(nn.Module):
    """Fails from its n-th call on."""

    def __init__(self, error, calls=2):
        super().__init__()
        self.linear, self.error, self.calls = nn.Linear(3, 2), error, calls

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return self.linear(x)


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_modes_buffers_and_random_states_come_back():
    net = network()
    net[1].eval()  # a frozen part stays frozen
    before = [child.training for child in net.modules()]
    states = torch.random.get_rng_state(), random.getstate()
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    probe = Probe("net", net, [Call.of(torch.randn(5, 3))])
    torch.random.set_rng_state(states[0])
    vectors = probe.encode()
    assert vectors.shape == (5, 2)
    assert not vectors.requires_grad
    assert [child.training for child in net.modules()] == before
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in net.named_buffers())


def test_everything_comes_back_after_an_error():
    net = network()
    weight, bits = net[0].weight, net[0].weight.detach().clone()
    version, place = weight._version, weight.data_ptr()

    def stretch_and_fail():
        with evaluating(net, CPU), widened(net), stretched([(weight, 1.5), (net[3].bias, 0.5)]):
            assert torch.equal(weight.data, bits * 1.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stretch_and_fail()
    assert torch.equal(weight, bits)
    assert (weight._version, weight.data_ptr()) == (version, place)
    assert net.training
    assert torch.is_grad_enabled()


def test_a_tied_weight_is_stretched_once():
    """Its decay is one, however many layers use it."""
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    probe = Probe("net", net, [Call.of(torch.randn(5, 3))])
    rate = probe.radial_decay([(net[0].weight, 0.1)], probe.encode())
    torch.testing.assert_close(rate, torch.full((5,), 0.2, dtype=torch.float64), rtol=1e-3, atol=0)


def test_half_weights_are_encoded_in_float32():
    net = network().bfloat16()
    probe = Probe("net", net, [Call.of(torch.randn(5, 3).bfloat16())])
    assert probe.encode().dtype == torch.float32
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.bfloat16, torch.int64}


def test_a_probe_that_does_not_fit_says_so():
    unlucky = Unlucky(torch.OutOfMemoryError("CUDA out of memory"))
    probe = Probe("net", unlucky, [Call.of(torch.randn(5, 3))])
    with pytest.raises(RuntimeError, match="probe: 5 items of 'net' do not fit into memory; set probe_items"):
        probe.encode()


def test_inputs_of_another_shape_say_so():
    with pytest.raises(UnusableInputsError, match=r"'net' cannot be called with it again .*mat1 and mat2"):
        Probe("net", network(), [Call.of(torch.randn(5, 7))])


def test_later_errors_are_the_encoders_own():
    probe = Probe("net", Unlucky(RuntimeError("no such luck")), [Call.of(torch.randn(5, 3))])
    with pytest.raises(RuntimeError, match="no such luck"):
        probe.encode()


def test_an_encoder_may_overwrite_its_inputs():
    class Overwriting(nn.Module):
        def forward(self, x):
            return x.div_(2)

    inputs = torch.randn(5, 3)
    probe = Probe("net", Overwriting(), [Call.of(inputs.clone())])
    for _ in range(2):
        torch.testing.assert_close(probe.encode(), inputs / 2)


def test_numpys_random_state_comes_back():
    class Drawing(nn.Module):
        def forward(self, x):
            np.random.rand()
            return x

    before = np.random.get_state()[1].copy()
    Probe("net", Drawing(), [Call.of(torch.randn(5, 3))]).encode()
    assert np.array_equal(np.random.get_state()[1], before)


def test_an_encoder_without_vectors_says_so():
    with pytest.raises(ValueError, match=r"'net' returned no tensor of embeddings \[..., d\] \(came: shape \(5,\)\)"):
        Probe("net", nn.Flatten(0), [Call.of(torch.randn(5))])


def test_more_ranks_than_items_say_so():
    with pytest.raises(ValueError, match="at least 4 item"):
        Probe("net", network(), [Call.of(torch.randn(3, 3))], ranks=4)


def test_vectors_of_tokens_are_thinned():
    probe = Probe("net", nn.Linear(3, 2), [Call.of(torch.randn(5, 4, 3))], most_rows=7)
    assert len(probe.encode()) == 7


def test_every_item_is_encoded_by_one_rank():
    net, inputs = network(), torch.randn(7, 3)
    shares = [Probe("net", net, [Call.of(inputs)], rank=rank, ranks=3).encode() for rank in range(3)]
    whole = Probe("net", net, [Call.of(inputs)]).encode()
    assert [len(share) for share in shares] == [3, 2, 2]
    torch.testing.assert_close(torch.cat(shares), torch.cat([whole[rank::3] for rank in range(3)]))


@pytest.mark.parametrize("ranks", [2, 3])
def test_vectors_of_all_ranks_are_in_the_order_of_the_items(ranks):
    """Names of the items are given in that order, and a run may go on, or be compared, on another number of ranks."""
    net, calls = network(), [Call.of(torch.randn(rows, 3)) for rows in (7, 4)]
    shares = [Probe("net", net, calls, rank=rank, ranks=ranks).encode() for rank in range(ranks)]
    together = Probe("net", net, calls, ranks=ranks, gather=lambda _: torch.cat(shares)).encode()
    torch.testing.assert_close(together, Probe("net", net, calls).encode())
