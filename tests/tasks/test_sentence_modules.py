"""Folders as sentence-transformers saves them, written by hand: prompts, poolings, layers, limits and precision."""

import json
import math
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from small_transformers import SPECIALS, write_bert
from transformers import AutoModel, AutoTokenizer

from lightning_normdyn.tasks.audited_model import load_audited
from lightning_normdyn.tasks.encoders import PretrainedTextEncoder, StaticTextEncoder, model_files
from lightning_normdyn.tasks.encoders.prompts import Prompts
from lightning_normdyn.tasks.encoders.text_towers import TextTowers
from lightning_normdyn.tasks.sts import Sts

WORDS = ["a", "file", "is", "open", "closed", "##s", "the", "query", "passage", ":"]
TEXTS = ["the file is open", "a", "files is closed"]
PROMPTS = {"query": "query: ", "document": "passage: ", "title": "the "}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    return write_bert(tmp_path_factory.mktemp("bert"), WORDS, initializer_range=0.5, max_position_embeddings=32)


@pytest.fixture
def saved(bert, tmp_path):
    """Makes a folder of modules: kind, and configuration and weights of those that have any."""

    def save(*modules, first="Transformer", **config):
        folder = tmp_path / f"saved{len(list(tmp_path.iterdir()))}"
        shutil.copytree(bert, folder)
        entries = [{"type": f"sentence_transformers.models.{first}", "path": ""}]
        for number, (kind, options, weights) in enumerate(modules, start=1):
            path = f"{number}_{kind}"
            entries.append({"type": f"sentence_transformers.models.{kind}", "path": path})
            (folder / path).mkdir()
            (folder / path / "config.json").write_text(json.dumps(options))
            if weights:
                save_file(weights, folder / path / "model.safetensors")
        (folder / "modules.json").write_text(json.dumps(entries))
        if "max_seq_length" in config:
            (folder / "sentence_bert_config.json").write_text(json.dumps(config))
        if "prompts" in config:
            (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
        return str(folder)

    return save


def quietly(kind, *arguments, **options):
    with pytest.warns(UserWarning, match=r"^model: "):
        return kind(*arguments, **options).eval()


def states(folder, text):
    """Hidden states of one text, straight from transformers, float64."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0].double()


def close(embeddings, expected):
    torch.testing.assert_close(embeddings.detach().double(), torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "pooled"),
    [
        ({"pooling_mode": "mean"}, lambda x: x.mean(0)),
        ({"pooling_mode": ["max", "lasttoken"]}, lambda x: torch.cat([x.amax(0), x[-1]])),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda x: x.sum(0) / len(x) ** 0.5),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, lambda x: x.sum(0) / len(x) ** 0.5),
        (
            {"pooling_mode": "weightedmean"},
            lambda x: sum((n + 1) * row for n, row in enumerate(x)) / sum(range(len(x) + 1)),
        ),
        ({"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}, lambda x: x[-1]),
        ({"word_embedding_dimension": 16}, lambda x: x.mean(0)),
    ],
)
def test_both_layouts_of_pooling(saved, config, pooled):
    folder = saved(("Pooling", config, None))
    encoder = PretrainedTextEncoder(folder).eval()
    close(encoder.encode(TEXTS), [pooled(states(folder, text)) for text in TEXTS])


def test_prompts_come_before_queries_documents_and_other_texts(saved):
    folder = saved(("Pooling", {"pooling_mode": "mean"}, None), prompts=PROMPTS, default_prompt_name="title")
    with pytest.warns(UserWarning, match=r"'query: ' comes before queries, 'passage: ' .*documents, 'the ' .*other"):
        encoder = PretrainedTextEncoder(folder).eval()
    sides = {"encode_queries": "query: ", "encode_documents": "passage: ", "encode": "the "}
    for side, prompt in sides.items():
        close(getattr(encoder, side)(TEXTS), [states(folder, prompt + text).mean(0) for text in TEXTS])
    towers = TextTowers(encoder)
    assert torch.equal(towers.encode_queries(TEXTS), encoder.encode_queries(TEXTS))
    assert torch.equal(towers.encode_documents(TEXTS), encoder.encode_documents(TEXTS))
    task = Sts(encoder=encoder)
    assert torch.equal(task.encode_queries(TEXTS), encoder.encode(TEXTS))
    assert torch.equal(task.encode_documents(TEXTS), encoder.encode(TEXTS))


def test_prompts_are_set_by_name_or_text(saved):
    folder = saved(("Pooling", {"pooling_mode": "cls"}, None), prompts=PROMPTS)
    encoder = quietly(PretrainedTextEncoder, folder, query_prompt="title", document_prompt="", prompt="a file: ")
    assert (encoder.query_prompt, encoder.document_prompt, encoder.prompt) == ("the ", "", "a file: ")
    with pytest.raises(
        ValueError, match=r"query_prompt: expected the name of a prompt \(query, document, title\) .*'qury'"
    ):
        PretrainedTextEncoder(folder, query_prompt="qury")
    with pytest.raises(ValueError, match=r"document_prompt: expected a text or the name of a prompt, got 3"):
        PretrainedTextEncoder(folder, document_prompt=3)


def test_tokens_of_a_prompt_can_stay_out_of_the_mean(saved):
    folder = saved(("Pooling", {"pooling_mode": "mean", "include_prompt": False}, None), prompts=PROMPTS)
    encoder = quietly(PretrainedTextEncoder, folder)
    # [CLS], "query" and ":" come before the text.
    close(encoder.encode_queries(TEXTS), [states(folder, "query: " + text)[3:].mean(0) for text in TEXTS])


def test_a_passages_prompt_is_said_to_be_idle_and_can_be_named(saved):
    folder = saved(("Pooling", {"pooling_mode": "mean"}, None), prompts={"passage": "passage: "})
    assert Prompts({"passage": "passage: "}).idle_document_names == ["passage"]
    with pytest.warns(
        UserWarning, match="prompt 'passage' is left aside, as encode_document leaves it, nothing before"
    ):
        assert PretrainedTextEncoder(folder).document_prompt == ""
    encoder = quietly(PretrainedTextEncoder, folder, document_prompt="passage")
    assert encoder.document_prompt == "passage: "


def test_damaged_prompts_are_refused(saved):
    pooling = ("Pooling", {"pooling_mode": "mean"}, None)
    with pytest.raises(ValueError, match=r"config_sentence_transformers.json' is damaged .*expected texts by name"):
        PretrainedTextEncoder(saved(pooling, prompts=["query: "]))
    with pytest.raises(ValueError, match=r"is damaged .*no prompt of the default name 'ask'"):
        PretrainedTextEncoder(saved(pooling, prompts=PROMPTS, default_prompt_name="ask"))


def test_layers_behind_the_pooling_are_applied(saved):
    generator = torch.Generator().manual_seed(1)
    weight, bias, scale = (torch.randn(size, generator=generator) for size in ((4, 16), (4,), (4,)))
    folder = saved(
        ("Pooling", {"pooling_mode": "mean"}, None),
        ("Normalize", {}, None),
        ("Dense", {"in_features": 16, "out_features": 4}, {"linear.weight": weight, "linear.bias": bias}),
        ("LayerNorm", {"dimension": 4}, {"norm.weight": scale, "norm.bias": bias}),
        ("Normalize", {}, None),
    )
    encoder = quietly(PretrainedTextEncoder, folder)

    def by_hand(text):
        mean = states(folder, text).mean(0)
        dense = torch.tanh(weight.double() @ (mean / mean.norm()) + bias.double())
        centred = dense - dense.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * scale.double() + bias.double()

    close(encoder.encode(TEXTS), [by_hand(text) for text in TEXTS])
    assert encoder.dim == 4
    assert encoder.bfloat16().encode(TEXTS).dtype == torch.float32
    model = load_audited(folder)
    assert (model.last_layer(images=False).name, model.last_layer(images=False).pooling) == ("LayerNorm", "")
    assert "step to length one was taken off" in model.notes[0]


def test_layers_that_do_not_fit_are_refused(saved):
    pooling, sizes = ("Pooling", {"pooling_mode": "mean"}, None), {"in_features": 16, "out_features": 4}
    weights = {"linear.weight": torch.ones(4, 16), "linear.bias": torch.ones(4)}
    cases = {
        "got one for 8": ("Dense", sizes | {"in_features": 8}, weights),
        "KeyError: 'out_features'": ("Dense", {"in_features": 16}, weights),
        "an activation of torch.nn, got 'os.system'": ("Dense", sizes | {"activation_function": "os.system"}, weights),
        "is damaged .RuntimeError": ("Dense", sizes, {"linear.weight": torch.ones(4, 16)}),
        "expected model.safetensors or pytorch_model.bin": ("Dense", sizes, None),
        "Dense of sentence_embedding, token_embeddings": (
            "Dense",
            sizes | {"module_input_name": "token_embeddings"},
            weights,
        ),
    }
    for words, module in cases.items():
        with pytest.raises(ValueError, match=words):
            PretrainedTextEncoder(saved(pooling, module))


def test_the_folders_length_is_obeyed_and_the_note_says_whose_it_is(saved):
    pooling = ("Pooling", {"pooling_mode": "mean"}, None)
    folder = saved(pooling, max_seq_length=4)
    long = ["a file is open the file", "a"]
    encoder = PretrainedTextEncoder(folder).eval()
    close(encoder.encode(long), [states(folder, "a file").mean(0), states(folder, "a").mean(0)])
    assert (encoder.max_length, encoder.truncated_texts, encoder.texts) == (4, 1, 2)
    limits = {
        (folder, None): "the 4 tokens that the model's folder sets (max_length sets others, 32 at most)",
        (folder, 6): "the 6 tokens that max_length sets",
        (folder, 99): "the 32 tokens that the model has positions for",
        (saved(pooling), None): "the 32 tokens that the model has positions for",
    }
    for (model, length), words in limits.items():
        audited = load_audited(model, max_length=length)
        assert audited.length_limit == words
        audited.encode_texts(["a " * 40, "a"])
        assert audited.truncated_share == 0.5


def test_a_tokenizers_length_is_obeyed(bert, tmp_path):
    AutoModel.from_pretrained(bert).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert, model_max_length=7).save_pretrained(tmp_path)
    assert PretrainedTextEncoder(str(tmp_path)).max_length == 7
    assert PretrainedTextEncoder(str(tmp_path), max_length=12).max_length == 12


def moved_share(encoder):
    """Share of the weights that a step of a fine-tuning rate changes."""
    before = [p.detach().clone() for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-6, weight_decay=0.0)
    encoder.encode(TEXTS).square().sum().backward()
    optimizer.step()
    after = [p for p in encoder.parameters() if p.requires_grad]
    changed = sum(int((new != old).sum()) for new, old in zip(after, before, strict=True))
    return changed / sum(int((p.grad != 0).sum()) for p in after if p.grad is not None)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_are_encoded_and_trained_in_float32(bert, tmp_path, dtype):
    AutoModel.from_pretrained(bert, dtype=getattr(torch, dtype)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    folder = str(tmp_path)
    numbers = sum(p.numel() for p in AutoModel.from_pretrained(folder).parameters())
    memory = re.escape(f"{numbers * 4 / 1e9:.2f} GB instead of {numbers * 2 / 1e9:.2f}")
    with pytest.warns(UserWarning, match=rf"stored in {dtype} and are taken as float32, {memory}"):
        encoder = PretrainedTextEncoder(folder)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert moved_share(encoder) > 0.99
    with pytest.warns(UserWarning, match=rf"trained in {dtype}, where steps below about a (512|4096)th"):
        kept = PretrainedTextEncoder(folder, dtype="auto")
    assert {p.dtype for p in kept.parameters()} == {getattr(torch, dtype)}
    assert moved_share(kept) < 0.5
    assert PretrainedTextEncoder(folder, dtype="auto", frozen=True).encode(TEXTS).dtype == torch.float32
    assert any(f"stored in {dtype}" in note for note in load_audited(folder).notes)
    with pytest.raises(ValueError, match=r"dtype: expected one of float32, float16, bfloat16, auto, got 'half'"):
        PretrainedTextEncoder(folder, dtype="half")


def static_folder(bert, tmp_path, weights, *modules):
    for file in (bert / "tokenizer.json",):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(weights, tmp_path / "model.safetensors")
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules]
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "models.StaticEmbedding", "path": ""}, *entries]))
    (tmp_path / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.StaticEmbedding", "path": ""}, *entries])
    )
    return str(tmp_path)


def test_static_embeddings_are_means_of_their_tokens(bert, tmp_path):
    table = torch.randn(15, 3, generator=torch.Generator().manual_seed(0))
    folder = static_folder(bert, tmp_path, {"embedding.weight": table}, ("Normalize", "1_Normalize"))
    encoder = quietly(StaticTextEncoder, folder)
    rows = {word: table[len(SPECIALS) + place].double() for place, word in enumerate(WORDS)}
    split = [text.replace("files", "file ##s").split() for text in TEXTS]
    close(encoder.encode(TEXTS), [torch.stack([rows[word] for word in words]).mean(0) for words in split])
    assert (encoder.encode([""]) == 0).all()
    with pytest.raises(ValueError, match=r"which begins with StaticEmbedding; take .*StaticTextEncoder"):
        PretrainedTextEncoder(folder)
    with pytest.raises(ValueError, match=r"which is a transformer; take .*PretrainedTextEncoder"):
        StaticTextEncoder(str(bert))
    model = load_audited(folder)
    assert model.last_layer(images=False).name == "Embedding"
    assert model.encode_texts(TEXTS).shape == (3, 3)
    with pytest.raises(ValueError, match=r"max_length: expected a transformer with it"):
        load_audited(folder, max_length=3)


def test_model2vec_tables_are_mapped_and_weighted(bert, tmp_path):
    generator = torch.Generator().manual_seed(0)
    table, weights = torch.randn(4, 3, generator=generator), torch.rand(15, generator=generator)
    mapping = torch.arange(15) % 4
    tensors = {"embeddings": table, "mapping": mapping, "weights": weights}
    encoder = StaticTextEncoder(static_folder(bert, tmp_path, tensors)).eval()
    ids = [len(SPECIALS) + WORDS.index(word) for word in ("a", "file")]
    expected = sum(table[i % 4].double() * weights[i].double() for i in ids) / 2
    close(encoder.encode(["a file"]), [expected])


def test_code_of_the_models_own_is_not_run_unless_allowed(bert, tmp_path):
    shutil.copytree(bert, tmp_path / "own")
    config = json.loads((bert / "config.json").read_text())
    config |= {"model_type": "own_bert", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    code = [
        "from transformers import BertConfig, BertModel",
        "class OwnConfig(BertConfig):\n    model_type = 'own_bert'",
        "class OwnModel(BertModel):\n    config_class = OwnConfig",
    ]
    (tmp_path / "own" / "own.py").write_text("\n".join(code))
    folder = str(tmp_path / "own")
    with pytest.raises(ValueError, match=r"which needs code that came with it; if you trust .*trust_remote_code"):
        PretrainedTextEncoder(folder)
    encoder = PretrainedTextEncoder(folder, trust_remote_code=True)
    assert type(encoder.model).__name__ == "OwnModel"


def test_a_name_on_the_hub_reads_what_a_folder_reads(saved, monkeypatch):
    """The hub gives out files of a folder; loading itself is transformers' own."""
    folder = saved(("Pooling", {"pooling_mode": "cls"}, None), prompts=PROMPTS, max_seq_length=6)

    def cached_file(model, file, **options):
        assert model == "maker/model"
        place = f"{folder}/{file}"
        if not model_files.Path(place).is_file():
            raise OSError(f"{model} does not appear to have a file named {file}")
        return place

    monkeypatch.setattr("transformers.utils.hub.cached_file", cached_file)
    for name in ("AutoModel", "AutoTokenizer"):
        kind = getattr(__import__("transformers"), name)
        load = kind.from_pretrained
        monkeypatch.setattr(kind, "from_pretrained", lambda _, load=load, **options: load(folder, **options))
    encoder = quietly(PretrainedTextEncoder, "maker/model")
    assert (encoder.pooling, encoder.max_length, encoder.query_prompt) == ("cls", 6, "query: ")
    assert torch.equal(encoder.encode_queries(TEXTS), quietly(PretrainedTextEncoder, folder).encode_queries(TEXTS))


@pytest.mark.parametrize(
    ("complaint", "words"),
    [
        (
            "We couldn't connect to the hub to load the files",
            "the hub cannot be reached and no copy of it is in the cache",
        ),
        ("maker/model is not a valid model identifier", "the hub has no such model, or gives it to members alone"),
    ],
)
def test_a_name_that_cannot_be_had_is_refused_in_one_sentence(monkeypatch, complaint, words):
    calls = []

    def cached_file(model, file, **options):
        calls.append(file)
        raise OSError(f"{complaint}\nSee the documentation.")

    monkeypatch.setattr("transformers.utils.hub.cached_file", cached_file)
    with pytest.raises(ValueError, match=rf"got 'maker/model': there is no such folder here, and {words}") as refusal:
        load_audited("maker/model")
    assert "\n" not in str(refusal.value)
    assert len(calls) == 1


def test_a_copy_in_the_cache_is_loaded_without_asking_the_hub_again(saved, monkeypatch):
    """Without a network transformers asks for each file of a copy again and again, two minutes in all."""
    hub = pytest.importorskip("huggingface_hub")
    folder, asked, loads = saved(("Pooling", {"pooling_mode": "cls"}, None)), [], []

    def model_info(api, model, **options):
        asked.append(model)
        raise ConnectionError("Name or service not known")

    def cached_file(model, file, *, local_files_only):
        assert local_files_only
        return f"{folder}/{file}" if model_files.Path(f"{folder}/{file}").is_file() else None

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(model_files, "_SURE_SECONDS", math.inf)
    monkeypatch.setattr("transformers.utils.hub.cached_file", cached_file)
    for name in ("AutoModel", "AutoTokenizer"):
        kind = getattr(__import__("transformers"), name)

        def from_pretrained(_, load=kind.from_pretrained, local_files_only=False, **options):
            loads.append(local_files_only)
            return load(folder, **options)

        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)
    assert load_audited("maker/cached-model").encoder.pooling == "cls"
    assert loads == [True, True]
    assert asked == ["maker/cached-model"]


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    """The library asks six times for each file, within half a minute, unless it is to look into its cache alone."""
    hub, requests = pytest.importorskip("huggingface_hub"), []

    def model_info(api, model, **options):
        requests.append(options)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(model_files, "_SURE_SECONDS", math.inf)
    monkeypatch.setattr(
        "huggingface_hub.file_download.get_hf_file_metadata", lambda **_: pytest.fail("asked for a file")
    )
    with pytest.raises(ValueError, match="the hub cannot be reached and no copy of it is in the cache"):
        load_audited("maker/no-such-model")
    assert requests == [{"timeout": 3.0}]
    monkeypatch.undo()
    with pytest.raises(ValueError, match="got 'a b/c:d': there is no such folder here, and the hub has no such names"):
        load_audited("a b/c:d")
