"""A submodule that gets no vectors in a step, as an expert without tokens: no norms of that step, and no error."""

import torch
from torch import nn

from lightning_normdyn.instruments import Instrument, NormObserver


class Spread(Instrument):
    quantities = ("spread",)

    def measure(self, look):
        assert len(look.vectors)
        return {"spread": look.vectors.std()}


def test_steps_without_vectors_are_left_out():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logged = {}

    def log(metrics, step):
        logged[step] = dict(metrics)

    with NormObserver(model, optimizer, targets=["0"], probe=False, every_n_steps=1, log=log, instruments=[Spread()]):
        for size in (2, 0, 3, 0):
            optimizer.zero_grad()
            vectors = model(torch.randn(size, 3))
            vectors.sum().backward()
            optimizer.step()
            if size:
                mean = float(vectors.detach().double().norm(dim=1).mean())
                assert abs(logged[max(logged)]["normdyn/0/norm_mean"] - mean) < 1e-6
    assert [step for step, metrics in logged.items() if "normdyn/0/norm_mean" in metrics] == [1, 3]
    assert [step for step, metrics in logged.items() if "normdyn/0/spread" in metrics] == [1, 3]
    assert all("normdyn/0/gradient_norm" in metrics for metrics in logged.values())
