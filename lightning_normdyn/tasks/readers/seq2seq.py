"""Answers questions from passages with an encoder-decoder of transformers, such as T5, FLAN-T5 or BART."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightning_normdyn.core.number_checks import check_count
from lightning_normdyn.tasks.encoders.pretrained_text import transformers_classes
from lightning_normdyn.tasks.readers.reader import Reader


class Seq2SeqReader(Reader):
    """Generates answers greedily with frozen weights.

    Args:
        model: a name on the model hub, or a local folder.
        prompt: what is read, with ``{question}`` and ``{context}``; the documents, best first, are the context, and
            what does not fit at its end is left out and counted in
            :attr:`truncated_prompts`.
        batch_size: questions answered at once.
        max_length: tokens that are read.
        max_new_tokens: tokens of an answer.

    Raises:
        ModuleNotFoundError: if transformers is not installed.
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        model: str,
        *,
        prompt: str = "question: {question} context: {context}",
        batch_size: int = 16,
        max_length: int = 512,
        max_new_tokens: int = 16,
    ) -> None:
        if "{question}" not in prompt or "{context}" not in prompt:
            raise ValueError(f"prompt: expected '{{question}}' and '{{context}}' in it, got {prompt!r}")
        check_count(batch_size=batch_size, max_length=max_length, max_new_tokens=max_new_tokens)
        classes = transformers_classes("AutoModelForSeq2SeqLM", "AutoTokenizer")
        self.model: Any = classes[0].from_pretrained(model).eval().requires_grad_(False)
        self.tokenizer: Any = classes[1].from_pretrained(model)
        self.prompt = prompt
        self.batch_size = batch_size
        self.max_length = max_length
        self.max_new_tokens = max_new_tokens
        self.truncated_prompts = 0

    @torch.no_grad()
    def read(
        self, questions: Sequence[str], documents: Sequence[Sequence[str]], device: torch.device | None = None
    ) -> list[str]:
        """Answers each question, see :meth:`Reader.read`."""
        self.model.to(device)
        prompts = [
            self.prompt.format(question=question, context="\n".join(passages))
            for question, passages in zip(questions, documents, strict=True)
        ]
        answers: list[str] = []
        for start in range(0, len(prompts), self.batch_size):
            answers += self._generate(prompts[start : start + self.batch_size], device)
        return answers

    def _generate(self, prompts: list[str], device: torch.device | None) -> list[str]:
        full_ids = self.tokenizer(prompts, verbose=False)["input_ids"]
        self.truncated_prompts += sum(len(tokens) > self.max_length for tokens in full_ids)
        tokens = self.tokenizer(
            prompts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(device)
        generated_ids = self.model.generate(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
        )
        answers: list[str] = self.tokenizer.batch_decode(generated_ids, skip_special_tokens=True)
        return [answer.strip() for answer in answers]
