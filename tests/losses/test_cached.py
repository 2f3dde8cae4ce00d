"""Gradient caching: the gradients of the plain loss over the same chunks, bit for bit where arithmetic allows."""

import pytest
import torch
from torch import nn

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.losses import InfoNCE, cached_loss

N, D, CHUNK_SIZE = 14, 6, 4


class Encoder(nn.Module):
    """Everything that is not the same twice: dropout, running statistics, casts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, D))
        self.loss = InfoNCE(normalization="learnable", learnable_temperature=True, symmetric=True)
        self.most = 0

    def encode(self, inputs):
        x = inputs["x"] if isinstance(inputs, dict) else torch.stack(inputs) if isinstance(inputs, list) else inputs
        if torch.is_grad_enabled():
            self.most = max(self.most, len(x))
        return self.layers(x)


def inputs(kind=torch.Tensor):
    generator = torch.Generator().manual_seed(1)
    sides = [torch.randn(N, D, generator=generator) for _ in range(2)]
    return [{"x": x, "scale": 2.0} if kind is dict else list(x) if kind is list else x for x in sides]


def plain(model, queries, documents):
    """The same chunks with a graph, all of them at once."""
    encoded = [torch.cat([model.encode(part) for part in side.split(CHUNK_SIZE)]) for side in (queries, documents)]
    return model.loss(*encoded)


def cached(model, queries, documents, chunk_size=CHUNK_SIZE):
    encode = model.encode
    return cached_loss(
        model.loss,
        queries,
        documents,
        encode_query=encode,
        encode_document=encode,
        module=model,
        chunk_size=chunk_size,
    )


def outcome(make, *, factor=1.0, autocast=False):
    """Loss, gradients, running statistics and the random state that a training step leaves."""
    model = Encoder()
    torch.manual_seed(7)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = make(model, *inputs())
    (factor * loss).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return loss.detach(), gradients, dict(model.named_buffers()), torch.rand(1)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("factor", [1.0, 2.0**16])
def test_dropout_autocast_and_a_loss_scaler(factor, autocast):
    expected, found = (outcome(make, factor=factor, autocast=autocast) for make in (plain, cached))
    torch.testing.assert_close(found[0], expected[0])
    for name, gradient in expected[1].items():
        assert gradient.norm() > 0, name
        gap = (found[1][name] - gradient).norm() / gradient.norm()
        assert gap < (5e-3 if autocast else 1e-5), (name, float(gap))
    assert all(torch.equal(found[2][name], buffer) for name, buffer in expected[2].items())
    assert torch.equal(found[3], expected[3])


@pytest.mark.parametrize("kind", [torch.Tensor, dict, list])
def test_no_graph_holds_more_than_a_chunk(kind):
    model = Encoder()
    cached(model, *inputs(kind)).backward()
    assert model.most == CHUNK_SIZE


@pytest.mark.parametrize("chunk_size", [1, N, 10 * N])
def test_any_chunk_gives_the_same_gradient(chunk_size):
    model = Encoder().eval()
    cached(model, *inputs(), chunk_size=chunk_size).backward()
    expected = Encoder().eval()
    plain(expected, *inputs()).backward()
    for (name, p), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_gradients_in_double_precision_are_those_of_the_plain_loss_exactly():
    models = [Encoder().double().eval() for _ in range(2)]
    for model, make in zip(models, (plain, cached), strict=True):
        make(model, *[x.double() for x in inputs()]).backward()
    for p, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p.grad, other.grad, rtol=1e-12, atol=1e-12)


def test_evaluation_has_no_graph_and_the_same_value():
    model = Encoder().eval()
    with torch.no_grad():
        alone = cached(model, *inputs())
    assert not alone.requires_grad
    torch.testing.assert_close(alone, plain(model, *inputs()).detach())


def test_frozen_parameters_and_a_second_use_of_the_graph():
    model = Encoder().eval()
    model.layers[0].requires_grad_(False)
    loss = cached(model, *inputs())
    loss.backward(retain_graph=True)
    first = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in model.layers[0].parameters())
    loss.backward()
    for name, gradient in first.items():
        torch.testing.assert_close(model.get_parameter(name).grad, 2 * gradient)


@pytest.mark.parametrize("factor", [1.0, 2.0**10])
def test_who_listens_sees_whole_batches_and_gradients_as_they_are_differentiated(factor):
    seen = []
    for make in (plain, cached):
        model = Encoder().eval()
        target = OutputTarget("queries", model.loss.queries)
        target.attach()
        target.arm(True)
        (factor * make(model, *inputs())).backward()
        seen.append(target.step())
    for expected, found in zip(*seen, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7 * factor**2)
    assert len(seen[1].norms) == N


def test_encoding_without_a_graph_spoils_nothing_that_follows_under_the_same_autocast():
    model = Encoder().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cached(model, *inputs())
        model.encode(inputs()[0]).sum().backward()
    assert model.layers[0].weight.grad.norm() > 0


def test_a_frozen_tower_and_a_loss_of_its_own():
    trained, frozen = nn.Linear(D, D), nn.Linear(D, D).requires_grad_(False)
    loss = InfoNCE(learnable_temperature=True)
    queries, documents = inputs()
    gradients = []
    encoding = {"encode_query": trained, "module": trained, "chunk_size": CHUNK_SIZE}
    for value in (
        loss(trained(queries), frozen(documents)),
        cached_loss(loss, queries, documents, encode_document=frozen, **encoding),
        cached_loss(loss, queries, frozen(documents), encode_document=lambda x: x, **encoding),
    ):
        wanted = [trained.weight, loss.scaling.log_scale]
        gradients.append(torch.autograd.grad(value, wanted))
    for other in gradients[1:]:
        for expected, found in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def towers(trained):
    queries, documents = nn.Linear(D, D), nn.Linear(D, D)
    sides = {"both": nn.ModuleList([queries, documents]), "one": queries, "neither": nn.Linear(D, D)}
    return {"encode_query": queries, "encode_document": documents, "module": sides[trained], "chunk_size": CHUNK_SIZE}


@pytest.mark.parametrize(("trained", "side"), [("neither", "query"), ("one", "document")])
def test_a_module_that_the_encoders_do_not_use_is_no_silence(trained, side):
    """With the right module both towers get a gradient; with another, the side that would get none is named."""
    encoding = towers("both")
    cached_loss(InfoNCE(), *inputs(), **encoding).backward()
    assert all(parameter.grad is not None for parameter in encoding["module"].parameters())
    loss = cached_loss(InfoNCE(), *inputs(), **towers(trained))
    message = rf"^module: expected the one whose parameters encode_{side} uses, got a Linear that no gradient reaches"
    with pytest.raises(ValueError, match=message):
        loss.backward()


def test_an_encoder_that_loses_inputs_is_named():
    encoding = towers("both") | {"encode_document": lambda chunk: encoding["module"][1](chunk[:-1])}
    with pytest.raises(
        ValueError, match=r"^encode_document: expected it to return an embedding for each of 4 inputs, got 3;"
    ):
        cached_loss(InfoNCE(), *inputs(), **encoding)
