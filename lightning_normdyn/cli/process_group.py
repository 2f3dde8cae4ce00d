"""Ends the process group of a distributed run on every rank, so that no thread of it outlives the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def ended_process_group() -> Iterator[None]:
    """Waits for the other ranks after the body and destroys the process group, whoever started it.

    Lightning destroys NCCL's groups at exit and leaves gloo's alone. A thread of gloo that frees its last tensors
    while the interpreter ends aborts the process: ``terminate called without an active exception``. Destroying a group
    joins its threads, unless something refers to the group still, as torch's caches do to the mesh of a DTensor.
    After an exception there is no waiting: the other ranks may never come.
    """
    try:
        yield
        if _is_started() and dist.get_backend() == "gloo":
            dist.barrier()
    finally:
        if _is_started():
            dist.destroy_process_group()


def _is_started() -> bool:
    return dist.is_available() and dist.is_initialized()
