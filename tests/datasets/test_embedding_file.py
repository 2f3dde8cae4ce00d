"""Embeddings on disk come back as they were written, chunk by chunk."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from lightning_normdyn.cli.main import main
from lightning_normdyn.datasets.embedding_file import EmbeddingFile

VECTORS = np.random.default_rng(0).normal(size=(37, 6)).astype(np.float32)
IDS = [f"doc {row}" for row in range(37)]


def write_npy(file, vectors):
    np.save(file, vectors)


def write_npz(file, vectors):
    np.savez(file, embeddings=vectors, ids=np.array(IDS), other=np.ones(3))


def write_parquet(file, vectors):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table({"id": IDS, "vector": lists}), file, row_group_size=10)


def write_lists(file, vectors):
    pq.write_table(pa.table({"vector": pa.array(vectors.tolist())}), file)


def write_safetensors(file, vectors):
    save_file({"v": torch.from_numpy(vectors), "bias": torch.ones(2)}, file)


KINDS = {
    "a.npy": write_npy,
    "a.npz": write_npz,
    "a.parquet": write_parquet,
    "lists.parquet": write_lists,
    "a.safetensors": write_safetensors,
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("precision", [np.float32, np.float16])
def test_what_was_written_is_read(tmp_path, name, precision) -> None:
    vectors = VECTORS.astype(precision)
    KINDS[name](tmp_path / name, vectors)
    opened = EmbeddingFile(tmp_path / name)
    assert (opened.rows, opened.dim, len(opened)) == (37, 6, 37)
    chunks = list(opened.chunks(8))
    assert all(len(chunk) <= 8 and chunk.dtype == torch.float32 for chunk in chunks)
    assert np.array_equal(torch.cat(chunks).numpy(), vectors.astype(np.float32))
    assert torch.equal(opened.read(), torch.cat(chunks))
    assert opened.ids == (IDS if name in ("a.npz", "a.parquet") else [str(row) for row in range(37)])


def test_a_chunk_may_be_changed(tmp_path) -> None:
    np.save(tmp_path / "a.npy", VECTORS)
    next(EmbeddingFile(tmp_path / "a.npy").chunks()).zero_()
    assert EmbeddingFile(tmp_path / "a.npy").read().any()


def uneven(file):
    pq.write_table(pa.table({"v": pa.array([[1.0, 2.0], [3.0]])}), file)


def a_number_short(file):
    pq.write_table(pa.table({"v": pa.array([[1.0, 2.0], [3.0, None]])}), file)


def two(file):
    np.savez(file, a=VECTORS, b=VECTORS)


def nothing_first(file):
    pq.write_table(pa.table({"v": pa.array([None, [3.0]])}), file)


def save_objects(file):
    objects = np.array([[1, "a"]], dtype=object)
    (np.savez if file.suffix == ".npz" else np.save)(file, objects)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.csv", lambda file: file.write_text("1,2"), "expected .npy"),
        ("a.npy", lambda file: np.save(file, np.ones(3)), r"expected numbers \[n, d\], got float64 \[3\]"),
        ("a.npy", lambda file: file.write_bytes(b"\x93NUMPY"), "cannot be read"),
        ("a.npy", lambda file: np.save(file, np.array([["a"]])), "expected numbers"),
        (
            "a.npy",
            lambda file: file.write_text("red\nblue\n"),
            r"a\.npy: is no \.npy file of numbers; write it with numpy",
        ),
        ("a.npy", save_objects, r"a\.npy: is no \.npy file of numbers; write it with numpy"),
        ("a.npz", lambda file: file.write_text("red\nblue\n"), r"a\.npz: is no \.npz file of numbers; write it"),
        ("a.npz", save_objects, r"a\.npz: is no \.npz file of numbers; write it with numpy"),
        ("a.npz", two, "among its two-dimensional arrays, got a, b"),
        ("a.parquet", lambda file: file.write_bytes(b"PAR1"), "cannot be read as .parquet"),
        ("a.parquet", uneven, "row 1: expected 2 numbers"),
        ("a.parquet", a_number_short, "row 1: expected 2 numbers"),
        ("a.npy", lambda file: np.save(file, np.ones((3, 0))), r"expected vectors of one number or more, got \[3, 0\]"),
        ("a.parquet", nothing_first, "row 0: expected numbers in 'v', got nothing"),
        ("a.safetensors", lambda file: file.write_bytes(b"nothing"), "cannot be read|a.safetensors"),
    ],
)
def test_other_files_are_named(tmp_path, name, write, said) -> None:
    write(tmp_path / name)
    with pytest.raises(ValueError, match=said) as raised:
        EmbeddingFile(tmp_path / name).read()
    assert name in str(raised.value)


def test_a_missing_file_and_a_chosen_column(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        EmbeddingFile(tmp_path / "none.npy")
    with pytest.raises(FileNotFoundError, match=r"none\.npy: no such file; expected a file of embeddings, got none"):
        EmbeddingFile(tmp_path / "none.npy")
    with pytest.raises(IsADirectoryError, match="expected a file of embeddings, got a folder"):
        EmbeddingFile(tmp_path)
    two(tmp_path / "two.npz")
    assert EmbeddingFile(tmp_path / "two.npz", column="b").rows == 37
    np.savez(tmp_path / "two.npz", a=VECTORS, b=VECTORS[:5])
    assert EmbeddingFile(tmp_path / "two.npz", preferred_column="b").rows == 5
    assert EmbeddingFile(tmp_path / "two.npz", column="a", preferred_column="b").rows == 37
    np.save(tmp_path / "one.npy", VECTORS)
    assert EmbeddingFile(tmp_path / "one.npy", preferred_column="b").rows == 37


def write_doubles(file, vectors):
    save_file({"v": torch.from_numpy(vectors)}, file)


@pytest.mark.parametrize(("name", "write"), [*KINDS.items(), ("doubles.safetensors", write_doubles)])
@pytest.mark.parametrize("factor", [1e39, 1e-50])
def test_doubles_outside_of_single_precision_are_refused(tmp_path, name, write, factor) -> None:
    vectors = VECTORS.astype(np.float64)
    vectors[5] = [math.nan, math.inf, 0, 0, 0, 0]  # as they are in every precision
    vectors[7] = 0
    write(tmp_path / name, vectors)
    assert EmbeddingFile(tmp_path / name).read().shape == (37, 6)
    vectors[20] *= factor
    write(tmp_path / name, vectors)
    with pytest.raises(ValueError, match=f"{name}, row 20: expected numbers in float32's range.* by one factor"):
        list(EmbeddingFile(tmp_path / name).chunks(8))


def test_ids_that_are_missing_are_refused(tmp_path) -> None:
    pq.write_table(pa.table({"id": ["a", None], "v": [[1.0], [2.0]]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet, row 1: expected an id in 'id', got nothing"):
        _ = EmbeddingFile(tmp_path / "a.parquet").ids


RANGES = np.vstack([VECTORS.min(0), VECTORS.max(0)])
UNSIGNED = np.clip(np.floor((VECTORS - RANGES[0]) / ((RANGES[1] - RANGES[0]) / 255)), 0, 255).astype(np.uint8)
SIGNED = (UNSIGNED.astype(np.int16) - 128).astype(np.int8)
PACKED = np.packbits(VECTORS > 0, axis=-1)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "lists.parquet"])
@pytest.mark.parametrize("codes", [SIGNED, UNSIGNED, PACKED], ids=["int8", "uint8", "ubinary"])
def test_codes_are_refused(tmp_path, name, codes) -> None:
    KINDS[name](tmp_path / name, codes)
    for address in (tmp_path / name, f"file://{tmp_path / name}"):
        with pytest.raises(ValueError, match=rf"{name}.* got {codes.dtype}, which are codes .*decode_embeddings"):
            EmbeddingFile(address)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize(
    "words", [["audit"], ["export", "--to", "npy", "--out", "out.npy"], ["cluster", "--clusters", "3"]]
)
def test_codes_in_a_wider_type_are_refused_by_every_command(tmp_path, monkeypatch, capsys, words, dtype) -> None:
    monkeypatch.chdir(tmp_path)
    codes = np.random.default_rng(0).integers(-128, 128, (100, 16)).astype(dtype)
    np.save("codes.npy", codes)
    sentence = f"codes.npy: expected embeddings, got whole numbers from {codes.min():g} to {codes.max():g}: codes of 8"
    assert main([*words[:1], "--embeddings", "codes.npy", *words[1:]]) == 2
    assert sentence in capsys.readouterr().err
    Path("judgements.tsv").write_text("query\tdocument\tgrade\n0\t1\t1\n")
    np.save("fine.npy", codes * np.float32(0.01))
    for queries, documents in (("fine.npy", "codes.npy"), ("codes.npy", "fine.npy")):
        asked = ["--queries", queries, "--documents", documents, "--judgements", "judgements.tsv"]
        assert main(["advise", *asked]) == 2
        assert sentence in capsys.readouterr().err


def write_codes_npz(file, codes):
    np.savez(file, embeddings=codes, ranges=RANGES, ids=np.array(IDS))


def write_codes_safetensors(file, codes):
    save_file({"v": torch.from_numpy(codes), "ranges": torch.from_numpy(RANGES)}, file)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("codes", [SIGNED, UNSIGNED], ids=["int8", "uint8"])
def test_codes_with_their_ranges_are_decoded(tmp_path, ending, codes) -> None:
    file = tmp_path / f"codes.{ending}"
    {"npz": write_codes_npz, "safetensors": write_codes_safetensors}[ending](file, codes)
    half_steps = (RANGES[1] - RANGES[0]) / 255 / 2
    for address in (file, f"file://{file}"):
        opened = EmbeddingFile(address)
        assert (opened.rows, opened.dim, opened.ids[1]) == (37, 6, "doc 1" if ending == "npz" else "1")
        chunks = torch.cat(list(opened.chunks(5, range(3, 30)))).numpy()
        assert (np.abs(chunks - VECTORS[3:30]) <= half_steps * 1.001).all()


def test_ranges_that_do_not_fit_the_codes_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "codes.npz", embeddings=SIGNED, ranges=RANGES[:, :3])
    with pytest.raises(ValueError, match=r"codes.npz: expected 'ranges' \[2, 6\] beside int8 codes, got \[2, 3\]"):
        EmbeddingFile(tmp_path / "codes.npz")
