"""A measurement takes the probe's activations and one copy of the decayed parameters; between them, nothing."""

from __future__ import annotations

import pytest
import torch
from small_models import seeded
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.probe import Probe

WIDTH, ITEMS = 256, 32


def peak_bytes(work):
    """Most bytes that torch's allocator had out at one time, above those before, and those that are left."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak, held


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_radial_decay_takes_one_copy_of_the_decayed_parameters(dtype):
    """Of half precision a copy in float32, and one of what does not decay."""
    encoder = seeded(lambda: nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(6)])).to(dtype)
    probe = Probe("encoder", encoder, [Call.of(torch.randn(ITEMS, WIDTH))])
    decays = [(parameter, 0.1) for parameter in encoder.parameters()]
    vectors = probe.encode()
    encoding, _ = peak_bytes(probe.encode)
    measuring, left = peak_bytes(lambda: probe.radial_decay(decays, vectors))
    copy = sum(4 * parameter.numel() for parameter in encoder.parameters())
    assert copy < measuring <= max(encoding, 4 * ITEMS * WIDTH * 12) + 1.05 * copy
    assert left == 0


def test_the_account_sees_a_copy():
    weight = torch.ones(1000, 1000)
    peak, left = peak_bytes(lambda: weight * 2)
    assert 4_000_000 <= peak < 4_001_000
    assert left == 0
