"""The options of ``normdyn``; parsing them imports nothing heavy, so ``--help`` is instant."""

from __future__ import annotations

import argparse

from lightning_normdyn._version import __version__

_MOST_STEPS = 10**12
LIGHTNING_COMMANDS = {
    "fit": "train a model through LightningCLI, e.g. --config configs/tokens.yaml",
    "validate": "run a model's validation through LightningCLI",
    "test": "run a model's test through LightningCLI",
    "predict": "run a model's prediction through LightningCLI",
}


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser; the Lightning commands appear in the help alone and parse their own options."""
    parser = argparse.ArgumentParser(
        prog="normdyn",
        description="What happens to the lengths of embeddings while a model trains, why, and where they will end.",
        epilog="--debug, or NORMDYN_DEBUG=1, shows the full traceback of an error.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"normdyn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_report(commands)
    _add_reproduce(commands)
    _add_grid(commands)
    _add_export(commands)
    _add_advise(commands)
    _add_audit(commands)
    for name, help_text in LIGHTNING_COMMANDS.items():
        commands.add_parser(name, help=help_text, add_help=False)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "train a token table on real text and compare its norms with the theory"
    demo = commands.add_parser("demo", help=about, description=about, allow_abbrev=False)
    demo.add_argument(
        "--text",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="UTF-8 text files, plain or .gz, whose paragraphs are the corpus (default: this Python's documentation)",
    )
    demo.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="default: %(default)s")
    demo.add_argument("--schedule", choices=("cosine", "constant"), default="cosine", help="default: %(default)s")
    demo.add_argument("--steps", type=_positive, default=12_000, metavar="N", help="default: %(default)s")
    demo.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: %(default)s")
    demo.add_argument(
        "--out", type=_folder, metavar="DIR", help="a new or empty folder for the run (default: runs/demo-<time>)"
    )


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "draw the report of a run that trained with NormDynamics"
    report = commands.add_parser("report", help=about, description=about, allow_abbrev=False)
    report.add_argument("run", metavar="DIR", help="the run's folder, which holds normdyn/")
    report.add_argument("--out", metavar="FILE", help="where the page goes (default: report.html in the run's folder)")


def _add_reproduce(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "run the published figures' experiments and write each beside its published number"
    reproduce = commands.add_parser("reproduce", help=about, description=about, allow_abbrev=False)
    reproduce.add_argument(
        "--only", nargs="+", action="extend", metavar="NAME", help="these experiments alone (default: all)"
    )
    reproduce.add_argument("--quick", action="store_true", help="few steps: shows that it runs, not what it finds")
    reproduce.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: %(default)s")
    reproduce.add_argument(
        "--out",
        type=_folder,
        metavar="DIR",
        help="a folder for the page; one that holds a run of the same seed is gone on with "
        "(default: runs/reproduce-<time>)",
    )


def _add_grid(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "train a task with every normalization and say which to take"
    grid = commands.add_parser(
        "grid",
        help=about,
        description=f"{about}; further options go to LightningCLI, e.g. --trainer.max_epochs 5",
        allow_abbrev=False,
    )
    grid.add_argument("--config", action="append", required=True, metavar="FILE", help="of LightningCLI; repeatable")
    grid.add_argument("--seeds", type=_positive, default=3, metavar="N", help="trainings a variant (default: 3)")
    grid.add_argument("--variants", nargs="+", metavar="NAME", help="these alone, cosine among them (default: all)")
    grid.add_argument(
        "--lr-factors",
        nargs="+",
        type=_factor,
        default=[0.3, 1.0, 3.0],
        metavar="F",
        help="learning rates each variant tries with the first seed, in units of the config's (default: 0.3 1 3)",
    )
    grid.add_argument("--jobs", type=_positive, default=1, metavar="N", help="trainings at a time (default: 1)")
    grid.add_argument(
        "--out",
        type=_folder,
        metavar="DIR",
        help="a folder for the grid; one that holds the same grid is gone on with (default: runs/grid-<time>)",
    )


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "fold a power of the norms into stored vectors, and fill an index with them"
    export = commands.add_parser("export", help=about, description=about, allow_abbrev=False)
    _add_folding(export.add_argument_group("embeddings and what is folded into them"))
    _add_index(export.add_argument_group("what is written"))
    _add_loss_of_index(export.add_argument_group("how the index is measured, and memory"))


def _add_folding(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--embeddings", required=True, metavar="FILE", help=".npy, .npz, .parquet or .safetensors")
    group.add_argument("--column", metavar="NAME", help="of the embeddings, where a file holds several matrices")
    group.add_argument("--ids", metavar="FILE", help="one id a line (default: those in the file, or numbers of rows)")
    group.add_argument(
        "--normalization",
        choices=("cosine", "dot", "qnorm", "dnorm", "learnable"),
        default="cosine",
        help="what the embeddings were trained with (default: %(default)s)",
    )
    group.add_argument(
        "--alpha", type=_exponent, default=0.0, metavar="A", help="further exponent of the norm (default: 0)"
    )
    group.add_argument(
        "--gamma-document", type=_exponent, metavar="G", help="the learnt exponent, with --normalization learnable"
    )


def _add_index(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--to",
        required=True,
        choices=("npy", "parquet", "safetensors", "faiss", "lancedb", "pgvector", "qdrant"),
        help="what is written",
    )
    group.add_argument(
        "--out", required=True, metavar="PLACE", help="a file, a folder, Qdrant's URL or PostgreSQL's connection string"
    )
    group.add_argument(
        "--name", default="embeddings", metavar="NAME", help="of the collection or table (default: %(default)s)"
    )
    group.add_argument(
        "--index",
        default="flat",
        metavar="KIND",
        help="flat, hnsw, ivfpq (faiss, lancedb) or a string for FAISS' index factory (default: %(default)s)",
    )
    group.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="default: %(default)s")
    group.add_argument(
        "--augment",
        action="store_true",
        help="add a dimension that makes all lengths equal, which keeps rankings and helps some approximate "
        "indexes; queries get a zero",
    )
    group.add_argument(
        "--metric",
        choices=("inner_product", "euclidean", "cosine"),
        default="inner_product",
        help="what the index compares by; others than the default need --augment",
    )
    group.add_argument("--overwrite", action="store_true", help="replace what is there")


def _add_loss_of_index(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--queries", metavar="FILE", help="embeddings to measure the loss with (default: some of the documents)"
    )
    group.add_argument(
        "--sample", type=_positive, default=200, metavar="N", help="queries to measure with (default: %(default)s)"
    )
    group.add_argument(
        "--chunk", type=_positive, default=16_384, metavar="N", help="embeddings in memory (default: %(default)s)"
    )


def _add_advise(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "say how to score with a trained model, and what to train next"
    advise = commands.add_parser(
        "advise",
        help=about,
        description=f"{about}: from a task's config and checkpoint, or from embeddings before any normalisation",
        allow_abbrev=False,
    )
    advise.add_argument("--config", action="append", metavar="FILE", help="of LightningCLI; repeatable")
    advise.add_argument(
        "--ckpt_path", metavar="FILE", help="the checkpoint (default: the model as the config makes it)"
    )
    advise.add_argument("--queries", metavar="FILE", help="embeddings: .npy, .npz, .parquet or .safetensors")
    advise.add_argument("--documents", metavar="FILE", help="the same of documents")
    advise.add_argument("--column", metavar="NAME", help="of the embeddings, where a file holds several matrices")
    advise.add_argument(
        "--judgements",
        metavar="TSV",
        help="query id, document id, grade; ids are those of the files, or row numbers from 0 where they have none "
        "(default: document i answers query i)",
    )
    advise.add_argument("--temperature", type=_factor, default=0.05, metavar="T", help="of training (default: 0.05)")
    advise.add_argument("--json", metavar="FILE", help="write all numbers there too")


def _add_audit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "say what the norms of a model's or of ready embeddings carry, and whether to use them"
    audit = commands.add_parser(
        "audit",
        help=about,
        description=f"{about}: from a model with texts or images, or from a file of embeddings; nothing is trained",
        allow_abbrev=False,
    )
    audit.add_argument("--model", metavar="FOLDER", help="of transformers, sentence-transformers or open_clip")
    audit.add_argument("--pretrained", metavar="TAG", help="weights for a plain name of open_clip")
    audit.add_argument("--embeddings", metavar="FILE", help="ready ones: .npy, .npz, .parquet or .safetensors")
    audit.add_argument("--column", metavar="NAME", help="of the embeddings, where files hold several; queries' too")
    audit.add_argument("--texts", metavar="FILE", help="one a line, or .tsv or .jsonl with ids; plain or .gz")
    audit.add_argument("--images", metavar="FOLDER", help="of images, at any depth")
    audit.add_argument("--beir", metavar="FOLDER", help="documents, queries and judgements as BEIR has them")
    audit.add_argument("--split", metavar="NAME", help="of its judgements (default: test, or the only one)")
    audit.add_argument("--queries", metavar="FILE", help="embeddings of queries, or their texts for --model")
    audit.add_argument("--judgements", metavar="TSV", help="query, document, grade; ids as in the files")
    audit.add_argument("--covariates", metavar="TSV", help="id and further columns: numbers, or names of groups")
    audit.add_argument(
        "--measure", default="ndcg@10", metavar="NAME", help="ndcg, mrr, recall, map or hits @k (default: %(default)s)"
    )
    audit.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="inputs at a time (default: 32)")
    audit.add_argument("--max-length", type=_positive, default=256, metavar="N", help="tokens (default: 256)")
    audit.add_argument("--device", metavar="NAME", help="of the model (default: cuda where there is one, else cpu)")
    audit.add_argument("--save", metavar="NPY", help="keep the embeddings that the model makes")
    audit.add_argument("--out", type=_folder, default="audit", metavar="DIR", help="for both files (default: audit)")


def _exponent(text: str) -> float:
    exponent = _number(text)
    if not abs(exponent) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return exponent


def _factor(text: str) -> float:
    factor = _number(text)
    if not 0 < factor < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return factor


def _number(text: str) -> float:
    """The number that a word says, NaN if it says none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    if int(text) > _MOST_STEPS:
        raise argparse.ArgumentTypeError(f"expected at most {_MOST_STEPS}, got {text!r}")
    return int(text)


def _folder(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected the name of a folder, got nothing")
    return text
