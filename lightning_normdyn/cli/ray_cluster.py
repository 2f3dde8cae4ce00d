"""A Ray cluster that a command sends its work to: connected, asked, and told to stop; Ray decides what runs where."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.cli.user_errors import require

R = TypeVar("R")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

_SECONDS_TO_ANSWER = 10
_SILENCE = "RAY_IGNORE_UNHANDLED_ERRORS"
RETRIES = 3
"""How often Ray does a piece of work again whose process or machine has died."""


class RayCluster:
    """A cluster that this process is connected to.

    Args:
        ray: the module.

    Attributes:
        cpus: of all machines; so are ``gpus``.
        machines: how many there are now.
        most_cpus: of one machine; so are ``most_gpus``.
    """

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        resources = ray.cluster_resources()
        self.cpus, self.gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.machines = len(nodes)
        self.most_cpus = max((int(node.get("CPU", 0)) for node in nodes), default=1)
        self.most_gpus = max((int(node.get("GPU", 0)) for node in nodes), default=0)

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"Ray: {self.cpus} CPUs{gpus} on {self.machines} {'machine' if self.machines == 1 else 'machines'}"

    def map(self, function: Callable[..., R], constants: Sequence[object], arguments: Iterable[object]) -> Iterator[R]:
        """Results in the order of the arguments, a few being under way at a time.

        Args:
            function: of a module that all machines have; called with the constants and one argument.
            constants: sent to each machine once.
            arguments: one a call.

        Raises:
            Exception: what a call raised, or ``OSError`` if Ray gave one up.
        """
        references = [self.ray.put(value) for value in constants]
        waiting: deque[Any] = deque()
        try:
            for argument in arguments:
                waiting.append(self.submit(function, *references, argument))
                if len(waiting) > 2 * self.cpus:
                    yield self.result(waiting.popleft())
            while waiting:
                yield self.result(waiting.popleft())
        finally:
            self.cancel(waiting)
            waiting.clear()  # now, and not when the traceback is gone that holds them

    def submit(self, function: Callable[..., Any], *arguments: object, needs: Mapping[str, float] | None = None) -> Any:
        """Asks for a call; the reference to its result, which :meth:`result` waits for.

        Args:
            function: of a module that all machines have.
            arguments: of it; references stand for what they refer to.
            needs: what Ray reserves, such as ``num_cpus``; one CPU if left out.
        """
        options = {"num_cpus": 1, "max_retries": RETRIES, **(needs or {})}
        return self.ray.remote(**options)(function).remote(*arguments)

    def result(self, reference: Any) -> Any:
        """Waits for a call.

        Raises:
            Exception: what the call raised, or ``OSError`` if Ray gave it up.
        """
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception) and not isinstance(error.cause, self.ray.exceptions.RayError):
                raise error.cause from error
            raise OSError(given_up(error)) from error
        except self.ray.exceptions.RayError as error:
            raise OSError(given_up(error)) from error

    def with_result(self, references: Iterable[Any], *, seconds: float) -> list[Any]:
        """Those that have a result, as soon as one has, or after so many seconds none."""
        references = list(references)
        finished_calls: list[Any] = self.ray.wait(references, num_returns=len(references), timeout=seconds)[0]
        return finished_calls

    def actor(self, cls: type) -> Any:
        """An object that calls on all machines share; it starts again where it dies, and empty."""
        return self.ray.remote(num_cpus=0, max_restarts=-1)(cls).remote()

    def end_actor(self, actor: Any) -> None:
        """Ends one that nobody asks any more."""
        with suppress(Exception):  # the cluster has just ended
            self.ray.kill(actor)

    def working_folder(self) -> str | None:
        """The folder of this process, as other machines are to have it; ``None`` where Ray brings its own to each."""
        runtime_env = self.ray.get_runtime_context().runtime_env or {}
        return None if runtime_env.get("working_dir") else str(Path.cwd())

    def cancel(self, references: Iterable[Any]) -> None:
        """Stops calls that nobody waits for any more, at once."""
        for reference in references:
            with suppress(Exception):  # it has just ended, or the cluster has
                self.ray.cancel(reference, force=True)


def given_up(error: Exception) -> str:
    """A sentence on a call that Ray gave up, with the line that matters of what it says."""
    lines = [line.strip().rstrip(".") for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    if "RayTaskError" in type(error).__name__:  # the call could not even begin, or end: a traceback says why
        return (
            f"engine: a machine of the cluster cannot do its work ({lines[-1] if lines else 'no reason was given'}); "
            "have the same versions of this package, Ray and Python on all machines"
        )
    return (
        f"engine: Ray gave up a piece of work after {RETRIES} more tries ({type(error).__name__}: "
        f"{lines[0] if lines else 'no reason was given'}); look whether machines run out of memory, or fail"
    )


@contextmanager
def connected() -> Iterator[RayCluster]:
    """Connects to the cluster that ``RAY_ADDRESS`` names or that runs here, or starts one of this machine's cores.

    A connection that is there already, as in a script that called ``ray.init``, is used and left open.

    Raises:
        MissingExtraError: if Ray is not installed.
        OSError: if the cluster does not answer.
    """
    check_engine("ray")
    import ray

    is_guest, silence = ray.is_initialized(), os.environ.get(_SILENCE)
    if not is_guest:
        _connect(ray)
    os.environ[_SILENCE] = "1"  # errors of calls that nobody waits for any more: the first of them has been raised
    try:
        cluster = RayCluster(ray)
        terminal().print(str(cluster))
        with _sigterm_told_apart():
            yield cluster
    finally:
        if not is_guest:
            with _signals_unchanged():
                ray.shutdown()
        if silence is None:
            del os.environ[_SILENCE]


def check_engine(engine: str) -> None:
    """Refuses an engine that is not installed.

    Raises:
        MissingExtraError: if Ray is asked for and missing.
    """
    if engine != "local":
        require("ray", extra="ray")


def cluster_of(engine: str) -> AbstractContextManager[RayCluster | None]:
    """The cluster of an engine, ``None`` for this machine alone."""
    return nullcontext() if engine == "local" else connected()


def _check_address(address: str) -> None:
    """Refuses the address of a machine where nobody listens, for which Ray itself looks four minutes long.

    Raises:
        OSError: naming it.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # a word of Ray's, such as auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise OSError(
            f"RAY_ADDRESS: expected the address of a Ray cluster, such as ray start --head prints, got '{address}', "
            f"where nobody answers ({error}); check it, or unset it for a cluster of this machine alone"
        ) from error


def _connect(ray: Any) -> None:
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    with warnings.catch_warnings(), _signals_unchanged():
        warnings.simplefilter("ignore")  # on versions of Ray to come
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise OSError(
                f"engine: expected a Ray cluster that answers, got none ({reason}); check RAY_ADDRESS, or unset it for "
                "a cluster of this machine alone"
            ) from error


@contextmanager
def _sigterm_told_apart() -> Iterator[None]:
    """Raises what a handler of SIGTERM raised where Ray, while it waits, made a plain ``KeyboardInterrupt`` of it."""
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    interrupts: list[BaseException] = []

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except KeyboardInterrupt as interrupt:
            interrupts.append(interrupt)
            raise

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if interrupts and interrupt is not interrupts[0]:
            raise interrupts[0] from None
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _signals_unchanged() -> Iterator[None]:
    """Ray puts a handler of its own in the place of ours, after which SIGTERM would say nothing of how to go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
