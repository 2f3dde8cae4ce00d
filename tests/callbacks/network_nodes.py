"""Two nodes on one machine: each in a network namespace of its own, joined by a virtual cable."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

DEVICE = "node"
ADDRESSES = ("10.77.0.1", "10.77.0.2")


class Node(NamedTuple):
    """A place to start programs in.

    Attributes:
        address: by which the other node reaches it.
        interface: the network device of that address.
        prefix: what a command line begins with to run there.
        port: one that is free there.
    """

    address: str
    interface: str
    prefix: tuple[str, ...]
    port: int


class NoNamespacesError(Exception):
    """No network namespaces can be had; the text says why."""


@contextmanager
def two_nodes():
    """The nodes, of which nothing is left afterwards.

    No rights are needed where a user may have namespaces: these belong to two sleeping processes, and go with them.

    Raises:
        NoNamespacesError: if they cannot be made.
    """
    missing = [name for name in ("ip", "unshare", "nsenter") if shutil.which(name, path=_PATH) is None]
    if missing:
        raise NoNamespacesError(f"no program {' and no '.join(missing)}")
    with ExitStack() as stack:
        first = stack.enter_context(_sleeper("unshare", "--map-root-user", "--net"))
        second = stack.enter_context(_sleeper(*_inside(first), "unshare", "--net"))
        _run(*_inside(first), "ip", "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", second)
        for process, address in zip((first, second), ADDRESSES, strict=True):
            _run(*_inside(process), "ip", "link", "set", "lo", "up")
            _run(*_inside(process), "ip", "address", "add", f"{address}/24", "dev", DEVICE)
            _run(*_inside(process), "ip", "link", "set", DEVICE, "up")
        yield [Node(address, DEVICE, _inside(process), 29400) for process, address in
               zip((first, second), ADDRESSES, strict=True)]  # fmt: skip


def two_loopback_nodes():
    """What stands in for nodes where there are no namespaces: two addresses of the loopback device."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [Node(address, "lo", (), port) for address in ("127.0.0.1", "127.0.0.2")]


_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/sbin", "/usr/sbin"])


def _inside(process):
    return ("nsenter", "--target", process, "--user", "--net", "--preserve-credentials")


def _run(*words):
    run = subprocess.run(words, capture_output=True, text=True, timeout=20, env=os.environ | {"PATH": _PATH})
    if run.returncode:
        raise NoNamespacesError(f"{' '.join(words)}: {run.stderr.strip()}")


@contextmanager
def _sleeper(*words):
    """Holds a namespace open; gives the number of its process, once it has entered."""
    outside = {_network("self"), _network(words[2]) if words[0] == "nsenter" else _network("self")}
    process = subprocess.Popen(
        [*words, "sleep", "900"], stderr=subprocess.PIPE, text=True, env=os.environ | {"PATH": _PATH}
    )
    try:
        deadline = time.monotonic() + 20
        while _program(process.pid) != "sleep" or _network(process.pid) in outside:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise NoNamespacesError(f"{' '.join(words)}: {process.communicate()[1].strip()}")
            time.sleep(0.02)
        yield str(process.pid)
    finally:
        process.kill()
        process.communicate()


def _network(process):
    return str(Path(f"/proc/{process}/ns/net").readlink())


def _program(process):
    return Path(f"/proc/{process}/comm").read_text().strip()
