"""``normdyn audit`` of all-MiniLM-L6-v2 on scifact: its published NDCG@10, and whether any exponent gains.

    python benchmarks/audit_scifact.py SCIFACT (--model MODEL | --documents NPY --queries NPY)

SCIFACT is a folder in BEIR's layout, MODEL a local folder of the weights. Encoding takes about ten minutes on a core;
its vectors stay in ``runs/audit_scifact``, block by block, so that a run that was stopped goes on where it was. Ready
embeddings of all documents and all queries in the folder's order, not normalised, spare it. Expected: NDCG@10 of
0.645 within 0.01 at exponent 0 (MTEB), and no significant gain at any exponent, as published for MiniLM-L12 (Su, Ren,
Veitch 2026, Fig. 4); exits with 1 where it comes out otherwise. Writes ``audit_scifact.json`` and a dated
table beside it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from overhead_table import machine
from torch import Tensor

from lightning_normdyn.cli.main import main as normdyn
from lightning_normdyn.datasets.formats.beir_hub import read_judged_texts
from lightning_normdyn.tasks.audited_model import encode_to_file, load_audited

PUBLISHED, WITHIN = 0.645, 0.01
BLOCK = 512
CACHE = Path(__file__).parents[1] / "runs" / "audit_scifact"


def encoded(file: Path, texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor]) -> Path:
    """The file of all vectors ``[n, d]``; blocks of texts of about one length that are there are not encoded again."""
    if file.exists():
        return file
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    blocks = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
    vectors: np.ndarray[Any, np.dtype[np.float32]] | None = None
    for number, places in enumerate(blocks):
        block = file.with_name(f"{file.stem}-{number:03d}.npy")
        if not block.exists():
            encode_to_file(block, [texts[place] for place in places], encode, size_of=len)
            print(f"{block.name}, {number + 1} of {len(blocks)}", flush=True)
        rows = np.load(block)
        vectors = np.empty((len(texts), rows.shape[1]), np.float32) if vectors is None else vectors
        vectors[places] = rows
    np.save(file, vectors)
    return file


def encoded_sides(scifact: str, model: str) -> tuple[Path, Path]:
    """The files of all documents and all queries."""
    folder = CACHE / Path(model).name
    folder.mkdir(parents=True, exist_ok=True)
    texts, encoder = read_judged_texts(scifact), load_audited(model)
    documents = encoded(folder / "documents.npy", texts.documents.texts, encoder.encode_texts)
    return documents, encoded(folder / "queries.npy", texts.queries.texts, encoder.encode_queries)


def audited(options: argparse.Namespace) -> tuple[dict[str, Any], float]:
    """The numbers of the audit, as its JSON has them, and how long it took."""
    documents, queries = (
        encoded_sides(options.scifact, options.model) if options.model else (options.documents, options.queries)
    )
    words = ["audit", "--beir", options.scifact, "--embeddings", str(documents), "--queries", str(queries)]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        code = normdyn([*words, "--out", folder])
        if code:
            raise SystemExit(code)
        found: dict[str, Any] = json.loads((Path(folder) / "audit.json").read_text(encoding="utf-8"))
    return found, time.perf_counter() - started


def holds(found: dict[str, Any]) -> bool:
    """Whether both published findings come out."""
    calibration = found["ranking"]["calibration"]
    return abs(calibration["baseline"] - PUBLISHED) <= WITHIN and not calibration["significant"]


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    found, hardware = report["audit"], report["machine"]
    ranking = found["ranking"]
    curves = ranking["curves"]
    rows = [
        [
            f"{alpha:+.1f}",
            *(f"{curve[place]['value']:.4f}" for curve in curves.values()),
            f"{ranking['popularity'][place]['held_out']['value']:.1%}",
        ]
        for place, alpha in enumerate(ranking["alphas"])
    ]
    length, directions = found["correlations"]["length"], found["directions"]
    lines = [
        f"# Norms of all-MiniLM-L6-v2 on scifact, audited {report['date']}",
        "",
        f"`python benchmarks/audit_scifact.py SCIFACT ...`; {hardware['cpu']}, {hardware['cores']} cores; Python "
        f"{hardware['python']}, torch {hardware['torch']}; {report['seconds']:.0f} s "
        "without the encoding.",
        "",
        f"{found['finding']}",
        "",
        f"Published NDCG@10 at exponent 0: {PUBLISHED}; here {ranking['calibration']['baseline']:.4f}. Norms "
        f"{found['distribution']['mean']:.3f}, varying by {found['distribution']['cv']:.1%}; Spearman with length "
        f"{length['r']:+.3f} ({length['low']:+.3f} to {length['high']:+.3f}).",
        "",
        f"{directions['sentence']} Alignment of judged pairs {ranking['alignment']['value']:.3f}, uniformity "
        f"{directions['uniformity']['value']:.2f}.",
        "",
        ranking["hubs"]["sentence"],
        "",
        "The last column: what share of a query's top 10 goes to the 1% of documents that other queries are answered "
        "with most.",
        "",
        f"| exponent | {' | '.join(curves)} | to the 1% |",
        f"| ---: |{' ---: |' * (len(curves) + 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scifact")
    parser.add_argument("--model")
    parser.add_argument("--documents")
    parser.add_argument("--queries")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if not options.model and not (options.documents and options.queries):
        parser.error("expected --model, or --documents and --queries")
    found, seconds = audited(options)
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "seconds": seconds,
        "audit": {name: one for name, one in found.items() if name not in ("longest", "shortest", "ranking")},
    }
    fields = ("alphas", "curves", "calibration", "relevance", "popularity", "hubs", "alignment", "queries", "judged")
    report["audit"]["ranking"] = {name: found["ranking"][name] for name in fields}
    (options.out / "audit_scifact.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.out / "audit_scifact.md").write_text(tabulate(report), encoding="utf-8")
    print(tabulate(report))
    return 0 if holds(found) else 1


if __name__ == "__main__":
    sys.exit(main())
