"""Contrastive losses in a LightningModule: one word swaps them, and the callbacks see both sides."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.core import split_radial_tangential
from lightning_normdyn.losses import (
    ContrastiveMixin,
    CoSENT,
    CosineMixin,
    DistillKLDiv,
    DNormMixin,
    DotMixin,
    FullSoftmax,
    GradedContrastive,
    InfoNCE,
    LearnableNormMixin,
    MarginMSE,
    MaxSim,
    QNormMixin,
    SigmoidContrastive,
    SummedLoss,
)

D, BATCH = 8, 16
PRESETS = {"cosine": CosineMixin, "dot": DotMixin, "qnorm": QNormMixin, "dnorm": DNormMixin}


class Retriever(ContrastiveMixin, LightningModule):
    """Two linear towers."""

    def __init__(self, width: int = D, cached: bool = False, **contrastive):
        super().__init__(**contrastive)
        self.cached = cached
        torch.manual_seed(0)
        self.query, self.document = nn.Linear(D, width), nn.Linear(D, width)

    def training_step(self, batch, batch_idx):
        if self.cached:
            return self.cached_contrastive_loss(
                batch[0], batch[1], encode_query=self.query, encode_document=self.document, chunk_size=5
            )
        return self.contrastive_loss(self.query(batch[0]), self.document(batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, BATCH, D, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("normalization", PRESETS)
def test_presets_are_one_word_of_the_mixin(normalization):
    class Preset(PRESETS[normalization], LightningModule):
        pass

    queries, documents = batches(1)[0]
    assert Preset().contrast.similarity.normalization == normalization
    assert torch.equal(
        Preset().contrastive_loss(queries, documents), InfoNCE(normalization=normalization)(queries, documents)
    )
    assert Preset(normalization="dot").contrast.similarity.normalization == "dot"


def test_the_learnable_preset_trains_its_exponents(fit):
    class Learnable(LearnableNormMixin, Retriever):
        pass

    module = Learnable(learnable_temperature=True)
    trainer = fit(module, batches(6), NormDynamics(every_n_steps=1))
    logged = trainer.logger.of("contrast")
    # What is logged at a step is what the step's loss was made with.
    assert logged[1] == {"temperature": pytest.approx(0.05), "gamma_query": 0.5, "gamma_document": 0.5}
    assert logged[6]["gamma_query"] != 0.5 != logged[6]["gamma_document"]
    assert trainer.callback_metrics["normdyn/contrast/temperature"] > 0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_weight_decay_on_what_the_loss_learns_is_said_once(fit, decay):
    class Decaying(Retriever):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=decay)

    warned = "self.contrast.parameters.. into a parameter group with weight_decay=0"
    if not decay:
        fit(Decaying(learnable_temperature=True), batches(3))
        return
    with pytest.warns(UserWarning, match=warned) as said:
        fit(Decaying(learnable_temperature=True), batches(3))
    assert len([warning for warning in said if "weight decay" in str(warning.message)]) == 1
    fit(Decaying(), batches(3))


def test_a_fixed_loss_logs_nothing_of_its_own(fit):
    assert fit(Retriever(), batches(2)).logger.of("contrast") == {}


def test_a_config_swaps_the_loss():
    parser = ArgumentParser()
    parser.add_subclass_arguments(Retriever, "model")
    config = {"class_path": f"{__name__}.Retriever", "init_args": {"normalization": "qnorm", "temperature": 0.2}}
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    model = build(parser.parse_object({"model": config})).model
    assert model.contrast.similarity.normalization == "qnorm"
    assert float(model.contrast.temperature) == pytest.approx(0.2)
    with pytest.raises(SystemExit):
        parser.parse_args(["--model", "Retriever", "--model.normalization", "cos"])


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
def test_callbacks_see_queries_and_documents(fit, precision, cached):
    """Against the vectors and gradients of the loss by hand, scaled losses and replayed encoders included."""
    module, data = Retriever(symmetric=True, cached=cached), batches(4)
    initial = {name: p.detach().clone() for name, p in module.named_parameters()}
    options = {"precision": precision}
    if precision == "16-mixed":
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        options = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    trainer = fit(module, data, NormDynamics(every_n_steps=1), **options)
    dtype = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[precision]
    with torch.no_grad():
        for name, value in initial.items():
            module.get_parameter(name).copy_(value)
    with torch.autocast("cpu", dtype=dtype, enabled=precision != "32"):
        sides = {"queries": module.query(data[0][0]), "documents": module.document(data[0][1])}
    loss = InfoNCE(symmetric=True)(*sides.values())
    gradients = dict(zip(sides, torch.autograd.grad(loss, list(sides.values())), strict=True))
    tolerance = 1e-4 if precision == "32" else 0.05
    for name, vectors in sides.items():
        logged = trainer.logger.of(name)[1]
        assert logged["norm_mean"] == pytest.approx(float(vectors.detach().float().norm(dim=1).mean()), rel=1e-3)
        length = gradients[name].float().norm()
        assert logged["gradient_norm"] == pytest.approx(float(length), rel=tolerance)
        radial = split_radial_tangential(gradients[name].float(), vectors.detach().float()).radial.norm() / length
        assert logged["radial_fraction"] == pytest.approx(float(radial), abs=2e-3)


@pytest.mark.parametrize("kinds", [(False, True), (True, False), (True, True)])
def test_plain_and_cached_losses_of_one_accumulated_step_are_both_seen(fit, kinds):
    """What is cached is shown in the backward pass, where a checkpointed module would repeat what was seen."""

    class Alternating(Retriever):
        def training_step(self, batch, batch_idx):
            self.cached = self.kinds[batch_idx % 2]
            return super().training_step(batch, batch_idx)

    logged = []
    for each in (kinds, (False, False)):
        module = Alternating(symmetric=True)
        module.kinds = each
        trainer = fit(module, batches(4), NormDynamics(every_n_steps=1), accumulate_grad_batches=2)
        logged.append({name: trainer.logger.of(name)[1] for name in ("queries", "documents")})
    for name, expected in logged[1].items():
        for key in ("norm_mean", "norm_cv", "gradient_norm", "radial_fraction"):
            assert logged[0][name][key] == pytest.approx(expected[key], rel=1e-4, abs=1e-6), (name, key)


def test_two_losses_publish_under_their_own_names(fit):
    class Twice(Retriever):
        def __init__(self):
            super().__init__()
            self.other = InfoNCE()

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss + self.other(self.query(batch[1]), self.document(batch[0]))

    trainer = fit(Twice(), batches(2), NormDynamics(every_n_steps=1))
    assert all(trainer.logger.of(name) for name in ("contrast.queries", "other.documents"))
    one = fit(Retriever(), batches(2), NormDynamics(every_n_steps=1, targets=["documents"])).logger
    assert one.of("documents")
    assert not one.of("queries")


def test_a_copy_and_a_checkpoint_keep_the_loss(tmp_path):
    module = Retriever(normalization="learnable", learnable_temperature=True, queue_size=4)
    module.contrastive_loss(*batches(1)[0])
    fresh = Retriever(normalization="learnable", learnable_temperature=True, queue_size=4)
    fresh.load_state_dict(module.state_dict())
    more = batches(1, seed=1)[0]
    assert torch.equal(fresh.contrastive_loss(*more), module.contrastive_loss(*more))


def test_compilation_leaves_the_loss_alone():
    loss = InfoNCE(symmetric=True)
    queries, documents = batches(1)[0]

    def step(queries, documents):
        return 2 * loss(queries.sin(), documents.cos())

    torch.testing.assert_close(torch.compile(step, backend="eager")(queries, documents), step(queries, documents))


def test_the_sigmoid_loss_is_one_word_that_heeds_the_other_options():
    module = Retriever(loss="sigmoid", normalization="qnorm", temperature=0.3, learnable_temperature=True, chunk_size=5)
    queries, documents = batches(1)[0]
    expected = SigmoidContrastive(normalization="qnorm", temperature=0.3)
    torch.testing.assert_close(module.contrastive_loss(queries, documents), expected(queries, documents))
    assert module.contrast.chunk_size == 5
    assert module.contrast.learnt().keys() == {"temperature", "bias"}
    with pytest.raises(ValueError, match="symmetric: it means nothing to the sigmoid loss, which judges each pair by"):
        Retriever(loss="sigmoid", symmetric=True)
    with pytest.raises(
        ValueError, match=r"loss: expected one of infonce, sigmoid, maxsim, full_softmax, supcon, .*, got 'siglip'"
    ):
        Retriever(loss="siglip")


def test_late_interaction_is_one_word_too():
    module = Retriever(loss="maxsim", normalization="qnorm", symmetric=True, temperature=0.3, chunk_size=2)
    queries, documents = (side.unflatten(1, (2, -1)) for side in batches(1)[0])
    mask = torch.tensor([[True, index % 2 == 0] for index in range(BATCH)])
    expected = MaxSim(normalization="qnorm", symmetric=True, temperature=0.3)(queries, documents, document_mask=mask)
    torch.testing.assert_close(module.contrastive_loss(queries, documents, document_mask=mask), expected)
    assert module.contrast.chunk_size == 2
    with pytest.raises(ValueError, match="queue_size: it means nothing to MaxSim, which scores a vector a token"):
        Retriever(loss="maxsim", queue_size=8)
    with pytest.raises(ValueError, match="loss: 'maxsim' scores a vector a token, and a full softmax one a document"):
        module.full_softmax_loss(*batches(1)[0], torch.arange(BATCH))
    module = Retriever(symmetric=True)
    module.contrast = MaxSim()
    with pytest.raises(
        ValueError, match=r"^symmetric: True was given to the module, and self\.contrast was set to a Max"
    ):
        module.contrastive_loss(queries, documents)


def test_losses_of_soft_targets_are_words_too():
    queries, documents = batches(1)[0]
    scores = torch.randn(BATCH, BATCH)
    shared = {"normalization": "qnorm", "temperature": 0.3, "chunk_size": 5}
    taught = {"teacher_temperature": 0.7, "with_metrics": True}
    in_batch = {"candidates": "in_batch", "symmetric": True}
    listed = {"listed": torch.arange(BATCH)[:, None] // torch.arange(1, 4), "teacher_scores": scores[:, :3]}
    for word, make, settings, batch in (
        ("distill_kl", DistillKLDiv, taught | in_batch, {"teacher_scores": scores}),
        ("margin_mse", MarginMSE, taught, listed),
        ("graded", GradedContrastive, {"direction": "document_to_query"}, {"grades": scores.exp()}),
        ("cosent", CoSENT, {"learnable_temperature": True}, {"grades": scores[0]}),
    ):
        module = Retriever(loss=word, **shared, **settings)
        assert isinstance(module.contrast, make)
        expected = make(**shared, **settings)(queries, documents, **batch)
        torch.testing.assert_close(module.contrastive_loss(queries, documents, **batch), expected)
        with pytest.raises(ValueError, match=f"queue_size: it means nothing to {make.__name__}, .* loss='infonce'"):
            Retriever(loss=word, queue_size=8)
    with pytest.raises(ValueError, match="candidates: it means nothing to MarginMSE, which compares the listed docum"):
        Retriever(loss="margin_mse", candidates="in_batch")
    with pytest.raises(ValueError, match=r"teacher_temperature: it means nothing to InfoNCE, .* loss='distill_kl'"):
        Retriever(teacher_temperature=0.7)
    module = Retriever(loss="distill_kl", teacher_temperature=0.7)
    module.contrast = DistillKLDiv()
    with pytest.raises(ValueError, match=r"^teacher_temperature: 0\.7 was given to the module, and self\.contrast was"):
        module.contrastive_loss(queries, documents, **listed)


def test_several_words_are_a_sum(fit):
    weights = {"infonce": 1.0, "sigmoid": 0.2}
    module = Retriever(loss=weights, normalization="qnorm", temperature=0.3, learnable_temperature=True, symmetric=True)
    queries, documents = batches(1)[0]
    infonce = InfoNCE(normalization="qnorm", temperature=0.3, symmetric=True)(queries, documents)
    sigmoid = SigmoidContrastive(normalization="qnorm", temperature=0.3)(queries, documents)
    torch.testing.assert_close(module.contrastive_loss(queries, documents), infonce + 0.2 * sigmoid)
    assert module.contrast.apart == {}
    even = Retriever(loss=["infonce", "sigmoid"])
    assert even.contrast.weights == {"infonce": 1.0, "sigmoid": 1.0}
    for cached in (False, True):
        module = Retriever(loss=weights, cached=cached, learnable_temperature=True)
        trainer = fit(module, batches(3), NormDynamics())
        logged = trainer.logger.of("contrast")[1]
        assert logged.keys() == {
            *("infonce/loss", "infonce/temperature"),
            *("sigmoid/loss", "sigmoid/temperature", "sigmoid/bias"),
        }
        assert trainer.logger.of("queries")[1]["norm_mean"] > 0
    with pytest.raises(ValueError, match="loss: expected infonce and sigmoid in a sum, got 'maxsim'"):
        Retriever(loss=["infonce", "maxsim"])
    with pytest.raises(ValueError, match="loss: expected each of infonce and sigmoid once in a sum, got"):
        Retriever(loss=["infonce", "infonce"])
    with pytest.raises(ValueError, match="symmetric: it means nothing to the sigmoid loss"):
        Retriever(loss=["sigmoid"], symmetric=True)
    with pytest.raises(ValueError, match=r"losses: .*-0.2; a weight of 1 for each is common"):
        Retriever(loss={"infonce": 1.0, "sigmoid": -0.2})


def test_every_loss_of_a_sum_that_is_set_afterwards_heeds_the_options():
    module = Retriever(temperature=0.3)
    module.contrast = SummedLoss({"a": (1.0, InfoNCE(temperature=0.3)), "b": (1.0, SigmoidContrastive())})
    with pytest.raises(
        ValueError, match=r"^temperature: 0.3 was given to the module, and self.contrast was set to a Sig"
    ):
        module.contrastive_loss(*batches(1)[0])


def test_exponents_of_any_loss_of_a_sum_are_said(fit):
    losses = {"a": (1.0, InfoNCE()), "b": (1.0, InfoNCE(normalization="learnable"))}
    module = Slow(0.1)
    module.contrast = SummedLoss(losses)
    with pytest.warns(UserWarning, match="set learnable_temperature=True"):
        fit(module, batches(2))


@pytest.mark.parametrize("words", ["[infonce,sigmoid]", "{infonce: 1.0, sigmoid: 0.2}"])
def test_a_configuration_takes_several_words(words):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Retriever, "model")
    parsed = parser.parse_args([f"--model.loss={words}", "--model.normalization=dot", "--model.symmetric=true"])
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes
    contrast = build(parsed).model.contrast
    assert isinstance(contrast, SummedLoss)
    assert contrast.weights["sigmoid"] == (0.2 if "0.2" in words else 1.0)
    assert {loss.similarity.normalization for loss in contrast.losses.values()} == {"dot"}
    assert contrast.losses["infonce"].from_documents


def test_a_configuration_takes_the_word():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Retriever, "model")
    parsed = parser.parse_args(["--model.loss=sigmoid", "--model.normalization=dot", "--model.temperature=auto"])
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes
    contrast = build(parsed).model.contrast
    assert isinstance(contrast, SigmoidContrastive)
    parsed = parser.parse_args(["--model.loss=distill_kl", "--model.candidates=in_batch"])
    assert build(parsed).model.contrast.candidates == "in_batch"
    assert (contrast.similarity.normalization, contrast.scaling.start) == ("dot", "auto")


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"normalization": "qnorm"}, "normalization"),
        ({"temperature": 0.3}, "temperature"),
        ({"symmetric": True}, "symmetric"),
        ({"chunk_size": 3}, "chunk_size"),
    ],
)
def test_a_loss_that_is_set_afterwards_makes_no_option_ineffective_in_silence(options, option):
    module = Retriever(**options)
    module.contrast = SigmoidContrastive()
    with pytest.raises(ValueError, match=f"^{option}: .* was given to the module, and self.contrast was set to a Sigm"):
        module.contrastive_loss(*batches(1)[0])
    module = Retriever()
    module.contrast = SigmoidContrastive(normalization="dot", temperature=0.3)
    module.contrastive_loss(*batches(1)[0])
    heeding = Retriever(normalization="dot", temperature=0.3)
    heeding.contrast = SigmoidContrastive(normalization="dot", temperature=0.3)
    copy.deepcopy(heeding).contrastive_loss(*batches(1)[0])


def test_a_full_softmax_shares_the_parts_of_a_sigmoid_loss():
    module = Retriever(loss="sigmoid", normalization="dot", temperature=2.0, learnable_temperature=True)
    queries, documents = batches(1)[0]
    targets = torch.arange(BATCH)
    expected = FullSoftmax(normalization="dot", temperature=2.0)(queries, documents, targets)
    value = module.full_softmax_loss(queries, documents, targets)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert module.contrast.scaling.log_scale.grad.abs() > 0


class Slow(Retriever):
    """An encoder's rate, and one of the loss's own if there is any."""

    def __init__(self, loss_lr=None, **contrastive):
        super().__init__(**contrastive)
        self.loss_lr = loss_lr

    def configure_optimizers(self):
        towers = [*self.query.parameters(), *self.document.parameters()]
        return torch.optim.AdamW([{"params": towers}, self.contrast.parameter_group(lr=self.loss_lr)], lr=2e-5)


@pytest.mark.parametrize(
    ("loss_lr", "learns", "said"), [(None, False, 2), (None, True, 1), (0.1, False, 1), (0.1, True, 0)]
)
def test_exponents_that_could_tell_nothing_are_said(fit, loss_lr, learns, said):
    module = Slow(loss_lr, normalization="learnable", learnable_temperature=learns)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        fit(module, batches(4))
    messages = [str(each.message) for each in record if "exponents" in str(each.message)]
    assert len(messages) == said
    assert any("set learnable_temperature=True" in message for message in messages) == (not learns)
    assert any("move by at most 2e-05" in message for message in messages) == (loss_lr is None)
