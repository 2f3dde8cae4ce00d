"""``audit`` and ``export`` with passes spread over a Ray cluster: the numbers of one process, to the bit."""

import io
import json
import os
import shutil
import signal
import socket
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lightning_normdyn.cli import ray_passes
from lightning_normdyn.cli.audits import audit as audit_module
from lightning_normdyn.cli.main import main
from lightning_normdyn.cli.ray_cluster import connected
from lightning_normdyn.cli.ray_passes import RayPasses
from lightning_normdyn.datasets.embedding_file import EmbeddingFile

ray = pytest.importorskip("ray", reason="passes are spread by the extra ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROWS, ASKED, DIM = 3000, 40, 8


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster of two cores on this machine, which the commands find."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    handler = signal.getsignal(signal.SIGTERM)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Shards with ties, zeros and uneven rows; queries, judgements, lengths."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(audit_module, "_CHUNK_NUMBERS", 256 * DIM)
    generator = np.random.default_rng(0)
    documents = generator.normal(size=(ROWS, DIM)).astype(np.float32)
    documents *= np.exp(0.5 * generator.normal(size=(ROWS, 1))).astype(np.float32)
    documents[::97] = documents[5]  # equal scores, of which the first row is the better
    documents[[7, 1500]] = 0
    bounds = [0, 700, 700, 701, 1900, ROWS]
    Path("shards").mkdir()
    for number, (start, end) in enumerate(pairwise(bounds)):
        rows = documents[start:end]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), DIM)
        ids = pa.array([f"d{row}" for row in range(start, end)], pa.string())
        pq.write_table(pa.table({"id": ids, "v": vectors}), f"shards/part-{number}.parquet", row_group_size=300)
    np.save("one.npy", documents)
    queries = generator.normal(size=(ASKED, DIM)).astype(np.float32)
    np.savez("queries.npz", v=queries, ids=[f"q{row}" for row in range(ASKED)])
    best = np.argsort(-(queries @ documents.T), axis=1)[:, :3]
    pairs = [f"q{query}\td{row}\t1" for query, rows in enumerate(best) for row in rows]
    Path("qrels.tsv").write_text("\n".join(pairs))
    lengths = [f"d{row}\t{row % 50 + 1}" for row in range(ROWS)]
    Path("about.tsv").write_text("\n".join(["id\tlength", *lengths]))
    return tmp_path


def numbers_of(embeddings, *words):
    shutil.rmtree("audit", ignore_errors=True)
    assert main(["audit", "--embeddings", embeddings, *words]) == 0
    return json.loads(Path("audit/audit.json").read_text())


ASK = ["--queries", "queries.npz", "--judgements", "qrels.tsv", "--covariates", "about.tsv"]


def without_command(numbers):
    return {name: value for name, value in numbers.items() if name != "command"}


def test_an_audit_has_the_numbers_of_one_process(files, capsys):
    alone = numbers_of("shards", *ASK)
    assert alone["ranking"]["queries"] == ASKED
    assert len(alone["ranking"]["curves"]) == 3
    spread = numbers_of("shards", *ASK, "--engine", "ray")
    assert without_command(spread) == without_command(alone)  # to the bit: JSON writes every digit
    assert "Ray: 2 CPUs on 1 machine" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is not None


@pytest.mark.parametrize("target", ["npy", "parquet", "faiss"])
def test_an_export_has_the_bytes_of_one_process(files, target, capsys):
    if target == "faiss":
        pytest.importorskip("faiss")
    options = ["--dtype", "float16"] if target != "faiss" else ["--index", "hnsw"]
    options += ["--alpha", "0.3", "--chunk-size", "400", "--queries", "queries.npz", "--to", target]
    lines = {}
    for engine in ("local", "ray"):
        out = f"{engine}.{target}"
        assert main(["export", "--embeddings", "shards", *options, "--out", out, "--engine", engine]) == 0
        lines[engine] = [line for line in capsys.readouterr().out.splitlines() if "Ray:" not in line]
    assert Path(f"ray.{target}").read_bytes() == Path(f"local.{target}").read_bytes()
    assert [line.replace("ray.", "local.") for line in lines["ray"]] == lines["local"]
    assert "recall@10" in "\n".join(lines["ray"])


def norms_and_a_death(chunks, rows):
    """Norms of some rows; the process that is the first to come to row 1024 dies there."""
    flag = Path("died")
    norms = torch.cat([chunk.norm(dim=1) for chunk in chunks])
    if rows.start >= 1024 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return rows, norms


def death(chunks, rows):
    if not rows.start:
        os.kill(os.getpid(), signal.SIGKILL)


def refusal(chunks, rows):
    if rows.start >= 1024:
        raise ValueError(f"rows: expected none from 1024 on, got {rows.start}")
    return sum(map(len, chunks))


def test_a_worker_that_dies_loses_nothing(files):
    embeddings, told = EmbeddingFile("shards"), []
    with connected() as cluster:
        passes = RayPasses(cluster, embeddings, 128, told.append)
        work = Here(files, norms_and_a_death)
        rows, norms = zip(*passes(work), strict=True)
        assert (files / "died").exists()
        assert [row for part in rows for row in part] == list(range(ROWS))
        assert torch.equal(torch.cat(norms), torch.from_numpy(np.load("one.npy")).norm(dim=1))
        assert sum(told) == ROWS
        with pytest.raises(ValueError, match=r"^rows: expected none from 1024 on, got \d+$"):
            list(passes(Here(files, refusal)))
        with pytest.raises(OSError, match=r"^engine: Ray gave up a piece of work after 3 more tries \(.* died"):
            list(passes(Here(files, death)))
        with pytest.raises(OSError, match=r"^engine: a machine of the cluster cannot do its work \(.*no_such_module"):
            list(passes(Unknown()))


class Unknown:
    """Work of a module that the machines do not have."""

    def __reduce__(self):
        return import_module, ("no_such_module",)


class Here:
    """Work in a folder, which a worker of a cluster that was there before knows nothing of."""

    def __init__(self, folder, work):
        self.folder, self.work = folder, work

    def __call__(self, chunks, rows):
        os.chdir(self.folder)
        return self.work(chunks, rows)


@pytest.mark.parametrize(("cpus", "parts"), [(2, 8), (100, 16), (1, 4)])
def test_parts_are_whole_chunks_in_order(tmp_path, cpus, parts):
    np.save(tmp_path / "a.npy", np.ones((1000, 2), np.float32))
    passes = RayPasses(SimpleNamespace(cpus=cpus), EmbeddingFile(tmp_path / "a.npy"), 64, print)
    for by_chunk, count in ((False, parts), (True, 16)):
        ranges = passes._ranges(by_chunk=by_chunk)
        assert [row for rows in ranges for row in rows] == list(range(1000))
        assert all(rows.start % 64 == 0 for rows in ranges)
        assert len(ranges) == count


def test_memory_of_this_process_is_refused():
    fsspec.filesystem("memory").pipe("/a.npy", npy_bytes())
    with pytest.raises(ValueError, match=r"^engine: expected embeddings that other processes can read, got memory://a"):
        RayPasses(SimpleNamespace(cpus=2), EmbeddingFile("memory://a.npy"), 64, print)


def test_an_address_where_nobody_listens_is_one_sentence(files, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        assert main(["audit", "--embeddings", "one.npy", "--engine", "ray"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(
        "normdyn: RAY_ADDRESS: expected the address of a Ray cluster, such as ray start --head"
    )
    assert printed.err.count("\n") == 1
    assert not Path("audit").exists()


def npy_bytes():
    stream = io.BytesIO()
    np.save(stream, np.ones((3, 2), np.float32))
    return stream.getvalue()


def test_a_folder_that_another_machine_lacks_is_named(files):
    embeddings = EmbeddingFile("shards")
    shutil.move("shards", "away")
    with pytest.raises(
        FileNotFoundError, match=r"^shards: expected the file on every machine of the cluster, got none"
    ):
        ray_passes.work_on(lambda chunks, _: list(chunks), embeddings, 10, range(20))
