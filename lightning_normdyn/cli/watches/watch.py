"""Follows a run from its history on disk: draws its page when something was added, until the run is over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.run_folder import check_output_file
from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.cli.watches.live_page import LivePage
from lightning_normdyn.cli.watches.run_files import Contents, RunState, find_history, find_run, run_contents, run_state

if TYPE_CHECKING:
    from rich.console import Console

PAGE = "watch.html"
_POLL_SECONDS = 1.0


class WatchSettings(NamedTuple):
    """How to watch.

    Attributes:
        run: the run's folder, or one of runs.
        out: where the page goes.
        interval: seconds between two drawings at least, and between two loads of an open page.
        timeout: seconds to wait for a run to begin; ``None`` for ever.
    """

    run: Path
    out: Path | None = None
    interval: float = 10.0
    timeout: float | None = None


class WatchRecord(NamedTuple):
    """What ``normdyn watch`` prints at its end.

    Attributes:
        run: the folder of the run that was watched.
        page: where its report is; ``None`` if none could be drawn.
        status: how the run ended, as a sentence.
        step: the latest step in the report.
        redraws: how often it was drawn.
        damaged: what is wrong with parts of the history that were left out, a sentence each.
        trouble: why the last drawing failed; empty if it did not.
    """

    run: Path
    page: Path | None
    status: str
    step: int
    redraws: int
    damaged: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def exit_code(self) -> int:
        """0 if the page shows all that the run left, 1 if it could not be drawn at last."""
        return int(bool(self.trouble))

    def print_to(self, console: Console) -> None:
        """Prints how the run ended and where the report is."""
        console.print(self.status)
        for damage in self.damaged:
            console.print(f"Left out: {damage}")
        if self.trouble:
            console.print(f"The last drawing failed: {self.trouble}")
        console.print(f"Report: {self.page}" if self.page is not None else "No page was written.")


def draw_once(settings: WatchSettings) -> WatchRecord:
    """Draws the page of a run as it is now.

    Args:
        settings: how to watch; the interval and the timeout are not heeded.

    Raises:
        FileNotFoundError: if there is no run.
        OSError: if the page cannot be written.
    """
    run = find_run(settings.run)
    if run is None:
        raise _absent(settings.run)
    page = _page_of(run, settings)
    page.draw()
    status = _last_words(run_state(page.history))
    page.write(status)
    return _record(page, status)


def watch_run(settings: WatchSettings) -> WatchRecord:
    """Waits for a run and keeps its page up to date until it is over.

    Args:
        settings: how to watch.

    Raises:
        FileNotFoundError: if no run began in time.
        OSError: if the page cannot be written.
        KeyboardInterrupt: where it comes in; the page stays, and no longer loads itself.
    """
    if settings.out is not None:
        check_output_file(settings.out, "out")
    page = _page_of(_await_run(settings), settings)
    try:
        state = _follow(page, settings.interval)
    except KeyboardInterrupt:
        page.write("No longer watched.")
        raise
    status = _last_words(state)
    page.write(status)
    return _record(page, status)


def _await_run(settings: WatchSettings) -> Path:
    start = time.monotonic()
    run = find_run(settings.run)
    if run is None:
        console = terminal()
        console.print(f"Waiting for a run with NormDynamics to begin in {settings.run}.")
    while run is None:
        if settings.timeout is not None and time.monotonic() - start > settings.timeout:
            raise _absent(settings.run, f" after {settings.timeout:g} s")
        time.sleep(min(_POLL_SECONDS, settings.interval))
        run = find_run(settings.run)
    return run


def _absent(folder: Path, when: str = "") -> FileNotFoundError:
    lack = "holds no norm history" if folder.is_dir() else "does not exist"
    return FileNotFoundError(
        f"run: '{folder}' {lack}{when}; expected the folder of a run that trains with NormDynamics, or one of such runs"
    )


def _page_of(run: Path, settings: WatchSettings) -> LivePage:
    path = settings.out if settings.out is not None else run / PAGE
    check_output_file(path, "out")
    if run != settings.run:
        terminal().print(f"{settings.run} holds several runs or is none itself; this is {run}.")
    page = LivePage(run, find_history(run), path, command=running_command())
    for sentence in page.neighbours:
        terminal().print(sentence)
    return page


def _follow(page: LivePage, interval: float) -> RunState:
    """Draws whenever something was added, at most once an interval, until the run is over."""
    page_contents: Contents | None = None
    contents: Contents = frozenset()
    change_time = draw_time = -interval
    while True:
        state = run_state(page.history)  # before the files, so that those which a run wrote before its end are seen
        before, contents = contents, run_contents(page.history)
        now = time.monotonic()
        if contents != before:
            change_time = now
        is_over = state.is_over(is_quiet=now - change_time >= interval)
        if contents != page_contents and (is_over or now - draw_time >= interval):
            page_contents, draw_time = contents, now
            _redraw(page, interval)
        if is_over:
            return state
        time.sleep(min(_POLL_SECONDS, interval))


def _redraw(page: LivePage, interval: float) -> None:
    console, start = terminal(), time.monotonic()
    earlier_trouble, is_first = page.trouble, not page.is_on_disk
    page.draw()
    page.write(f"Live: this page loads itself again every {interval:g} s.", reload_seconds=interval)
    if is_first and page.is_on_disk:
        console.print(f"Live report: {page.path.resolve().as_uri()}")
    if page.trouble and page.trouble != earlier_trouble:
        console.print(f"{time.strftime('%H:%M:%S')}  not drawn: {page.trouble}")
    elif not page.trouble and console.is_terminal:
        damage = f", {len(page.damaged)} damaged parts left out" if page.damaged else ""
        seconds = time.monotonic() - start
        console.print(f"{time.strftime('%H:%M:%S')}  {page.progress}, drawn in {seconds:.1f} s{damage}")


def _last_words(state: RunState) -> str:
    if state.has_ended:
        return "The run has ended."
    if state.is_gone:
        return "No process writes to this history any more, and none has said that it is complete."
    return "The run goes on."


def _record(page: LivePage, status: str) -> WatchRecord:
    path = page.path if page.is_on_disk else None
    return WatchRecord(page.run, path, status, page.last_step, page.redraws, tuple(page.damaged), page.trouble)
