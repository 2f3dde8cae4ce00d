"""Digests of all sets of the standard library, for comparison between processes."""

import hashlib
import json
import sys
from dataclasses import fields, is_dataclass

from torch import Tensor

from lightning_normdyn.datasets.standard_library import (
    class_graph,
    docstring_retrieval,
    glyph_captions,
    glyph_classes,
    name_relatedness,
    name_uses,
)

MAKERS = (class_graph, docstring_retrieval, glyph_captions, glyph_classes, name_relatedness, name_uses)


def digests():
    return {make.__name__: hashlib.sha256(b"".join(pieces(make()))).hexdigest() for make in MAKERS}


def pieces(value):
    if isinstance(value, Tensor):
        yield value.numpy().tobytes()
    elif isinstance(value, str | float | int | None):
        yield repr(value).encode("utf-8", "surrogatepass")
    elif is_dataclass(value):
        for field in fields(value):
            yield from pieces(getattr(value, field.name))
    elif isinstance(value, dict):
        for key, content in value.items():
            yield from pieces(key)
            yield from pieces(content)
    elif hasattr(value, "tobytes"):
        yield value.tobytes()
    else:
        for member in value:
            yield from pieces(member)


if __name__ == "__main__":
    json.dump(digests(), sys.stdout)
