"""``torch.compile(optimizer.step)``: one graph, as without an observer, and the same numbers and weights."""

from __future__ import annotations

import pytest
import torch
from small_models import PairTable, pair_batches, seeded
from torch._dynamo.testing import CompileCounter

from lightning_normdyn.instruments import NormObserver

STEPS = 24
pytestmark = pytest.mark.filterwarnings("ignore:Profiler record function")


def train(compiled, observed, **options):
    torch._dynamo.reset()
    net, logged, counter = seeded(PairTable), [], CompileCounter()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    if compiled:
        optimizer.step = torch.compile(optimizer.step, backend=counter, **options)
    observer = NormObserver(
        net, optimizer, total_steps=STEPS, every_n_steps=4, window=12, log=lambda m, _: logged.append(m)
    )
    if observed:
        observer.begin()
    try:
        for batch in pair_batches(STEPS):
            optimizer.zero_grad()
            net(batch).backward()
            optimizer.step()
        if observed:
            observer.finish()
    finally:
        observer.close()
    return counter.frame_count, logged, net.table.weight.detach().clone()


def test_hooks_are_not_traced():
    graphs, _, weight = train(compiled=True, observed=False)
    observed_graphs, logged, observed_weight = train(compiled=True, observed=True)
    assert graphs == observed_graphs == 1
    assert torch.equal(weight, observed_weight)
    _, expected, _ = train(compiled=False, observed=True)
    assert [sorted(metrics) for metrics in logged] == [sorted(metrics) for metrics in expected]
    for metrics, uncompiled in zip(logged, expected, strict=True):
        assert metrics == pytest.approx(uncompiled, rel=1e-4, abs=1e-6)


def test_a_single_graph_is_refused_with_the_reason():
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compile the optimizer's step without fullgraph=True"):
        train(compiled=True, observed=True, fullgraph=True)
