"""Faults of disks and processes done to the record of a run, and a table of what they cost.

``PYTHONPATH=tests/training_loops:tests/retrieval/export python tests/faults/record_faults.py`` does all of them: 100
kills of trainings, 50 of exports to each kind of index that is installed and 200 wrong bits, in some ten minutes. Two
numbers after it take other counts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from small_models import Batches, Lit, PairTable, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history import RunWriter, list_runs, read_run
from lightning_normdyn.history.part_log import PartLog

STEPS, EPOCH, CHECKPOINT_EVERY = 120, 20, 15
TARGET = "net.table.weight"


class Tally(NamedTuple):
    """What one kind of fault cost.

    Attributes:
        kind: of fault.
        cases: how often it was done.
        lost: rows that were recorded before a checkpoint, or flushed, and are not there.
        mixed: rows under another run than the one that wrote them.
        wrong: numbers that are read as others.
        unread: histories or outputs that cannot be read at all.
        said: cases of which something was said.
        notes: what else there is to say.
    """

    kind: str
    cases: int
    lost: int = 0
    mixed: int = 0
    wrong: int = 0
    unread: int = 0
    said: int = 0
    notes: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, mixed, silently wrong or made unreadable."""
        return not (self.lost or self.mixed or self.wrong or self.unread)


def table(tallies: list[Tally]) -> str:
    """A line a kind."""
    names = ("cases", "lost", "mixed", "wrong", "unread", "said")
    lines = [f"{'kind':40} " + " ".join(f"{name:>7}" for name in names) + "  notes"]
    for tally in tallies:
        counts = " ".join(f"{getattr(tally, name):7}" for name in names)
        lines.append(f"{tally.kind:40} {counts}  {tally.notes}")
    return "\n".join(lines)


# Kills of trainings


class SaveAtomically(pl.Callback):
    """Keeps the latest checkpoint, whole."""

    def __init__(self, file):
        self.file = file

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step % CHECKPOINT_EVERY == 0:
            trainer.save_checkpoint(self.file.with_suffix(".new"))
            self.file.with_suffix(".new").replace(self.file)


def train(folder: Path, *, pause: float = 0.0) -> None:
    """A training from the latest checkpoint on, if there is one; writes the weights at its end."""

    class Pause(pl.Callback):
        def on_train_batch_end(self, *_):
            time.sleep(pause)

    module = Lit(seeded(PairTable), lambda net: torch.optim.SGD(net.parameters(), lr=0.3, weight_decay=0.05))
    checkpoint = folder / "last.ckpt"
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        logger=False,
        callbacks=[NormDynamics(every_n_steps=1, window=20), SaveAtomically(checkpoint), Pause()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Batches(pair_batches(EPOCH)), ckpt_path=checkpoint if checkpoint.exists() else None)
    torch.save(module.net.table.weight.detach(), folder / "weights.new")
    (folder / "weights.new").rename(folder / "weights.pt")


def forked(work: Callable[[], None]) -> int:
    """Starts work in a copy of this process, which has loaded everything already; its number."""
    child = os.fork()
    if child:
        return child
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            warnings.simplefilter("ignore")
            work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def outcome_of(work: Callable[[], object]) -> object:
    """What work gives in a copy of this process: some packages have threads, after which it cannot be copied.

    Raises:
        ValueError: if it failed there.
    """
    read_end, write_end = os.pipe()

    def answer() -> None:
        with os.fdopen(write_end, "wb") as stream:
            pickle.dump(work(), stream)

    child = forked(answer)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        content = stream.read()
    if os.waitpid(child, 0)[1]:
        raise ValueError("it failed")
    return pickle.loads(content)


def killed_after(child: int, seconds: float) -> bool:
    """Kills a child unless it ends before; whether it was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def lines_of(folder: Path, **options) -> tuple[dict, dict]:
    """Trajectory and scalars, by what tells their lines apart."""
    target = read_run(folder, **options)[TARGET]
    rows = {(line["step"], line["row"]): tuple(line.values()) for line in target.trajectory().to_pylist()}
    scalars = {(line["step"], line["quantity"]): line["value"] for line in target.quantities().to_pylist()}
    return rows, scalars


_PAUSE = 0.004
"""Seconds after each step of a training, so that most of it is training and not its start."""


def kills_of_trainings(folder: Path, kills: int, seed: int = 0) -> Tally:
    """Kills at random moments; each training is resumed until it ends, and held against one that nobody disturbed."""
    PartLog.__init__.__kwdefaults__["flush_seconds"] = 0.05
    whole = folder / "whole"
    begin = time.monotonic()
    os.waitpid(forked(lambda: train(whole, pause=_PAUSE)), 0)
    duration = time.monotonic() - begin
    rows, scalars = lines_of(whole)
    weights = torch.load(whole / "weights.pt")
    draw, done, lost, wrong, unread, trainings = random.Random(seed), 0, 0, 0, 0, 0
    while done < kills:
        trainings += 1
        place = folder / f"training-{trainings}"
        place.mkdir()
        while not (place / "weights.pt").exists():
            if not killed_after(
                forked(lambda place=place: train(place, pause=_PAUSE)), draw.uniform(0.1, 1) * duration
            ):
                continue
            done += 1
            if (place / "last.ckpt").exists():
                step = torch.load(place / "last.ckpt", weights_only=True)["global_step"]
                present = lines_of(place)[0]
                lost += sum(key[0] <= step and key not in present for key in rows)
        found_rows, found_scalars = lines_of(place)
        lost += len(rows.keys() - found_rows.keys()) + len(scalars.keys() - found_scalars.keys())
        wrong += sum(repr(rows.get(key)) != repr(row) for key, row in found_rows.items())
        wrong += sum(scalars.get(key) != value for key, value in found_scalars.items())
        wrong += not torch.equal(torch.load(place / "weights.pt"), weights)
    notes = f"{trainings} trainings of {STEPS} steps; weights bit for bit"
    return Tally("training killed and resumed", done, lost, 0, wrong, unread, 0, notes)


# Kills of exports


def kills_of_exports(folder: Path, kills: int, target: str, seed: int = 0) -> Tally:
    """Each export replaces the one before and is killed on its way: old or new is there, whole, and nothing else."""
    from export_cases import embeddings, source_of

    documents, _ = embeddings(m=60 if target == "qdrant" else 20_000)
    ids = [f"d{row}" for row in range(len(documents))]
    sources = []
    for number in range(2):
        (folder / f"source-{number}").mkdir(parents=True)
        numbered = documents * (1 + number)
        sources.append(source_of(numbered, folder / f"source-{number}", ids=ids, chunk_size=500))
    place = folder / "out" / ({"qdrant": "db", "lancedb": "db"}.get(target, f"vectors.{target}"))
    expected, durations = [], []
    for source in sources:
        durations.append(outcome_of(lambda source=source: _export(source, target, place)[0]))
        expected.append(outcome_of(lambda: _content(place, target)))
    draw, done, unread, wrong, finished = random.Random(seed), 0, 0, 0, 0
    while done < kills:
        source = sources[done % 2]
        ready, begins = os.pipe()
        child = forked(lambda source=source, begins=begins: _export(source, target, place, begins))
        os.close(begins)
        os.read(ready, 1)
        os.close(ready)
        if not killed_after(child, draw.uniform(0, max(durations))):
            finished += 1
            continue
        done += 1
        try:
            wrong += outcome_of(lambda: _content(place, target)) not in expected
        except ValueError:
            unread += 1
    said = outcome_of(lambda: _export(sources[0], target, place)[1])
    wrong += outcome_of(lambda: _content(place, target)) != expected[0]
    remains = outcome_of(lambda: _leftovers(place, target))
    notes = f"{finished} more had ended before; {remains} leftovers after the next export"
    return Tally(f"export to {target} killed", done, 0, 0, wrong + remains, unread, said, notes)


_PACKAGES = {"faiss": "faiss", "lancedb": "lancedb", "qdrant": "qdrant_client"}


def _export(source: object, target: str, place: Path, begins: int | None = None) -> tuple[float, int]:
    """Exports; how long it took once all was loaded, and how often it said that one before it had been killed."""
    from export_cases import export

    if target in _PACKAGES:
        import_module(_PACKAGES[target])
    if begins is not None:
        os.write(begins, b"x")
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        export(source, target, place, overwrite=True)
    said = sum("was killed" in str(warning.message) for warning in record)
    return time.monotonic() - start, said


def _content(place: Path, target: str) -> object:
    """What a reader finds, in a few numbers that tell old from new."""
    if target == "qdrant":
        with _qdrant(place) as client:
            points = client.scroll("embeddings", limit=3, with_vectors=True)[0]
            return client.count("embeddings").count, [point.vector for point in points]
    if target == "lancedb":
        import lancedb

        rows = lancedb.connect(place).open_table("embeddings").to_arrow()
        vectors = rows["embedding"].combine_chunks().flatten().to_numpy()
        return len(rows), len(set(rows["id"].to_pylist())), float(vectors.sum(dtype=np.float64))
    ids = place.with_name(f"{place.name}.ids.txt").read_text().split()
    if target == "faiss":
        import faiss

        index = faiss.read_index(str(place))
        vectors = index.reconstruct_batch(np.arange(index.ntotal))
    else:
        vectors = np.load(place)
    return vectors.shape, len(ids), float(vectors.sum(dtype=np.float64)), ids[0]


@contextlib.contextmanager
def _qdrant(place: Path) -> Iterator[object]:
    import qdrant_client

    client = qdrant_client.QdrantClient(path=str(place))
    try:
        yield client
    finally:
        client.close()


def _leftovers(place: Path, target: str) -> int:
    if target == "qdrant":
        with _qdrant(place) as client:
            return len(client.get_collections().collections) - 1
    folder = place if target == "lancedb" else place.parent
    return sum(path.name.startswith(".") for path in folder.iterdir())


# Wrong bits


def small_run(folder: Path, steps: int = 40, norm: float = 1.0, **options) -> RunWriter:
    """A run of two targets that has ended."""
    writer = RunWriter(folder)
    writer.begin({"a": 0, "b": 0}, **options)
    draw = np.random.default_rng(int(norm))
    for step in range(1, steps + 1):
        for target in ("a", "b"):
            norms = draw.random(20).astype(np.float32) + norm
            columns = {"step": np.full(20, step), "row": np.arange(20), "norm": norms, "mean_norm": norms**2}
            writer.target(target).append_rows(columns)
            writer.target(target).append_quantities(step, {"norm_mean": float(norms.mean())})
        if step % 15 == 0:
            writer.flush()
    for target in ("a", "b"):
        writer.target(target).describe({"kind": "table", "rows": 20, "lr": 0.25})
        writer.target(target).name_rows({row: f"word {row}" for row in range(20)})
    writer.end()
    return writer


def everything(folder: Path) -> dict[str, object]:
    """All that a reader gets, line by line."""
    contents: dict[str, object] = {}
    for name, target in read_run(folder).items():
        contents[f"{name}: lr"] = target.description().get("lr")
        for row, word in target.row_names().items():
            contents[f"{name}: {row}"] = word
        for table_name in ("trajectory", "quantities"):
            for line in getattr(target, table_name)().to_pylist():
                contents[f"{name}: {table_name} {line['step']} {line.get('row', line.get('quantity'))}"] = line
    return contents


def bit_flips(folder: Path, flips: int, seed: int = 0) -> Tally:
    """One wrong bit in one file, at random over all bytes: other numbers, or a file that is named and left out."""
    small_run(folder)
    truth, draw = everything(folder), random.Random(seed)
    files = [file for file in sorted((folder / "normdyn").rglob("*")) if file.is_file() and file.stat().st_size]
    sizes = [file.stat().st_size for file in files]
    said = wrong = unread = harmless = 0
    for _ in range(flips):
        (file,) = draw.choices(files, sizes)
        content = file.read_bytes()
        place = draw.randrange(8 * len(content))
        spoilt = bytearray(content)
        spoilt[place // 8] ^= 1 << place % 8
        file.write_bytes(spoilt)
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            try:
                contents = everything(folder)
            except Exception:
                contents, unread = {}, unread + 1
        is_named = any(str(file) in str(warning.message) for warning in record)
        said += is_named
        harmless += not is_named and contents == truth
        wrong += sum(value is not None and truth.get(key, value) != value for key, value in contents.items())
        wrong += not is_named and contents != truth
        file.write_bytes(content)
    return Tally("single wrong bits", flips, 0, 0, wrong, unread, said, f"{harmless} changed nothing (white space)")


# Trouble with the disk


def disk_troubles(folder: Path) -> list[Tally]:
    """Each kind befalls a run in its midst, or from its start on, and where it passes nothing may be lost."""
    return [trouble_of(folder / name.replace(" ", "-"), name) for name in TROUBLES]


def trouble_of(folder: Path, name: str) -> Tally:
    """What one kind costs; where it passes, nothing may be lost, else what came after it may not.

    Args:
        folder: for the run.
        name: of the kind, see ``TROUBLES``.
    """
    trouble, passes = TROUBLES[name]
    folder.mkdir(parents=True)
    log_dir = folder / "logs"
    unread = lost = wrong = 0
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        try:
            writer = RunWriter(log_dir)
            writer.begin({"t": 0})
            _write_steps(writer, range(1, 4))
            with trouble(log_dir):
                _write_steps(writer, range(4, 7))
            _write_steps(writer, range(7, 10))
            writer.end()
        except Exception:
            unread += 1  # it would have ended a training
        with contextlib.suppress(FileNotFoundError):
            lines = read_run(log_dir)["t"].trajectory().to_pylist()
            wrong += sum(line["norm"] != line["step"] / 2 for line in lines)
            steps = {line["step"] for line in lines}
            lost += len(set(range(1, 10)) - steps) if passes else len(set(range(7, 10)) - steps)
    said = sum("history" in str(warning.message) for warning in record)
    return Tally(f"disk: {name}", 1, lost, 0, wrong, unread, said)


def _write_steps(writer: RunWriter, steps: range) -> None:
    for step in steps:
        writer.target("t").append_rows({"step": [step], "row": [0], "norm": [step / 2]})
        writer.flush()


@contextlib.contextmanager
def _fails(name: str, number: int, calls: int | None = None) -> Iterator[None]:
    """The system's own call fails, for ever or so many times."""
    real, failures = getattr(os, name), [0]

    def fails(*arguments, **options):
        if calls is not None and failures[0] >= calls:
            return real(*arguments, **options)
        failures[0] += 1
        raise OSError(number, os.strerror(number))

    setattr(os, name, fails)
    try:
        yield
    finally:
        setattr(os, name, real)


@contextlib.contextmanager
def _full(log_dir: Path) -> Iterator[None]:
    """A real full disk, where one may be mounted; else what it answers."""
    trajectory = log_dir / "normdyn" / "trajectory"
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(trajectory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        with _fails("fsync", errno.ENOSPC):
            yield
        return
    (trajectory / "filler").write_bytes(bytes(4096))
    try:
        yield
    finally:
        subprocess.run(["umount", str(trajectory)], check=True)


@contextlib.contextmanager
def _files_stay_small(log_dir: Path) -> Iterator[None]:
    """No file may grow beyond a few bytes, as under a limit of the shell's."""
    import resource

    del log_dir
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def _replaced(log_dir: Path, replacement: Callable[[Path], object]) -> Iterator[None]:
    """The folder is something else for a while."""
    log_dir.rename(log_dir.with_name("aside"))
    replacement(log_dir)
    yield
    log_dir.unlink()
    log_dir.with_name("aside").rename(log_dir)


@contextlib.contextmanager
def _read_only(log_dir: Path) -> Iterator[None]:
    """The folders may not be written: by a mount, since root may write everything."""
    bind = subprocess.run(["mount", "--bind", str(log_dir), str(log_dir)], capture_output=True, check=False)
    if bind.returncode:
        with _fails("open", errno.EROFS):
            yield
        return
    subprocess.run(["mount", "-o", "remount,ro,bind", str(log_dir)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(log_dir)], check=True)


@contextlib.contextmanager
def _at_once(action: Callable[[Path], object], log_dir: Path) -> Iterator[None]:
    action(log_dir)
    yield


TROUBLES: dict[str, tuple[Callable[[Path], contextlib.AbstractContextManager], bool]] = {
    "read-only for a while": (_read_only, True),
    "full for a while": (_full, True),
    "a limit on the size of files": (_files_stay_small, True),
    "no quota for a while": (lambda _: _fails("fsync", errno.EDQUOT), True),
    "one input or output error": (lambda _: _fails("fsync", errno.EIO, 1), True),
    "input and output errors": (lambda _: _fails("fsync", errno.EIO), True),
    "one failed move": (lambda _: _fails("replace", errno.EIO, 1), True),
    "no permission for a while": (lambda _: _fails("open", errno.EACCES), True),
    "too many open files": (lambda _: _fails("open", errno.EMFILE), True),
    "stale handle of a network disk": (lambda _: _fails("open", errno.ESTALE), True),
    "name too long": (lambda _: _fails("open", errno.ENAMETOOLONG), True),
    "no locks": (lambda _: _fails("open", errno.ENOLCK, 3), True),
    "a file where the folder was": (lambda d: _replaced(d, lambda place: place.write_text("mine")), True),
    "a link that leads nowhere": (lambda d: _replaced(d, lambda place: place.symlink_to("/nowhere/at/all")), True),
    "folder deleted": (lambda d: _at_once(shutil.rmtree, d), False),
    "folder moved away": (lambda d: _at_once(lambda place: place.rename(place.with_name("moved")), d), False),
    "history deleted": (lambda d: _at_once(lambda place: shutil.rmtree(place / "normdyn"), d), False),
    "lock file deleted": (lambda d: _at_once(lambda place: (place / "normdyn" / "lock").unlink(), d), True),
    "run.json deleted": (lambda d: _at_once(lambda place: (place / "normdyn" / "run.json").unlink(), d), True),
}


def errors_all_along(folder: Path, minutes: int, seed: int = 0) -> Tally:
    """Two flushes a minute, and in each minute one error of the disk at a random call."""
    writer, draw, real, said = RunWriter(folder), random.Random(seed), os.fsync, 0
    writer.begin({"t": 0})
    for minute in range(minutes):
        calls, fatal = [0], draw.randrange(4)

        def fsync(descriptor, calls=calls, fatal=fatal):
            calls[0] += 1
            if calls[0] == fatal + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(descriptor)

        os.fsync = fsync
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            _write_steps(writer, range(2 * minute, 2 * minute + 2))
        said += len(record)
        os.fsync = real
    writer.end()
    steps = read_run(folder)["t"].trajectory()["step"].to_pylist()
    lost = len(set(range(2 * minutes)) - set(steps))
    return Tally("one error of the disk a minute", minutes, lost, 0, len(steps) - len(set(steps)), 0, said)


# Two runs in one folder

_CONTAINER = """
import sys, time, os
from lightning_normdyn.history import RunWriter
from lightning_normdyn.history.run_record import Bookmark
folder, norm, run_id = sys.argv[1], float(sys.argv[2]), sys.argv[3] or None
writer = RunWriter(folder)
writer.begin({"t": 10 if run_id else 0}, Bookmark(run_id) if run_id else None)
print(writer.run_id, os.getpid(), flush=True)
for step in range(11 if run_id else 1, 60):
    writer.target("t").append_rows({"step": [step], "row": [0], "norm": [norm]})
    writer.flush()
    time.sleep(0.01)
writer.end()
"""


def two_containers(folder: Path) -> Tally:
    """Two process-number spaces on one volume, new runs and two that resume the same: every row under its run."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"] if _may_unshare() else []
    mixed = lost = unread = 0
    numbers = set()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start(norm: float, run_id: str = "") -> subprocess.Popen:
        command = [*unshare, sys.executable, "-c", _CONTAINER, str(folder), str(norm), run_id]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    first_id = ""
    norm_of = {}
    for run_id in ("", "the first"):
        processes = {}
        for _ in range(2):
            norm = float(len(norm_of) + len(processes) + 1)
            processes[norm] = start(norm, first_id if run_id else "")
        for norm, process in processes.items():
            identity, number = process.stdout.readline().split()
            norm_of[norm] = identity
            numbers.add(number)
            first_id = first_id or identity
        for process in processes.values():
            process.wait()
    records = list_runs(folder)
    for norm, identity in norm_of.items():
        line = read_run(folder, run=identity)["t"].trajectory().to_pylist()
        present = {row["step"] for row in line if row["norm"] == norm}
        first_step = 1 if norm in (1.0, 2.0) else 11
        superseded = norm == 1.0 and list(norm_of.values()).count(identity) > 1
        lost += len(set(range(first_step, 11 if superseded else 60)) - present)
        allowed = {other for other, other_id in norm_of.items() if other_id == identity}
        (parent,) = (record.parent for record in records if record.id == identity)
        inherited = {other for other, other_id in norm_of.items() if other_id == parent}  # up to the checkpoint
        mixed += sum(row["norm"] not in (allowed | inherited if row["step"] <= 10 else allowed) for row in line)
    notes = f"{len(numbers)} process numbers for 4 processes; {len(records)} runs listed"
    return Tally("two containers, new and resumed", 4, lost, mixed, 0, unread, 0, notes)


def _may_unshare() -> bool:
    try:
        return not subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode
    except OSError:
        return False


def main(kills: int = 100, flips: int = 200) -> int:
    """Does all of it and prints the table.

    Args:
        kills: of trainings, and of exports.
        flips: of bits.

    Returns:
        0 if nothing was lost, mixed, wrong or unreadable, else 1.
    """
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tallies = [
            *disk_troubles(folder / "troubles"),
            errors_all_along(folder / "errors", 60),
            bit_flips(folder / "bits", flips),
            two_containers(folder / "containers"),
            kills_of_exports(folder / "npy", kills // 2, "npy"),
        ]
        for target, package in _PACKAGES.items():
            if find_spec(package) is not None:
                tallies.append(kills_of_exports(folder / target, kills // 2, target))
        (folder / "trainings").mkdir()
        tallies.append(kills_of_trainings(folder / "trainings", kills))
    print(table(tallies))
    return int(not all(tally.is_clean for tally in tallies))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
