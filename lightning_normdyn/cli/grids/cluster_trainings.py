"""Trainings of a grid on a Ray cluster: each a process on some machine, whose lines and files come back to the grid."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lightning_normdyn.atomic_file import write_atomically
from lightning_normdyn.cli.grids.job import JOB_FILE, LOG_FILE, RESULT_FILE, Job
from lightning_normdyn.cli.grids.processes import JobProgress, failure_reason
from lightning_normdyn.cli.grids.progress_reports import announced
from lightning_normdyn.cli.ray_cluster import RayCluster

_POLL_SECONDS = 0.2


class TrainingNeeds(NamedTuple):
    """What Ray reserves for each training.

    Attributes:
        cpus: for all its processes.
        gpus: likewise.
        threads: of each process.
    """

    cpus: int = 1
    gpus: int = 0
    threads: int = 1

    @classmethod
    def of(cls, trainer: Mapping[str, Any], cluster: RayCluster, *, trainings: int) -> TrainingNeeds:
        """What a configured trainer uses, and a fair share of the cluster's cores.

        Args:
            trainer: the settings of the configuration.
            cluster: that trains.
            trainings: how many there are to do at first.

        Raises:
            ValueError: if no machine has so many GPUs.

        Example:
            >>> from types import SimpleNamespace
            >>> two_machines = SimpleNamespace(cpus=64, gpus=8, most_cpus=32, most_gpus=4)
            >>> TrainingNeeds.of({"accelerator": "auto", "devices": 2}, two_machines, trainings=25)
            TrainingNeeds(cpus=2, gpus=2, threads=1)
            >>> TrainingNeeds.of({"accelerator": "cpu", "devices": "auto"}, two_machines, trainings=4)
            TrainingNeeds(cpus=16, gpus=0, threads=16)
        """
        devices = trainer.get("devices", "auto")
        places = devices if isinstance(devices, list) else str(devices).split(",")
        processes = int(places[0]) if len(places) == 1 and str(places[0]).isdecimal() else len(places)
        has_gpus = cluster.gpus > 0 and trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
        if has_gpus and processes > cluster.most_gpus:
            raise ValueError(
                f"trainer.devices: expected at most {cluster.most_gpus}, as many GPUs as a machine of the cluster has, "
                f"got {devices}"
            )
        threads = max(1, min(cluster.most_cpus, cluster.cpus // max(1, trainings)) // max(1, processes))
        cpus = max(1, min(threads * processes, cluster.most_cpus))
        return cls(cpus, processes if has_gpus else 0, threads)


class Outcome(NamedTuple):
    """What a training left.

    Attributes:
        exit_status: of its process.
        files: name to content of what it wrote, its log among them.
    """

    exit_status: int
    files: Mapping[str, bytes]


def train_there(job: Job, folder: str | None, mailbox: Any) -> Outcome:
    """Does a training, on the machine that it was sent to, in a process that ends with this one.

    Args:
        job: what to train.
        folder: to work in, as configurations name files from there; ``None`` for that of this process.
        mailbox: a :class:`Mailbox` on the cluster.

    Raises:
        OSError: if the machine does not have the folder.
    """
    if folder is not None and not Path(folder).is_dir():
        raise OSError(
            f"engine: expected the working folder '{folder}' on every machine of the cluster, got none on "
            f"{socket.gethostname()}; use a shared disk, or ray job submit --working-dir"
        )
    with tempfile.TemporaryDirectory(prefix="normdyn-training-") as scratch:
        file = replace(job, folder=scratch).write()
        mail, log = Mail(mailbox, job.name), Path(scratch) / LOG_FILE
        with (
            subprocess.Popen(
                [sys.executable, "-m", "lightning_normdyn.cli.grids.worker", str(file), scratch],
                cwd=folder,
                stdin=subprocess.PIPE,  # its end tells the training that nobody waits for it any more
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
            log.open("w", encoding="utf-8") as lines,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                mail.add(line)
                if announced(line) is None:
                    lines.write(line)
            exit_status = process.wait()
        return Outcome(exit_status, dict(_files(Path(scratch))))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name != JOB_FILE:
            yield name, file.read_bytes()


class Letter(NamedTuple):
    """Lines of a training.

    Attributes:
        name: of the training.
        lines: that its process has printed since the last letter.
        begins: whether they are its first, also where it begins again.
    """

    name: str
    lines: tuple[str, ...]
    begins: bool


class Mailbox:
    """Keeps letters until the grid takes them; an actor of the cluster."""

    def __init__(self) -> None:
        self._letters: list[Letter] = []

    def put(self, letter: Letter) -> None:
        """Keeps one."""
        self._letters.append(letter)

    def take(self) -> list[Letter]:
        """All that came since the last call, in order."""
        letters, self._letters = self._letters, []
        return letters


class Mail:
    """Sends the lines of a training, some at a time, and does not wait for them to arrive.

    Args:
        mailbox: of the grid.
        name: of the training.
    """

    def __init__(self, mailbox: Any, name: str) -> None:
        self._mailbox, self._name = mailbox, name
        self._lines: list[str] = []
        self._begins, self._sent_at = True, 0.0

    def add(self, line: str) -> None:
        """Takes a line."""
        self._lines.append(line)
        if time.monotonic() - self._sent_at >= _POLL_SECONDS:
            self._mailbox.put.remote(Letter(self._name, tuple(self._lines), self._begins))
            self._lines, self._begins, self._sent_at = [], False, time.monotonic()


def run_on_cluster(
    jobs: Sequence[Job], *, cluster: RayCluster, needs: TrainingNeeds, progress: JobProgress
) -> dict[str, str]:
    """Does all jobs on a cluster, and goes on with the others when one fails; Ray says which runs when and where.

    A training whose machine dies begins again, on another. Ctrl-C ends them; what has finished is on disk.

    Args:
        jobs: to be done.
        cluster: that does them.
        needs: of each.
        progress: called with a job and the share of it that is done; 1 when it has ended, well or not.

    Returns:
        Name to reason, of the jobs that failed.
    """
    if not jobs:
        return {}
    mailbox, folder = cluster.actor(Mailbox), cluster.working_folder()
    options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
    failures: dict[str, str] = {}
    for job in jobs:
        job.write()
    running = {cluster.submit(train_there, job, folder, mailbox, needs=options): job for job in jobs}
    answer = mailbox.take.remote()
    try:
        while running:
            finished_calls = cluster.with_result(running, seconds=_POLL_SECONDS)
            if cluster.with_result([answer], seconds=0):
                _read_mail(cluster, answer, list(running.values()), progress)
                answer = mailbox.take.remote()
            for reference in finished_calls:
                job = running.pop(reference)
                reason = _kept(cluster, reference, job)
                progress(job, 1.0)
                failures |= {} if reason is None else {job.name: reason}
            del finished_calls
    finally:
        cluster.cancel(running)
        running.clear()
        cluster.end_actor(mailbox)
    return failures


def _read_mail(cluster: RayCluster, answer: Any, jobs: Sequence[Job], progress: JobProgress) -> None:
    """Shows how far trainings are, and adds what they printed to their logs; a log is whole when a training has ended.

    Args:
        cluster: of the mailbox.
        answer: of the mailbox, which is there; one that has died begins again, and lost letters do not matter.
        jobs: under way.
        progress: of the grid.
    """
    letters: list[Letter] = []
    with suppress(OSError):
        letters = cluster.result(answer)
    jobs_by_name = {job.name: job for job in jobs}
    for letter in letters:
        job = jobs_by_name.get(letter.name)
        if job is None:
            continue
        shares = [share for share in map(announced, letter.lines) if share is not None]
        if shares:
            progress(job, min(shares[-1], 0.99))
        with (Path(job.folder) / LOG_FILE).open("w" if letter.begins else "a", encoding="utf-8") as log:
            log.writelines(line for line in letter.lines if announced(line) is None)


def _kept(cluster: RayCluster, reference: Any, job: Job) -> str | None:
    """Keeps what a training left, its result last; why there is none, if so."""
    folder = Path(job.folder)
    log = folder / LOG_FILE
    try:
        outcome = cluster.result(reference)
    except OSError as error:
        return f"{error} (see {log})" if log.is_file() else str(error)
    for name in sorted(outcome.files, key=lambda name: name == RESULT_FILE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, outcome.files[name])
    return None if job.result.is_file() else failure_reason(log, outcome.exit_status)
