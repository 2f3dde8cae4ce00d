"""Prompts: what a model wants before its texts, and the text encoders that put it there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from lightning_normdyn.tasks.encoders.text import TextEncoder

_NAME = re.compile(r"[\w.-]+")
_DOCUMENTS = ("document", "passage", "corpus")


class Prompts(NamedTuple):
    """Prompts of a sentence-transformers model, chosen as its ``encode``, ``encode_query`` and ``encode_document`` do.

    Attributes:
        texts: name to the text that comes before an input.
        default_name: of the prompt that ``encode`` takes.

    Example:
        >>> prompts = Prompts({"query": "query: ", "title": "title: "}, "title")
        >>> prompts.default, prompts.query, prompts.document
        ('title: ', 'query: ', '')
    """

    texts: Mapping[str, str] = MappingProxyType({})
    default_name: str | None = None

    @property
    def default(self) -> str:
        """Before texts that are neither queries nor documents."""
        return self.texts.get(self.default_name or "", "")

    @property
    def query(self) -> str:
        """Before queries; never the default."""
        return self.texts.get("query", "")

    @property
    def document(self) -> str:
        """Before documents; never the default, nor a passage's: sentence-transformers has an empty one of documents."""
        return self.texts.get("document", "")

    @property
    def idle_document_names(self) -> list[str]:
        """Prompts that are meant for documents by their name, and are not used for them."""
        return [name for name in _DOCUMENTS[1:] if self.texts.get(name) and not self.document]

    def chosen(self, **choice: str | None) -> str | None:
        """The text of a prompt that somebody chose, by its name or as it is; ``None`` where nobody did.

        Args:
            choice: the argument's name with its value.

        Raises:
            ValueError: if it reads like a name and there is none such.

        Example:
            >>> Prompts({"query": "query: "}).chosen(query_prompt="query")
            'query: '
            >>> Prompts({"query": "query: "}).chosen(query_prompt="Question: ")
            'Question: '
            >>> Prompts({"query": "query: "}).chosen(query_prompt="qery")
            Traceback (most recent call last):
            ValueError: query_prompt: expected the name of a prompt (query) or a text, got 'qery'; a text of one...
        """
        ((argument, prompt),) = choice.items()
        if prompt is None:
            return None
        if not isinstance(prompt, str):
            raise ValueError(f"{argument}: expected a text or the name of a prompt, got {prompt!r}")
        if prompt in self.texts:
            return self.texts[prompt]
        if _NAME.fullmatch(prompt):
            names = ", ".join(self.texts) or "there are none"
            raise ValueError(
                f"{argument}: expected the name of a prompt ({names}) or a text, got {prompt!r}; a text of one word "
                "ends in a colon or a space"
            )
        return prompt


class PromptedTextEncoder(TextEncoder):
    """Base of encoders that put a prompt before each text.

    A subclass overrides :meth:`tokenize` to take the prompt, and calls :meth:`set_prompts`.

    Attributes:
        has_normalize: whether the model ends in a normalisation, which is left out.
        prompts: of the model.
        prompt: before texts that are neither queries nor documents.
        query_prompt: before queries.
        document_prompt: before documents.
    """

    has_normalize: bool = False
    prompts: Prompts = Prompts()
    prompt: str = ""
    query_prompt: str = ""
    document_prompt: str = ""

    def set_prompts(
        self, prompts: Prompts, *, prompt: str | None, query_prompt: str | None, document_prompt: str | None
    ) -> None:
        """Takes the model's prompts, or the names or texts that are passed instead.

        Raises:
            ValueError: if a name is none of the model's.
        """
        choices = (
            prompts.chosen(prompt=prompt),
            prompts.chosen(query_prompt=query_prompt),
            prompts.chosen(document_prompt=document_prompt),
        )
        model_prompts = (prompts.default, prompts.query, prompts.document)
        texts = [text if choice is None else choice for choice, text in zip(choices, model_prompts, strict=True)]
        self.prompts = prompts
        self.prompt, self.query_prompt, self.document_prompt = texts

    @property
    def prompts_note(self) -> str:
        """One sentence on the prompts; empty where there are none."""
        sides = {"queries": self.query_prompt, "documents": self.document_prompt, "other texts": self.prompt}
        clauses = [f"{text!r} comes before {side}" for side, text in sides.items() if text]
        idle_names = [] if self.document_prompt else self.prompts.idle_document_names
        clauses += [f"prompt {name!r} is left aside, as encode_document leaves it" for name in idle_names[:1]]
        empty_sides = [side for side, text in sides.items() if not text]
        if not clauses:
            return ""
        return ", ".join([*clauses, *[f"nothing before {' and '.join(empty_sides)}"] * bool(empty_sides)])

    def notes(self, model: str) -> list[str]:
        """What was taken off the model, and which of its prompts are used."""
        notes = [f"the final normalisation of {model} is left out, so that norms are free"] * self.has_normalize
        note = self.prompts_note
        return [*notes, f"{note}; prompts can be set by name or text"] if note else notes

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, dim]`` of texts that are neither queries nor documents, on the encoder's own device."""
        return self._encode(texts, self.prompt)

    def encode_queries(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, dim]`` of queries."""
        return self._encode(texts, self.query_prompt)

    def encode_documents(self, texts: Sequence[str]) -> Tensor:
        """Embeddings ``[b, dim]`` of documents."""
        return self._encode(texts, self.document_prompt)

    def tokenize(self, texts: Sequence[str], *, prompt: str = "") -> Mapping[str, Tensor]:
        """Keyword arguments of :meth:`forward` for ``b`` texts with a prompt before each, on the CPU."""
        raise NotImplementedError

    def _encode(self, texts: Sequence[str], prompt: str) -> Tensor:
        device = next(self.parameters()).device
        tokens = self.tokenize(texts, prompt=prompt)
        embeddings: Tensor = self(**{name: values.to(device) for name, values in tokens.items()})
        return embeddings
