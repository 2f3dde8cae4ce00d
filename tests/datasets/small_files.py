"""Tiny files of public formats, written where a test wants them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

from PIL import Image


def write(path, content):
    """Text or bytes; gzipped where the name says so."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def json_lines(*entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def rows(*cells, by="\t"):
    return "".join(by.join(map(str, row)) + "\n" for row in cells)


def png(colour=(200, 30, 60), size=(5, 4), mode="RGB"):
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, format="PNG")
    return stream.getvalue()


def tar(path, members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    # Unpadded to the 10 KiB that tarfile rounds up to, so that a cut hits content.
    return write(path, stream.getvalue())


def beir(folder, *, corpus=None, queries=None, **qrels):
    corpus = corpus or json_lines(
        {"_id": "d1", "title": "One", "text": "first text"},
        {"_id": "d2", "title": "", "text": "second"},
        {"_id": "d3", "text": "third", "metadata": {}},
    )
    queries = queries or json_lines({"_id": "q1", "text": "what?"}, {"_id": "q2", "text": "who?"})
    write(folder / "corpus.jsonl", corpus)
    write(folder / "queries.jsonl", queries)
    qrels = qrels or {"test": rows(("query-id", "corpus-id", "score"), ("q1", "d2", 1))}
    for split, content in qrels.items():
        write(folder / "qrels" / f"{split}.tsv", content)
    return folder
