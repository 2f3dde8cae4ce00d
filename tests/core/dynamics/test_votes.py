"""Kernel votes against explicit Jacobians and against steps of a real optimizer."""

import pytest
import torch
from torch import nn

from lightning_normdyn.core import kernel_votes

D, PROBES, ITEMS = 5, 3, 6


class Pooled(nn.Module):
    """A transformer layer whose mean over tokens is the embedding."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=12, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, D)

    def forward(self, tokens, mask=None):
        return self.head(self.layer(tokens, src_key_padding_mask=mask).mean(1))


class Attention(nn.Module):
    """torch's own attention, whose fast kernels know no second derivative."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 24)
        self.head = nn.Linear(8, D)

    def forward(self, tokens):
        queries, keys, values = self.mix(tokens).chunk(3, dim=-1)
        return self.head(nn.functional.scaled_dot_product_attention(queries, keys, values).mean(1))


ENCODERS = {
    "table": (lambda: nn.Embedding(9, D), lambda n: torch.randperm(9)[:n]),
    "linear": (lambda: nn.Linear(4, D), lambda n: torch.randn(n, 4)),
    "MLP": (lambda: nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, D)), lambda n: torch.randn(n, 4)),
    "ReLU, LayerNorm": (
        lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, D)),
        lambda n: torch.randn(n, 4),
    ),
    "BatchNorm": (
        lambda: nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Sigmoid(), nn.Linear(7, D)),
        lambda n: torch.randn(n, 4),
    ),
    "transformer": (Pooled, lambda n: torch.randn(n, 6, 8)),
    "attention": (Attention, lambda n: torch.randn(n, 6, 8)),
}


def cosine_loss(x):
    z = nn.functional.normalize(x, dim=1)
    return nn.functional.cross_entropy(z[:3] @ z[3:].T / 0.2, torch.arange(3))


def dot_loss(x):
    return nn.functional.cross_entropy(x[:3] @ x[3:].T, torch.arange(3))


LOSSES = {"cosine": cosine_loss, "dot": dot_loss}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made(name, seed=0):
    """An encoder with BatchNorm statistics of its own, in eval mode; probes and a batch for it."""
    torch.manual_seed(seed)
    make, inputs = ENCODERS[name]
    encoder = make()
    encoder(inputs(8))
    return encoder.eval(), inputs(PROBES), inputs(ITEMS)


def norms(encoder, inputs):
    with torch.no_grad():
        return encoder(inputs).norm(dim=1)


def jacobian(encoder, inputs):
    """Every derivative of every output by every parameter, ``[n, d, parameters]``, one backward pass each."""
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    rows = []
    for one in encoder(inputs).flatten():
        gradients = torch.autograd.grad(one, parameters, retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows).view(len(inputs), D, -1)


def by_jacobians(encoder, probes, batch, loss):
    """Votes and cosines as the theory writes them, item by item."""
    at_probes, at_batch = jacobian(encoder, probes), jacobian(encoder, batch)
    x, leaf = encoder(probes).detach(), encoder(batch).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(loss(leaf), leaf)
    votes, radial, cosines = torch.zeros(3, len(x), len(leaf))
    for p in range(len(x)):
        for j, (row, g) in enumerate(zip(leaf.detach(), gradients, strict=True)):
            kernel = at_probes[p] @ at_batch[j].T
            reached = kernel.T @ (x[p] / x[p].norm())
            z, r = row / row.norm(), row.norm()
            a, s = reached - (reached @ z) * z, r * (g - (g @ z) * z)
            votes[p, j] = -(a @ s) / r - (reached @ z) * (g @ z)
            radial[p, j] = -(reached @ z) * (g @ z)
            cosines[p, j] = -(a @ s) / (a.norm() * s.norm())
    return votes, radial, cosines


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ENCODERS)
def test_votes_equal_explicit_jacobians(name, loss):
    encoder, probes, batch = made(name)
    found = kernel_votes(encoder, probes, batch, loss=LOSSES[loss])
    votes, radial, cosines = by_jacobians(encoder, probes, batch, LOSSES[loss])
    torch.testing.assert_close(found.votes, votes, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.radial_votes, radial, rtol=1e-8, atol=1e-12)
    if name != "table":  # most rows of a table share nothing, and nothing has no direction
        torch.testing.assert_close(found.cos_psi, cosines, rtol=1e-7, atol=1e-9)
    assert (found.radial_votes.abs().max() < 1e-12) == (loss == "cosine")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ENCODERS)
def test_votes_add_up_to_what_a_step_of_sgd_does(name, loss):
    encoder, probes, batch = made(name)
    found = kernel_votes(encoder, probes, batch, loss=LOSSES[loss])
    lr, before = 1e-7, norms(encoder, probes)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=lr)
    LOSSES[loss](encoder(batch)).backward()
    optimizer.step()
    change = (norms(encoder, probes) - before) / lr
    scale = float(found.votes.abs().sum(1).max())
    torch.testing.assert_close(found.votes.sum(1), change, rtol=1e-4, atol=1e-6 * scale + 1e-7)
    torch.testing.assert_close(found.radial_change, change, rtol=1e-4, atol=1e-6 * scale + 1e-7)
    assert found.residual.abs().max() < 1e-10 * scale + 1e-15


def test_a_table_hears_only_its_own_row():
    encoder = nn.Embedding(9, D)
    batch = torch.tensor([0, 1, 2, 3, 4, 5])
    found = kernel_votes(encoder, torch.tensor([1, 8]), batch, loss=dot_loss)
    assert found.votes[0].nonzero().flatten().tolist() == [1]
    assert not found.votes[1].any()
    assert not found.cos_psi[1].any()
    assert not kernel_votes(encoder, batch, batch, loss=cosine_loss).votes.abs().gt(1e-14).any()


def test_the_loss_may_be_its_gradient():
    encoder, probes, batch = made("MLP")
    leaf = encoder(batch).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(dot_loss(leaf), leaf)
    by_loss, by_gradient = (kernel_votes(encoder, probes, batch, loss=given) for given in (dot_loss, gradient))
    torch.testing.assert_close(by_gradient, by_loss)


@pytest.mark.parametrize("gather", [(lambda *x: x), (lambda tokens, mask: {"tokens": tokens, "mask": mask})])
def test_inputs_may_be_several(gather):
    encoder, probes, batch = made("transformer")
    plain = kernel_votes(encoder, probes, batch, loss=cosine_loss)
    masks = [torch.zeros(x.shape[:2], dtype=torch.bool) for x in (probes, batch)]
    found = kernel_votes(encoder, gather(probes, masks[0]), gather(batch, masks[1]), loss=cosine_loss)
    torch.testing.assert_close(found, plain)
    masks[1][:, 3:] = True
    masked = kernel_votes(encoder, gather(probes, masks[0]), gather(batch, masks[1]), loss=cosine_loss)
    assert not torch.allclose(masked.votes, plain.votes)


def test_a_function_with_its_parameters_serves_as_encoder():
    encoder, probes, batch = made("ReLU, LayerNorm")
    parameters = list(encoder.parameters())
    found = kernel_votes(lambda x: encoder(x), probes, batch, loss=dot_loss, parameters=parameters)
    torch.testing.assert_close(found, kernel_votes(encoder, probes, batch, loss=dot_loss))
    last = kernel_votes(encoder, probes, batch, loss=dot_loss, parameters=parameters[-2:])
    for p in parameters[:-2]:
        p.requires_grad_(False)
    torch.testing.assert_close(last, kernel_votes(encoder, probes, batch, loss=dot_loss))
    assert not torch.allclose(last.votes, found.votes)


def test_parameters_that_an_output_does_not_use_do_no_harm():
    encoder, probes, batch = made("MLP")
    found = kernel_votes(encoder, probes, batch, loss=dot_loss)
    encoder.spare = nn.Linear(2, 2)
    encoder.forward = nn.Sequential(*list(encoder)[:3]).forward
    torch.testing.assert_close(kernel_votes(encoder, probes, batch, loss=dot_loss), found)


def test_the_encoder_stays_as_it_is():
    """Even where a forward pass would move the running statistics."""
    encoder, probes, batch = made("BatchNorm")
    encoder.train()
    encoder[0].weight.grad = torch.ones_like(encoder[0].weight)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = kernel_votes(encoder, probes, batch, loss=cosine_loss)
    assert found.residual.abs().max() < 1e-12
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder[0].weight.grad.eq(1).all()
    assert encoder[0].bias.grad is None
    encoder(batch)
    assert not torch.equal(encoder[1].running_mean, before["1.running_mean"])


def test_it_works_where_gradients_are_off_and_in_float32():
    encoder, probes, batch = made("transformer")
    precise = kernel_votes(encoder, probes, batch, loss=cosine_loss)
    with torch.no_grad():
        found = kernel_votes(encoder.float(), probes.float(), batch.float(), loss=cosine_loss)
    assert found.votes.dtype == torch.float64
    torch.testing.assert_close(found.votes, precise.votes, rtol=1e-3, atol=1e-5)
    assert found.residual.abs().max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        ({"encoder": lambda x: x}, {}, "parameters: expected what the encoder trains, got none"),
        ({}, {"loss": torch.ones(2, 2)}, r"loss: expected a gradient of the embeddings' shape, \(6, 5\), got \(2, 2\)"),
        ({"encoder": nn.Flatten()}, {}, "encoder: expected parameters that want gradients, got none"),
        ({"encoder": nn.Linear(8, D).double()}, {}, r"encoder: expected embeddings \[n, d\] .* got \(3, 6, 5\)"),
        (
            {"encoder": lambda x: x[:, 0]},
            {"parameters": [torch.ones(1, requires_grad=True)]},
            r"depend on the parameters, got \(3, 8\) without a gradient",
        ),
    ],
)
def test_what_does_not_fit_is_named(arguments, options, sentence):
    encoder, probes, batch = made("transformer")
    given = {"encoder": encoder, "probes": probes, "batch": batch} | arguments
    with pytest.raises(ValueError, match=sentence):
        kernel_votes(**given, **{"loss": dot_loss, **options})
