"""Questions about definitions of the standard library, with the answers that their signatures give."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from lightning_normdyn.datasets.judgements import Judgements
from lightning_normdyn.datasets.records import JudgedTexts, Texts
from lightning_normdyn.datasets.standard_library.docstring_retrieval import docstring_retrieval


class Question(NamedTuple):
    """What can be asked about a definition, and what counts as right."""

    text: str
    answers: tuple[str, ...]


def question_answers(folder: str | os.PathLike[str] | None = None) -> JudgedTexts:
    """Makes a set of questions whose answers stand in the documents that retrieval finds.

    Documents, judgements and splits are those of :func:`docstring_retrieval`: a signature and the rest of a docstring.
    Each document with a signature (modules have none, but are searched too) is asked about once, by the sentence that
    sums it up and never by its name:

    - *What is the name of the function (or class) described as: ...*, the last part of its name;
    - *What is the first argument of the function described as: ...*, ``self`` and ``cls`` left out;
    - *Which class does the class described as this inherit from: ...*, its first base, with or without a module; not
      if the base is computed.

    Which of those that have an answer is asked is told by a digest of the qualified name.

    Args:
        folder: the sources; by default the standard library of the running Python.

    Raises:
        FileNotFoundError: if there are no sources to read.
    """
    retrieval = docstring_retrieval(folder)
    questions: dict[int, Question] = {}
    for place, (name, document) in enumerate(zip(retrieval.documents.ids, retrieval.documents.texts, strict=True)):
        candidates = questions_about(document.partition("\n")[0], retrieval.queries.texts[place])
        if candidates:
            questions[place] = candidates[int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(candidates)]
    numbers = {place: number for number, place in enumerate(questions)}
    return JudgedTexts(
        documents=retrieval.documents,
        queries=Texts(
            [f"{retrieval.documents.ids[place]}:question" for place in questions],
            [question.text for question in questions.values()],
        ),
        judgements={
            split: _of_questions(split_judgements, numbers) for split, split_judgements in retrieval.judgements.items()
        },
        covariates=retrieval.covariates,
        answers={numbers[place]: question.answers for place, question in questions.items()},
    )


def questions_about(signature: str, summary: str) -> list[Question]:
    """All that can be asked about a signature; nothing if the text is none.

    Example:
        >>> for question in questions_about("class A(abc.ABC)", "It does."):
        ...     print(question.text, question.answers)
        What is the name of the class described as: It does. ('A',)
        Which class does the class described as this inherit from: It does. ('abc.ABC', 'ABC')
    """
    definition = _parsed(signature)
    if definition is None:
        return []
    kind = "class" if isinstance(definition, ast.ClassDef) else "function"
    questions = [Question(f"What is the name of the {kind} described as: {summary}", (definition.name,))]
    if isinstance(definition, ast.ClassDef):
        if definition.bases and isinstance(definition.bases[0], ast.Name | ast.Attribute):
            base = ast.unparse(definition.bases[0])
            answers = tuple(dict.fromkeys((base, base.rpartition(".")[-1])))
            questions.append(Question(f"Which class does the class described as this inherit from: {summary}", answers))
        return questions
    names = [
        argument.arg
        for argument in (*definition.args.posonlyargs, *definition.args.args)
        if argument.arg not in _RECEIVERS
    ]
    if names:
        questions.append(Question(f"What is the first argument of the function described as: {summary}", (names[0],)))
    return questions


_RECEIVERS = ("self", "cls")


def _parsed(signature: str) -> ast.ClassDef | ast.FunctionDef | None:
    if not signature.startswith(("class ", "def ")):
        return None
    try:
        (definition,) = ast.parse(f"{signature}: pass").body
    except SyntaxError:  # a text that begins like one
        return None
    return definition if isinstance(definition, ast.ClassDef | ast.FunctionDef) else None


def _of_questions(judgements: Judgements, numbers: Mapping[int, int]) -> Judgements:
    places: Sequence[int] = judgements.queries.tolist()
    has_question = torch.tensor([place in numbers for place in places], dtype=torch.bool)
    queries = torch.tensor([numbers[place] for place in places if place in numbers], dtype=torch.int64)
    return Judgements(queries, judgements.documents[has_question], judgements.grades[has_question])
