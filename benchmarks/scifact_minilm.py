"""A pretrained encoder on scifact before any training, held against its published figure.

    python benchmarks/scifact_minilm.py MODEL SCIFACT [--out benchmarks/results]

MODEL is a local folder (or a name) of all-MiniLM-L6-v2, SCIFACT a folder in BEIR's layout. Evaluates as
``normdyn test`` does: tokens pooled by mean, 256 tokens a text, exact search. The published NDCG@10 of cosine is 0.645
(MTEB). The same embeddings are ranked under all four similarities. Writes ``scifact_minilm.json`` and a dated table,
``scifact_minilm.md``. Takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from overhead_table import machine

from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.tasks import Retrieval, RetrievalData
from lightning_normdyn.tasks.encoders import PretrainedTextEncoder
from lightning_normdyn.tasks.sources import BeirFolder

PUBLISHED = 0.645


def evaluate(model: str, folder: str) -> dict[str, Any]:
    """Encodes the test split once; measures it under every similarity."""
    task = Retrieval(encoder=PretrainedTextEncoder(model, max_length=256))
    data = RetrievalData(BeirFolder(folder), evaluation_batch_size=32)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    started = time.perf_counter()
    trainer.test(task, datamodule=data)
    seconds = time.perf_counter() - started
    assert task.encoded is not None
    measured = {
        name: {measure: float(values.nanmean()) for measure, values in task.measures(task.encoded, exponents).items()}
        for name, exponents in NORMALIZATIONS.items()
    }
    norms = {side: [float(x.mean()), float(x.std())] for side, x in task.encoded.relevance_norms()._asdict().items()}
    return {
        "measured": measured,
        "bm25": data.floors("test")["bm25"],
        "norms": norms,
        "cut": task.towers.truncated_share,
        "seconds": round(seconds, 1),
    }


def tabulate(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    hardware, measures = report["machine"], list(report["measured"]["cosine"])
    norms = ", ".join(f"{side} {mean:.3f} ± {spread:.3f}" for side, (mean, spread) in report["norms"].items())
    rows = [[name, *(f"{values[measure]:.4f}" for measure in measures)] for name, values in report["measured"].items()]
    lines = [
        f"# all-MiniLM-L6-v2 on scifact before training, {report['date']}",
        "",
        f"`python benchmarks/scifact_minilm.py MODEL SCIFACT`; {hardware['cpu']}, {hardware['cores']} cores; Python "
        f"{hardware['python']}, torch {hardware['torch']}. 5,183 documents, 300 queries, {report['seconds']} s; "
        f"{report['cut']:.1%} of the texts are longer than 256 tokens and were cut.",
        "",
        f"Published NDCG@10 (cosine): {PUBLISHED}. BM25 here: {report['bm25']:.4f}. Norms of documents: {norms}. Qnorm "
        "ranks as dot does, and dnorm as cosine: a query's own norm changes no ranking.",
        "",
        f"| similarity | {' | '.join(measures)} |",
        f"| --- |{' --- |' * len(measures)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("scifact")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    report = {"date": datetime.date.today().isoformat(), "machine": machine()}
    report |= evaluate(options.model, options.scifact)
    (options.out / "scifact_minilm.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "scifact_minilm.md").write_text(tabulate(report))
    print(tabulate(report))


if __name__ == "__main__":
    main()
