"""Embeddings in folders of Parquet shards and behind URLs come back as written, or a sentence says why not."""

import json
import pickle
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save_file

from lightning_normdyn.datasets.embedding_file import EmbeddingFile
from lightning_normdyn.datasets.storage_place import StoragePlace

VECTORS = np.random.default_rng(0).normal(size=(41, 6)).astype(np.float32)
IDS = [f"doc {row}" for row in range(41)]
BOUNDS = {"part-0": range(13), "part-1": range(13, 13), "part-2": range(13, 14), "deep/part-0": range(14, 41)}
IN_ORDER = [*range(14, 41), *range(14)]  # deep/ comes before part-0


def lists(vectors, kind):
    """A column of lists, or of lists of one size."""
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 6)
    return pa.array(list(vectors), pa.list_(pa.from_numpy_dtype(vectors.dtype)))


def write_shards(folder: Path, *, kind="fixed", precision=np.float32, ids=True) -> Path:
    for name, rows in BOUNDS.items():
        columns = {"vector": lists(VECTORS[rows.start : rows.stop].astype(precision), kind)}
        columns |= {"id": pa.array(IDS[rows.start : rows.stop], pa.string())} if ids else {}
        file = folder / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file, row_group_size=5)
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_temporary/part-9.parquet", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not a shard")
    return folder


@pytest.fixture
def memory():
    """The file system of ``memory://``, emptied afterwards."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def upload(memory, folder: Path, name: str) -> str:
    memory.put(str(folder), f"/{name}", recursive=True)
    return f"memory://{name}"


@pytest.mark.parametrize("kind", ["fixed", "lists"])
@pytest.mark.parametrize("precision", [np.float32, np.float16, np.float64])
def test_shards_are_one_matrix_in_the_order_of_their_names(tmp_path, memory, kind, precision):
    folder = write_shards(tmp_path / "set.parquet", kind=kind, precision=precision)
    expected = VECTORS.astype(precision).astype(np.float32)[IN_ORDER]
    for address in (folder, folder.as_uri(), upload(memory, folder, "set")):
        embeddings = pickle.loads(pickle.dumps(EmbeddingFile(address)))
        assert (embeddings.rows, embeddings.dim) == (41, 6)
        assert embeddings.ids == [IDS[row] for row in IN_ORDER]
        assert np.array_equal(embeddings.read().numpy(), expected)
        for size in (1, 4, 16, 100):
            sizes = [len(chunk) for chunk in embeddings.chunks(size)]
            assert sizes == [size] * (41 // size) + [41 % size] * (41 % size > 0)


def test_any_rows_of_any_format_are_read_from_any_place(tmp_path, memory):
    folder = tmp_path / "files"
    write_shards(folder / "shards", ids=False)
    np.save(folder / "a.npy", VECTORS[IN_ORDER])
    np.savez(folder / "a.npz", v=VECTORS[IN_ORDER])
    save_file({"v": torch.from_numpy(VECTORS[IN_ORDER])}, folder / "a.safetensors")
    pq.write_table(pa.table({"v": lists(VECTORS[IN_ORDER], "lists")}), folder / "a.parquet", row_group_size=7)
    url = upload(memory, folder, "files")
    for root in (folder, url):
        for name in ("shards", "a.npy", "a.npz", "a.safetensors", "a.parquet"):
            embeddings = pickle.loads(pickle.dumps(EmbeddingFile(f"{root}/{name}")))
            for first, last in ((0, 41), (0, 1), (13, 14), (12, 30), (40, 41), (7, 7)):
                chunks = list(embeddings.chunks(5, range(first, last)))
                assert [len(chunk) for chunk in chunks[:-1]] == [5] * len(chunks[:-1])
                read = torch.cat([torch.empty(0, 6), *chunks])
                assert np.array_equal(read.numpy(), VECTORS[IN_ORDER][first:last]), (root, name, first)


def test_half_precision_and_wide_numbers_of_a_url(memory):
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int16):
        vectors = (torch.from_numpy(VECTORS) * 3).to(dtype)
        content = vectors.contiguous().view(torch.uint8).numpy().tobytes()
        header = json.dumps({"v": {"dtype": NAMES[dtype], "shape": [41, 6], "data_offsets": [0, len(content)]}})
        memory.pipe("/a.safetensors", len(header).to_bytes(8, "little") + header.encode() + content)
        assert torch.equal(EmbeddingFile("memory://a.safetensors").read(), vectors.float())


NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.int16: "I16"}


def other_dim(folder, kind):
    narrow = pa.array(list(VECTORS[:3, :4]), pa.list_(pa.float32(), 4 if kind == "fixed" else -1))
    pq.write_table(pa.table({"id": IDS[:3], "vector": narrow}), folder / "part-2.parquet")


def without_ids(folder, kind):
    pq.write_table(pa.table({"vector": lists(VECTORS[:3], kind)}), folder / "part-2.parquet")


def other_column(folder, kind):
    pq.write_table(pa.table({"id": IDS[:3], "embedding": lists(VECTORS[:3], kind)}), folder / "part-2.parquet")


def missing_id(folder, kind):
    pq.write_table(pa.table({"id": ["a", None, "c"], "vector": lists(VECTORS[:3], kind)}), folder / "part-2.parquet")


def missing_vector(folder, kind):
    vectors = pa.array([None, *VECTORS[:2]], pa.list_(pa.float32(), 6 if kind == "fixed" else -1))
    pq.write_table(pa.table({"id": IDS[:3], "vector": vectors}), folder / "part-2.parquet")


def cut_short(folder, kind):
    (folder / "part-2.parquet").write_bytes((folder / "part-0.parquet").read_bytes()[:-20])


def damaged(folder, kind):
    content = bytearray((folder / "part-0.parquet").read_bytes())
    content[100:700] = bytes(600)
    (folder / "part-0.parquet").write_bytes(content)


def too_large(folder, kind):
    pq.write_table(
        pa.table({"id": IDS[:3], "vector": lists(VECTORS[:3].astype(np.float64) * 1e300, kind)}),
        folder / "part-2.parquet",
    )


@pytest.mark.parametrize("kind", ["fixed", "lists"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            other_dim,
            r"part-2\.parquet.*expected 6 numbers in 'vector' as in .*part-0\.parquet|part-2.parquet, row 0: expe",
        ),
        (without_ids, r"part-2\.parquet: expected ids in 'id' as in .*part-0\.parquet, got none; write ids into all"),
        (
            other_column,
            r"part-2\.parquet: expected the column 'vector' of numbers as in .*part-0.parquet, got id, embe",
        ),
        (missing_id, r"part-2\.parquet, row 1: expected an id in 'id', got nothing"),
        (missing_vector, r"part-2\.parquet, row 0: expected 6 numbers in 'vector' as in the first row of .*part-0"),
        (cut_short, r"part-2\.parquet: cannot be read as \.parquet"),
        (damaged, r"part-0\.parquet: cannot be read as \.parquet"),
        (too_large, r"set, row 40: expected numbers in float32's range"),
    ],
)
def test_a_shard_that_differs_is_named(tmp_path, memory, kind, spoil, said):
    folder = write_shards(tmp_path / "set", kind=kind)
    spoil(folder, kind)
    for address in (folder, upload(memory, folder, "set")):
        with pytest.raises((ValueError, OSError), match=said) as raised:
            read_all(EmbeddingFile(address))
        assert "\n" not in str(raised.value)


def read_all(embeddings):
    return embeddings.ids, embeddings.read()


def test_ids_in_a_later_shard_alone_are_refused(tmp_path):
    folder = write_shards(tmp_path / "set", ids=False)
    pq.write_table(pa.table({"id": IDS[:3], "vector": lists(VECTORS[:3], "fixed")}), folder / "part-2.parquet")
    with pytest.raises(ValueError, match=r"part-2\.parquet: expected no ids as in .*part-0\.parquet, got 'id'"):
        EmbeddingFile(folder)


def test_shards_without_rows_alone_are_an_empty_matrix_and_no_shards_an_error(tmp_path, memory):
    for name in ("a", "b"):
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(pa.table({"v": pa.array([], pa.list_(pa.float32()))}), tmp_path / "set" / f"{name}.parquet")
    assert EmbeddingFile(tmp_path / "set").rows == 0
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "_x.parquet").write_text("")
    for address in (tmp_path / "none", upload(memory, tmp_path / "none", "none")):
        with pytest.raises(IsADirectoryError, match=r"expected a file of embeddings, got a folder without \.parquet"):
            EmbeddingFile(address)


class Denied(MemoryFileSystem):
    """A store whose errors are of its own kind, as those of botocore are."""

    protocol = "denied"
    store = {}  # noqa: RUF012

    def info(self, path, **options):
        raise StoreError("An error occurred (NoSuchBucket): it does not exist.\nRequest 12")

    isdir = ls = info


class StoreError(Exception):
    """No error of Python."""


def test_urls_that_cannot_be_read_are_one_sentence(memory, monkeypatch):
    fsspec.register_implementation("denied", Denied, clobber=True)
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    for address, said in {
        "s3://bucket/vectors": r"^s3://bucket/vectors: needs the package s3fs, which is not installed; install it "
        r"with: pip install s3fs$",
        "sea://bucket/x.npy": r"^sea://bucket/x.npy: expected a path or a URL that fsspec knows, .* got 'sea://'",
        "denied://u:hush@bucket/x.npy": r"^denied://u:\*\*\*@bucket/x.npy: cannot be read \(StoreError: An .*it does "
        r"not exist\); check the address, and that you may read there$",
        "memory://no/bucket": r"^memory://no/bucket: no such file; expected a file of embeddings, got none; check the",
        "file:///no/such/folder": r"^/no/such/folder: no such file; expected a file of embeddings, got none$",
    }.items():
        with pytest.raises((ValueError, OSError), match=said):
            EmbeddingFile(address)
    memory.pipe("/vectors.csv", b"1,2")
    memory.pipe("/cut.npy", b"\x93NUMPY")
    memory.pipe("/cut.safetensors", b"\x00" * 9)
    for name, said in {
        "vectors.csv": "expected .npy, .npz, .parquet, .safetensors, got '.csv'",
        "cut.npy": "cannot be read as .npy",
        "cut.safetensors": "cannot be read as .safetensors",
    }.items():
        with pytest.raises(ValueError, match=rf"memory://{name}: {said}"):
            EmbeddingFile(f"memory://{name}")


def test_a_url_whose_file_is_cut_short_says_so(tmp_path, memory):
    np.save(tmp_path / "a.npy", VECTORS)
    memory.pipe("/a.npy", (tmp_path / "a.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"memory://a.npy: expected 41 rows, got fewer"):
        EmbeddingFile("memory://a.npy").read()
    np.save(tmp_path / "a.npy", np.asfortranarray(VECTORS))
    memory.pipe("/a.npy", (tmp_path / "a.npy").read_bytes())
    with pytest.raises(ValueError, match=r"expected rows one after the other, got columns"):
        EmbeddingFile("memory://a.npy")
    assert np.array_equal(EmbeddingFile(tmp_path / "a.npy").read().numpy(), VECTORS)


def test_memory_is_of_this_process(memory):
    assert StoragePlace("memory://x").is_of_this_process
    assert not StoragePlace("file:///x").is_of_this_process
