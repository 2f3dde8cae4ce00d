"""Models of transformers with random weights, small enough to be made in a blink, in memory or in a folder."""

from __future__ import annotations

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_config(words, **sizes):
    """Of a BERT of one layer with two heads of 8; ``sizes`` are BertConfig's."""
    from transformers import BertConfig

    defaults = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 16,
    }
    return BertConfig(vocab_size=words, **defaults | sizes)


def bert_classifier(words=30, **sizes):
    """With two classes."""
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(bert_config(words, num_labels=2, **sizes))


def write_bert(folder, words, **sizes):
    """Saves a model and its tokenizer of whole words, as a hub would give them.

    Args:
        folder: which is made if need be.
        words: those besides the special tokens.
        sizes: see :func:`bert_config`.
    """
    from transformers import BertModel, BertTokenizerFast

    folder.mkdir(exist_ok=True)
    vocabulary = [*SPECIALS, *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertModel(bert_config(len(vocabulary), **sizes)).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
