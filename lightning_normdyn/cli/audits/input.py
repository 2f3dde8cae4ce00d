"""Reads and encodes everything that an audit measures, from the files that its options name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from lightning_normdyn.cli.audits.comparison import EarlierFiles
from lightning_normdyn.cli.audits.encoding import EncoderRequest, Encoding
from lightning_normdyn.cli.audits.items import AuditedItems, items_of, read_chunks
from lightning_normdyn.cli.audits.queries import GatheredQueries, QueryRequest, gather_queries
from lightning_normdyn.core.statistics.ranking import measure_named
from lightning_normdyn.datasets import JudgedTexts, Problems, Texts
from lightning_normdyn.datasets.embedding_file import EmbeddingFile, names_embeddings
from lightning_normdyn.datasets.formats.beir_hub import read_judged_texts
from lightning_normdyn.datasets.formats.covariates import Covariates, read_covariates
from lightning_normdyn.datasets.formats.listed_texts import read_listed_texts
from lightning_normdyn.retrieval.audit import LastLayer
from lightning_normdyn.retrieval.audit.groups import LEAST_ITEMS
from lightning_normdyn.retrieval.audit.text_measures import letters, word_frequency
from lightning_normdyn.retrieval.exponent.document_parts import DocumentParts

_LENGTH = "length"
_FOLDER = "folder"
_MEASURE = "ndcg@10"
_OF_IDS = ("id", "_id", "ids", "row", "rows", "index", "number", "item", "document", "doc", "chunk", "text", "image")


@dataclass(frozen=True)
class AuditInput:
    """All that is measured and shown.

    Attributes:
        name: of the model or the file.
        embeddings: of the documents.
        items: what they are of, in the same order.
        length: of each item, where known.
        length_notes: what length is, in a sentence, or why there is none; empty where none was given.
        covariates: name to a number for each item.
        controls: names of covariates that are held fixed beside length.
        groups: column to the group of each item.
        judged_queries: queries and judgements.
        last_layer: of the model.
        facts: for the line below the heading.
        notes: on what was left out or taken off.
        parts: the document that each vector is a chunk of, where documents have several.
        document_ids: ids of those documents.
    """

    name: str
    embeddings: EmbeddingFile
    items: AuditedItems
    length: Tensor | None
    length_notes: list[str]
    covariates: Mapping[str, Tensor]
    controls: Sequence[str]
    groups: Mapping[str, Sequence[str | None]]
    judged_queries: GatheredQueries | None
    last_layer: LastLayer | None
    facts: Sequence[str]
    notes: Sequence[str]
    parts: DocumentParts | None = None
    document_ids: Sequence[str] = ()


@dataclass(frozen=True)
class AuditRequest:
    """What is audited, as the command's options have it.

    Attributes:
        encoder: the model, if there is one.
        embeddings: file of ready ones.
        column: of the embeddings.
        texts: file of the items.
        images: folder of the items.
        beir: folder of items, queries and judgements.
        split: of its judgements.
        queries: file of queries.
        judgements: file of query, document, grade.
        covariates: file of further columns.
        controls: names of some of them that are held fixed beside length.
        measure: of rankings, by default NDCG at 10.
        before: file of the same documents' embeddings by an earlier model.
        before_queries: of the same queries by it.
        chunks: file of the document that each vector is a chunk of.
        engine: ``local``, or ``ray`` to spread passes over a cluster.
    """

    encoder: EncoderRequest = field(default_factory=EncoderRequest)
    embeddings: str | None = None
    column: str | None = None
    texts: str | None = None
    images: str | None = None
    beir: str | None = None
    split: str | None = None
    queries: str | None = None
    judgements: str | None = None
    covariates: str | None = None
    controls: Sequence[str] = ()
    measure: str | None = None
    before: str | None = None
    before_queries: str | None = None
    chunks: str | None = None
    engine: str = "local"

    @property
    def measure_name(self) -> str:
        """Of rankings."""
        return _MEASURE if self.measure is None else self.measure

    @property
    def query_request(self) -> QueryRequest:
        """Where queries and judgements come from."""
        return QueryRequest(self.queries, self.judgements, self.column, self.beir, self.split)

    @property
    def earlier_files(self) -> EarlierFiles | None:
        """Embeddings of an earlier model, if they are named."""
        judged = self.beir is not None or self.queries is not None
        return EarlierFiles.of(self.before, self.before_queries, self.column, judged=judged)

    def check(self) -> None:
        """Refuses options that do not fit together.

        Raises:
            ValueError: naming them.
        """
        model = self.encoder.model
        if (model is None) == (self.embeddings is None):
            count = "neither" if model is None else "both"
            raise ValueError(f"audit: expected either --model or --embeddings, got {count}; see normdyn audit --help")
        sources = [name for name in ("texts", "images", "beir") if getattr(self, name) is not None]
        if len(sources) > 1 or (model is not None and not sources):
            raise ValueError(
                f"audit: expected one of --texts, --images and --beir{' with --model' * (not sources)}, got "
                f"{' and '.join(f'--{name}' for name in sources) or 'none'}"
            )
        self._check_queries()
        self._check_idle()
        self._check_chunks()
        self._check_save()
        measure_named(self.measure_name)

    def _check_queries(self) -> None:
        if self.queries is not None and self.judgements is None and self.beir is None:
            raise ValueError(
                "judgements: expected --judgements with --queries, got none; without them nothing can be ranked"
            )
        if self.judgements is not None and self.queries is None and self.beir is None:
            raise ValueError("queries: expected --queries with --judgements, got none")
        if self.beir is not None and self.queries is not None and not names_embeddings(self.queries):
            raise ValueError(
                f"queries: expected a file of embeddings beside --beir, which has the texts, got {self.queries}"
            )

    def _check_idle(self) -> None:
        """Refuses options that nothing would heed."""
        if self.split is not None and self.beir is None:
            raise ValueError(f"split: expected --beir, whose judgements have splits, got none with '{self.split}'")
        if self.engine != "local" and self.encoder.model is not None:
            raise ValueError(
                f"engine: expected --embeddings with '{self.engine}', which spreads passes over ready ones, got "
                "--model; encode them first, on one machine with --save"
            )
        if self.measure is not None and self.beir is None and self.queries is None:
            raise ValueError(
                f"measure: expected queries and judgements, whose rankings are measured by '{self.measure}', got none; "
                "leave it out"
            )
        for name in (
            "batch_size", "pretrained", "device", "max_length", "dtype", "query_prompt", "document_prompt",
            "trust_remote_code",
        ):  # fmt: skip
            value = getattr(self.encoder, name)
            if value not in (None, False) and self.encoder.model is None:
                raise ValueError(f"{name}: expected --model with it, got ready embeddings; leave it out")

    def _check_chunks(self) -> None:
        if self.chunks is None:
            return
        for name in ("beir", "before"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"chunks: expected no --{name} with it, which knows one vector a document, got both; leave one out"
                )
        if self.queries is None:
            raise ValueError(
                "chunks: expected --queries and --judgements, whose rankings go by documents, got none; leave it out"
            )

    def _check_save(self) -> None:
        save = self.encoder.save
        if save is not None and self.encoder.model is None:
            raise ValueError("save: expected --model, whose embeddings are kept, got ready ones")
        if save is not None and not save.endswith(".npy"):
            raise ValueError(f"save: expected a name that ends in .npy, got {save!r}")


def gather_input(request: AuditRequest, folder: Path, bar: Progress) -> AuditInput:
    """Reads and encodes what there is to audit.

    Args:
        request: checked.
        folder: for embeddings that are not kept.
        bar: shows how far encoding is.

    Raises:
        ValueError: if files do not fit together.
        OSError: if a file cannot be read.
    """
    beir = None if request.beir is None else read_judged_texts(request.beir)
    sources = _sources(request, beir)
    encoding, embeddings = _embeddings(request, sources, folder, bar)
    items = items_of(embeddings, sources)
    counts_rows = sources is None and not embeddings.has_ids
    table, notes = _covariates(request.covariates, items.ids, counts_rows=counts_rows)
    chunked = None if request.chunks is None else read_chunks(request.chunks, items.ids)
    document_ids = items.ids if chunked is None else chunked.documents
    query_judgements = gather_queries(request.query_request, document_ids, embeddings.dim, encoding=encoding, beir=beir)
    notes += [] if query_judgements is None else query_judgements.notes
    length_column = table.numbers.pop(_LENGTH, None)
    length, own_measures = _measured(items, length_column)
    notes += _of_empty_texts(items)
    notes += _of_controls(request.controls, table, length)
    return AuditInput(
        Path(request.encoder.model or str(embeddings.file)).name,
        embeddings,
        items,
        length,
        _of_length(items, length_column, length, request),
        {**own_measures, **table.numbers},
        request.controls,
        {**_folders(items), **table.groups},
        query_judgements,
        None if encoding is None else encoding.last_layer,
        [] if sources is None else [f"of {Path(sources.source).name}"],
        [*([] if encoding is None else encoding.notes()), *notes, *([] if chunked is None else chunked.notes)],
        None if chunked is None else chunked.parts,
        document_ids,
    )


def _embeddings(
    request: AuditRequest, sources: AuditedItems | None, folder: Path, bar: Progress
) -> tuple[Encoding | None, EmbeddingFile]:
    encoder = request.encoder
    if encoder.model is None or sources is None:
        return None, EmbeddingFile(str(request.embeddings), column=request.column)
    encoding = Encoding(encoder.model, encoder, folder, bar, images=request.images is not None)
    file = None if encoder.save is None else Path(encoder.save)
    return encoding, encoding.encode(sources, "Documents", file=file)


def _sources(request: AuditRequest, beir: JudgedTexts | None) -> AuditedItems | None:
    if beir is not None:
        return AuditedItems.of_texts(str(request.beir), beir.documents)
    if request.texts is not None:
        return AuditedItems.of_texts(request.texts, _texts(request.texts, request))
    return None if request.images is None else AuditedItems.of_folder(request.images)


def _texts(file: str, request: AuditRequest) -> Texts:
    """Texts of the items; blank lines are empty texts where ready embeddings have a row for each of them."""
    texts = read_listed_texts(file)
    if request.embeddings is None:
        return texts
    rows = EmbeddingFile(request.embeddings, column=request.column).rows
    if len(texts) >= rows:
        return texts
    all_lines = read_listed_texts(file, keep_blank=True)
    return all_lines if len(all_lines) == rows else texts


def _covariates(file: str | None, ids: Sequence[str], *, counts_rows: bool) -> tuple[Covariates, list[str]]:
    if file is None:
        return Covariates({}, {}), []
    problems = Problems(file)
    covariates = read_covariates(file, {id: place for place, id in enumerate(ids)}, problems)
    notes = [f"{problems}."] if problems.counts else []
    if counts_rows and not _names_ids(covariates.id_column):
        notes.append(
            f"The first column of {file}, '{covariates.id_column}', was taken for numbers of rows, from 0 on, as the "
            "embeddings have no ids; if it is a covariate, put a column 'row' before it."
        )
    return covariates, notes + [note for column in covariates.groups.items() if (note := _of_groups(*column))]


def _names_ids(column: str) -> bool:
    """Whether a name is that of a column of ids, such as ``id``, ``doc_id`` or ``row``."""
    words = column.lower().replace("-", "_").strip("#_ ").split("_")
    return words[-1] in _OF_IDS or words[-1].endswith("id")


def _of_groups(name: str, labels: Sequence[str | None]) -> str:
    """Why nothing is compared by a column of groups, where that is so."""
    sizes = Counter(label for label in labels if label is not None)
    total = sum(sizes.values())
    if any(size >= LEAST_ITEMS and total - size >= LEAST_ITEMS for size in sizes.values()):
        return ""
    words = [label for label in sizes if not _is_number(label)]
    values = f"{len(sizes):,} different value{'s' * (len(sizes) > 1)}"
    reason = f"has {values} for {total:,} items, and no group of {LEAST_ITEMS} or more beside as many others"
    is_nearly_numeric = 2 * sum(sizes[label] for label in words) < total
    way = f"; '{words[0]}' in it is no number: write NA for what is unknown" if is_nearly_numeric else ""
    return f"The column '{name}' {reason}, so nothing is compared by it{way}."


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _measured(items: AuditedItems, column: Tensor | None) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Length, that of the column first where all items have it, and what else texts and files tell by themselves."""
    length = column if column is not None and bool(column.isfinite().all()) else None
    if items.texts is not None:
        return letters(items.texts) if length is None else length, {"word frequency": word_frequency(items.texts)}
    if items.images is not None:
        sizes = torch.tensor([file.stat().st_size for file in items.images], dtype=torch.float64)
        return length, {"file size": sizes}
    return length, {}


def _of_length(items: AuditedItems, column: Tensor | None, length: Tensor | None, request: AuditRequest) -> list[str]:
    """Which length is meant, since a column of tokens and letters of a text give different exponents."""
    if column is not None and length is not column:
        missing = int((~column.isfinite()).sum())
        instead = "no length is" if length is None else f"the number of letters of each text of {items.source} is"
        return [
            f"The column '{_LENGTH}' of {request.covariates} lacks {missing:,} of {len(column):,} items and was left "
            f"out; {instead} used instead."
        ]
    if length is None:
        return []
    if length is column:
        unused = f", not the letters of {items.source}" if items.texts is not None else ""
        return [f"Length is the column '{_LENGTH}' of {request.covariates}{unused}."]
    return [f"Length is the number of letters of each text of {items.source}."]


def _of_controls(controls: Sequence[str], table: Covariates, length: Tensor | None) -> list[str]:
    """Refuses what is no column of numbers, and notes unknown cells, which count as the median."""
    missing = next((name for name in controls if name not in table.numbers), None)
    if missing == _LENGTH and length is not None:
        raise ValueError(f"control: expected columns beside '{_LENGTH}', which is held fixed anyway; leave it out")
    if missing is not None:
        listed = ", ".join(table.numbers) or "there is none"
        raise ValueError(f"control: expected a column of numbers of --covariates ({listed}), got '{missing}'")
    if controls and length is None:
        raise ValueError(
            f"control: expected lengths, which '{controls[0]}' is held fixed beside, got none; pass --texts, or a "
            f"column '{_LENGTH}' of --covariates"
        )
    unknown = {name: int((~table.numbers[name].isfinite()).sum()) for name in controls}
    return [
        f"The control '{name}' is unknown for {count:,} of {len(table.numbers[name]):,} items, which count as its "
        "median in what is taken out of norms."
        for name, count in unknown.items()
        if count
    ]


def _of_empty_texts(items: AuditedItems) -> list[str]:
    empty = sum(not text.strip() for text in items.texts or ())
    if not empty:
        return []
    are = "text is" if empty == 1 else "texts are"
    return [f"{empty:,} of {len(items.ids):,} {are} empty: what their vectors say is the model's, not a document's."]


def _folders(items: AuditedItems) -> dict[str, list[str | None]]:
    """The folder of each image, where there are several: often its class."""
    names: list[str | None] = [id.rpartition("/")[0] for id in items.ids] if items.images is not None else []
    return {_FOLDER: names} if len(set(names)) > 1 else {}
