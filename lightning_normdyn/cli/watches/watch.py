"""Follows a run from its history on disk: draws its page when something was added, until the run is over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_normdyn.cli.commands.command import running_command
from lightning_normdyn.cli.run_folder import check_output_file
from lightning_normdyn.cli.terminal import terminal
from lightning_normdyn.cli.watches.live_page import LivePage
from lightning_normdyn.cli.watches.run_files import (
    Contents,
    RunState,
    distant_host,
    find_history,
    find_run,
    last_writing,
    run_contents,
    run_state,
)
from lightning_normdyn.cli.watches.run_view import RunView
from lightning_normdyn.cli.watches.text_view import TextView
from lightning_normdyn.history.run_record import record_in
from lightning_normdyn.report.run.page import other_runs

if TYPE_CHECKING:
    from rich.console import Console

PAGE = "watch.html"
_POLL_SECONDS = 1.0
_MINUTE = 60.0


class WatchSettings(NamedTuple):
    """How to watch.

    Attributes:
        run: the run's folder, or one of runs.
        out: where the page goes.
        interval: seconds between two drawings at least, and between two loads of an open page.
        timeout: seconds to wait for a run to begin; ``None`` for ever.
        in_terminal: whether it is shown as text in the terminal, and no page is written.
    """

    run: Path
    out: Path | None = None
    interval: float = 10.0
    timeout: float | None = None
    in_terminal: bool = False


class WatchRecord(NamedTuple):
    """What ``normdyn watch`` prints at its end.

    Attributes:
        run: the folder of the run that was watched.
        page: where its report is; ``None`` if none could be drawn, or none was to be.
        status: how the run ended, as a sentence.
        step: the latest step in the report.
        redraws: how often it was drawn.
        damaged: what is wrong with parts of the history that were left out, a sentence each.
        trouble: why the last drawing failed; empty if it did not.
        in_terminal: whether it was shown as text in the terminal.
    """

    run: Path
    page: Path | None
    status: str
    step: int
    redraws: int
    damaged: tuple[str, ...] = ()
    trouble: str = ""
    in_terminal: bool = False

    @property
    def exit_code(self) -> int:
        """0 if the page shows all that the run left, 1 if it could not be drawn at last."""
        return int(bool(self.trouble))

    def print_to(self, console: Console) -> None:
        """Prints how the run ended and where the report is; what the terminal shows already is not said again."""
        if self.in_terminal:
            return
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
    view = _view_of(run, settings)
    view.draw()
    status = _last_words(view.history, run_state(view.history))
    view.show(status)
    return _record(view, status)


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
    view = _view_of(_await_run(settings), settings)
    try:
        state = _follow(view, settings.interval)
    except KeyboardInterrupt:
        view.show("No longer watched.")
        raise
    status = _last_words(view.history, state)
    view.show(status)
    return _record(view, status)


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


def _view_of(run: Path, settings: WatchSettings) -> RunView:
    if run != settings.run:
        terminal().print(f"{settings.run} holds several runs or is none itself; this is {run}.")
    history = find_history(run)
    for sentence in _neighbours(history):
        terminal().print(sentence)
    if settings.in_terminal:
        return TextView(run, history)
    path = settings.out if settings.out is not None else run / PAGE
    check_output_file(path, "out")
    return LivePage(run, history, path, command=running_command())


def _neighbours(history: Path) -> list[str]:
    """A sentence that names the other runs in the folder; none where this one is alone."""
    record = record_in(history)
    return [] if record.damage else other_runs(record)


def _follow(view: RunView, interval: float) -> RunState:
    """Draws whenever something was added, at most once an interval, until the run is over."""
    drawn_contents: Contents | None = None
    contents: Contents = frozenset()
    change_time = draw_time = show_time = -max(interval, _MINUTE)
    host = distant_host(view.history)
    while True:
        state = run_state(view.history)  # before the files, so that those which a run wrote before its end are seen
        before, contents = contents, run_contents(view.history)
        now = time.monotonic()
        if contents != before:
            change_time = now
        is_over = state.is_over(is_quiet=now - change_time >= interval)
        if contents != drawn_contents and (is_over or now - draw_time >= interval):
            drawn_contents, draw_time, show_time = contents, now, now
            host = distant_host(view.history)  # it may have been resumed elsewhere
            _redraw(view, interval)
        elif host and now - show_time >= max(interval, _MINUTE):
            show_time = now
            view.show(_live_words(view, interval), reload_seconds=interval)
        if is_over:
            return state
        time.sleep(min(_POLL_SECONDS, interval))


def _redraw(view: RunView, interval: float) -> None:
    console, start = terminal(), time.monotonic()
    earlier_trouble, is_first = view.trouble, view.page is None
    view.draw()
    view.show(_live_words(view, interval), reload_seconds=interval)
    if isinstance(view, TextView):
        return
    if is_first and view.page is not None:
        console.print(f"Live report: {view.page.resolve().as_uri()}")
    if view.trouble and view.trouble != earlier_trouble:
        console.print(f"{time.strftime('%H:%M:%S')}  not drawn: {view.trouble}")
    elif not view.trouble and console.is_terminal:
        damage = f", {len(view.damaged)} damaged parts left out" if view.damaged else ""
        seconds = time.monotonic() - start
        console.print(f"{time.strftime('%H:%M:%S')}  {view.progress}, drawn in {seconds:.1f} s{damage}")


def _live_words(view: RunView, interval: float) -> str:
    """What is said of a run that is followed."""
    live = (
        "Live, until Ctrl-C."
        if isinstance(view, TextView)
        else f"Live: this page loads itself again every {interval:g} s."
    )
    return " ".join(filter(None, (live, _distance(view.history))))


def _last_words(history: Path, state: RunState) -> str:
    if state.has_ended:
        return "The run has ended."
    if state.is_gone:
        return "No process writes to this history any more, and none has said that it is complete."
    return _distance(history) or "The run goes on."


def _distance(history: Path) -> str:
    """What can be said of a run of another machine, whose processes cannot be seen; empty for one of this machine."""
    host = distant_host(history)
    if not host:
        return ""
    minutes = max(0, int((time.time() - last_writing(history)) / _MINUTE))
    age = "within the last minute" if not minutes else f"{minutes:,} minute{'s' * (minutes > 1)} ago"
    return f"Last written {age} on '{host}', whose processes cannot be seen from here."


def _record(view: RunView, status: str) -> WatchRecord:
    return WatchRecord(
        view.run,
        view.page,
        status,
        view.last_step,
        view.redraws,
        tuple(view.damaged),
        view.trouble,
        in_terminal=isinstance(view, TextView),
    )
