"""Folders that sentence-transformers saves give its own numbers here: poolings, prompts, layers and first modules."""

import warnings

import pytest
import torch
from small_transformers import write_bert

pytest.importorskip("datasets")  # sentence-transformers imports it, not all of its extras bring it
sentence_transformers = pytest.importorskip("sentence_transformers", minversion="5.4")

import transformers  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer import modules as parts  # noqa: E402
from sentence_transformers.sentence_transformer.modules import StaticEmbedding, WordEmbeddings  # noqa: E402
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from lightning_normdyn.tasks.encoders import PretrainedTextEncoder, StaticTextEncoder  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = ["a", "file", "is", "open", "closed", "##s", "the", "query", "passage", ":"]
TEXTS = ["the file is open", "a", "files is closed the a file the file is open", "The FILE", ""]
PROMPTS = {"query": "query: ", "document": "the passage:"}
MODES = [
    "cls",
    "max",
    "mean",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
    ("max", "mean"),
    ("lasttoken", "cls"),
]
OLD = int(sentence_transformers.__version__.split(".")[0]) < 6


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    return write_bert(tmp_path_factory.mktemp("bert"), WORDS, initializer_range=0.5, max_position_embeddings=32)


def compare(folder, modules, kind=PretrainedTextEncoder, *, atol=1e-9, **options):
    """Saves a model, loads it on both sides in float64, and compares what ``encode`` and its kin give."""
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder))
    theirs = SentenceTransformer(str(folder), device="cpu").double().eval()
    if type(theirs[-1]).__name__ == "Normalize":
        del theirs[len(theirs) - 1]
    ours = kind(str(folder)).double().eval()
    for side, expected in {
        "encode": theirs.encode, "encode_queries": theirs.encode_query, "encode_documents": theirs.encode_document
    }.items():  # fmt: skip
        embeddings = getattr(ours, side)(TEXTS).detach()
        torch.testing.assert_close(embeddings, expected(TEXTS, convert_to_tensor=True), atol=atol, rtol=atol)
    assert embeddings.shape[1] == ours.dim
    return ours


@pytest.mark.parametrize("include_prompt", [True, False])
def test_all_poolings_with_prompts_and_cut_texts(bert, tmp_path, include_prompt):
    for number, mode in enumerate(MODES):
        modules = [
            parts.Transformer(str(bert), max_seq_length=9),
            parts.Pooling(16, mode, include_prompt=include_prompt),
        ]
        ours = compare(tmp_path / str(number), modules, prompts=PROMPTS, default_prompt_name="query")
        assert ours.max_length == 9
        assert ours.truncated_texts


def test_layers_behind_the_pooling(bert, tmp_path):
    pooling, dense, nothing = parts.Pooling(16), parts.Dense, torch.nn.Identity()
    layers = {
        "one": [dense(16, 4)],
        "many": [parts.Normalize(), dense(16, 4, bias=False, activation_function=nothing), parts.LayerNorm(4)],
        "off": [parts.Dropout(0.5), dense(16, 16, activation_function=torch.nn.GELU()), parts.Normalize()],
    }
    for name, modules in layers.items():
        ours = compare(tmp_path / name, [parts.Transformer(str(bert)), pooling, *modules])
        assert ours.has_normalize == (name == "off")
    if not OLD:
        residual = dense(16, 4, use_residual=True)
        compare(tmp_path / "residual", [parts.Transformer(str(bert)), pooling, residual])


def test_a_prompt_of_another_name_is_as_idle_as_there(bert, tmp_path):
    modules = [parts.Transformer(str(bert), do_lower_case=True), parts.Pooling(16)]
    ours = compare(tmp_path / "lower", modules, prompts={"passage": "passage: "})
    assert "prompt 'passage' is left aside" in ours.prompts_note


def test_models_without_attention(bert, tmp_path):
    static = StaticEmbedding(Tokenizer.from_file(str(bert / "tokenizer.json")), embedding_dim=8)
    for number, modules in enumerate([[static], [static, parts.Normalize()], [static, parts.Dense(8, 3)]]):
        compare(tmp_path / str(number), modules, StaticTextEncoder, prompts=PROMPTS)
    # Before version 6 the length was not heeded there.
    length = 100 if OLD else 3
    words = WordEmbeddings(WhitespaceTokenizer(["PAD", *WORDS], ["the"]), torch.randn(11, 6), max_seq_length=length)
    ours = compare(tmp_path / "mean", [words, parts.Pooling(6, ("mean", "mean_sqrt_len_tokens"))], StaticTextEncoder)
    assert (ours.encode([""]) == 0).all()


def test_decoders_padded_on_either_side_and_an_encoder_without_its_decoder(bert, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    qwen = transformers.Qwen2Config(vocab_size=15, num_key_value_heads=2, initializer_range=0.5, **sizes)
    t5 = transformers.T5Config(vocab_size=15, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    folders = {}
    for model in (transformers.Qwen2Model(qwen), transformers.T5Model(t5)):
        folders[type(model).__name__] = folder = str(tmp_path / type(model).__name__)
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    # Positions are rotated in float32 there, and padding on the left shifts them.
    for side in ("left", "right"):
        modules = [
            parts.Transformer(folders["Qwen2Model"], processor_kwargs={"padding_side": side}),
            parts.Pooling(16, "lasttoken", include_prompt=False),
        ]
        compare(tmp_path / side, modules, atol=1e-6, prompts=PROMPTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(tmp_path / "t5", [parts.Transformer(folders["T5Model"]), parts.Pooling(16)])
