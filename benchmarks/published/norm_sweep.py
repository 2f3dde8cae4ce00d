"""NDCG@10 on BEIR by exponent of the document norm, beside Fig. 4 of Su, Ren, Veitch 2026 (arXiv 2606.30625).

    python benchmarks/published/norm_sweep.py [--model NAME...] [--beir NAME...] [--out FOLDER]

Needs a network for models and sets by name; a GPU makes it hours instead of days. Encodes each set by CLIP ViT-B/32
(open_clip, weights of OpenAI) and by all-MiniLM-L12-v2, scores by cos·|d|^alpha for alpha from -4 to 4, and writes
``norm_sweep.json`` and a table, ``norm_sweep.md``, with what is published beside. What was encoded or measured stays in
the folder, and the same command goes on from there. The published figures that can be read are ranges: the values of
each set stand in a plot alone, and which three sets it shows is not in the text at hand, so five small ones are taken
unless ``--beir`` names others.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from encoded_set import encode_set, published_parser, run_published, slug

from lightning_normdyn.retrieval import AlphaSweep, Calibration, calibrate

SETS = ("BeIR/scifact", "BeIR/nfcorpus", "BeIR/arguana", "BeIR/scidocs", "BeIR/fiqa")
PUBLISHED = {
    "ViT-B-32": "gains 37% to 156% at negative alpha, on three sets (by set: in a plot alone)",
    "MiniLM-L12": "gains nothing at any alpha",
}


def published_words(model: str) -> str:
    """What the paper says of a model; nothing of others."""
    return next((words for name, words in PUBLISHED.items() if name in model), "not in the paper")


def findings(sweep: AlphaSweep, calibration: Calibration | None) -> dict[str, Any]:
    """Numbers of one model on one set.

    Args:
        sweep: of all queries, or of a stratum.
        calibration: of the same; ``None`` where there are too few queries for one.
    """
    means = [float(values.nanmean()) for values in sweep.values]
    place = max(range(len(means)), key=means.__getitem__)
    zero = sweep.alphas.tolist().index(0.0)
    return {
        "alphas": sweep.alphas.tolist(),
        "ndcg@10": means,
        "cosine": means[zero],
        "best_alpha": float(sweep.alphas[place]),
        "best": means[place],
        "relative_gain": means[place] / means[zero] - 1 if means[zero] else None,
        "held_out_gain": None if calibration is None else calibration.gain._asdict(),
        "significant": calibration is not None and calibration.significant,
        "sentence": "Too few queries." if calibration is None else calibration.sentence,
    }


def measured(model: str, name: str, out: Path, *, device: str, batch_size: int) -> dict[str, Any]:
    """The findings on disk, made first where there are none."""
    file = out / slug(model) / f"{slug(name)}.json"
    if not file.exists():
        encoded = encode_set(model, name, out, device=device, batch_size=batch_size)
        sweep = encoded.sweep()
        content = findings(sweep, calibrate(sweep)) | {
            "truncated": encoded.truncated,
            "documents": len(encoded.texts.documents),
        }
        file.write_text(json.dumps({"model": model, "set": name} | content, indent=1) + "\n")
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def tabulate(records: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        f"# NDCG@10 by exponent of the document norm, {datetime.date.today().isoformat()}",
        "",
        "Score cos·|d|^alpha. The best alpha is chosen on the test queries themselves, as a figure shows it; the gain "
        "after it is on queries that did not choose. Published: Su, Ren, Veitch 2026, Fig. 4.",
        "",
        "| model | set | cosine | best alpha | NDCG@10 there | over cosine | held out | beyond chance | published |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        relative = "-" if record["relative_gain"] is None else f"{record['relative_gain']:+.1%}"
        held_out = "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format(**record["held_out_gain"])
        lines.append(
            f"| {record['model']} | {record['set']} | {record['cosine']:.4f} | {record['best_alpha']:+.2f} | "
            f"{record['best']:.4f} | {relative} | {held_out} | {'yes' if record['significant'] else 'no'} | "
            f"{published_words(record['model'])} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = published_parser(__doc__, "norm_sweep")
    parser.add_argument("--beir", nargs="+", default=list(SETS), help="names on the hub, or folders in BEIR's layout")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    records = []
    for model in options.model:
        for name in options.beir:
            record = measured(model, name, options.out, device=options.device, batch_size=options.batch_size)
            print(f"{model} on {name}: {record['sentence']}", flush=True)
            records.append(record)
    (options.out / "norm_sweep.json").write_text(json.dumps(records, indent=1) + "\n")
    (options.out / "norm_sweep.md").write_text(tabulate(records))
    print(tabulate(records))


if __name__ == "__main__":
    run_published(main)
