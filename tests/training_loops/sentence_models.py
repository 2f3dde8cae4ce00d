"""Models of sentence-transformers with random weights, small enough to be trained in a blink, and texts for them."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from small_transformers import SPECIALS, bert_config

WORDS, WIDTH = 40, 16


def texts(count, seed=0):
    """Pairs of texts of one to seven words that share some of them."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        words = draw.choices(range(WORDS), k=draw.randint(1, 5))
        pairs.append([" ".join(f"w{word}" for word in words + draw.choices(range(WORDS), k=2)) for _ in range(2)])
    return pairs


def dataset(count=96, columns=("anchor", "positive"), **extra):
    import datasets

    left, right = zip(*texts(count), strict=True)
    return datasets.Dataset.from_dict({columns[0]: left, columns[1]: right, **extra})


def tokenizer():
    """One id a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIALS, *(f"w{word}" for word in range(WORDS))])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=fast, **names)


def bert_folder(folder, dropout=0.1):
    """A BERT of two layers on disk, as a hub would give it."""
    from transformers import BertModel

    words = tokenizer()
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    config = bert_config(len(words), **sizes, **dropouts)
    model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.output.LayerNorm.bias.normal_()  # else all tokens have one norm
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def sentence_model(modules):
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SentenceTransformer(modules=modules, device="cpu")


def text_model(folder, normalize=True, dropout=0.1):
    """Transformer, mean pooling and, if wanted, a final Normalize."""
    from sentence_transformers.sentence_transformer import modules as models

    torch.manual_seed(0)
    body = models.Transformer(bert_folder(folder, dropout))
    modules = [body, models.Pooling(WIDTH, pooling_mode="mean"), *([models.Normalize()] if normalize else [])]
    return sentence_model(modules)


def static_model(folder):
    """One vector a word in an EmbeddingBag, and their mean a text."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(0)
    return sentence_model([StaticEmbedding(tokenizer(), embedding_dim=WIDTH)])


def router_model(folder):
    """Queries by a static embedding, documents by a transformer, and a final Normalize."""
    from sentence_transformers.sentence_transformer import modules as models

    torch.manual_seed(0)
    document = [models.Transformer(bert_folder(folder)), models.Pooling(WIDTH, pooling_mode="mean")]
    query = [models.StaticEmbedding(tokenizer(), embedding_dim=WIDTH)]
    router = models.Router.for_query_document(query_modules=query, document_modules=document)
    return sentence_model([router, models.Normalize()])


def adapted_model(folder):
    """The text model with LoRA adapters of PEFT: all else is frozen."""
    from peft import LoraConfig, TaskType

    model = text_model(folder)
    adapters = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=4, lora_alpha=8, lora_dropout=0.1)
    try:
        model.add_adapter(adapters)
    except ValueError as error:  # transformers wants a newer PEFT than there may be
        pytest.skip(str(error))
    return model


def multi_vector_model(folder):
    """A vector a token, without those of [SEP] and padding, projected and normalized."""
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(0)
    options = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    dense = Dense(WIDTH, 8, bias=False, activation_function=torch.nn.Identity(), **options)
    modules = [Transformer(bert_folder(folder)), dense, MultiVectorMask(skiplist_words=["w3", "w4"])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MultiVectorEncoder(modules=[*modules, Normalize(**options)], device="cpu")
