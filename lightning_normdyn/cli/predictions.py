"""Writes the embeddings of a trained task with their ids, as the files that audit, advise and export take."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from torch import Tensor

from lightning_normdyn.atomic_file import atomic_file, write_atomically
from lightning_normdyn.cli.checkpoint_errors import fitting_checkpoint, loading_options
from lightning_normdyn.cli.fit import WITHOUT_RUN, NormdynCLI, UnloggedCLI, config_words
from lightning_normdyn.cli.run_folder import check_writable, make_writable
from lightning_normdyn.datasets import Judgements
from lightning_normdyn.datasets.embedding_file import id_arrays, places_by_id
from lightning_normdyn.tasks import ContrastiveTask, TokenContrast, TokenPairs
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.quiet import quiet_lightning

QUERIES, DOCUMENTS, JUDGEMENTS = "queries.npz", "documents.npz", "judgements.tsv"
QUERY_TEXTS, DOCUMENT_TEXTS = "queries.tsv", "documents.tsv"
_BREAKS = "\t\0\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_RANKINGS = ("ndcg", "mrr", "recall", "map", "hits")  # what audit measures


class PredictionRecord(NamedTuple):
    """What ``normdyn predict`` prints.

    Attributes:
        rows: file to the number of its rows, in the order of writing; empty if LightningCLI predicted.
        notes: what to know besides.
        next_command: what to look at them with.
    """

    rows: dict[Path, int]
    notes: Sequence[str] = ()
    next_command: str = ""

    @property
    def exit_code(self) -> int:
        """Success."""
        return 0

    def print_to(self, console: Console) -> None:
        """Prints the files, and a command that takes them."""
        for note in self.notes:
            console.print(note)
        for file, rows in self.rows.items():
            console.print(f"{file}: {rows:,} rows")
        if self.next_command:
            console.print(f"Look at them: {self.next_command}")


class Sides(NamedTuple):
    """What is written.

    Attributes:
        documents: embeddings ``[m, d]``.
        document_ids: of each.
        queries: embeddings ``[n, d]``; ``None`` where one table serves both sides.
        query_ids: of each.
        judgements: pairs of positions.
        document_texts: what was encoded, where they are texts.
        query_texts: the same of queries.
    """

    documents: Tensor
    document_ids: Sequence[str]
    queries: Tensor | None = None
    query_ids: Sequence[str] = ()
    judgements: Judgements | None = None
    document_texts: Sequence[str] | None = None
    query_texts: Sequence[str] | None = None


class EncodingBar(RichProgressBar):
    """A progress bar that says what the evaluation is made for."""

    @property
    def test_description(self) -> str:
        """Of the test split."""
        return "Encoding"

    @property
    def validation_description(self) -> str:
        """Of the validation split."""
        return "Encoding"


class EncodingCLI(UnloggedCLI):
    """:class:`UnloggedCLI` with a progress bar of its own."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Puts the bar in place of Lightning's."""
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks[:] = [  # type: ignore[attr-defined]
            EncodingBar() if callback is trainer.progress_bar_callback else callback
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        ]
        return trainer


def run_prediction(
    config: Sequence[str],
    ckpt_path: str | None,
    *,
    split: Literal["validation", "test"],
    out: str,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
) -> PredictionRecord:
    """Encodes a split and writes both sides.

    Args:
        config: files of LightningCLI, or names of shipped ones.
        ckpt_path: the checkpoint; ``None`` for the configuration's own, or the model before any training.
        split: whose queries and documents are encoded.
        out: folder of the files.
        overwrite: whether files that are there may be replaced.
        overrides: words of LightningCLI.

    Raises:
        ValueError: if the configuration or the folder will not do.
        OSError: if the folder cannot be written.
    """
    folder = Path(out)
    names = (QUERIES, DOCUMENTS, JUDGEMENTS, QUERY_TEXTS, DOCUMENT_TEXTS)
    existing = next((folder / name for name in names if (folder / name).exists()), None)
    if existing is not None and not overwrite:
        raise ValueError(f"out: '{existing}' exists already; pass --overwrite to replace it, or choose another folder")
    check_writable(folder)
    words = config_words(config, overrides)
    with quiet_lightning("Be aware that when using `ckpt_path`"):
        cli = EncodingCLI([*words, *WITHOUT_RUN], run=False, command="predict")
        checkpoint = ckpt_path or cli.config.get("ckpt_path")
        if isinstance(cli.model, TokenContrast):
            sides = _of_table(cli, checkpoint)
        elif isinstance(cli.model, ContrastiveTask):
            sides = _of_task(cli, checkpoint, split)
        else:
            NormdynCLI(["predict", *words, *([f"--ckpt_path={ckpt_path}"] if ckpt_path else [])])
            return PredictionRecord({}, ["The module is no task of this package: LightningCLI ran its predict_step."])
    notes = [] if checkpoint else ["No --ckpt_path: the model is as the configuration makes it, before any training."]
    rows = _write(folder, sides)
    measure = cli.model.headline if isinstance(cli.model, ContrastiveTask) else None
    if measure is None or measure.partition("@")[0] in _RANKINGS:
        return PredictionRecord(rows, notes, _audit_command(rows))
    notes.append(
        f"This task is measured by {measure}, which is no ranking, as audit measures; normdyn advise takes it."
    )
    checkpoint_words = ["--ckpt_path", ckpt_path] if ckpt_path else []
    return PredictionRecord(rows, notes, shlex.join(["normdyn", "advise", *words, *checkpoint_words]))


def _audit_command(rows: Iterable[Path]) -> str:
    """Audits what was written."""
    files = {file.name: str(file) for file in rows}
    words = ["normdyn", "audit", "--embeddings", files[DOCUMENTS]]
    if DOCUMENT_TEXTS in files:
        words += ["--texts", files[DOCUMENT_TEXTS]]
    if JUDGEMENTS in files:
        words += ["--queries", files[QUERIES], "--judgements", files[JUDGEMENTS]]
    return shlex.join(words)


def _of_task(cli: EncodingCLI, checkpoint: str | None, split: Literal["validation", "test"]) -> Sides:
    """Both sides of a split, by the task's own evaluation."""
    model: Any = cli.model
    model.measures_floors = False
    evaluate = cli.trainer.test if split == "test" else cli.trainer.validate
    with fitting_checkpoint(checkpoint, cli.trainer):
        options = loading_options(checkpoint)
        evaluate(model, datamodule=cli.datamodule, ckpt_path=checkpoint, verbose=False, **options)
    encoded: Encoded | None = model.encoded
    if encoded is None:
        raise ValueError(f"data: expected a {split} split, got none")
    encoded_split = encoded.split
    return Sides(
        encoded.documents,
        _ids(None if encoded_split is None else encoded_split.document_ids, len(encoded.documents)),
        encoded.queries,
        _ids(None if encoded_split is None else encoded_split.query_ids, len(encoded.queries)),
        encoded.judgements,
        None if encoded_split is None else _texts(encoded_split.documents),
        None if encoded_split is None else _texts(encoded_split.queries),
    )


def _of_table(cli: EncodingCLI, checkpoint: str | None) -> Sides:
    """The words and the rows of the token task, whose table serves both sides."""
    model: Any = cli.model
    data: Any = cli.datamodule
    if checkpoint is not None:
        with fitting_checkpoint(checkpoint):
            model = TokenContrast.load_from_checkpoint(checkpoint, map_location="cpu", **loading_options(checkpoint))
    if not isinstance(data, TokenPairs):
        return Sides(model.table.weight.detach().cpu(), _ids(None, model.table.num_embeddings))
    data.setup("predict")
    return Sides(model.table.weight.detach().cpu(), data.vocabulary.words)


def _texts(inputs: Sequence[Any]) -> Sequence[str] | None:
    """The inputs of an encoder, where they are texts."""
    return inputs if len(inputs) and isinstance(inputs[0], str) else None


def _ids(ids: Sequence[str] | None, rows: int) -> Sequence[str]:
    return [str(row) for row in range(rows)] if ids is None else ids


def _check_ids(sides: Sides) -> None:
    """Refuses ids that the files cannot hold so that audit and export read the same ones back.

    Raises:
        ValueError: naming the first.
    """
    has_lines = sides.judgements is not None or sides.document_texts is not None
    for side, ids in {"documents": sides.document_ids, "queries": sides.query_ids}.items():
        for row, id in enumerate(ids if has_lines else ()):
            if not id or id != id.strip() or any(mark in id for mark in _BREAKS):
                raise ValueError(
                    f"{side}: expected ids without tabs, line breaks and blanks at their ends, which a line of a table "
                    f"cannot hold, got {id!r} in row {row}; rename it in the data"
                )
        if sides.judgements is not None:
            places_by_id(ids, side)


def _write(folder: Path, sides: Sides) -> dict[Path, int]:
    _check_ids(sides)
    make_writable(folder)
    rows = {folder / DOCUMENTS: _write_embeddings(folder / DOCUMENTS, sides.documents, sides.document_ids)}
    if sides.queries is not None:
        rows[folder / QUERIES] = _write_embeddings(folder / QUERIES, sides.queries, sides.query_ids)
    if sides.judgements is not None:
        rows[folder / JUDGEMENTS] = _write_judgements(folder / JUDGEMENTS, sides)
    for name, ids, texts in (
        (DOCUMENT_TEXTS, sides.document_ids, sides.document_texts),
        (QUERY_TEXTS, sides.query_ids, sides.query_texts),
    ):
        if texts is not None:
            rows[folder / name] = _write_texts(folder / name, ids, texts)
    return rows


def _write_embeddings(file: Path, vectors: Tensor, ids: Sequence[str]) -> int:
    arrays: dict[str, Any] = {"embeddings": vectors.float().cpu().numpy(), **id_arrays(ids)}
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)
    return len(vectors)


def _write_texts(file: Path, ids: Sequence[str], texts: Sequence[str]) -> int:
    """Writes id and text, in one line each; white space of other kinds becomes one blank."""
    lines = [f"{id}\t{' '.join(text.split())}\n" for id, text in zip(ids, texts, strict=True)]
    write_atomically(file, "".join(["id\ttext\n", *lines]).encode("utf-8"))
    return len(lines)


def _write_judgements(file: Path, sides: Sides) -> int:
    """Writes query, document, grade of every judged pair."""
    assert sides.judgements is not None
    pairs = zip(*(column.tolist() for column in sides.judgements), strict=True)
    lines = [
        f"{sides.query_ids[query]}\t{sides.document_ids[document]}\t{grade:g}\n" for query, document, grade in pairs
    ]
    write_atomically(file, "".join(lines).encode("utf-8"))
    return len(lines)
