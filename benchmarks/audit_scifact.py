"""``normdyn audit`` of all-MiniLM-L6-v2 on scifact: its published NDCG@10, and whether any exponent gains.

    python benchmarks/audit_scifact.py SCIFACT (--model MODEL | --documents NPY --queries NPY)

SCIFACT is a folder in BEIR's layout, MODEL a local folder of the weights. Ready embeddings of all documents and all
queries in the folder's order, not normalised, spare the encoding (about ten minutes on a core). Expected: NDCG@10 of
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
from pathlib import Path
from typing import Any

from overhead_table import machine

from lightning_normdyn.cli.main import main as normdyn

PUBLISHED, WITHIN = 0.645, 0.01


def audited(options: argparse.Namespace) -> dict[str, Any]:
    """The numbers of the audit, as its JSON has them."""
    words = ["audit", "--beir", options.scifact]
    if options.model:
        words += ["--model", options.model]
    else:
        words += ["--embeddings", options.documents, "--queries", options.queries]
    with tempfile.TemporaryDirectory() as folder:
        code = normdyn([*words, "--out", folder])
        if code:
            raise SystemExit(code)
        found: dict[str, Any] = json.loads((Path(folder) / "audit.json").read_text(encoding="utf-8"))
    return found


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
        f"{hardware['python']}, torch {hardware['torch']}; {report['seconds']:.0f} s"
        f"{'' if report['encoded'] else ' from ready embeddings'}.",
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
    started = time.perf_counter()
    found = audited(options)
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "encoded": bool(options.model),
        "seconds": time.perf_counter() - started,
        "audit": {name: one for name, one in found.items() if name not in ("longest", "shortest", "ranking")},
    }
    fields = ("alphas", "curves", "calibration", "relevance", "popularity", "alignment", "queries", "judged")
    report["audit"]["ranking"] = {name: found["ranking"][name] for name in fields}
    (options.out / "audit_scifact.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.out / "audit_scifact.md").write_text(tabulate(report), encoding="utf-8")
    print(tabulate(report))
    return 0 if holds(found) else 1


if __name__ == "__main__":
    sys.exit(main())
