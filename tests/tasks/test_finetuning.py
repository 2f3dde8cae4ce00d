"""Ways to train a part of a pretrained encoder, or all of it gently, and in small memory."""

import copy
import math

import pytest
import torch
from phrases import WORDS, Phrases
from pytorch_lightning import Trainer
from small_transformers import write_bert

from lightning_normdyn.tasks import Retrieval, RetrievalData, Sts
from lightning_normdyn.tasks.contrast.contrast_data import TrainingPair, collate_pairs
from lightning_normdyn.tasks.contrast.schedules import decayed
from lightning_normdyn.tasks.encoders import Lora, PretrainedTextEncoder
from lightning_normdyn.tasks.encoders.layer_stack import LayerStack
from lightning_normdyn.tasks.quiet import quiet_lightning

LR = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random BERT of 3 layers without dropout."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return str(write_bert(tmp_path_factory.mktemp("bert"), WORDS, initializer_range=0.5, **sizes))


def trained(task, steps=2, **options):
    """Fits a task on phrases; its weights before, by name."""
    torch.manual_seed(0)
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(accelerator="cpu", max_steps=steps, limit_val_batches=0, **quiet, **options)
    with quiet_lightning():
        trainer.fit(task, datamodule=RetrievalData(Phrases(), batch_size=8, bm25=False))
    return before


def test_each_layer_moves_by_its_own_rate(folder):
    """AdamW's first step is the rate itself wherever there is a gradient."""
    task = Retrieval(
        encoder=PretrainedTextEncoder(folder), lr=LR, layer_decay=0.5, schedule="constant", weight_decay=0.0
    )
    before = trained(task, steps=1)
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in task.named_parameters()}
    for part, distance in {"embeddings.word": 3, "layer.0.": 2, "layer.1.": 1, "layer.2.": 0}.items():
        largest = max(size for name, size in moved.items() if part in name)
        assert largest == pytest.approx(LR * 0.5**distance, rel=1e-3), part


def test_rates_reach_every_parameter_once_with_two_encoders(folder):
    task = Retrieval(
        encoder=PretrainedTextEncoder(folder), shared_encoder=False, layer_decay=0.9, normalization="learnable"
    )
    groups = task.encoder_groups()
    grouped = [id(p) for group in groups for p in group["params"]]
    loss_ids = {id(p) for p in task.contrast.parameters()}
    assert sorted(grouped) == sorted(id(p) for p in task.parameters() if p.requires_grad and id(p) not in loss_ids)
    assert [group["lr"] for group in groups] == pytest.approx([task.lr * 0.9**depth for depth in (3, 2, 1, 0)])


def test_layers_that_cannot_be_told_apart_are_refused(folder):
    with pytest.raises(ValueError, match=r"^layer_decay: expected an encoder whose layers .* SmallTextEncoder"):
        Sts(layer_decay=0.9)
    with pytest.raises(ValueError, match=r"^layer_decay: expected at most 1"):
        Sts(layer_decay=1.1)
    with pytest.raises(ValueError, match=r"^frozen_layers: expected less than the 3 layers of the model, got 3; set"):
        PretrainedTextEncoder(folder, frozen_layers=3)
    with pytest.raises(ValueError, match=r"^lora: expected one of frozen, frozen_layers and lora"):
        PretrainedTextEncoder(folder, frozen_layers=1, lora=Lora())


def test_layers_of_models_of_several_kinds():
    """Each of their parameters is in one layer, and those of a layer's module in its own."""
    from transformers import (
        AlbertConfig,
        AlbertModel,
        GPT2Config,
        GPT2Model,
        LlamaConfig,
        LlamaModel,
        T5Config,
        T5EncoderModel,
    )

    small = {
        "vocab_size": 9,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    gpt = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2))
    t5 = T5EncoderModel(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2))
    llama = LlamaModel(LlamaConfig(**small, num_key_value_heads=2))
    for model, layers, last in (
        (gpt, gpt.h, gpt.ln_f),
        (t5, t5.encoder.block, t5.encoder.final_layer_norm),
        (llama, llama.layers, llama.norm),
    ):
        groups = [{id(p) for p in group} for group in LayerStack(model).parameters()]
        assert sum(map(len, groups)) == len(list(model.parameters())) == len(set().union(*groups))
        expected = [{id(p) for p in layer.parameters()} for layer in layers]
        expected[-1] |= {id(p) for p in last.parameters()}
        assert groups[1:] == expected
    albert = AlbertModel(AlbertConfig(**small, embedding_size=4))
    assert len(LayerStack(albert)) == 0
    with pytest.raises(ValueError, match=r"^frozen_layers: .* AlbertModel, in which they share weights"):
        LayerStack(albert).freeze(0)


def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(folder):
    task = Retrieval(encoder=PretrainedTextEncoder(folder, frozen_layers=2), lr=LR)
    before = trained(task)
    for name, p in task.named_parameters():
        assert torch.equal(p, before[name]) != ("layer.2." in name), name


@pytest.mark.parametrize("negatives", [0, 2])
def test_a_gradient_cache_gives_the_gradient_of_the_whole_batch(folder, negatives):
    texts = [f"the {word} is open" for word in WORDS]
    batch = collate_pairs(
        [
            TrainingPair(
                word,
                text,
                n,
                n,
                tuple(texts[n - 1 - k] for k in range(negatives)),
                tuple((n - 1 - k) % 10 for k in range(negatives)),
            )
            for n, (word, text) in enumerate(zip(WORDS, texts, strict=True))
        ]
    )
    options = {"normalization": "qnorm", "temperature": 1.0}
    whole = Retrieval(encoder=PretrainedTextEncoder(folder), **options)
    cached = Retrieval(encoder=copy.deepcopy(whole.towers.document), mini_batch_size=3, **options)
    losses = [task.loss(batch) for task in (whole, cached)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    for (name, p), other in zip(whole.named_parameters(), cached.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(other.grad, p.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_a_cache_of_one_pair_is_refused(folder):
    batch = collate_pairs([TrainingPair("a", "file", 0, 0)])
    with pytest.raises(ValueError, match=r"^batch_size: expected 2 pairs"):
        Retrieval(encoder=PretrainedTextEncoder(folder), mini_batch_size=3).loss(batch)


@pytest.mark.parametrize(
    ("schedule", "fall"), [("linear", lambda x: 1 - x), ("cosine", lambda x: (1 + math.cos(math.pi * x)) / 2)]
)
def test_schedules_rise_in_a_line_and_fall_to_nothing(schedule, fall):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.4)
    scheduler = decayed(optimizer, schedule, 20, warmup=0.2)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.4 * (n + 1) / 5 for n in range(4)] + [0.4 * fall(n / 16) for n in range(16)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_lora_trains_adapters_alone(folder):
    pytest.importorskip("peft")
    task = Retrieval(encoder=PretrainedTextEncoder(folder, lora=Lora(rank=2, modules=["query", "value"])), lr=LR)
    whole = PretrainedTextEncoder(folder).eval()
    with torch.no_grad():
        start = task.towers.document.eval().encode(WORDS)
        torch.testing.assert_close(start, whole.encode(WORDS))
    task.train()
    before = trained(task, steps=3)
    adapters = [name for name, p in task.named_parameters() if p.requires_grad]
    assert len(adapters) == 3 * 2 * 2
    for name, p in task.named_parameters():
        assert torch.equal(p, before[name]) == (name not in adapters), name
    state = {
        name.replace("base_layer.", ""): p.clone()
        for name, p in task.towers.document.state_dict().items()
        if "lora_" not in name
    }
    for layer, module in enumerate(task.towers.document.model.encoder.layer):
        for name in ("query", "value"):
            adapter = getattr(module.attention.self, name)
            product = adapter.lora_B["default"].weight @ adapter.lora_A["default"].weight
            state[f"model.encoder.layer.{layer}.attention.self.{name}.weight"] += 16.0 / 2 * product  # alpha / rank
    whole.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(task.towers.document.eval().encode(WORDS), whole.encode(WORDS), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(whole.encode(WORDS), start)


def test_adapters_are_wide_where_weights_are_narrow(folder):
    pytest.importorskip("peft")
    encoder = PretrainedTextEncoder(folder, lora=Lora(), dtype="bfloat16")
    assert {p.dtype for p in encoder.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in encoder.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_without_peft_the_extra_is_named(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"install lightning-normdyn\[lora\]"):
        PretrainedTextEncoder(folder, lora=Lora())
