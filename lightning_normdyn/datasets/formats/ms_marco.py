"""MS MARCO training triples, streamed (arXiv 1611.09268)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import IterableDataset

from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.datasets.problems import MalformedFileError, Problems
from lightning_normdyn.datasets.reading.cached_texts import load_texts, refuse_repeated
from lightning_normdyn.datasets.reading.json_lines import Entry, read_json_lines
from lightning_normdyn.datasets.reading.lines import File, read_lines
from lightning_normdyn.datasets.reading.rows import Row, check_width, read_rows
from lightning_normdyn.datasets.reading.share import check_ranks, own_share
from lightning_normdyn.datasets.records import Texts

_FIELDS = (
    ("query", "anchor", "qid", "question"),
    ("pos", "positive", "positives", "pos_pids"),
    ("neg", "negative", "negatives", "neg_pids"),
)


class TextTriple(NamedTuple):
    """A query, a passage that answers it, and one that does not."""

    query: str
    positive: str
    negative: str


class MsMarcoTriples(IterableDataset[TextTriple]):
    """Triples of a file of any size, of texts or of ids: TSV, or JSON lines.

    Of the rows, each worker of each rank reads every so-many-th, so that all of them together read each row once.

    Args:
        triples: ``triples.train.*.tsv[.gz]`` with texts, or ``qidpidtriples.*.tsv[.gz]`` with ids; a fourth field of
            each row is left out, and said. Or ``.jsonl[.gz]`` with ``query``, ``pos`` and ``neg`` (``positive`` and
            ``negative``, ``anchor``), each a text or a list: then as many triples as the longer list has texts.
        queries: ``queries.*.tsv[.gz]``, id and text, if triples hold ids.
        collection: ``collection.tsv[.gz]``, id and passage, if triples hold ids.
        cache: a folder for an Arrow file of the collection, whose passages then stay on disk.
        rank: of this process.
        ranks: number of processes.

    Raises:
        MalformedFileError: if a file does not hold what it should; of triples while they are read. Triples with an
            unknown id are left out and counted in a warning at the end.
        ValueError: if only one of ``queries`` and ``collection`` is given, or ``rank`` is out of range.
    """

    def __init__(
        self,
        triples: File,
        *,
        queries: File | None = None,
        collection: File | None = None,
        cache: File | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        super().__init__()
        check_path(triples=triples)
        if queries is not None:
            check_path(queries=queries)
        if collection is not None:
            check_path(collection=collection)
        if (queries is None) != (collection is None):
            raise ValueError("queries: triples of ids need both queries and collection, and those of texts neither")
        check_ranks(rank, ranks)
        self.triples, self.rank, self.ranks = triples, rank, ranks
        self.queries = self.passages = None
        if queries is not None and collection is not None:
            problems = Problems(collection)
            self.queries = _ById(_read_texts(queries, "queries", None, problems))
            self.passages = _ById(_read_texts(collection, "passages", cache, problems))
            problems.report()

    def __iter__(self) -> Iterator[TextTriple]:
        share = own_share(self.rank, self.ranks)
        problems = Problems(self.triples)
        place = None
        for place, row in enumerate(self._rows(problems)):
            if share.holds(place):
                triple = self._texts_of(row, problems)
                if triple is not None:
                    yield triple
        if place is None:
            raise MalformedFileError(self.triples, None, "triples", "none")
        problems.report()

    def _rows(self, problems: Problems) -> Iterator[Row]:
        """Rows of three cells."""
        if Path(str(self.triples).removesuffix(".gz")).suffix in (".jsonl", ".json"):
            yield from _of_json(self.triples)
            return
        width = None
        for row in read_rows(self.triples, delimiter="\t"):
            width = len(row.cells) if width is None and len(row.cells) == 4 else width or 3
            check_width(self.triples, row, width)
            if width == 4:
                problems.count("rows with a fourth field, which is left out", line=row.line)
            yield Row(row.line, row.cells[:3])

    def _texts_of(self, row: Row, problems: Problems) -> TextTriple | None:
        if self.queries is None or self.passages is None:
            if not all(cell.strip() for cell in row.cells):
                problems.count("triples with an empty text, kept", line=row.line)
            return TextTriple(*row.cells)
        query = self.queries.find(row.cells[0])
        positive, negative = (self.passages.find(cell) for cell in row.cells[1:])
        if query is None or positive is None or negative is None:
            problems.count("triples with an unknown id, left out", line=row.line)
            return None
        return TextTriple(query, positive, negative)


def _of_json(file: File) -> Iterator[Row]:
    """Every positive and every negative of a query at least once, the shorter list from the start again."""
    for entry in read_json_lines(file):
        names = [next((name for name in kin if name in entry.fields), kin[0]) for kin in _FIELDS]
        query, positives, negatives = (_texts(entry, name) for name in names)
        for place in range(max(len(positives), len(negatives))):
            pair = positives[place % len(positives)], negatives[place % len(negatives)]
            yield Row(entry.line, (query[0], *pair))


def _texts(entry: Entry, name: str) -> Sequence[str]:
    """A field as texts: one, or a list of one at least; whole numbers are ids."""
    value = entry.fields.get(name)
    values = value if isinstance(value, list) else [value] if name in entry.fields else []
    texts = [str(text) for text in values if isinstance(text, str | int) and not isinstance(text, bool)]
    if not texts or len(texts) < len(values):
        raise MalformedFileError(
            entry.file,
            entry.line,
            f"a text or a list of texts in field '{name}'",
            repr(entry.fields.get(name, f"the fields {sorted(entry.fields)}"))[:80],
            "write query, pos and neg",
        )
    return texts


class _ById:
    def __init__(self, texts: Texts) -> None:
        self._texts = texts.texts
        self._places = {id: place for place, id in enumerate(texts.ids)}

    def find(self, id: str) -> str | None:
        place = self._places.get(id.strip())
        return None if place is None else self._texts[place]


def _read_texts(file: File, kind: str, cache: File | None, problems: Problems) -> Texts:
    def rows() -> Iterator[tuple[File, int, str, str]]:
        for number, line in read_lines(file):
            id, tab, text = line.partition("\t")
            if not tab:
                raise MalformedFileError(file, number, "an id, a tab and a text", repr(line[:60]))
            yield file, number, id.strip(), text

    return load_texts(refuse_repeated(rows()), source=[file], kind=kind, problems=problems, cache=cache)
