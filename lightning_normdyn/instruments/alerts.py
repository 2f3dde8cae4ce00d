"""``Alerts``: judges the targets of a run as it goes, and says each thing once."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from lightning_normdyn.history.alert_log import AlertLog
from lightning_normdyn.instruments.verdicts.evidence import LR, SECOND_MOMENT, Courses, Evidence, Facts
from lightning_normdyn.instruments.verdicts.rules import judge
from lightning_normdyn.instruments.verdicts.verdict import SEVERITIES, Severity, Verdict, by_severity

OnAlert = Callable[[Verdict], object]
"""Is called with each verdict, notes included, as soon as it is found."""

_MOST_LINES = 5
_SECONDS = 60.0
_LEVELS: dict[Severity, str] = {"note": "INFO", "warning": "WARN", "critical": "ERROR"}


class Alerts:
    """Keeps the courses of all targets, and passes on what the rules say.

    A verdict is passed on once, and again if it has grown worse: to the user's function, to the log, to the services
    in use, and, from a warning on, to the terminal.

    Args:
        warn: says something to the user.
        on_alert: the user's function. If it raises, that is said, and it is not called again.
        log: of the run; ``None`` to keep none.
        speaks: whether this rank says anything; all of them judge.

    Attributes:
        standing: the verdicts of the latest judgement of each target.
    """

    def __init__(
        self,
        warn: Callable[[str], object],
        *,
        on_alert: OnAlert | None = None,
        log: AlertLog | None = None,
        speaks: bool = True,
    ) -> None:
        self._warn, self._on_alert, self._log, self._speaks = warn, on_alert, log, speaks
        self._courses: dict[str, Courses] = {}
        self._passed_on: dict[str, str] = {}
        self._line_times: list[float] = []
        self._withheld_lines = 0
        self._recorded_rules: set[tuple[str, str, str]] | None = None
        self.standing: dict[str, list[Verdict]] = {}

    def courses(self, target: str, step: int = 0) -> Courses:
        """The courses of a target's quantities.

        Args:
            target: its name.
            step: steps made before its first value.
        """
        return self._courses.setdefault(target, Courses(step))

    def restart(self, target: str, step: int) -> None:
        """Forgets how the quantities of a target went, which is another from now on.

        Args:
            target: its name.
            step: steps made before its first value.
        """
        self._courses[target] = Courses(step)
        self.standing.pop(target, None)

    def hear(self, facts: Facts, values: Mapping[str, float]) -> None:
        """Takes the values of a step, and judges their target.

        Args:
            facts: of the target's training now.
            values: scalars by the name of the quantity.
        """
        courses = self.courses(facts.target)
        moment = math.nan if facts.typical_row is None else facts.typical_row.second_moment
        courses.note(facts.step, {**values, LR: facts.lr, SECOND_MOMENT: moment})
        verdicts = judge(Evidence(facts, courses))
        self.standing[facts.target] = verdicts
        for verdict in verdicts:
            self._pass_on(verdict)

    def record(self) -> None:
        """Puts what stands on disk, if it is another than before."""
        standing = self.verdicts()
        rules: set[tuple[str, str, str]] = {(verdict.target, verdict.rule, verdict.severity) for verdict in standing}
        if self._log is not None and rules != self._recorded_rules:
            self._recorded_rules = rules
            self._log.stand([verdict._asdict() for verdict in standing])

    def verdicts(self) -> list[Verdict]:
        """What stands of all targets, the worst first."""
        return by_severity([verdict for verdicts in self.standing.values() for verdict in verdicts])

    def conclude(self) -> None:
        """Puts what stands at the end on disk, with its numbers, and says how much the terminal was spared."""
        self._recorded_rules = None
        self.record()
        if self._withheld_lines:
            self._warn(f"{self._withheld_lines} further alerts came too fast to be written here; the history has them")
            self._withheld_lines = 0

    def state_dict(self) -> dict[str, Any]:
        """Courses, and what was passed on, for a checkpoint."""
        courses = {target: courses.state_dict() for target, courses in self._courses.items()}
        return {"courses": courses, "passed_on": dict(self._passed_on)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        for target, courses in state["courses"].items():
            self.courses(target).load_state_dict(courses)
        self._passed_on = dict(state["passed_on"])

    def _pass_on(self, verdict: Verdict) -> None:
        key = f"{verdict.target}/{verdict.rule}"
        earlier = self._passed_on.get(key)
        if earlier is not None and SEVERITIES.index(verdict.severity) <= SEVERITIES.index(earlier):
            return
        self._passed_on[key] = verdict.severity
        if not self._speaks:
            return
        if self._log is not None:
            self._log.append(verdict._asdict())
        alert_services(verdict)
        self._call(verdict)
        if verdict.severity != "note":
            self._write_line(verdict)

    def _call(self, verdict: Verdict) -> None:
        if self._on_alert is None:
            return
        try:
            self._on_alert(verdict)
        except Exception as error:  # whatever it does, the training goes on
            self._on_alert = None
            self._warn(f"on_alert: it failed ({type(error).__name__}: {error}) and is not called again")

    def _write_line(self, verdict: Verdict) -> None:
        now = time.monotonic()
        self._line_times = [moment for moment in self._line_times if now - moment < _SECONDS]
        if len(self._line_times) >= _MOST_LINES:
            self._withheld_lines += 1
            return
        self._line_times.append(now)
        self._warn(f"{verdict.severity} ({verdict.rule}) at step {verdict.step:,}: '{verdict.target}': {verdict.text}")


def alert_services(verdict: Verdict) -> list[str]:
    """Sends a verdict to each service that this process logs a run to.

    Nothing is imported: a service that nobody imported has no run. One that refuses or fails is passed over, since a
    training must not end with it.

    Args:
        verdict: what to send.

    Returns:
        The names of the services that took it.
    """
    return [name for name in ("wandb", "trackio") if _send(sys.modules.get(name), name, verdict)]


def _send(module: Any, name: str, verdict: Verdict) -> bool:
    alert = getattr(module, "alert", None)
    has_run = module is not None and (name != "wandb" or getattr(module, "run", None) is not None)
    if alert is None or not has_run:
        return False
    level = _LEVELS[verdict.severity]
    levels = getattr(module, "AlertLevel", None)
    title = f"{verdict.target}: {verdict.rule.replace('_', ' ')}"
    try:
        alert(title=title, text=verdict.text, level=level if levels is None else levels[level])
    except Exception:  # no run (trackio raises then), no network, another signature
        return False
    return True
