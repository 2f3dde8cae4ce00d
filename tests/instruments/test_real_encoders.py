"""Encoders as people have them: transformers' BERT, open_clip's CLIP, compiled and with activation checkpointing."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from encoders import Contrast, contrast, relu_layers, views
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import seeded
from small_transformers import bert_config
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import NormObserver

WORDS, LENGTH, PAIRS, STEPS = 40, 6, 8, 24
TOWERS = {
    "embed_dim": 8,
    "vision_cfg": {"layers": 2, "width": 16, "head_width": 8, "patch_size": 4, "image_size": 8},
    "text_cfg": {"context_length": LENGTH, "vocab_size": WORDS, "width": 16, "heads": 2, "layers": 2},
}


def bert(dropout=0.1):
    transformers = pytest.importorskip("transformers")
    sizes = {"num_hidden_layers": 2, "intermediate_size": 32}
    config = bert_config(WORDS, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **sizes)
    return transformers.BertModel(config, add_pooling_layer=False)


class Pooled(nn.Module):
    """The mean over a text's tokens, as sentence encoders have it."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.norm = nn.BatchNorm1d(16)

    def forward(self, input_ids, attention_mask):
        tokens = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(tokens)
        return self.norm((tokens * mask).sum(1) / mask.sum(1))


class Texts(pl.LightningModule):
    """Two texts a pair through one encoder, and a contrast of what it gives for them."""

    def __init__(self, encoder, call=None):
        super().__init__()
        self.encoder = encoder
        self.call = call or (lambda encoder, text: encoder(**text))

    def training_step(self, batch, batch_idx):
        queries, documents = (self.pool(self.call(self.encoder, text), text) for text in batch)
        scores = F.normalize(queries, dim=1) @ F.normalize(documents, dim=1).T
        return F.cross_entropy(10 * scores, torch.arange(len(scores)))

    def pool(self, output, text):
        if isinstance(output, torch.Tensor):
            return output
        mask = text["attention_mask"].unsqueeze(-1)
        return (output.last_hidden_state * mask).sum(1) / mask.sum(1)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.1)


def text_batches(steps=STEPS, seed=1):
    """Pairs of texts of one to six words, filled up with word 0."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(steps):
        ids = torch.randint(1, WORDS, (2, PAIRS, LENGTH), generator=generator)
        lengths = torch.randint(1, LENGTH + 1, (2, PAIRS, 1), generator=generator)
        mask = (torch.arange(LENGTH) < lengths).long()
        batches.append([{"input_ids": i * m, "attention_mask": m} for i, m in zip(ids, mask, strict=True)])
    return batches


def observer(**options):
    return NormDynamics(**{"targets": ["encoder"], "every_n_steps": 3, "window": 12} | options)


def train(fit, make, callbacks, *, call=None, steps=STEPS, **options):
    torch.manual_seed(11)
    module = Texts(seeded(make), call)
    trainer = fit(module, text_batches(steps), *callbacks, **options)
    return module, trainer


def logged(fit, make, **options):
    return train(fit, make, [observer()], **options)[1].logger.of("encoder")


def scaled_half():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=10)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


@pytest.mark.parametrize(
    ("precision", "accumulate"),
    [(dict, 2), (lambda: {"precision": "bf16-mixed"}, 1), (scaled_half, 2)],
    ids=["32, accumulated", "bf16-mixed", "16-mixed, accumulated"],
)
def test_a_sentence_encoder_is_trained_as_if_nobody_looked(fit, precision, accumulate):
    """Dropout in every layer and a BatchNorm at the end: weights, statistics and random state, bit for bit."""
    left = []
    for callbacks in ([], [observer()]):
        options = {"accumulate_grad_batches": accumulate, **precision()}
        module, _ = train(fit, lambda: Pooled(bert()), callbacks, steps=STEPS * accumulate, **options)
        left.append(module.state_dict() | {"random state": torch.random.get_rng_state()})
    alone, observed = left
    assert not [name for name in alone if not torch.equal(alone[name], observed[name])]
    assert not torch.equal(alone["encoder.norm.running_mean"], torch.zeros(16))


def test_tokens_of_padding_are_not_counted(fit, tmp_path):
    """BertModel itself as the target: its vectors are the tokens that are there, in training and on the probe."""
    model = seeded(lambda: bert(dropout=0.0))
    model.embeddings.LayerNorm.weight.data.fill_(1.5)
    last = model.encoder.layer[-1].output.LayerNorm
    last.bias.data.copy_(torch.randn(16, generator=torch.Generator().manual_seed(0)))  # else all norms are one
    batch = text_batches(1)
    with torch.no_grad():
        tokens = [model(**text).last_hidden_state[text["attention_mask"].bool()] for text in batch[0]]
    norms = torch.cat(tokens).norm(dim=1).double().numpy()
    assert len(norms) < 2 * PAIRS * LENGTH
    trainer = fit(Texts(model), batch, observer())
    assert trainer.logger.of("encoder")[1]["norm_mean"] == pytest.approx(norms.mean(), rel=1e-5)
    assert trainer.logger.of("encoder")[1]["norm_cv"] == pytest.approx(norms.std() / norms.mean(), rel=1e-4)
    assert len(read_run(tmp_path)["encoder"].trajectory()["row"].unique()) == len(norms)


def test_masks_by_position_and_those_of_torch():
    from lightning_normdyn.capture.vectors import unpadded_rows

    class Encoder(nn.Module):
        def forward(self, x, src_key_padding_mask=None):
            return x

    x, padded = torch.arange(12.0).reshape(2, 3, 2), torch.tensor([[False, True, True], [False, False, False]])
    for mask in (padded, torch.zeros(2, 3).masked_fill(padded, -torch.inf)):
        np.testing.assert_array_equal(unpadded_rows(x, Encoder(), (x, mask), {}), x[~padded])
    np.testing.assert_array_equal(unpadded_rows(x, Encoder(), (x,), {}), x.flatten(0, 1))
    pooled = x.mean(1)
    assert unpadded_rows(pooled, Encoder(), (x, padded), {}) is not None
    assert len(unpadded_rows(pooled, Encoder(), (x, padded), {})) == 2


def close(found, expected, rel=1e-5):
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=rel, abs=1e-6), step


def test_activation_checkpointing_inside_a_model(fit):
    def saving():
        model = bert(dropout=0.0)
        enable = "activation_checkpointing_enable"  # its name from transformers 5 on
        getattr(model, enable if hasattr(model, enable) else "gradient_checkpointing_enable")()
        return Pooled(model)

    close(logged(fit, saving), logged(fit, lambda: Pooled(bert(dropout=0.0))))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_around_the_encoder(fit, tmp_path, use_reentrant):
    """It is called twice a step: neither its vectors nor its inputs count twice."""

    def saving(encoder, text):
        def run(ids, mask, _anchor):
            return encoder(input_ids=ids, attention_mask=mask)

        anchor = torch.zeros((), requires_grad=True)  # reentrant checkpointing wants an input that requires grad
        with set_checkpoint_early_stop(False):  # else the second call ends before it returns anything
            return checkpoint(run, text["input_ids"], text["attention_mask"], anchor, use_reentrant=use_reentrant)

    class Simple(Pooled):  # a BatchNorm would see every batch twice
        def __init__(self, body):
            super().__init__(body)
            self.norm = nn.Linear(16, 16)

    def make():
        return Simple(bert(dropout=0.0))

    plainly = logged(fit, make, default_root_dir=tmp_path / "plain")
    found = logged(fit, make, call=saving, default_root_dir=tmp_path / "saving")
    if use_reentrant:  # the calls are repeated in another order, and the probe's items with them
        order_free = ("norm_mean", "norm_cv", "gradient_norm", "radial_fraction", "budget_growth")
        found, plainly = (
            {s: {k: v[k] for k in order_free} for s, v in run.items() if 3 <= s < STEPS} for run in (found, plainly)
        )
    close(found, plainly, rel=1e-4)
    rows = [len(read_run(tmp_path / run)["encoder"].trajectory()["row"].unique()) for run in ("plain", "saving")]
    assert rows == [2 * PAIRS, 2 * PAIRS]


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-2)


COMPILED = {
    "wrapped": lambda net: torch.compile(net, backend="eager"),
    "wrapped, one graph": lambda net: torch.compile(net, backend="eager", fullgraph=True),
    "by its method": lambda net: (net.compile(backend="eager"), net)[1],
}


@pytest.mark.parametrize("compile_it", COMPILED.values(), ids=COMPILED)
def test_a_compiled_submodule_keeps_its_name(fit, tmp_path, compile_it):
    """``torch.compile(encoder)`` is a module around the encoder; its targets are called as before."""

    def run(make, folder):
        callback = observer(targets=["encoder", "encoder.0.weight"])
        module = Contrast(make(), sgd)
        return fit(module, views(STEPS), callback, default_root_dir=tmp_path / folder).logger

    plainly = run(lambda: seeded(relu_layers), "plain")
    found = run(lambda: compile_it(seeded(relu_layers)), "compiled")
    for target in ("encoder", "encoder.0.weight"):
        close(found.of(target), plainly.of(target), rel=1e-4)
    assert set(read_run(tmp_path / "compiled")) == {"encoder", "encoder.0.weight"}


def trained_as_root(compile_it=lambda net, _: (net, net), target="root"):
    """What was logged, the weights, and how many graphs were compiled, of a net and what calls it."""
    torch._dynamo.reset()
    net, counter, logged = seeded(relu_layers), CompileCounter(), {}
    observed, called = compile_it(net, counter)
    optimizer = sgd(net)
    with NormObserver(
        observed,
        optimizer,
        targets=[target],
        total_steps=STEPS,
        every_n_steps=4,
        window=12,
        log=lambda *news: logged.update(news[0]),
    ):
        for batch in views(STEPS):
            optimizer.zero_grad()
            contrast(called, batch).backward()
            optimizer.step()
    return logged, net.state_dict(), counter.frame_count


def wrapped(net, counter, **options):
    called = torch.compile(net, backend=counter, **options)
    return called, called


def inside(net, counter, **options):
    return net, torch.compile(net, backend=counter, **options)


def by_method(net, counter, **options):
    net.compile(backend=counter, **options)
    return net, net


@pytest.mark.parametrize("compile_it", [wrapped, partial(wrapped, fullgraph=True), inside, by_method])
def test_a_whole_model_that_is_compiled_is_followed_in_one_graph(compile_it):
    """Whether the observer is given the model or what ``torch.compile`` makes of it."""
    expected, weights, _ = trained_as_root()
    logged, compiled_weights, graphs = trained_as_root(compile_it)
    assert graphs == 1
    assert logged.keys() == expected.keys()
    assert logged == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert not [name for name, value in weights.items() if not torch.equal(value, compiled_weights[name])]


@pytest.mark.parametrize(("compile_it", "target"), [(inside, "root"), (by_method, "root"), (wrapped, "0")])
def test_a_target_inside_of_one_graph_is_refused_with_the_reason(compile_it, target):
    logged, *_ = trained_as_root(compile_it, target)
    assert logged == pytest.approx(trained_as_root(target=target)[0], rel=1e-4, abs=1e-6)
    reason = "compile without fullgraph=True, or give the observer what torch.compile"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=reason):
        trained_as_root(partial(compile_it, fullgraph=True), target)


class Images(pl.LightningModule):
    """CLIP's own loss on pairs of images and texts."""

    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def training_step(self, batch, batch_idx):
        images, texts = batch
        image, text = self.clip.encode_image(images, normalize=True), self.clip.encode_text(texts, normalize=True)
        scores = self.clip.logit_scale.exp() * image @ text.T
        own = torch.arange(len(scores))
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.1)


def image_batches(steps=STEPS):
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.randn(PAIRS, 3, 8, 8, generator=generator),
            torch.randint(1, WORDS, (PAIRS, LENGTH), generator=generator),
        )
        for _ in range(steps)
    ]


def clip(kind):
    model = pytest.importorskip("open_clip.model")
    return seeded(lambda: getattr(model, kind)(**TOWERS))


def probe_norms(tmp_path, target, step):
    rows = read_run(tmp_path)[target].trajectory()
    return rows.filter(np.equal(rows["step"].to_numpy(), step))["norm"].to_numpy()


def test_both_towers_of_clip_are_followed(fit, tmp_path):
    """A text tower that is a module, by its name; the first batch is the probe of both."""
    module = Images(clip("CustomTextCLIP"))
    trainer = fit(module, image_batches(), observer(targets=["clip.visual", "clip.text"]))
    images, texts = image_batches(1)[0]
    module.eval()
    with torch.no_grad():
        expected = {"clip.visual": module.clip.encode_image(images), "clip.text": module.clip.encode_text(texts)}
    for target, vectors in expected.items():
        np.testing.assert_allclose(probe_norms(tmp_path, target, STEPS), vectors.norm(dim=1), rtol=1e-5)
        last = trainer.logger.of(target)[24]
        assert math.isfinite(last["stationarity"])
        assert last["budget_residual"] < 1e-6


def test_a_tower_that_is_a_method_is_followed_on_a_probe(fit, tmp_path):
    """The usual CLIP keeps its text tower in ``encode_text``; training is what it would be."""
    texts = image_batches(1)[0][1]
    alone, module = Images(clip("CLIP")), Images(clip("CLIP"))
    fit(alone, image_batches())
    callback = observer(targets=["clip.visual", "clip.encode_text"], probe={"clip.encode_text": texts})
    trainer = fit(module, image_batches(), callback)
    for name, weight in alone.state_dict().items():
        assert torch.equal(weight, module.state_dict()[name]), name
    with torch.no_grad():
        vectors = module.eval().clip.encode_text(texts)
    np.testing.assert_allclose(probe_norms(tmp_path, "clip.encode_text", STEPS), vectors.norm(dim=1), rtol=1e-5)
    found = trainer.logger.of("clip.encode_text")
    assert math.isfinite(found[24]["stationarity"])
    assert found[24]["radial_decay"] > 0


def test_a_method_that_is_none_gets_the_usual_sentence(fit):
    with pytest.raises(ValueError, match=r"'encoder\.unheard' matches no parameter or submodule"):
        fit(Contrast(relu_layers(), sgd), views(1), observer(targets=["encoder.unheard"]))
