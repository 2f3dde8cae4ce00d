"""Output targets: norms and gradients of what a submodule returns, against autograd on the returned tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import DIM, ROWS, Lit, TwoTowers, contrast, pair_batches, seeded
from torch import nn

from lightning_normdyn.callbacks import NormDynamics

STEPS = 8


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.2)


class Wrapped(nn.Module):
    """An encoder whose output comes wrapped in something."""

    def __init__(self, wrap):
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.linear(x))


class WrappedTowers(nn.Module):
    """Two towers through an encoder whose output is unwrapped here."""

    def __init__(self, wrap, unwrap):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.encoder = Wrapped(wrap)
        self.unwrap = unwrap

    def forward(self, pairs):
        queries, documents = (self.unwrap(self.encoder(self.table(ids))) for ids in pairs.T)
        return contrast(queries, documents, "dot")


def plain_outputs(net, batches, *, accumulate=1, autocast=None, scale=1.0, unwrap=lambda output: output):
    """Vectors and their gradients in each step, from a plain loop that asks autograd for them."""
    optimizer, steps, seen = sgd(net), [], []
    for index, batch in enumerate(batches):
        outputs = []
        handle = net.encoder.register_forward_hook(lambda _m, _a, out, kept=outputs: kept.append(unwrap(out)))
        with torch.autocast("cpu", autocast or torch.bfloat16, cache_enabled=False, enabled=autocast is not None):
            loss = net(batch) / accumulate
        handle.remove()
        gradients = torch.autograd.grad(loss * scale, outputs, retain_graph=True)
        seen += [
            (vector.detach().double().reshape(-1, DIM), gradient.double().reshape(-1, DIM) / scale)
            for vector, gradient in zip(outputs, gradients, strict=True)
        ]
        (loss * scale).backward()
        if (index + 1) % accumulate == 0:
            for parameter in net.parameters():
                parameter.grad /= scale
            optimizer.step()
            optimizer.zero_grad()
            steps.append(tuple(torch.cat(parts).numpy() for parts in zip(*seen, strict=True)))
            seen = []
    return steps


def expected(vectors, gradients):
    norms = np.linalg.norm(vectors, axis=1)
    radial = (vectors * gradients).sum(1) / norms
    whole = math.sqrt((gradients**2).sum())
    return {
        "norm_mean": norms.mean(),
        "norm_cv": norms.std() / norms.mean(),
        **{f"norm_p{q:02d}": np.quantile(norms, q / 100) for q in (5, 50, 95)},
        "gradient_norm": whole,
        "radial_fraction": math.sqrt((radial**2).sum()) / whole,
        "common_direction": np.linalg.norm((vectors / norms[:, None]).mean(0)),
        "nonfinite_gradients": 0,
        "skipped_steps": 0,
    }


def assert_outputs(fit, make, rel=2e-5, batches=None, trainer_options=None, **plainly):
    batches = batches if batches is not None else pair_batches(STEPS * plainly.get("accumulate", 1))
    steps = plain_outputs(seeded(make), batches, **plainly)
    callback = NormDynamics(targets=["net.encoder"], probe=False, every_n_steps=1)
    trainer = fit(Lit(seeded(make), sgd), batches, callback, **trainer_options or {})
    logged = trainer.logger.of("net.encoder")
    assert len(logged) == len(steps) == STEPS
    for number, step in enumerate(steps, 1):
        assert logged[number] == pytest.approx(expected(*step), rel=rel, abs=1e-7)


def test_two_towers_through_one_encoder(fit):
    assert_outputs(fit, TwoTowers)


def test_accumulation_takes_all_micro_batches_together(fit):
    assert_outputs(fit, TwoTowers, accumulate=2, trainer_options={"accumulate_grad_batches": 2})


def test_bf16_mixed(fit):
    assert_outputs(fit, TwoTowers, autocast=torch.bfloat16, trainer_options={"precision": "bf16-mixed"})


def test_gradients_are_unscaled_under_16_mixed(fit):
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024))
    options = {"plugins": [plugin]}
    assert_outputs(fit, TwoTowers, autocast=torch.half, scale=1024.0, trainer_options=options, rel=1e-4)


def test_clipping_comes_after_what_is_measured(fit):
    """An output's gradient is that of the loss; clipping touches parameters alone."""
    net, batches = seeded(TwoTowers), pair_batches(1)
    (step,) = plain_outputs(net, batches)
    callback = NormDynamics(targets=["net.encoder"], probe=False, every_n_steps=1)
    logged = fit(Lit(seeded(TwoTowers), sgd), batches, callback, gradient_clip_val=1e-3).logger.of("net.encoder")
    assert logged[1]["gradient_norm"] == pytest.approx(expected(*step)["gradient_norm"], rel=1e-5)


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        pytest.param(lambda x: (x, "state"), lambda out: out[0], id="tuple"),
        pytest.param(lambda x: {"mask": torch.ones(1), "vectors": x}, lambda out: out["vectors"], id="dict"),
        pytest.param(lambda x: x.unflatten(0, (4, -1)), lambda out: out.flatten(0, -2), id="more dimensions"),
    ],
)
def test_wrapped_outputs(fit, wrap, unwrap):
    """Tuples, dicts, and vectors in more dimensions than two."""

    def tensor_of(output):
        return output if isinstance(output, torch.Tensor) else unwrap(output)

    assert_outputs(fit, lambda: WrappedTowers(wrap, unwrap), unwrap=tensor_of)


def test_an_output_that_is_overwritten_in_place_shows_its_norms_alone(fit):
    """What the gradient belonged to is gone, so nothing is said about it."""

    class Overwriting(TwoTowers):
        def forward(self, pairs):
            queries, documents = (self.encoder(self.table(ids)).mul_(2) for ids in pairs.T)
            return contrast(queries, documents, "dot")

    net, batches = seeded(Overwriting), pair_batches(1)
    with torch.no_grad():
        vectors = torch.cat([net.encoder(net.table(ids)) for ids in batches[0].T])
    callback = NormDynamics(targets=["net.encoder"], probe=False, every_n_steps=1)
    with pytest.warns(UserWarning, match="'net.encoder', after 1 steps: no gradient came back .* overwritten in place"):
        logged = fit(Lit(net, sgd), batches, callback).logger.of("net.encoder")[1]
    assert logged["norm_mean"] == pytest.approx(vectors.norm(dim=1).mean().item(), rel=1e-6)
    assert not {"gradient_norm", "radial_fraction"} & set(logged)


def test_tables_and_outputs_together_and_a_cadence(fit):
    callback = NormDynamics(targets=["net.encoder", "net.table.weight"], probe=False, every_n_steps=3)
    trainer = fit(Lit(seeded(TwoTowers), sgd), pair_batches(STEPS), callback)
    assert set(trainer.logger.of("net.encoder")) == {1, 3, 6}
    assert {1, 3, 6} <= set(trainer.logger.of("net.table.weight"))


def test_a_call_that_does_not_train_is_not_heard(fit):
    """A teacher's pass without gradients through the same encoder."""

    class Teaching(TwoTowers):
        def forward(self, pairs):
            with torch.no_grad():
                self.encoder(100 * torch.ones(50, DIM))
            return super().forward(pairs)

    steps = plain_outputs(seeded(TwoTowers), pair_batches(2))
    callback = NormDynamics(targets=["net.encoder"], probe=False, every_n_steps=1)
    logged = fit(Lit(seeded(Teaching), sgd), pair_batches(2), callback).logger.of("net.encoder")
    assert logged[2] == pytest.approx(expected(*steps[1]), rel=2e-5)


class Pictures(nn.Module):
    """A backbone of convolutions and what its maps are pooled to."""

    def __init__(self, size):
        super().__init__()
        layers = [nn.Embedding(ROWS, 3 * 4 * 4), nn.Unflatten(-1, (3, 4, 4)), nn.Conv2d(3, DIM, 3, padding=1)]
        self.encoder = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(size))

    def forward(self, pairs):
        queries, documents = (self.encoder(ids).mean((2, 3)) for ids in pairs.T)
        return contrast(queries, documents, "dot")


def test_channels_pooled_to_one_place_are_vectors(fit):
    """``[n, C, 1, 1]``, which backbones end in, is ``[n, C]``."""
    assert_outputs(fit, lambda: Pictures(1))


def test_a_map_of_channels_is_refused(fit):
    callback = NormDynamics(targets=["net.encoder"], probe=False)
    with pytest.raises(
        ValueError, match=r"'net.encoder' is no tensor .* shape \(16, 8, 2, 2\), as of a map of channels"
    ):
        fit(Lit(seeded(lambda: Pictures(2)), sgd), pair_batches(1), callback)


def test_numbers_one_an_item_are_refused(fit):
    class Scored(TwoTowers):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(DIM, 1))

    callback = NormDynamics(targets=["net.encoder"], probe=False)
    with pytest.raises(ValueError, match=r"'net.encoder' is no tensor .* shape \(16, 1\)"):
        fit(Lit(seeded(Scored), sgd), pair_batches(1), callback)
