"""TREC-CAR by depth of the heading, beside Fig. 6 of Su, Ren, Veitch 2026 (arXiv 2606.30625).

    pip install ir-datasets trec-car-tools
    python benchmarks/published/heading_depth.py [--model NAME...] [--car NAME] [--distractors N] [--out FOLDER]

Queries are paths of headings ('enwiki:Page/Section/Subsection'), and a paragraph is relevant to the path that it stands
below; the depth is the number of headings in the path. ``--car`` names a part of TREC-CAR in ir_datasets (the corpus of
30 million paragraphs is fetched for it), or a folder in BEIR's layout whose query ids are such paths. Searched are the
paragraphs that are judged and ``--distractors`` further ones. Writes ``heading_depth.json`` and ``heading_depth.md``;
what was encoded or measured stays in the folder, and the same command goes on from there. What is published of Fig. 6
is a direction, with its values in a plot alone, and how many paragraphs were searched is not in the text at hand.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from encoded_set import encode_set, published_parser, run_published, slug
from norm_sweep import findings

from lightning_normdyn.retrieval import calibrate

CAR = "car/v1.5/test200"
PUBLISHED = {
    "ViT-B-32": "gains most from negative alpha on deep headings",
    "MiniLM-L12": "no gradient by depth",
}


def depth_of(query_id: str) -> int:
    """Headings in a path, the page's title not counted.

    Example:
        >>> depth_of("enwiki:Aftertaste"), depth_of("enwiki:Aftertaste/Taste%20receptor/Dynamics")
        (0, 2)
    """
    return query_id.count("/")


def heading_text(query_id: str) -> str:
    """A path as words.

    Example:
        >>> heading_text("enwiki:Green%20sea%20turtle/Habitat")
        'Green sea turtle Habitat'
    """
    return " ".join(unquote(part) for part in query_id.removeprefix("enwiki:").split("/"))


def write_car(part: Any, folder: Path, distractors: int) -> None:
    """Writes a part of TREC-CAR in BEIR's layout: what is judged, and the first other paragraphs of the corpus.

    Args:
        part: as ``ir_datasets.load`` gives it.
        folder: where it goes; there whole once its judgements are.
        distractors: paragraphs that nothing is known of.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    pairs = [(qrel.query_id, qrel.doc_id) for qrel in part.qrels_iter() if qrel.relevance > 0]
    judged = {document for _, document in pairs}
    store = part.docs_store()
    others = islice((doc for doc in part.docs_iter() if doc.doc_id not in judged), distractors)
    _write_lines(folder / "corpus.jsonl", (_document(store.get(id)) for id in sorted(judged)), map(_document, others))
    queries = [{"_id": id, "text": heading_text(id)} for id in sorted({query for query, _ in pairs})]
    _write_lines(folder / "queries.jsonl", iter(queries))
    rows = "".join(f"{query}\t{document}\t1\n" for query, document in pairs)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}", encoding="utf-8")


def _document(doc: Any) -> dict[str, str]:
    return {"_id": doc.doc_id, "title": "", "text": doc.text}


def _write_lines(file: Path, *streams: Iterator[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for stream in streams:
            lines.writelines(json.dumps(record) + "\n" for record in stream)


def measured(model: str, name: str, out: Path, *, device: str, batch_size: int) -> dict[str, Any]:
    """Findings by depth, read from disk where they are there."""
    file = out / slug(model) / f"{slug(name)}-by-depth.json"
    if not file.exists():
        encoded = encode_set(model, name, out, device=device, batch_size=batch_size)
        sweep = encoded.sweep()
        depths = [depth_of(encoded.texts.queries.ids[int(row)]) for row in encoded.rows]
        by_depth = calibrate(sweep, strata={"depth": depths}).strata["depth"]
        content = {}
        for depth in sorted(set(depths)):
            rows = [place for place, other in enumerate(depths) if other == depth]
            calibration = by_depth.get(str(depth))
            content[str(depth)] = findings(sweep._replace(values=sweep.values[:, rows]), calibration) | {
                "queries": len(rows)
            }
        file.write_text(json.dumps({"model": model, "set": name, "depths": content}, indent=1) + "\n")
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def tabulate(records: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        f"# TREC-CAR by depth of the heading, {datetime.date.today().isoformat()}",
        "",
        "NDCG@10 of cos·|d|^alpha; 'beyond chance' is corrected for all depths. Published: Su, Ren, Veitch 2026, "
        "Fig. 6.",
        "",
        "| model | depth | queries | cosine | best alpha | over cosine | beyond chance | published |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        words = next((text for name, text in PUBLISHED.items() if name in record["model"]), "not in the paper")
        for depth, part in record["depths"].items():
            relative = "-" if part["relative_gain"] is None else f"{part['relative_gain']:+.1%}"
            cells = [record["model"], depth, part["queries"], f"{part['cosine']:.4f}", f"{part['best_alpha']:+.2f}"]
            cells += [relative, "yes" if part["significant"] else "no", words]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = published_parser(__doc__, "heading_depth")
    parser.add_argument("--car", default=CAR, help="a part of TREC-CAR in ir_datasets, or a folder in BEIR's layout")
    parser.add_argument("--distractors", type=int, default=100_000, help="paragraphs beside those that are judged")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(options.car)
    if not folder.is_dir():
        folder = options.out / f"{slug(options.car)}-{options.distractors}"
        if not (folder / "qrels" / "test.tsv").exists():
            try:
                import ir_datasets
            except ModuleNotFoundError:
                missing = "neither a folder nor, without ir_datasets, a set; pip install ir-datasets trec-car-tools"
                parser.error(f"argument --car: {options.car}: {missing}")
            write_car(ir_datasets.load(options.car), folder, options.distractors)
    settings = {"device": options.device, "batch_size": options.batch_size}
    records = [measured(model, str(folder), options.out, **settings) for model in options.model]
    (options.out / "heading_depth.json").write_text(json.dumps(records, indent=1) + "\n")
    (options.out / "heading_depth.md").write_text(tabulate(records))
    print(tabulate(records))


if __name__ == "__main__":
    run_published(main)
