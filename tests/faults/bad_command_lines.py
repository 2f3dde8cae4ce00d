"""Command lines that no command can take: kind, words and what the message has to name."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from bad_files import ADDRESSES, CHECKPOINTS, COVARIATES, EMBEDDINGS, IDS, JUDGEMENTS, RUNS, SHARDS, TEXTS
from yaml_mistakes import MISTAKES


class BadWords(NamedTuple):
    """A command line.

    Attributes:
        kind: what is wrong with it.
        words: after ``normdyn``.
        argument: a regular expression of what the message has to name.
    """

    kind: str
    words: list[str]
    argument: str


QUIET = [
    "--trainer.enable_progress_bar=false",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=1",
]
FIT = ["fit", "--config", "tokens.yaml", "--data.text=[inputs/text.txt]", *QUIET]
AUDIT = ["audit", "--embeddings", "inputs/good.npy"]
EXPORT = ["export", "--embeddings", "inputs/good.npy", "--to", "npy", "--out", "out.npy"]
ADVISE = ["advise", "--queries", "inputs/good.npy", "--documents", "inputs/good.npy"]
MODEL = ["audit", "--model", "inputs/bert", "--texts", "inputs/texts.txt"]
NOT_WHOLE = ("0", "-1", "1.5", "nan", "", "abc", "1e3", "9" * 30)
NOT_POSITIVE = ("0", "-1", "nan", "inf", "", "abc")


def without(words: list[str], option: str) -> list[str]:
    """The words without an option and its value."""
    place = words.index(option)
    return words[:place] + words[place + 2 :]


def _usage() -> Iterator[BadWords]:
    kind = "words: commands and options"
    for word in ("", " ", "gird", "FIT", "--versoin", "-x", "fit --config", "demo,fit", "\u00e9", "\0"):
        yield BadWords(kind, [word], r"COMMAND|unrecognized arguments|argument")
    yield BadWords(kind, [], "COMMAND")
    unknown = {
        "demo": [],
        "report": ["run"],
        "watch": ["run"],
        "configs": [],
        "reproduce": [],
        "audit": [],
        "export": [],
    }
    for command, words in unknown.items():
        yield BadWords(kind, [command, *words, "--colour", "red"], r"--colour|required")
    for command in ("fit", "grid", "advise", "predict"):
        yield BadWords(kind, [command, "--config", "sts.yaml", "--colour=red"], "colour")
        yield BadWords(kind, [command, "--config", "sts.yaml", "--model.colour=red"], "colour")
    for words in (
        ["demo", "--steps"], ["audit", "--embeddings"], ["export", "--to"], ["grid", "--config"], ["fit", "--config"],
        ["advise", "--queries"], ["watch", "run", "--interval"],
    ):  # fmt: skip
        yield BadWords(kind, words, words[-1])
    for words, argument in (
        (["report"], "run"), (["watch"], "run"), (["export"], "--embeddings|--to|--out"), (["grid"], "config"),
        (["audit"], "--model|--embeddings"), (["advise"], "--config|--queries"), (["fit"], "model|config"),
        (["predict"], "model|config"), (["report", "a", "b"], "b"), (["configs", "a", "b"], "b"),
        (["demo", "extra"], "extra"), (["export", "extra"], "extra|required"),
    ):  # fmt: skip
        yield BadWords(kind, words, argument)


def _numbers() -> Iterator[BadWords]:
    kind = "words: whole numbers"
    options = {
        "--steps": ["demo"], "--seeds": ["grid", "--config", "sts.yaml"], "--jobs": ["grid", "--config", "sts.yaml"],
        "--max-seeds": ["grid", "--config", "sts.yaml", "--sequential"],
        "--batch-size": MODEL, "--max-length": MODEL, "--sample": EXPORT, "--chunk-size": EXPORT,
    }  # fmt: skip
    for option, words in options.items():
        for value in NOT_WHOLE:
            yield BadWords(kind, [*words, f"{option}={value}"], option)
    for value in ("-1", "1.5", "nan", "abc", "4294967296"):
        yield BadWords(kind, ["demo", "--seed", value], "--seed")
        yield BadWords(kind, ["reproduce", "--quick", "--seed", value], "--seed")
    kind = "words: numbers"
    options = {
        "--temperature": ADVISE, "--interval": ["watch", "run", "--once"], "--timeout": ["watch", "run"],
        "--lr-factors": ["grid", "--config", "sts.yaml"], "--temperatures": ["grid", "--config", "sts.yaml"],
        "--margin": ["grid", "--config", "sts.yaml"], "--budget": ["grid", "--config", "sts.yaml", "--sequential"],
    }  # fmt: skip
    for option, words in options.items():
        for value in NOT_POSITIVE:
            yield BadWords(kind, [*words, f"{option}={value}"], option)
    for value in ("nan", "inf", "-inf", "", "abc", "1e400"):
        yield BadWords(kind, [*EXPORT, f"--alpha={value}"], "--alpha")
        yield BadWords(kind, [*EXPORT, "--normalization", "learnable", f"--gamma-document={value}"], "--gamma-document")
    for value in ("1000", "-1000", "1e30"):
        yield BadWords(kind, [*EXPORT, f"--alpha={value}"], "alpha")


def _choices() -> Iterator[BadWords]:
    kind = "words: choices"
    options = {
        "--optimizer": ["demo"], "--schedule": ["demo"], "--to": without(EXPORT, "--to"), "--dtype": EXPORT,
        "--normalization": EXPORT, "--metric": EXPORT, "--index": EXPORT,
    }  # fmt: skip
    for option, words in options.items():
        for value in ("", "nope", "COSINE", "1"):
            yield BadWords(kind, [*words, option, value], option.lstrip("-"))
    for words in (["grid", "--config", "sts.yaml"], AUDIT, EXPORT):
        for value in ("", "nope", "Ray", "1"):
            yield BadWords(kind, [*words, "--engine", value], "engine")
    for value in ("", "nope", "ndcg", "ndcg@0", "ndcg@-1", "ndcg@x", "ndcg@1.5", "recall@@3"):
        yield BadWords(kind, [*_judged_audit(), "--measure", value], "measure")
    for value in ("", "nope", "figure1", "demo"):
        yield BadWords(kind, ["reproduce", "--quick", "--only", value], "only")
    for value in ("", "nope", "../sts.yaml", "/etc/passwd", "sts.yml"):
        yield BadWords(kind, ["configs", value], "name")
    for value in ("", "nope", "Cosine"):
        yield BadWords(kind, ["grid", "--config", "sts.yaml", "--variants", value], "variants")
    yield BadWords(kind, ["grid", "--config", "sts.yaml", "--variants", "dot"], "variants")
    yield BadWords(kind, ["grid", "--config", "sts.yaml", "--variants", "cosine", "cosine"], "variants")
    yield BadWords(kind, [*MODEL, "--device", "nope"], "device")
    yield BadWords(kind, [*MODEL, "--device", "cuda:99"], "device")
    yield BadWords(kind, ["predict", "--config", "sts.yaml", "--split", "train"], "split")


def _flags() -> Iterator[BadWords]:
    commands = {
        "--overwrite": [AUDIT, EXPORT, ["predict", "--config", "sts.yaml"], ["configs", "sts.yaml"]],
        "--terminal": [["watch", "run"]],
        "--once": [["watch", "run"]],
        "--sequential": [["grid", "--config", "sts.yaml"]],
        "--plan": [["grid", "--config", "sts.yaml"]],
        "--quick": [["reproduce"]],
        "--augment": [EXPORT],
    }
    for flag, lines in commands.items():
        for words in lines:
            yield BadWords("words: flags", [*words, f"{flag}=maybe"], flag)


def _judged_audit() -> list[str]:
    return [*AUDIT, "--queries", "inputs/good.npy", "--judgements", "inputs/good.tsv"]


def _embeddings() -> Iterator[BadWords]:
    for name in EMBEDDINGS:
        file = f"inputs/{name}"
        named = f"{file}|embeddings:|documents:"
        yield BadWords("files: embeddings", ["audit", "--embeddings", file], named)
        yield BadWords("files: embeddings", [*without(EXPORT, "--embeddings"), "--embeddings", file], named)
        yield BadWords("files: embeddings", [*without(ADVISE, "--documents"), "--documents", file], named)
    for place in (*(f"inputs/shards/{name}" for name in SHARDS), *ADDRESSES):
        named = f"{re.escape(place.removeprefix('file://'))}|embeddings:|documents:|queries:"
        yield BadWords("files: shards and URLs", ["audit", "--embeddings", place], named)
        yield BadWords("files: shards and URLs", [*without(EXPORT, "--embeddings"), "--embeddings", place], named)
        if place != "inputs/shards/no_id":  # advice without judgements looks at no id
            yield BadWords("files: shards and URLs", [*without(ADVISE, "--documents"), "--documents", place], named)
            yield BadWords("files: shards and URLs", [*without(ADVISE, "--queries"), "--queries", place], named)
        judged = ["--queries", place, "--judgements", "inputs/good.tsv"]
        yield BadWords("files: shards and URLs", [*AUDIT, *judged], named)
    for name in ("absent.npy", "text.npy", "object.npy", "nan.npy", "no_rows.npy", "wide.npy"):
        yield BadWords(
            "files: embeddings",
            [*EXPORT, "--metric=euclidean", "--augment", "--queries", f"inputs/{name}"],
            "queries|inputs/",
        )
        yield BadWords(
            "files: embeddings",
            [*without(ADVISE, "--queries"), "--queries", f"inputs/{name}"],
            "queries|documents|inputs/",
        )
    for words in (AUDIT, EXPORT):
        yield BadWords("files: embeddings", [*words, "--column", "nope"], "column")


def _tables() -> Iterator[BadWords]:
    for name in JUDGEMENTS:
        file = f"inputs/{name}"
        yield BadWords("files: judgements", [*ADVISE, "--judgements", file], f"{file}|judgements")
        yield BadWords(
            "files: judgements", [*AUDIT, "--queries", "inputs/good.npy", "--judgements", file], f"{file}|judgements"
        )
    for name in COVARIATES:
        yield BadWords("files: covariates", [*AUDIT, "--covariates", f"inputs/{name}"], f"inputs/{name}|covariates")
    for name in IDS:
        yield BadWords("files: ids", [*EXPORT, "--ids", f"inputs/{name}"], f"inputs/{name}|ids")


def _texts() -> Iterator[BadWords]:
    for name in TEXTS:
        file = f"inputs/{name}"
        yield BadWords("files: texts", ["demo", "--steps", "2", "--text", file], f"{file}|text")
        yield BadWords("files: texts", [*FIT, f"--data.text=[{file}]"], f"{file}|text")
        yield BadWords("files: texts", ["audit", "--model", "inputs/bert", "--texts", file], f"{file}|texts")
    for place in ("inputs/absent", "inputs/folder", "inputs/file", "inputs/dangling", ""):
        yield BadWords("files: folders", ["audit", "--model", place, "--texts", "inputs/texts.txt"], "model")
        yield BadWords("files: folders", ["audit", "--model", "inputs/bert", "--images", place], "images|inputs/|model")
        yield BadWords("files: folders", ["audit", "--model", "inputs/bert", "--beir", place], "beir|inputs/")


def _yaml() -> Iterator[BadWords]:
    for name, (_, argument) in MISTAKES.items():
        yield BadWords("YAML", ["fit", "--config", f"inputs/yaml/{name}.yaml", *QUIET], argument)


FIT_VALUES = {
    "tokens.yaml": {
        "model.lr": ("-1", "nan", "inf", "0", "abc"),
        "model.temperature": ("0", "-1", "nan", "inf"),
        "model.weight_decay": ("-1", "nan", "inf"),
        "model.dim": ("0", "-3", "1.5", "true"),
        "data.batch_size": ("0", "1", "-5", "1.5"),
        "data.vocabulary_size": ("0", "-1", "1"),
        "data.window": ("0", "-1"),
        "data.steps_per_epoch": ("0", "-1"),
        "data.seed": ("-1", "1.5", "abc"),
        "trainer.max_steps": ("-5", "abc", "1.5"),
        "trainer.callbacks.init_args.every_n_steps": ("0", "-1", "1.5"),
        "trainer.callbacks.init_args.fit_every_n_steps": ("0", "-1"),
        "trainer.callbacks.init_args.window": ("0", "-1", "1.5", "nan", "inf"),
        "trainer.callbacks.init_args.forecast_at": ("0", "-1", "1.5", "nan"),
        "trainer.callbacks.init_args.targets": ("[]", "[nope]", "[table.weigth]", "3"),
        "trainer.callbacks.init_args.max_tracked_rows": ("0", "-1"),
        "trainer.devices": ("0", "-3", "abc"),
        "trainer.precision": ("17", "half"),
        "trainer.accelerator": ("gpu", "nope"),
        "seed_everything": ("-1", "abc", "99999999999999999999"),
    },
    "sts.yaml": {
        "data.batch_size": ("0", "1", "-1"),
        "data.evaluation_batch_size": ("0", "-1"),
        "data.workers": ("-1", "1.5"),
        "data.alike_above": ("nan", "100", "inf"),
        "model.warmup": ("-1", "nan", "2"),
        "model.temperature": ("0", "nan"),
        "model.lr": ("-1", "nan"),
        "model.chunk_size": ("0", "-1"),
        "model.queue_size": ("-1", "1.5"),
        "model.max_scale": ("0", "nan"),
    },
    "fewshot.yaml": {
        "data.ways": ("0", "1", "-1"),
        "data.shots": ("0", "-1", "100000"),
        "data.queries": ("0", "-1"),
        "data.evaluation_ways": ("0", "1"),
        "data.episodes": ("0", "-1"),
        "data.validation_share": ("-0.1", "1.5", "nan"),
    },
    "recsys.yaml": {
        "data.history_length": ("0", "-1"),
        "data.batch_size": ("0", "-1"),
        "data.cut": ("never",),
        "model.uniform_negatives": ("-1", "1.5"),
        "model.dim": ("0",),
    },
    "kg.yaml": {
        "data.batch_size": ("0",),
        "model.dim": ("0", "7"),
        "model.regularization": ("-1", "nan"),
        "model.scorer": ("nope",),
    },
    "clip.yaml": {"data.image_size": ("0", "-1"), "data.shift": ("-1", "100"), "data.batch_size": ("1",)},
    "retrieval.yaml": {
        "model.layer_decay": ("0.5", "2"),
        "model.mini_batch_size": ("0",),
        "data.hard_negatives": ("-1",),
        "data.hard_negatives_from": ("mining", "no/such.jsonl"),
        "data.validation_share": ("2", "nan"),
        "data.batch_size": ("1",),
    },
    "rag.yaml": {"model.passages": ("0", "-1"), "data.batch_size": ("1",)},
}


def _fit() -> Iterator[BadWords]:
    for config, options in FIT_VALUES.items():
        for option, values in options.items():
            name = option.rpartition(".")[2]
            for value in values:
                words = FIT if config == "tokens.yaml" else ["fit", "--config", config, *QUIET]
                yield BadWords("fit: values", [*words, f"--{option}={value}"], name)


def _checkpoints() -> Iterator[BadWords]:
    for name in CHECKPOINTS:
        file = f"inputs/{name}"
        yield BadWords("files: checkpoints", [*FIT, "--ckpt_path", file], f"ckpt_path|{file}")
        yield BadWords("files: checkpoints", ["predict", *FIT[1:4], "--ckpt_path", file], f"ckpt_path|{file}")
        if name != "bare.ckpt":  # weights alone are enough to look at
            yield BadWords("files: checkpoints", ["audit", "--checkpoint", file], f"checkpoint|{file}")


def _runs() -> Iterator[BadWords]:
    for name in RUNS:
        run = f"inputs/runs/{name}"
        yield BadWords("files: runs", ["report", run, "--out", "page.html"], f"run|{run}")
        yield BadWords("files: runs", ["watch", run, "--once", "--out", "page.html"], f"run|{run}")
    for run in ("", "inputs/file", "inputs/absent", "inputs/dangling", "a\0b", "a" * 300):
        yield BadWords("files: runs", ["report", run], "run|file name|RUN")
        yield BadWords("files: runs", ["watch", run, "--once"], "run|file name|RUN")


def _outputs() -> Iterator[BadWords]:
    kind = "outputs"
    commands = {
        "demo": ["--steps", "2"], "reproduce": ["--quick"], "audit": AUDIT[1:], "configs": ["sts.yaml"],
        "grid": ["--config", "sts.yaml"], "predict": ["--config", "sts.yaml"],
    }  # fmt: skip
    for command, words in commands.items():
        for place in ("", "inputs/file", "inputs/file/below", "a\0b", "a" * 300):
            yield BadWords(kind, [command, *words, f"--out={place}"], "out")
    for place in (
        "",
        ".",
        "inputs/folder",
        "inputs/file/below.npy",
        "x.txt",
        "a\0b.npy",
        "a" * 300 + ".npy",
        "inputs/good.npy",
    ):
        yield BadWords(kind, [*without(EXPORT, "--out"), f"--out={place}"], "out")
    for place in ("", "inputs/folder", "inputs/file/below.json", "a\0b"):
        yield BadWords(kind, [*ADVISE, f"--json={place}"], "json")
        yield BadWords(kind, [*MODEL, f"--save={place}"], "save")
    for command in ("demo", "grid"):
        yield BadWords(kind, [command, *commands[command], "--out=inputs/full"], "out")


def _indexes() -> Iterator[BadWords]:
    kind = "indexes"
    export = ["export", "--embeddings", "inputs/good.npy"]
    for name in ("", " ", "a/b", "../a", "a\0b", "a" * 300):
        yield BadWords(kind, [*export, "--to", "qdrant", "--out", "db", f"--name={name}"], "name")
    for url in ("http://", "http://user:secret@127.0.0.1:9", "ftp://x", "http://127.0.0.1:99999", "://"):
        yield BadWords(kind, [*export, "--to", "qdrant", "--out", url], "out")
    for dsn in (
        "",
        "nonsense",
        "host=",
        "postgresql://user:secret@127.0.0.1:9/x",
        "port=abc",
        "postgresql://[",
        "password=secret port=x",
        "postgres://u:secret@h:p/x",
    ):
        yield BadWords(kind, [*export, "--to", "pgvector", f"--out={dsn}"], "out")
    for index in ("nope", "IVF", "PQ3", "IVF1000,Flat", "L2norm,Flat", "IDMap,Flat", "ivfpq", ""):
        yield BadWords(kind, [*export, "--to", "faiss", "--out", "x.faiss", f"--index={index}"], "index")
    for words in (
        ["--index", "hnsw"],
        ["--metric", "cosine"],
        ["--metric", "euclidean"],
        ["--gamma-document", "1"],
        ["--normalization", "learnable"],
    ):
        yield BadWords(kind, [*EXPORT, *words], words[0].lstrip("-").replace("-", "_") + "|" + words[0])
    graph = [*export, "--to", "faiss", "--out", "x.faiss", "--index", "hnsw"]
    for option in ("--m", "--ef-construction", "--ef-search", "--candidates", "--dim"):
        for value in ("0", "-1", "1.5", "many", "1000000000"):
            yield BadWords(kind, [*graph, f"{option}={value}"], option.lstrip("-").replace("-", "_") + "|" + option)
    for option in ("--nprobe", "--subvectors", "--refine-factor"):
        for value in ("0", "-1", "1.5", "many"):
            words = [*export, "--to", "lancedb", "--out", "x.lancedb", f"{option}={value}"]
            yield BadWords(kind, words, option.lstrip("-").replace("-", "_") + "|" + option)
    for value in ("0", "1.5", "nan", "most"):
        yield BadWords(kind, [*graph, f"--recall={value}"], "recall")
    yield BadWords(kind, [*EXPORT, "--keep-norm=yes"], "keep.norm")
    yield BadWords(kind, [*EXPORT, "--append", "--overwrite"], "append|overwrite")
    yield BadWords(kind, [*export, "--to", "qdrant", "--out", "inputs/file"], "out")
    yield BadWords(kind, [*export, "--to", "lancedb", "--out", "s3://x"], "lancedb|out")
    for to, out in (("elasticsearch", "x.ndjson"), ("opensearch", "x.ndjson"), ("vespa", "x.jsonl")):
        feed = [*export, "--to", to, "--out", out]
        for words in (
            ["--name", "A b"],
            ["--dtype", "float16"],
            ["--index", "sq8"],
            ["--ef-search", "9"],
            ["--out", "x"],
        ):
            yield BadWords(kind, [*feed, *words], words[0].lstrip("-").replace("-", "_"))
    for words in (["--upsert"], ["--payload", "all"], ["--payload", "a", "--payload", "b"]):
        yield BadWords(kind, [*EXPORT, *words], words[0].lstrip("-"))
    yield BadWords(kind, [*export, "--to", "qdrant", "--out", "db", "--payload", "title"], "payload")
    yield BadWords(kind, [*export, "--to", "qdrant", "--out", "db", "--upsert", "--overwrite"], "upsert")
    for words, argument in (
        ([], "--to or --function"),
        (["--to", "npy", "--function", "a:b"], "--to or --function"),
        (["--to", "nope"], "to"),
        (["--to", "npy", "--dim", "3"], "dim"),
        (["--to", "npy", "--out", "x.npy"], "out"),
        (["--to", "npy", "--index", "nope"], "index"),
        (["--to", "npy", "--dtype", "int8"], "dtype"),
        (["--to", "vespa"], "to"),
        (["--to", "npy", "--dim", "many"], "dim"),
        (["--function", "nope"], "function"),
        (["--function", "no_such_module:x"], "function"),
        (["--function", "json:nope"], "function"),
    ):
        yield BadWords(kind, ["check-store", *words], argument)
    for words, argument in (
        ([], "clusters"),
        (["--clusters", "0"], "clusters"),
        (["--clusters", "many"], "clusters"),
        (["--clusters", "2", "--seeds", "1"], "seeds"),
        (["--clusters", "2", "--exponents", "nan"], "exponents"),
        (["--clusters", "2", "--engine", "nope"], "engine"),
        (["--clusters", "2", "--label-column", "class"], "label_column"),
        (["--labels", "inputs/absent.tsv"], "labels"),
    ):
        yield BadWords(kind, ["cluster", "--embeddings", "inputs/good.npy", *words], argument)


def _combinations() -> Iterator[BadWords]:
    kind = "options that do not fit"
    good = "inputs/good.npy"
    for words, argument in (
        ([*AUDIT, "--model", "inputs/bert"], "--model"),
        ([*AUDIT, "--queries", good], "judgements"),
        ([*AUDIT, "--judgements", "inputs/good.tsv"], "queries"),
        ([*AUDIT, "--texts", "inputs/few.txt"], "texts|inputs/few.txt"),
        ([*AUDIT, "--texts", "inputs/texts.txt", "--images", "inputs/folder"], "--texts"),
        ([*AUDIT, "--save", "x.npy"], "save"),
        ([*AUDIT, "--split", "test"], "split"),
        ([*AUDIT, "--pretrained", "x"], "pretrained"),
        ([*AUDIT, "--device", "cpu"], "device"),
        ([*AUDIT, "--query-prompt", "query: "], "query_prompt"),
        ([*AUDIT, "--document-prompt", "x: "], "document_prompt"),
        ([*AUDIT, "--dtype", "auto"], "dtype"),
        ([*AUDIT, "--max-length", "9"], "max_length"),
        ([*AUDIT, "--trust-remote-code"], "trust_remote_code"),
        ([*MODEL, "--query-prompt", "question"], "query_prompt"),
        ([*MODEL, "--document-prompt", "text"], "document_prompt"),
        ([*AUDIT, "--checkpoint", "inputs/bare.ckpt"], "--checkpoint"),
        (["audit", "--checkpoint", "inputs/bare.ckpt", "--engine", "ray"], "engine"),
        ([*MODEL, "--engine", "ray"], "engine"),
        (["grid", "--config", "sts.yaml", "--engine", "ray", "--jobs", "2"], "jobs"),
        (["grid", "--config", "sts.yaml", "--max-seeds", "5"], "max_seeds"),
        (["grid", "--config", "sts.yaml", "--budget", "5"], "budget"),
        (["grid", "--config", "sts.yaml", "--sequential", "--seeds", "1"], "seeds"),
        (["grid", "--config", "sts.yaml", "--plan", "--variants", "cosine"], "variants"),
        (
            [
                "export",
                "--embeddings",
                "inputs/shards/good",
                "--to",
                "parquet",
                "--out",
                "inputs/shards/good/x.parquet",
            ],
            "out",
        ),
        (["audit", "--model", "inputs/bert"], "--texts"),
        ([*MODEL, "--save", "x.txt"], "save"),
        ([*ADVISE, "--config", "sts.yaml"], "--config"),
        (ADVISE[:3], "--documents"),
        ([*ADVISE, "--model.lr=3"], "model.lr"),
        ([*ADVISE, "--ckpt_path", "inputs/bare.ckpt"], "ckpt_path"),
        (["advise", "--config", "sts.yaml", "--judgements", "inputs/good.tsv"], "judgements"),
        (["advise", "--config", "sts.yaml", "--column", "a"], "column"),
        (["advise", "--config", "sts.yaml", "--chunks", "inputs/good.tsv"], "chunks"),
        ([*ADVISE, "--chunks", "inputs/good.tsv"], "chunks"),
        (["advise", "--config", "sts.yaml", "--texts", "inputs/texts.txt"], "texts"),
        (["advise", "--config", "sts.yaml", "--covariates", "inputs/good.tsv"], "covariates"),
        (["advise", "--config", "sts.yaml", "--normalization", "qnorm"], "normalization"),
        ([*ADVISE, "--normalization", "softmax"], "normalization"),
        (["advise", "--config", "sts.yaml", "--control", "age"], "control"),
        ([*ADVISE, "--control", "age"], "control"),
        ([*ADVISE, "--texts", "inputs/few.txt"], "texts|inputs/few.txt"),
        ([*AUDIT, "--control", "age"], "control"),
        ([*AUDIT, "--before", good], "before"),
        ([*AUDIT, "--before-queries", good], "before-queries"),
        ([*AUDIT, "--before", good, "--before-queries", good], "before"),
        ([*_judged_audit(), "--before", "inputs/short.npy", "--before-queries", good], "inputs/short.npy"),
        ([*AUDIT, "--chunks", "inputs/good.tsv"], "chunks"),
        ([*_judged_audit(), "--chunks", "inputs/absent.tsv"], "chunks|inputs/absent.tsv"),
        (["advise", "--config", "tokens.yaml"], "config|ContrastiveTask"),
        (["grid", "--config", "tokens.yaml"], "config|ContrastiveTask|normalization"),
        (["grid", "--config", "sts.yaml", "--config", "absent.yaml"], "config"),
        (["advise", "--queries", good, "--documents", "inputs/short.npy"], "judgements|documents"),
        ([*_judged_audit(), "--measure", "ndcg@10", "--beir", "inputs/folder"], "beir|inputs/folder"),
        (["predict", "--config", "sts.yaml", "--ckpt_path", "inputs/bare.ckpt", "--ckpt_path", "x"], "ckpt_path"),
        (["configs", "--overwrite"], "overwrite|name"),
        (["configs", "--out", "mine"], "out|name"),
        (["watch", "inputs/runs/no_history", "--once", "--timeout", "3"], "run|timeout"),
    ):
        yield BadWords(kind, words, argument)


GENERATORS = (
    _usage, _numbers, _choices, _flags, _embeddings, _tables, _texts, _yaml, _fit, _checkpoints, _runs, _outputs,
    _indexes, _combinations,
)  # fmt: skip
COMMAND_LINES = list(chain.from_iterable(generator() for generator in GENERATORS))
