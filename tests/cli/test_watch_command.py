"""``normdyn watch``: the report of a run that goes on, read off the disk by a process that leaves the run alone."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from written_history import end_run, history_of, writer_of

from lightning_normdyn.cli import report, watch
from lightning_normdyn.cli.main import main
from lightning_normdyn.cli.watches.run_files import find_run, run_contents, run_state
from lightning_normdyn.history import RunWriter
from lightning_normdyn.history.alert_log import AlertLog
from lightning_normdyn.history.run_record import RunRecord

WORKER = Path(__file__).with_name("watched_training.py")
LOOPS = Path(__file__).parents[1] / "training_loops"


def started(*words):
    """A process of which both outputs are read."""
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def training(monkeypatch):
    """Starts a training of so many steps in a process of its own, which is ended with the test."""
    path = [str(LOOPS), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    processes = []

    def start(folder, steps):
        processes.append(started(WORKER, folder, steps))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def watcher(*words):
    return started("-m", "lightning_normdyn", "watch", *words)


def wait_for(condition, *processes, seconds=200):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return value


def text_of(page):
    return page.read_text(encoding="utf-8") if page.exists() else ""


def body_of(page):
    return text_of(page).partition("<main>")[2].partition("</main>")[0]


def files_of(folder):
    """Content and time of everything in a folder."""
    return {
        file: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in Path(folder).rglob("*")
        if file.is_file()
    }


def add_part(folder, step, *, target="table.weight"):
    """One more part of a history, of one target with three rows."""
    history = history_of(Path(folder), target)
    if not (history.run.root / "targets.json").exists():
        history.describe({"target": target, "rows": 3, "dim": 4, "total_steps": 100, "lr": 0.1})
    history.append_rows({"step": [step] * 3, "row": [0, 1, 2], "norm": [1.0, 2.0, 1.0 + step]})
    history.flush()
    return history


@pytest.mark.slow
def test_a_training_is_watched_from_before_its_begin_to_its_end(training):
    page = Path("run/watch.html")
    watching = watcher("run", "--interval", "0.5")
    run = training("run", 400)
    live = wait_for(lambda: text_of(page), watching)
    assert "Live: this page loads itself again every 0.5 s." in live
    steps = set()
    while run.poll() is None:
        steps |= set(re.findall(r"at step (\d+) of 400", text_of(page)))
        time.sleep(0.1)
    assert run.returncode == 0, run.communicate()
    files = files_of("run/normdyn")
    out, err = watching.communicate(timeout=200)
    assert (watching.returncode, err) == (0, "")
    assert out.splitlines() == [
        "Waiting for a run with NormDynamics to begin in run.",
        f"Live report: {page.resolve().as_uri()}",
        "The run has ended.",
        f"Report: {page}",
    ]
    assert len(steps) > 1  # it was drawn anew as the training went on
    assert files_of("run/normdyn") == files  # and the watcher has touched nothing
    assert {path.name for path in Path("run").iterdir()} == {"normdyn", "watch.html"}
    final = text_of(page)
    assert "The run has ended. Drawn" in final
    assert "at step 400." in final
    assert "<script" not in final
    assert body_of(page) == body_of(report(run="run").page)
    assert final.count('<section id="target-') == 2


@pytest.mark.slow
def test_a_killed_run_ends_the_watching(training):
    run = training("run", 10**6)
    page = Path("run/watch.html")
    watching = watcher("run", "--interval", "0.5")
    wait_for(lambda: re.search(r"at step \d", text_of(page)), watching, run)
    run.kill()
    run.wait()
    out, _ = watching.communicate(timeout=200)
    assert watching.returncode == 0
    assert "No process writes to this history any more" in out
    assert "<script" not in text_of(page)
    assert body_of(page) == body_of(report(run="run").page)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_watching_and_leaves_a_page_that_stays_as_it_is(number):
    add_part("run", 1)
    page = Path("run/watch.html")
    watching = watcher("run", "--interval", "0.5")
    wait_for(lambda: text_of(page), watching)
    body = body_of(page)
    watching.send_signal(number)
    _, err = watching.communicate(timeout=60)
    assert watching.returncode == 128 + number
    assert "Traceback" not in err
    assert "No longer watched. Drawn" in text_of(page)
    assert "<script" not in text_of(page)
    assert body_of(page) == body
    assert [path.name for path in Path("run").iterdir() if path.name != "normdyn"] == ["watch.html"]


def watch_meanwhile(*actions, interval=0.2):
    """Watches a run of this process; every action is made once the page says what the last part has added."""
    page, records = Path("run/watch.html"), []
    thread = threading.Thread(target=lambda: records.append(watch(run="run", interval=interval)), daemon=True)
    thread.start()
    wait_for(lambda: "Live: " in text_of(page))
    for action in (*actions, lambda: end_run("run")):
        step = action()
        wait_for(lambda step=step: step is None or f"at step {step} of" in text_of(page))
    thread.join(100)
    return records[0]


def add_step(step):
    """An action that adds a part."""

    def add():
        add_part("run", step)
        return step

    return add


def test_it_draws_once_for_every_addition_and_never_without():
    add_part("run", 1)
    record = watch_meanwhile(add_step(2), lambda: time.sleep(1), add_step(3), lambda: time.sleep(1))
    assert (record.step, record.status, record.exit_code) == (3, "The run has ended.", 0)
    assert record.redraws == 4  # parts 1, 2 and 3, and the end


def test_many_additions_within_an_interval_are_drawn_together():
    add_part("run", 1)

    def add_many():
        for step in range(2, 25):
            add_part("run", step)
            time.sleep(0.02)

    record = watch_meanwhile(add_many, interval=5.0)
    assert record.step == 24
    assert record.redraws <= 3


def test_damaged_parts_are_named_and_left_out(capsys):
    for step in (1, 2, 3):
        add_part("run", step)
    folder = Path("run/normdyn/trajectory")
    whole = body_of(watch(run="run", once=True).page)
    torn = sorted(folder.iterdir())[1]
    torn.write_bytes(torn.read_bytes()[:-20])
    assert main(["watch", "run", "--once"]) == 0
    assert f"Left out: history: '{torn}' is damaged" in capsys.readouterr().out
    page = text_of(Path("run/watch.html"))
    assert f"Left out: history: &#39;{torn}&#39; is damaged" in page
    assert "at step 3 of 100" in page
    torn.unlink()
    assert body_of(Path("run/watch.html")) == body_of(report(run="run").page) != whole


def test_a_part_that_is_being_written_is_neither_drawn_nor_damage():
    folder = add_part("run", 1).run.root / "trajectory"
    contents = run_contents(Path("run/normdyn"))
    (folder / ".part-00000002.parquet.0123456789abcdef.tmp").write_bytes(b"PAR1")
    assert run_contents(Path("run/normdyn")) == contents
    assert watch(run="run", once=True).damaged == ()


def test_where_drawing_fails_the_last_good_page_stays(monkeypatch):
    add_part("run", 1)
    bodies = []

    def spoil():
        bodies.append(body_of(Path("run/watch.html")))
        monkeypatch.setattr("matplotlib.figure.Figure.add_axes", lambda *_, **__: 1 / 0)
        add_part("run", 2)
        wait_for(lambda: "Not redrawn since" in text_of(Path("run/watch.html")))

    record = watch_meanwhile(spoil)
    assert record.exit_code == 1
    assert record.trouble == "drawing failed (ZeroDivisionError: division by zero)"
    page = text_of(Path("run/watch.html"))
    assert bodies == [body_of(record.page)]
    assert "Not redrawn since: drawing failed" in page
    assert "at step 1 of 100" in page


def test_a_run_that_can_never_be_drawn_leaves_no_page(undrawable, capsys):
    add_part("run", 1)
    assert main(["watch", "run", "--once"]) == 1
    out = capsys.readouterr().out
    assert f"The last drawing failed: {undrawable}\nNo page was written." in out
    assert not Path("run/watch.html").exists()


def test_a_removed_run_is_not_made_again():
    add_part("run", 1)

    def remove():
        Path("run").rename("elsewhere")

    record = watch_meanwhile(remove)
    assert record.exit_code == 1
    assert record.trouble.startswith("the folder of the page, 'run', was removed")
    assert not Path("run").exists()


def test_a_history_without_a_part_is_a_page(capsys):
    history_of("run", "t").describe({"target": "t", "kind": "table", "rows": 3})
    assert main(["watch", "run", "--once"]) == 0
    assert "at no step yet" in text_of(Path("run/watch.html"))
    assert "Nothing was recorded for it yet." in text_of(Path("run/watch.html"))


def test_a_run_that_does_not_begin_is_waited_for_in_vain(capsys):
    assert main(["watch", "absent", "--timeout", "0.3", "--interval", "0.1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "Waiting for a run with NormDynamics to begin in absent.\n"
    assert captured.err.startswith("normdyn: run: 'absent' does not exist after 0.3 s; expected the folder of a run")
    assert not Path("absent").exists()  # it would take the name of a run to come
    assert main(["watch", "absent", "--once"]) == 2
    assert "run: 'absent' does not exist; expected" in capsys.readouterr().err


def test_of_a_folder_of_runs_the_one_that_goes_on_is_watched(capsys):
    for name in ("runs/first", "runs/second"):
        add_part(name, 1)
    assert find_run(Path("none")) is None
    writer_of("runs/second")._lock.release()  # as if its process had been killed
    assert find_run(Path("runs")) == Path("runs/first")
    end_run("runs/first")
    assert find_run(Path("runs")) == Path("runs/second")  # the newest, where none goes on
    assert main(["watch", "runs", "--once"]) == 0
    assert "this is runs/second." in capsys.readouterr().out
    assert Path("runs/second/watch.html").exists()


def as_if_elsewhere(writer):
    """As if another machine wrote it, whose locks are not seen here."""
    writer._lock.release()
    record = RunRecord.read(writer.root)
    stretch = dataclasses.replace(record.stretches[0], host="elsewhere", boot="of another machine")
    dataclasses.replace(record, stretches=[stretch]).write()


def test_when_a_run_is_over():
    root = Path("run/normdyn")
    writer = add_part("run", 1).run
    assert not any(run_state(root))
    writer._lock.release()
    assert run_state(root) == (False, True)
    as_if_elsewhere(writer)
    assert not any(run_state(root))  # nothing is known of another machine's locks
    writer.end()
    state = run_state(root)
    assert (state.is_over(is_quiet=False), state.is_over(is_quiet=True)) == (False, True)
    resumed = RunWriter("run")
    resumed.begin({"table.weight": 1}, writer.bookmark)
    assert not run_state(root).is_over(is_quiet=True)


def minutes_passed(folder, minutes):
    """Makes everything in a folder so many minutes old."""
    moment = time.time() - 60 * minutes - 1
    for path in Path(folder).rglob("*"):
        os.utime(path, (moment, moment))


@pytest.mark.parametrize(
    ("minutes", "age"), [(0, "within the last minute"), (1, "1 minute ago"), (90, "90 minutes ago")]
)
def test_of_a_run_on_another_machine_its_last_writing_is_said(minutes, age):
    add_part("run", 1)
    as_if_elsewhere(writer_of("run"))
    minutes_passed("run", minutes)
    record = watch(run="run", once=True)
    assert record.status == f"Last written {age} on 'elsewhere', whose processes cannot be seen from here."
    assert f"Last written {age}" in text_of(record.page)
    end_run("run")
    assert watch(run="run", once=True).status == "The run has ended."


def test_the_terminal_shows_verdicts_and_norms_and_writes_nothing(capsys):
    history = add_part("run", 1)
    for step, norm in ((1, 1.0), (2, 2.0), (3, 3.0), (4, 8.0)):
        history.append_quantities(step, {"norm_p50": norm, "equilibrium_norm_p50": 0.25})
    history.flush()
    fields = {"step": 4, "target": "table.weight", "cause": "that"}
    verdicts = [
        {**fields, "rule": "no_decay", "severity": "warning", "sentence": "norms grow", "lever": "set weight_decay=3"},
        {**fields, "rule": "equal_norms", "severity": "note", "sentence": "all alike", "lever": "leave it"},
    ]
    AlertLog(writer_of("run")).stand(verdicts)
    files = files_of("run")
    assert main(["watch", "run", "--once", "--terminal"]) == 0
    text = capsys.readouterr().out
    assert "warning (no_decay) table.weight: norms grow. Lever: set weight_decay=3." in text
    assert "all alike" not in text
    assert "1 verdict more, in the report." in text
    (row,) = (line for line in text.splitlines() if line.startswith("table.weight"))
    assert row.split() == ["table.weight", "8", "0.25", "–", "–", "–", "▁▂▃█"]
    assert "at step 4 of 100" in text
    assert files_of("run") == files


def test_the_terminal_takes_no_page(capsys):
    assert main(["watch", "run", "--terminal", "--out", "page.html"]) == 2
    assert "normdyn: out: expected none with terminal" in capsys.readouterr().err


def test_the_terminal_follows_a_run_to_its_end(capsys):
    add_part("run", 1)
    thread = threading.Timer(0.5, lambda: (add_part("run", 7), end_run("run")))
    thread.start()
    assert main(["watch", "run", "--terminal", "--interval", "0.2"]) == 0
    text = capsys.readouterr().out
    assert "Live, until Ctrl-C." in text
    assert text.index("at step 1 of 100") < text.index("at step 7 of 100")
    assert "The run has ended." in text
    assert not Path("run/watch.html").exists()


def test_the_page_may_go_elsewhere_but_not_everywhere(capsys):
    add_part("run", 1)
    files = files_of("run")
    assert main(["watch", "run", "--once", "--out", "pages/of/it.html"]) == 0
    assert "at step 1" in text_of(Path("pages/of/it.html"))
    assert files_of("run") == files
    Path("file").touch()
    assert main(["watch", "absent", "--out", "file/page.html"]) == 2  # before it waits
    assert "normdyn: out: cannot write to 'file'" in capsys.readouterr().err


def test_a_live_page_runs_its_own_script_and_nothing_else():
    add_part("run", 1, target="<script>alert(1)</script>")
    pages = []
    watch_meanwhile(lambda: pages.append(text_of(Path("run/watch.html"))))
    scripts = re.findall(r"<script>(.*?)</script>", pages[0], re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in pages[0]
    assert "setTimeout(reload, 200)" in scripts[0]
    assert '<noscript><meta http-equiv="refresh" content="0.2"></noscript>' in pages[0]
