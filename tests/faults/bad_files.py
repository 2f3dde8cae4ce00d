"""Files that no command can take, each under the name of what is wrong with it, and a few that are in order."""

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

ROWS, DIM = 12, 4
WORDS = [first + second for first in "abcdefghij" for second in "klmnop"]
EMBEDDINGS = (
    "absent.npy", "folder.npy", "empty.npy", "garbage.npy", "text.npy", "header.npy", "half.npy", "object.npy",
    "strings.npy", "complex.npy", "flags.npy", "vector.npy", "cube.npy", "no_rows.npy", "no_columns.npy", "nan.npy",
    "infinite.npy", "huge.npy", "no_archive.npz", "half.npz", "no_matrix.npz", "two_matrices.npz", "object.npz",
    "empty.npz", "text.parquet", "half.parquet", "no_list.parquet", "two_lists.parquet", "ragged.parquet",
    "nulls.parquet", "text.safetensors", "half.safetensors", "no_matrix.safetensors", "two.safetensors", "vectors.csv",
    "vectors",
)  # fmt: skip
SHARDS = (
    "none", "other_dim", "other_fixed_dim", "other_column", "ids_missing", "ids_in_one", "no_id", "no_vector",
    "half_shard", "text_shard", "no_rows", "not_finite",
)  # fmt: skip
ADDRESSES = ("sea://bucket/x.npy", "sea://", "memory://absent", "memory://absent.npy", "file:///absent/x.npy")
JUDGEMENTS = (
    "absent.tsv", "folder.tsv", "empty.tsv", "latin.tsv", "utf16.tsv", "binary.tsv", "one_column.tsv",
    "words_for_grades.tsv", "nan_grades.tsv", "unknown_queries.tsv", "unknown_documents.tsv", "no_relevant.tsv",
    "half.tsv.gz",
)  # fmt: skip
COVARIATES = (
    "absent.tsv", "folder.tsv", "empty.tsv", "latin.tsv", "binary.tsv", "ids_alone.tsv", "ragged.tsv", "strangers.tsv",
    "column_twice.tsv",
)  # fmt: skip
IDS = ("absent.txt", "folder.txt", "empty.txt", "latin.txt", "few.txt", "many.txt", "twice.txt", "blank.txt")
TEXTS = ("absent.txt", "folder.txt", "empty.txt", "blanks.txt", "latin.txt", "binary.txt", "half.txt.gz", "plain.gz")
CHECKPOINTS = (
    "absent.ckpt", "folder.ckpt", "empty.ckpt", "garbage.ckpt", "text.ckpt", "tensor.ckpt", "list.ckpt", "bare.ckpt",
    "pickled.ckpt", "yaml.ckpt", "archive.ckpt", "no_weights.ckpt",
)  # fmt: skip


def write_files(folder: Path) -> None:
    """Writes them all."""
    for name in ("folder.npy", "folder.tsv", "folder.txt", "folder.ckpt", "folder.yaml", "folder"):
        (folder / name).mkdir()
    _write_arrays(folder)
    _write_archives(folder)
    _write_columns(folder)
    _write_shards(folder / "shards")
    _write_tensors(folder)
    _write_tables(folder)
    _write_texts(folder)
    _write_checkpoints(folder)
    _write_runs(folder)
    (folder / "dangling").symlink_to("nowhere")
    (folder / "file").write_text("in the way")


def _vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)


def _write_arrays(folder: Path) -> None:
    vectors = _vectors()
    spoilt = {"nan": np.nan, "infinite": np.inf}
    arrays = {
        "good": vectors,
        "wide": np.ones((ROWS, DIM + 1), np.float32),
        "short": vectors[:5],
        "strings": np.array([["a", "b"], ["c", "d"]]),
        "complex": vectors.astype(complex),
        "flags": vectors > 0,
        "vector": vectors[0],
        "cube": vectors[None],
        "no_rows": vectors[:0],
        "no_columns": vectors[:, :0],
        "huge": vectors.astype(np.float64) * 1e300,
        **{name: np.where(np.arange(ROWS)[:, None] == 3, value, vectors) for name, value in spoilt.items()},
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "object.npy", np.array([[{}], [1]], dtype=object), allow_pickle=True)
    content = (folder / "good.npy").read_bytes()
    (folder / "half.npy").write_bytes(content[: len(content) // 2])
    (folder / "header.npy").write_bytes(content[:40])
    (folder / "empty.npy").write_bytes(b"")
    (folder / "garbage.npy").write_bytes(bytes(range(256)) * 4)
    (folder / "text.npy").write_text("0.1 0.2 0.3\n0.4 0.5 0.6\n")
    (folder / "vectors.csv").write_text("0.1,0.2\n0.3,0.4\n")
    (folder / "vectors").write_bytes(content)


def _write_archives(folder: Path) -> None:
    vectors = _vectors()
    np.savez(folder / "good.npz", embeddings=vectors)
    np.savez(folder / "no_matrix.npz", a=vectors[0])
    np.savez(folder / "two_matrices.npz", a=vectors, b=vectors)
    np.savez(folder / "object.npz", a=np.array([[{}], [1]], dtype=object))
    (folder / "no_archive.npz").write_text("no archive")
    content = (folder / "good.npz").read_bytes()
    (folder / "half.npz").write_bytes(content[: len(content) // 2])
    with zipfile.ZipFile(folder / "empty.npz", "w"):
        pass


def _write_columns(folder: Path) -> None:
    lists = pa.array(_vectors().tolist())
    ids = pa.array([f"d{row}" for row in range(ROWS)])
    pq.write_table(pa.table({"id": ids, "embedding": lists}), folder / "good.parquet")
    pq.write_table(pa.table({"id": ids}), folder / "no_list.parquet")
    pq.write_table(pa.table({"a": lists, "b": lists}), folder / "two_lists.parquet")
    pq.write_table(pa.table({"a": pa.array([[1.0, 2.0], [3.0]])}), folder / "ragged.parquet")
    pq.write_table(pa.table({"a": pa.array([[1.0, 2.0], None, [None, 3.0]])}), folder / "nulls.parquet")
    content = (folder / "good.parquet").read_bytes()
    (folder / "half.parquet").write_bytes(content[: len(content) // 2])
    (folder / "text.parquet").write_text("no parquet")


def _write_shards(folder: Path) -> None:
    """Folders whose second shard does not go with the first."""
    vectors, half = _vectors(), ROWS // 2
    lists = pa.array(vectors[:half].tolist())
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(vectors[:half].reshape(-1)), DIM)
    good = pa.table({"id": [f"d{row}" for row in range(half)], "v": lists})
    ids = pa.array([f"d{row}" for row in range(half, ROWS)])
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(vectors[: half // 2].reshape(-1)), DIM // 2)
    vectors = vectors[half:]
    shards = {
        "other_dim": (good, pa.table({"id": ids, "v": pa.array(vectors[:, :2].tolist())})),
        "other_fixed_dim": (pa.table({"v": fixed}), pa.table({"v": narrow})),
        "other_column": (good, pa.table({"id": ids, "w": lists})),
        "ids_missing": (good, pa.table({"v": lists})),
        "ids_in_one": (pa.table({"v": lists}), pa.table({"id": ids, "v": lists})),
        "no_id": (good, pa.table({"id": pa.array([None] * half, pa.string()), "v": lists})),
        "no_vector": (good, pa.table({"id": ids, "v": pa.array([None] * half, lists.type)})),
        "no_rows": (good[:0], good[:0]),
        "not_finite": (good, pa.table({"id": ids, "v": pa.array((vectors * np.nan).tolist())})),
    }
    (folder / "none").mkdir(parents=True)
    (folder / "none" / "README.md").write_text("no shard")
    for name, tables in shards.items():
        (folder / name).mkdir()
        for number, table in enumerate(tables):
            pq.write_table(table, folder / name / f"part-{number}.parquet")
    whole = (folder / "other_dim" / "part-0.parquet").read_bytes()
    for name, content in (("half_shard", whole[: len(whole) // 2]), ("text_shard", b"no parquet")):
        (folder / name).mkdir()
        (folder / name / "part-0.parquet").write_bytes(whole)
        (folder / name / "part-1.parquet").write_bytes(content)
    (folder / "good").mkdir()
    pq.write_table(good, folder / "good" / "part-0.parquet")


def _write_tensors(folder: Path) -> None:
    vectors = torch.from_numpy(_vectors())
    save_file({"a": vectors}, folder / "good.safetensors")
    save_file({"a": vectors[0].clone()}, folder / "no_matrix.safetensors")
    save_file({"a": vectors, "b": vectors.clone()}, folder / "two.safetensors")
    content = (folder / "good.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(content[: len(content) // 2])
    (folder / "text.safetensors").write_text("no tensors at all")


def _write_tables(folder: Path) -> None:
    good = "".join(f"{row}\t{row}\t1\n" for row in range(ROWS))
    tables = {
        "good": good,
        "empty": "",
        "one_column": "0\n1\n",
        "words_for_grades": "0\t0\tgood\n1\t1\tbad\n",
        "nan_grades": "0\t0\tnan\n1\t1\tnan\n",
        "unknown_queries": "q1\t0\t1\nq2\t1\t1\n",
        "unknown_documents": "0\td1\t1\n1\td2\t1\n",
        "no_relevant": "0\t0\t0\n1\t1\t0\n",
        "ids_alone": "id\n0\n1\n",
        "ragged": "id\tlength\n0\t1\n1\n2\t3\t4\n",
        "strangers": "id\tlength\nx\t1\ny\t2\n",
        "column_twice": "id\tlength\tlength\n0\t1\t2\n",
    }
    for name, text in tables.items():
        (folder / f"{name}.tsv").write_text(text)
    (folder / "latin.tsv").write_bytes("id\tgroup\n0\tcafé\n".encode("latin-1"))
    (folder / "utf16.tsv").write_bytes(good.encode("utf-16"))
    (folder / "binary.tsv").write_bytes(bytes(range(256)))
    (folder / "half.tsv.gz").write_bytes(gzip.compress(good.encode() * 50)[:60])


def _write_texts(folder: Path) -> None:
    lines = [f"w{place % 5} w{place % 7} w{place % 3}" for place in range(ROWS)]
    (folder / "texts.txt").write_text("\n".join(lines))
    (folder / "text.txt").write_text(
        "\n\n".join(" ".join(WORDS[place * step % 60] for step in range(1, 31)) for place in range(40))
    )
    (folder / "empty.txt").write_text("")
    (folder / "blanks.txt").write_text("  \n \n\n")
    (folder / "latin.txt").write_bytes("café\nthé\n".encode("latin-1"))
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    (folder / "half.txt.gz").write_bytes(gzip.compress("\n".join(lines * 50).encode())[:60])
    (folder / "plain.gz").write_text("not gzipped")
    (folder / "few.txt").write_text("a\nb\n")
    (folder / "many.txt").write_text("\n".join(map(str, range(ROWS + 5))))
    (folder / "twice.txt").write_text("\n".join(["a"] * ROWS))
    (folder / "blank.txt").write_text("\n".join(["a", "", *map(str, range(ROWS - 2))]))


def _write_checkpoints(folder: Path) -> None:
    torch.save(torch.zeros(3), folder / "tensor.ckpt")
    torch.save([1, 2], folder / "list.ckpt")
    torch.save({"table.weight": torch.zeros(3, 2)}, folder / "bare.ckpt")
    torch.save({"state_dict": {}, "path": Path("x"), "pytorch-lightning_version": "2.6.0"}, folder / "pickled.ckpt")
    torch.save({"epoch": 1, "global_step": 2, "pytorch-lightning_version": "2.6.0"}, folder / "no_weights.ckpt")
    (folder / "empty.ckpt").write_bytes(b"")
    (folder / "garbage.ckpt").write_bytes(bytes(range(256)) * 40)
    (folder / "text.ckpt").write_text("hello there\n")
    (folder / "yaml.ckpt").write_text("model: {a: 1}\n")
    with zipfile.ZipFile(folder / "archive.ckpt", "w") as archive:
        archive.writestr("a.txt", "a")


RUNS = {
    "no_folder": {},
    "no_history": {"metrics.csv": b"step,loss\n1,2\n"},
    "empty_target": {"normdyn/table/target.json": b""},
    "half_target": {"normdyn/table/target.json": b'{"target": "ta'},
    "list_target": {"normdyn/table/target.json": b"[1]"},
    "foreign_target": {"normdyn/table/target.json": b'{"colour": "red"}'},
    "binary_target": {"normdyn/table/target.json": bytes(range(256))},
    "half_summary": {"normdyn/table/target.json": b'{"target": "table"}', "summary.json": b'{"slope": '},
    "list_summary": {"normdyn/table/target.json": b'{"target": "table"}', "summary.json": b"[1]"},
    "binary_vocabulary": {"normdyn/table/target.json": b'{"target": "table"}', "vocabulary.tsv": bytes(range(256))},
}
"""Run folders: name to their files."""


def _write_runs(folder: Path) -> None:
    for name, files in RUNS.items():
        for path, content in files.items():
            file = folder / "runs" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    grid = folder / "foreign_grid"
    grid.mkdir()
    (grid / "grid.json").write_text(json.dumps({"a": 1}))
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
