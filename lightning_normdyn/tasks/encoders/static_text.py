"""Text encoders without attention: sentence-transformers' StaticEmbedding and WordEmbeddings."""

from __future__ import annotations

import string
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from lightning_normdyn.core.dynamics.geometry import at_least_float32
from lightning_normdyn.core.number_checks import check_flag
from lightning_normdyn.tasks.encoders.model_files import ModelFiles, damaged
from lightning_normdyn.tasks.encoders.prompts import PromptedTextEncoder
from lightning_normdyn.tasks.encoders.sentence_layers import SentenceLayers
from lightning_normdyn.tasks.encoders.sentence_modules import SentenceModules, other_way, sentence_modules
from lightning_normdyn.tasks.encoders.token_pooling import pool_tokens


class StaticTextEncoder(PromptedTextEncoder):
    """Pooled vectors of words or word pieces, each the same in every text, as sentence-transformers saves them.

    A ``StaticEmbedding`` takes the mean over the tokens of its tokenizer (model2vec's tables too); ``WordEmbeddings``
    split texts at white space and pool as the model says. A final normalisation is left out with a warning.

    Args:
        model: a name on the model hub, or a local folder.
        frozen: whether the vectors stay as they are.
        prompt: as of :class:`~lightning_normdyn.tasks.encoders.PretrainedTextEncoder`.
        query_prompt: likewise.
        document_prompt: likewise.

    Raises:
        ValueError: if the model begins with something else, or its files are damaged.
    """

    pooling = "mean"

    def __init__(
        self,
        model: str,
        *,
        frozen: bool = False,
        prompt: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        super().__init__()
        check_flag(frozen=frozen)
        modules, files = sentence_modules(model), ModelFiles(model)
        if modules.first.kind == "Transformer":
            raise ValueError(
                f"model: expected StaticEmbedding or WordEmbeddings, got {model}, which is a transformer; take "
                "lightning_normdyn.tasks.encoders.PretrainedTextEncoder for it"
            )
        self.set_prompts(modules.prompts, prompt=prompt, query_prompt=query_prompt, document_prompt=document_prompt)
        self.has_normalize = modules.has_normalize
        self.modes = modules.pooling if modules.first.kind == "WordEmbeddings" else ("mean",)
        self.words: Words = (
            _pieces(files, modules) if modules.first.kind == "StaticEmbedding" else _words(files, modules)
        )
        table = _table(files, modules)
        self.table = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = SentenceLayers(files, modules.layers, table.shape[1] * len(self.modes))
        self.train().requires_grad_(not frozen)
        self.dim: int = self.layers.dim
        for note in self.notes(model):
            warnings.warn(f"model: {note}", stacklevel=2)

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Mapping[str, Tensor]:
        """Numbers of the words ``[b, most]``, and a mask that is 0 where a text has ended."""
        numbers = self.words.numbers([prompt + text for text in texts])
        limit = self.words.max_length
        self.texts += len(texts)
        self.truncated_texts += sum(limit is not None and len(row) > limit for row in numbers)
        rows = [torch.tensor(row[:limit], dtype=torch.int64) for row in numbers]
        words = nn.utils.rnn.pad_sequence([*rows, torch.zeros(1, dtype=torch.int64)], batch_first=True)[:-1]
        lengths = torch.tensor([len(row) for row in rows])
        return {"words": words, "mask": (torch.arange(words.shape[1]) < lengths[:, None]).long()}

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Embeddings ``[b, dim]``, not normalised; a text without words has zeros before further layers.

        Args:
            words: as :meth:`tokenize` gives them.
            mask: likewise.
        """
        if self.modes == ("mean",):
            # Never makes the vector of every word of every text.
            weights = mask.to(self.table.weight.dtype)
            sums = embedding_bag(words, self.table.weight, per_sample_weights=weights, mode="sum")
            pooled = at_least_float32(sums / mask.sum(1, keepdim=True).clamp(min=1))
        else:
            pooled = pool_tokens(at_least_float32(self.table(words)), mask, self.modes)
        embeddings: Tensor = self.layers(pooled)
        return embeddings


class Words:
    """Splits texts at white space and numbers the words, as sentence-transformers' WhitespaceTokenizer.

    Args:
        vocabulary: the word of each row.
        stop_words: left out.
        do_lower_case: whether capitals are made small first.
        max_length: words of a text.

    Example:
        >>> Words(["padding", "cat", "sat"], ["the"]).numbers(["the Cat, sat down"])
        [[1, 2]]
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        stop_words: Sequence[str] = (),
        *,
        do_lower_case: bool = False,
        max_length: int | None = None,
    ) -> None:
        self.places = {word: place for place, word in enumerate(vocabulary)}
        self.stop_words = set(stop_words)
        self.do_lower_case = do_lower_case
        self.max_length = max_length

    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        """Rows of the words of each text, unknown ones left out."""
        return [self._of(text.lower() if self.do_lower_case else text) for text in texts]

    def _of(self, text: str) -> list[int]:
        places = (self._place(word) for word in text.split())
        return [place for place in places if place is not None]

    def _place(self, word: str) -> int | None:
        spelling_alone = word.strip(string.punctuation)
        for spelling in (word, spelling_alone, spelling_alone.lower()):
            if spelling in self.stop_words:
                return None
            if spelling and spelling in self.places:
                return self.places[spelling]
        return None


class _Pieces(Words):
    """Numbers the pieces that a tokenizer of the tokenizers library finds, without special ones."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(())
        self.tokenizer = tokenizer
        tokenizer.no_padding()

    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _pieces(files: ModelFiles, modules: SentenceModules) -> Words:
    from tokenizers import Tokenizer

    path = files.path(modules.first.file("tokenizer.json"))
    if path is None:
        raise ValueError(f"model: expected tokenizer.json in {files.model}, got none; save or download the model again")
    try:
        return _Pieces(Tokenizer.from_file(str(path)))
    except Exception as error:  # the library raises exceptions of no kind
        raise damaged(path, error) from error


def _words(files: ModelFiles, modules: SentenceModules) -> Words:
    config = modules.first.config
    kind = str(config.get("tokenizer_class", "")).rpartition(".")[2]
    if kind != "WhitespaceTokenizer":
        raise ValueError(
            f"model: expected WordEmbeddings with a WhitespaceTokenizer, got {files.model} with {kind or 'none'}; "
            f"{other_way(files.model)}"
        )
    name = modules.first.file("whitespacetokenizer_config.json")
    try:
        words = files.object(name) or {}
        length = config.get("max_seq_length")
        return Words(
            words["vocab"], words["stop_words"], do_lower_case=bool(words.get("do_lower_case")), max_length=length
        )
    except (KeyError, TypeError) as error:
        raise damaged(f"{files.model}/{name}", error) from error


def _table(files: ModelFiles, modules: SentenceModules) -> Tensor:
    """The vectors as float32; of model2vec's tables each token's own row times its weight."""
    weights = files.tensors(modules.first.path)
    for name in ("embedding.weight", "emb_layer.weight"):
        if name in weights:
            return weights[name].float()
    if "embeddings" not in weights:
        raise damaged(files.model, KeyError(f"no table of vectors among {', '.join(weights)}"))
    table = weights["embeddings"].float()
    table = table[weights["mapping"].long()] if "mapping" in weights else table
    return table * weights["weights"].float()[:, None] if "weights" in weights else table
