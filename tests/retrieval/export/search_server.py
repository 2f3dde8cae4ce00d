"""A stand-in for a server of Elasticsearch or OpenSearch: takes in what their reference documents, scores as it says.

Only requests of the documented form are answered, and scores are those of the documented formulas, in float32, by a
loop: what a feed and the lines of a search do wrong shows. It has no graph: its answers are exact.
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

SCRIPT = re.compile(
    r"double s = (?:dotProduct\(params\.query, 'embedding'\)|innerProduct\(params\.query, doc\['embedding'\]\)) "
    r"\* Math\.pow\(doc\['norm'\]\.value, params\.power\); return s < 0 \? 1 / \(1 - s\) : s \+ 1;"
)
SIMILARITIES = {"max_inner_product": "ip", "l2_norm": "l2", "cosine": "cosine"}
SPACES = {"innerproduct": "ip", "l2": "l2", "cosinesimil": "cosine"}


def positive(product):
    return 1 / (1 - product) if product < 0 else product + 1


def score(kind, query, vector):
    query, vector = np.array(query, np.float32), np.array(vector, np.float32)
    if kind == "ip":
        return np.float32(positive(query @ vector))
    if kind == "l2":
        return np.float32(1 / (1 + np.square(query - vector).sum()))
    return np.float32((1 + query @ vector / np.linalg.norm(query) / np.linalg.norm(vector)) / 2)


class Store:
    """Indexes by name, each a mapping and documents by id."""

    def __init__(self, kind):
        self.kind = kind
        self.mappings, self.documents, self.requests = {}, {}, []

    def create(self, name, body):
        assert name not in self.mappings, "an index of that name exists"
        assert set(body) <= {"settings", "mappings"}
        field = body["mappings"]["properties"]["embedding"]
        if self.kind == "elasticsearch":
            assert field["type"] == "dense_vector"
            assert field["similarity"] in SIMILARITIES
            assert field["index_options"]["type"] in ("flat", "hnsw")
        else:
            assert field["type"] == "knn_vector"
            assert ("method" in field) == body["settings"]["index"]["knn"]
        self.mappings[name], self.documents[name] = body, {}
        return {"acknowledged": True, "index": name}

    def bulk(self, name, text):
        assert text.endswith("\n")
        lines, items = text[:-1].split("\n"), []
        assert len(lines) % 2 == 0
        for action, document in zip(map(json.loads, lines[::2]), map(json.loads, lines[1::2]), strict=True):
            ((word, about),) = action.items()
            new = document
            if word == "update":
                assert document["doc_as_upsert"] is True
                new = {**self.documents[name].get(about["_id"], {}), **document["doc"]}
            field = self.mappings[name]["mappings"]["properties"]["embedding"]
            assert len(new["embedding"]) == field.get("dims", field.get("dimension"))
            self.documents[name][about["_id"]] = new
            items.append({word: {"_index": name, "_id": about["_id"], "status": 201}})
        return {"took": 1, "errors": False, "items": items}

    def search(self, name, body):
        assert body["_source"] is False
        scores = self.knn(name, body["knn"]) if "knn" in body else self.query(name, body["query"])
        best = sorted(scores, key=lambda id: -scores[id])[: body["size"]]
        return {"took": 1, "hits": {"hits": [{"_index": name, "_id": id, "_score": float(scores[id])} for id in best]}}

    def query(self, name, query):
        ((word, content),) = query.items()
        if word == "match_all":
            return dict.fromkeys(self.documents[name], 1.0)
        if word == "knn":
            return self.knn(name, content)
        assert word == "script_score"
        documents, script = self.documents[name], content["script"]
        ids, parameters = self.query(name, content["query"]), script["params"]
        if script.get("lang") == "knn":
            assert (script["source"], parameters["field"]) == ("knn_score", "embedding")
            kind, query = SPACES[parameters["space_type"]], parameters["query_value"]
            return {id: score(kind, query, documents[id]["embedding"]) for id in ids}
        assert SCRIPT.fullmatch(script["source"])
        assert ("dotProduct" in script["source"]) == (self.kind == "elasticsearch")
        products = {id: float(np.dot(parameters["query"], documents[id]["embedding"])) for id in ids}
        return {
            id: np.float32(positive(product * documents[id]["norm"] ** parameters["power"]))
            for id, product in products.items()
        }

    def knn(self, name, knn):
        field = self.mappings[name]["mappings"]["properties"]["embedding"]
        if self.kind == "elasticsearch":
            assert knn["field"] == "embedding"
            assert knn["k"] <= knn["num_candidates"] <= 10_000
            kind, query, k = SIMILARITIES[field["similarity"]], knn["query_vector"], knn["k"]
        else:
            assert knn["embedding"]["method_parameters"]["ef_search"] >= knn["embedding"]["k"]
            kind, query, k = SPACES[field["method"]["space_type"]], knn["embedding"]["vector"], knn["embedding"]["k"]
        scores = {id: score(kind, query, document["embedding"]) for id, document in self.documents[name].items()}
        return {id: scores[id] for id in sorted(scores, key=lambda id: -scores[id])[:k]}

    def answer(self, method, path, text):
        self.requests.append((method, path))
        name, _, action = path.partition("?")[0].strip("/").partition("/")
        if action == "_bulk":
            return self.bulk(name, text)
        if action == "_search":
            return self.search(name, json.loads(text))
        if action == "_refresh":
            return {"_shards": {"total": 1, "successful": 1, "failed": 0}}
        if method == "DELETE":
            return {"acknowledged": self.mappings.pop(name) is not None}
        assert method == "PUT"
        assert not action
        return self.create(name, json.loads(text))


@contextmanager
def serving(kind):
    """The store and the URL that it answers at."""
    store = Store(kind)

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            try:
                status, body = 200, store.answer(self.command, self.path, text)
            except (AssertionError, KeyError, ValueError) as error:
                status, body = 400, {"error": {"type": "bad", "reason": repr(error)}, "status": 400}
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    for method in ("GET", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.respond)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
