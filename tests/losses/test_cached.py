"""Gradient caching: the gradients of the plain loss over the same chunks, bit for bit where arithmetic allows."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.losses import InfoNCE, SigmoidContrastive, cached_loss, chunked_encoder

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
    message = (
        rf"^module: expected the one whose parameters encode_{side} uses, got a Linear without 2 of them, one of shape"
    )
    with pytest.raises(ValueError, match=message):
        loss.backward()


def silenced(encoder, how):
    def encode(chunk):
        if how == "reentrant":
            return checkpoint(encoder, chunk, use_reentrant=True)
        if how in ("no_grad", "inference_mode"):
            with getattr(torch, how)():
                return encoder(chunk)
        detached = encoder(chunk).detach()
        return torch.from_numpy(detached.numpy()) if how == "numpy" else detached

    return encode


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("how", ["no_grad", "inference_mode", "detach", "numpy", "reentrant"])
def test_an_encoder_whose_gradient_does_not_arrive_is_no_silence(how, learns):
    """Also where the loss learns a temperature, which would go on moving."""
    encoding = towers("both")
    encoding |= {side: silenced(encoding[side], how) for side in ("encode_query", "encode_document")}
    loss = cached_loss(InfoNCE(learnable_temperature=learns), *inputs(), **encoding)
    with pytest.raises(ValueError, match=r"^module: no gradient of encode_query or encode_document reaches the Mod"):
        loss.backward()


def test_frozen_encoders_under_a_loss_that_learns_are_no_mistake():
    encoding, loss = towers("both"), InfoNCE(learnable_temperature=True)
    encoding["module"].requires_grad_(False)
    cached_loss(loss, *inputs(), **encoding).backward()
    expected = InfoNCE(learnable_temperature=True)
    expected(encoding["encode_query"](inputs()[0]), encoding["encode_document"](inputs()[1])).backward()
    torch.testing.assert_close(loss.scaling.log_scale.grad, expected.scaling.log_scale.grad)


def test_a_part_of_an_encoder_that_the_module_does_not_hold_is_named():
    encoding, head = towers("both"), nn.Linear(D, D)
    encoder = encoding["encode_query"]
    loss = cached_loss(InfoNCE(), *inputs(), **encoding | {"encode_query": lambda chunk: head(encoder(chunk))})
    with pytest.raises(ValueError, match=r"^module: .* encode_query uses, got a ModuleList without 2 of them, one of"):
        loss.backward()


def test_modules_of_fsdp1_are_refused():
    encoding = towers("both")
    encoding["module"][0].weight._fsdp_flattened = True
    with pytest.raises(ValueError, match=r"^module: FSDP1 \(FullyShardedDataParallel\) would leave its gradients out"):
        cached_loss(InfoNCE(), *inputs(), **encoding)


class Pair(NamedTuple):
    x: torch.Tensor
    factor: torch.Tensor


STRUCTURES = {
    "tensor": (lambda x, factor: x * factor, lambda inputs: inputs),
    "tuple": (lambda x, factor: (x, factor), lambda inputs: inputs[0] * inputs[1]),
    "named tuple": (Pair, lambda inputs: inputs.x * inputs.factor),
    "tuple with more": (lambda x, factor: (x, None, {"f": factor}), lambda inputs: inputs[0] * inputs[2]["f"]),
    "mapping": (lambda x, factor: {"x": x, "of": (factor, 2.0)}, lambda inputs: inputs["x"] * inputs["of"][0]),
    "list of tensors": (lambda x, factor: list(x * factor), torch.stack),
    "tuple of lists": (lambda x, factor: tuple((x * factor).tolist()), torch.tensor),
}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_inputs_of_every_structure_are_cut_by_rows_and_get_their_gradients(structure, trained):
    """And a tensor that is part of every piece."""
    build, read = STRUCTURES[structure]
    trains = trained and structure != "tuple of lists"
    outcomes = []
    for chunk_size in (None, CHUNK_SIZE):
        model, most = nn.Linear(D, D, bias=False), []
        nn.init.eye_(model.weight)
        x, y = (side.clone().requires_grad_(trains) for side in inputs())
        factor, shared = (
            torch.linspace(1, 2, N)[:, None].requires_grad_(trains),
            torch.tensor(1.0, requires_grad=trains),
        )

        def encode(given, model=model, most=most):
            rows = read(given["rows"])
            most.append(len(rows))
            return model(rows + given["shared"])

        sides = [{"rows": build(side, factor), "shared": shared} for side in (x, y)]
        if chunk_size is None:
            value = InfoNCE()(*(encode(side) for side in sides))
        else:
            encoders = {"encode_query": encode, "encode_document": encode, "module": model}
            value = cached_loss(InfoNCE(), *sides, **encoders, chunk_size=chunk_size)
        value.backward()
        assert max(most) == (chunk_size or N)
        sources = [model.weight, *([x, y, factor, shared] if trains else [])]
        outcomes.append([value.detach(), *(source.grad for source in sources)])
    for ours, expected in zip(*reversed(outcomes), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("columns", [list, tuple])
def test_columns_in_a_list_and_entries_in_a_tuple_are_told_from_what_they_were_meant_as(columns):
    model = nn.Linear(D, D)
    encoding = {"module": model, "chunk_size": CHUNK_SIZE}
    if columns is list:
        given = [[x, torch.ones_like(x)] for x in inputs()]
        encode = lambda pair: model(pair[0] * pair[1])  # noqa: E731
    else:
        given = [tuple(x.expand(3, D) for x in side) for side in inputs()]
        encode = lambda pictures: model(torch.stack(pictures).mean(1))  # noqa: E731
    with pytest.raises(ValueError, match=r"^encode_query: expected .* a tuple with tensors holds columns, such as"):
        cached_loss(InfoNCE(), *given, encode_query=encode, encode_document=encode, **encoding)


def test_several_losses_at_once_and_what_they_learn():
    """A function, of which nobody told what it learns: the same gradients as without caching, and as seen in hooks."""
    outcomes = []
    for is_cached in (False, True):
        model = Encoder().eval()
        further = SigmoidContrastive(normalization="dot", temperature=0.5)

        def both(queries, documents, model=model, further=further):
            return model.loss(queries, documents) + 0.1 * further(queries, documents).sqrt()

        target = OutputTarget("queries", model.loss.queries)
        target.attach()
        target.arm(True)
        encoders = {"encode_query": model.encode, "encode_document": model.encode, "module": model.layers}
        if is_cached:
            value = cached_loss(both, *inputs(), **encoders, chunk_size=CHUNK_SIZE)
        else:
            value = both(*(torch.cat([model.encode(part) for part in side.split(CHUNK_SIZE)]) for side in inputs()))
        (2.0**10 * value).backward()
        parameters = [*model.parameters(), *further.parameters()]
        outcomes.append([value.detach(), *(parameter.grad for parameter in parameters), *target.step()])
    for expected, ours in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda q, d: (q * d).sum(1), r"^loss: expected it to return a tensor without dimensions, got \(14,\)"),
        (lambda *_: 3.0, r"^loss: expected it to return a tensor without dimensions, got float"),
        (lambda q, d: (q * d).sum().detach(), r"^loss: expected a value that carries the gradient of the embeddings"),
        ("infonce", r"^loss: expected a loss of lightning_normdyn.losses or a function .*, got str"),
    ],
)
def test_a_function_that_is_no_loss(loss, sentence):
    with pytest.raises(ValueError, match=sentence):
        cached_loss(loss, *inputs(), **towers("both"))


class Accelerator:
    """A device of another maker, with one generator."""

    def __init__(self):
        self.state = torch.tensor([5])

    def get_rng_state(self):
        return self.state.clone()

    def set_rng_state(self, state):
        self.state = state.clone()


def test_random_numbers_of_any_accelerator_are_replayed(monkeypatch):
    accelerator = Accelerator()
    monkeypatch.setattr(chunked_encoder, "_accelerator", lambda: accelerator)
    encoding, seen = towers("both"), []
    encoder = encoding["encode_query"]

    def encode(chunk):
        seen.append(int(accelerator.state))
        accelerator.state = accelerator.state + 1
        return encoder(chunk)

    cached_loss(InfoNCE(), *inputs(), **encoding | {"encode_query": encode}).backward()
    pieces = len(seen) // 2
    assert seen[:pieces] == seen[pieces:] == list(range(5, 5 + pieces))
    assert int(accelerator.state) == 5 + pieces


def test_an_encoder_that_loses_inputs_is_named():
    encoding = towers("both") | {"encode_document": lambda chunk: encoding["module"][1](chunk[:-1])}
    with pytest.raises(
        ValueError, match=r"^encode_document: expected it to return an embedding for each of 4 inputs, got 3;"
    ):
        cached_loss(InfoNCE(), *inputs(), **encoding)
