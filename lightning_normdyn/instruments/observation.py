"""``Observation``: leads the watches of a run from its beginning to its end, and judges what they read."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_normdyn._version import __version__
from lightning_normdyn.capture.features import is_normalizer
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.row_sample import RowCounts
from lightning_normdyn.capture.sharded import reshard
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import ROOT, find_targets, frozen_tables
from lightning_normdyn.caution import SettingsError, caution
from lightning_normdyn.core.dynamics.optimizers import equilibrium_rule
from lightning_normdyn.core.dynamics.rates import nominal_lr
from lightning_normdyn.core.dynamics.rule import EquilibriumRule
from lightning_normdyn.history.alert_log import AlertLog
from lightning_normdyn.history.run_record import Bookmark
from lightning_normdyn.history.run_writer import RunWriter, TargetWriter
from lightning_normdyn.instruments.alerts import Alerts
from lightning_normdyn.instruments.closing_line import closing_line
from lightning_normdyn.instruments.encoder_balance import EncoderBalance
from lightning_normdyn.instruments.first_look import FirstLook
from lightning_normdyn.instruments.instrument import copyable
from lightning_normdyn.instruments.instrument_factory import Measures
from lightning_normdyn.instruments.options import NormOptions
from lightning_normdyn.instruments.parameter_groups import find_parameter_group
from lightning_normdyn.instruments.recorder import PREFIX, RUN_FOLDER, RUN_ID, RUN_STRETCH, Contingencies, Recorder
from lightning_normdyn.instruments.row_names import find_row_names, unknown_targets
from lightning_normdyn.instruments.run_facts import RunFacts
from lightning_normdyn.instruments.safeguard import FailureLog, TargetEndedError, TargetGoneError, in_a_line
from lightning_normdyn.instruments.target_changes import (
    Sampling,
    Target,
    absence,
    difference,
    present_targets,
    same_name,
)
from lightning_normdyn.instruments.training_run import Run
from lightning_normdyn.instruments.verdicts.verdict import Verdict
from lightning_normdyn.instruments.watch import Watch
from lightning_normdyn.instruments.watch_factory import WatchFactory
from lightning_normdyn.instruments.windowed_fit import WindowedFit, next_window_end


def bookmark_of(state: object) -> Bookmark | None:
    """Which run a state is of and where that lies, as far as it says so.

    Example:
        >>> bookmark_of({"run": "3f2a", "stretch": 1, "folder": 7}), bookmark_of({}), bookmark_of(None)
        (Bookmark(run='3f2a', stretch=1, folder=None), None, None)
    """
    run_id, stretch, folder = map(state.get, _RUN_ENTRIES) if isinstance(state, Mapping) else (None, None, None)
    if not isinstance(run_id, str) or not run_id:
        return None
    is_number = type(stretch) is int and stretch >= 0
    return Bookmark(run_id, stretch if is_number else None, folder if isinstance(folder, str) and folder else None)


_RUN_ENTRIES = (RUN_ID, RUN_STRETCH, RUN_FOLDER)


class Observation:
    """Follows the targets of a model through a run.

    Args:
        module: the model.
        run: what the training loop tells.
        measures: what is measured.
        options: what :func:`complete_options` gives.
        name: who observes, for messages.
        history: of the run; ``None`` to keep none.
        name_holders: objects that may hold names of a table's rows, such as a datamodule.

    Raises:
        ValueError: if a pattern matches nothing, or only what is no table of embeddings.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        run: Run,
        measures: Measures,
        options: NormOptions,
        *,
        name: str,
        history: RunWriter | None,
        name_holders: Sequence[object] = (),
    ) -> None:
        self._module, self._run, self._measures = module, run, measures
        self._has_other_ranks = run.ranks.size > 1
        self._name, self._history, self._name_holders = name, history, name_holders
        self._options: NormOptions = {**options, "instruments": copyable(options["instruments"], self._warn)}
        self._has_begun = self._is_off = False
        self._failures = FailureLog(self._history_folder)
        self._topic, self._meetings = "", itertools.count()
        self._waiting_metrics: dict[str, float] = {}
        self._closed_targets: set[str] = set()
        self._ended_steps: dict[str, int] = {}
        self._first_looks: list[FirstLook] = []
        self._sampling = Sampling(options["max_tracked_rows"])
        self.recorder, self._watches, target_names = self._build()
        self._facts: RunFacts | None = None
        self._alerts = self._new_alerts()
        for option, what in (("names", "names"), ("row_counts", "counts")):
            for target in unknown_targets(options[option], target_names):  # type: ignore[literal-required]
                self._warn(
                    f"{option}: there is no target '{target}', so its {what} are not used; the targets are "
                    f"{', '.join(target_names)}"
                )

    def begin(self, steps_made: int, state: Any = None, *, bookmark: Bookmark | None = None) -> None:
        """Starts to listen, after the weights were restored.

        Args:
            steps_made: optimizer steps that the run made before, for targets whose state does not tell.
            state: what the recorder of an earlier run gave; if it cannot be used, the statistics start afresh.
            bookmark: of the run that is resumed, whose history goes on; ``None`` for a new one.
        """
        reshard(self._module)
        if state is not None:
            try:
                omissions = self.recorder.load_state_dict(state)
                self._alerts.load_state_dict(state.get("alerts") or {"courses": {}, "passed_on": {}})
            except Exception as error:  # whatever is wrong with it, the training resumes
                self._warn(
                    f"the checkpoint's norm statistics cannot be used ({error}); they start afresh, the training "
                    "itself resumes as usual"
                )
                self.recorder, self._watches, _ = self._build()
                self._alerts, state, omissions = self._new_alerts(), None, []
            for omission in omissions:
                self._warn(omission)
        self._agree_on_outputs("resumed" if state is not None else "afresh")
        self._caution_of_short_window()
        for watch in self.recorder.watches:
            watch.is_paused = _is_frozen(watch.target)
        self.recorder.begin(steps_made, self._run.followed())
        self._begin_history(bookmark)
        for watch in self.recorder.watches:
            self._describe(watch)
        if not self.recorder.watches and self.awaits_tables:
            self._warn(
                "targets: 'auto' found no embedding table that is trained now; one that comes to be trained, as by "
                "BaseFinetuning, is followed from then on"
            )
        self.flush()
        self._facts = RunFacts(self._module, self._run)
        for watch in self.recorder.watches:
            self._alerts.courses(watch.target.name, watch.steps)
        first_window = next_window_end(0, self._run.total_steps(), self._options["window"])
        steps = max(first_window, self._options["every_n_steps"])
        self._first_looks = [FirstLook(watch, steps) for watch in self.recorder.watches]
        self._say_what_is_normalized()

    def _agree_on_outputs(self, statistics: str) -> None:
        """Settles with the other ranks what is computed together; without them, this one goes on alone."""
        shared = [watch.target.name for watch in self.recorder.watches if watch.needs_all_ranks]
        if not shared or self._run.ranks.size == 1:
            return
        plan = f"measures {', '.join(shared)} every {self._options['every_n_steps']} steps, {statistics}"
        self._topic, problem = self._run.ranks.settle_beginning(plan)
        if problem:
            names = ", ".join(f"'{name}'" for name in shared)
            self._say_here(f"{names}: measured on this rank alone, since {problem}")
            self._run = self._run._replace(ranks=self._run.ranks.alone())
            self.recorder, self._watches, _ = self._build()
        for watch in self.recorder.watches:
            self._open_meeting(watch)

    def _open_meeting(self, watch: Watch) -> None:
        if watch.needs_all_ranks:
            watch.meeting = self._run.ranks.meeting(f"{self._topic}/{next(self._meetings)}")

    @property
    def has_news(self) -> bool:
        """Whether there may be something to drain or to say, or keys that ended."""
        return bool(self._waiting_metrics or self._first_looks) or self.recorder.has_news

    def drain(self) -> dict[str, float]:
        """What :meth:`Recorder.drain` gives, after it was judged."""
        if self._first_looks:
            self._report_unseen()
        metrics, self._waiting_metrics = self._waiting_metrics | self._judged(), {}
        return metrics

    def _report_unseen(self, *, has_ended: bool = False) -> None:
        """Says once, of each target that showed nothing in the first window, what the reason may be."""
        due = [look for look in self._first_looks if has_ended or look.is_due()]
        if not due:
            return
        self._first_looks = [look for look in self._first_looks if look not in due]
        names: dict[str, list[str]] = {}
        for look in due:
            reason = look.absence() if look.watch in self.recorder.watches and look.watch.announced_steps else ""
            if reason:
                names.setdefault(reason, []).append(f"'{look.watch.target.name}'")
        for reason, members in names.items():
            steps = max(look.watch.announced_steps for look in due)
            self._warn(f"{', '.join(members)}, after {steps} steps: {reason}")

    def _say_what_is_normalized(self) -> None:
        """Says which vectors are followed where the model normalizes them."""
        for watch in self.recorder.watches:
            target = watch.target
            if not isinstance(target, OutputTarget):
                continue
            if is_normalizer(target.module):
                self._warn(
                    f"'{target.name}' normalizes what it is given, so its norms are all 1; name the module around it "
                    f"('{ROOT}' for the model) for the norms before"
                )
            elif normalizers := target.writers.normalizers(target.key):
                names = ", ".join(f"'{name}'" for name in normalizers)
                self._inform(f"'{target.name}': followed before it is normalized by {names}, after which norms are 1")

    def _judged(self) -> dict[str, float]:
        metrics = self.recorder.drain() if not self._is_off else {}
        if metrics:
            self._judge(metrics)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, in tensors and plain values; nothing before it began.

        What it was read from is on disk before: a run that is resumed from it has lost nothing.
        """
        if self._facts is None:
            return {}
        if self._has_begun:
            self._waiting_metrics |= self._judged()
            self.flush()
        bookmark = None if self._history is None else self._history.bookmark
        run = dict(zip(_RUN_ENTRIES, bookmark or (None, None, None), strict=True))
        return self.recorder.state_dict() | {"alerts": self._alerts.state_dict(), **run}

    @property
    def verdicts(self) -> list[Verdict]:
        """What the rules say now, the worst first."""
        return self._alerts.verdicts()

    def _judge(self, metrics: Mapping[str, float], *, has_ended: bool = False) -> None:
        """Judges the targets that have news; at the end of the run, all."""
        if self._facts is None:
            return
        values: dict[str, dict[str, float]] = {}
        for key, value in metrics.items():
            target, _, name = key.removeprefix(f"{PREFIX}/").rpartition("/")
            values.setdefault(target, {})[name] = value
        for watch in self.recorder.watches:
            if watch.target.name in values or has_ended:
                facts = self._facts.of_watch(watch, has_ended=has_ended)
                if facts is not None:
                    self._alerts.hear(facts, values.get(watch.target.name, {}))
        steps = max((watch.steps for watch in self.recorder.watches), default=0)
        for facts in self._facts.of_numbers(steps, has_ended=has_ended):
            self._alerts.hear(facts, {})
        for facts, learnt in self._facts.of_losses(steps, has_ended=has_ended):
            self._alerts.hear(facts, learnt)
        self._alerts.record()

    def conclude(self) -> None:
        """One line a target: where its norms are and will be, and what to do; or that no step was seen."""
        if self._is_off:
            return
        self._judge({}, has_ended=True)
        self._report_unseen(has_ended=True)
        for watch in self.recorder.watches:
            target = watch.target
            is_trained = isinstance(target, OutputTarget) or target.parameter.requires_grad
            if not watch.steps and not watch.announced_steps and is_trained:
                self._warn(
                    f"no optimizer step of '{target.name}' was seen: its optimizer was replaced or stepped out of "
                    "sight (in Lightning: use_pl_optimizer=False)"
                )
            verdicts = self._alerts.standing.get(target.name, [])
            line = closing_line(self.recorder.latest, f"{PREFIX}/{target.name}/", watch.steps, verdicts)
            if line:
                self._inform(f"'{target.name}': {line}")
        self._report_unclosed_windows()
        self._report_empty_windows()
        self._alerts.conclude()
        self.flush()

    def _report_unclosed_windows(self) -> None:
        """One line for all targets of which nothing is predicted, since the run was shorter than a window."""
        lengths = {watch: steps for watch in self.recorder.watches if (steps := _unclosed_steps(watch)) is not None}
        if lengths:
            watch, length = next(iter(lengths.items()))
            names = ", ".join(f"'{watch.target.name}'" for watch in lengths)
            self._inform(
                f"{names}: no window of {length} steps closed in the run's {watch.steps} steps, so no norm is "
                f"predicted; train longer, or pass a shorter one: window={max(1, watch.steps // 2)}"
            )

    def _report_empty_windows(self) -> None:
        """One line for all targets whose windows closed with nothing measured in them."""
        watches = [watch for watch in self.recorder.watches if _has_empty_windows(watch)]
        if watches:
            names = ", ".join(f"'{watch.target.name}'" for watch in watches)
            steps, cadence = watches[0].steps, self._options["every_n_steps"]
            window = max(1, steps // 2)
            is_short = cadence > 1 and window < max(cadence, _SHORT_WINDOW)
            way_out = "measure more often: every_n_steps=1" if is_short else f"pass a longer window: window={window}"
            self._inform(
                f"{names}: no window of the run's {steps} steps held a whole measurement, which spans the steps that "
                f"the optimizer's momentum remembers or, if fewer, every_n_steps={cadence}; train longer, "
                f"or {way_out}"
            )

    def point_to_report(self) -> None:
        """One line on how to look at the history, if there is one."""
        if self._history is not None and self._history.root.is_dir():
            folder, working_folder = self._history.log_dir.resolve(), Path.cwd()
            run = folder.relative_to(working_folder) if folder.is_relative_to(working_folder) else folder
            self._inform(f"to see the norms: normdyn report {shlex.quote(str(run))}")

    def _caution_of_short_window(self) -> None:
        window = self._options["window"]
        if isinstance(window, int) and window < _SHORT_WINDOW and self._measures.fit:
            self._inform(
                f"window={window}: norms hardly move in so few steps, so that any prediction looks right; take "
                f"{_SHORT_WINDOW} or more"
            )

    def stop(self) -> None:
        """Puts the history on disk, where it is marked as complete, and removes every hook."""
        self.recorder.detach()
        if self._history is not None and self._has_begun:
            self._history.end()
        self._has_begun = False  # when it is called again, the folder may be another run's

    def _begin_history(self, bookmark: Bookmark | None) -> None:
        if self._history is not None:
            self._history.begin({watch.target.name: watch.steps for watch in self.recorder.watches}, bookmark)
        self._has_begun = True

    def flush(self) -> None:
        """Puts all history on disk."""
        if self._history is not None:
            self._history.flush()

    def switch_off(self, error: Exception) -> None:
        """Ends all observation because of an error that concerns no single target; what is on disk stays."""
        if self._is_off:
            return
        self._is_off = True
        steps = max((watch.steps for watch in self.recorder.watches), default=0)
        self._say_here(
            f"it failed after step {steps} ({in_a_line(error)}) and is off from now on; the training goes on, and what "
            f"is on disk stays; {self._failures.record(error, f'{self._name}, after step {steps}')}"
        )
        for watch in tuple(self.recorder.watches):
            self._remove(watch)
        self.recorder.detach()

    def _on_error(self, watch: Watch | None, error: Exception) -> None:
        """Ends the observation of the target in which something failed, or all of it.

        Raises:
            SettingsError: what the user has to set otherwise, in the first step.
        """
        if watch is None:
            if isinstance(error, SettingsError):
                raise error
            self.switch_off(error)
            return
        if isinstance(error, SettingsError) and watch.is_in_first_step:
            raise error
        if watch in self.recorder.watches:
            self._end(watch, error)

    def end_targets(self, kind: type[Target], error: Exception) -> None:
        """Ends the observation of all targets of a kind, of which nothing can be measured any more.

        Args:
            kind: their class.
            error: says why.
        """
        for watch in tuple(self.recorder.watches):
            if isinstance(watch.target, kind):
                self._end(watch, error)

    def _end(self, watch: Watch, error: Exception) -> None:
        subject = f"'{watch.target.name}' is not measured any more after step {watch.steps}"
        self._remove(watch)
        self._closed_targets.add(watch.target.name)
        if isinstance(error, (TargetEndedError, SettingsError)):
            self._say_here(f"{subject}: {error}")
            return
        self._say_here(
            f"{subject}: measuring it failed ({in_a_line(error)}); the training goes on, and what is on disk stays; "
            f"{self._failures.record(error, f'{self._name}, {subject}')}"
        )

    def _remove(self, watch: Watch) -> None:
        try:
            self.recorder.remove(watch)
        except Exception as error:  # what failed once may fail again when it is taken down
            self._failures.record(error, f"{self._name}, taking down '{watch.target.name}'")

    def is_trained_by(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer trains a target that the model has now."""
        ids = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return any(
            id(parameter) in ids
            for target in self._present_targets().values()
            for parameter in ([target.parameter] if isinstance(target, TableTarget) else target.module.parameters())
        )

    def _present_targets(self) -> dict[str, Target]:
        return present_targets(self._module, self._options["targets"], self._sampling)

    def _follow_changes(self) -> None:
        """Goes on with the parameters, modules and optimizers that the model has now."""
        present = self._present_targets()
        notices: dict[str, list[str]] = {}
        for watch in tuple(self.recorder.watches):
            notice = self._follow(watch, present.get(watch.target.name))
            if notice:
                notices.setdefault(notice, []).append(f"'{watch.target.name}'")
        watched = {watch.target.name for watch in self.recorder.watches}
        for name in present.keys() - watched - self._closed_targets:
            self._take_up(present[name])
        self._facts = RunFacts(self._module, self._run)
        self.recorder.dormant = self._dormant()
        for notice, names in notices.items():
            self._warn(f"{', '.join(names)}: {notice}")

    def _follow(self, watch: Watch, target: Target | None) -> str:
        """Goes on with what a target is now.

        Returns:
            What is to be said of it; empty for nothing.
        """
        try:
            target = target or same_name(self._module, watch.target, self._sampling)
            change = self._change(watch, target)
            if change and target is not None:
                return self._replace(watch, target, change)
        except TargetGoneError as error:
            self._remove(watch)
            self._ended_steps[watch.target.name] = watch.steps
            return f"{error}; not measured any more after step {watch.steps}"
        except Exception as error:  # as everywhere: it concerns this target alone
            self._on_error(watch, error)
            return ""
        return self._pause_or_go_on(watch)

    def _change(self, watch: Watch, target: Target | None) -> str:
        """What sets a target apart from what is watched, in words; empty for nothing.

        Raises:
            TargetGoneError: if there is no such target any more, or no optimizer trains it.
        """
        if target is None:
            raise TargetGoneError(absence(self._module, watch.target))
        group, change = find_parameter_group(target, self._run.followed()), difference(watch.target, target)
        if group is None:
            raise TargetGoneError(
                f"{change}, which no optimizer trains" if change else "no optimizer trains it any more"
            )
        if change or group.optimizer is not watch.optimizer:
            kinds = [type(optimizer).__name__ for optimizer in (group.optimizer, watch.optimizer)]
            return change or f"trained by another optimizer, {kinds[0]} (before: {kinds[1]})"
        watch.target.go_by(target)
        return ""

    def _replace(self, watch: Watch, target: Target, change: str) -> str:
        self._remove(watch)
        self._begin_in_mid_run(target, watch.history, watch.steps, watch.skipped_steps)
        return f"{change} from step {watch.steps + 1} on; followed, with statistics that start afresh there"

    def _pause_or_go_on(self, watch: Watch) -> str:
        was_paused, watch.is_paused = watch.is_paused, _is_frozen(watch.target)
        if watch.is_paused and not was_paused:
            self.recorder.end_keys(watch)
            return f"frozen after step {watch.steps}; measured again once it is trained"
        if was_paused and not watch.is_paused:
            self._inform(f"'{watch.target.name}': trained again from step {watch.steps + 1} on, and measured")
        return ""

    def _take_up(self, target: Target) -> None:
        """Begins to follow a target that is trained from now on."""
        is_known = target.name in self._ended_steps or isinstance(target, TableTarget)
        if is_known and find_parameter_group(target, self._run.followed()) is not None:
            counts = [watch.steps for watch in self.recorder.watches] + list(self._ended_steps.values())
            steps = max(counts, default=0)
            self._inform(f"'{target.name}': trained from step {steps + 1} on, and followed")
            self._begin_in_mid_run(target, self._target_history(target.name), steps, 0)

    def _begin_in_mid_run(self, target: Target, history: TargetWriter | None, steps: int, skipped_steps: int) -> None:
        watch = self._watches.watch(target, history)
        if watch is None:
            return
        watch.skipped_steps = skipped_steps
        self._open_meeting(watch)
        self._alerts.restart(target.name, steps)
        try:
            self.recorder.add(watch, steps)
            self._describe(watch)
            watch.is_paused = _is_frozen(target)
        except Exception as error:  # as everywhere
            self._on_error(watch, error)

    def _build(self) -> tuple[Recorder, WatchFactory, list[str]]:
        """What follows the targets that the model has, what makes watches of further ones, and the targets' names."""
        options = self._options
        targets = find_targets(
            self._module,
            options["targets"],
            max_tracked_rows=options["max_tracked_rows"],
            row_counts=options["row_counts"],
        )
        self._sampling = Sampling(options["max_tracked_rows"], _counts_by_name(options["row_counts"], targets))
        names = [target.name for target in targets]
        factory = WatchFactory(
            self._module,
            self._run,
            self._measures,
            options,
            target_names=names,
            has_other_ranks=self._has_other_ranks,
            warn=self._warn,
            say_here=self._say_here,
        )
        name_holders = self._name_holders if self._history is not None else []
        self._row_names = find_row_names(options["names"], targets, name_holders)
        watches = (factory.watch(target, self._target_history(target.name)) for target in targets)
        recorder = Recorder(
            [watch for watch in watches if watch is not None], Contingencies(self._on_error, self._follow_changes)
        )
        recorder.dormant = self._dormant()
        return recorder, factory, names

    def _dormant(self) -> list[torch.nn.Parameter]:
        """Tables that nothing trains now, and that are targets as soon as something does."""
        return frozen_tables(self._module) if "auto" in self._options["targets"] else []

    @property
    def awaits_tables(self) -> bool:
        """Whether a table may come to be followed that is not now."""
        return bool(self.recorder.dormant)

    def _new_alerts(self) -> Alerts:
        is_first = self._run.ranks.rank == 0
        log = AlertLog(self._history, writer=self._name) if self._history is not None and is_first else None
        return Alerts(self._warn, on_alert=self._options["on_alert"], log=log, speaks=is_first)

    def _history_folder(self) -> Path | None:
        return self._history.root if self._history is not None and self._has_begun else None

    def _target_history(self, name: str) -> TargetWriter | None:
        return self._history.target(name) if self._history is not None else None

    def _describe(self, watch: Watch) -> None:
        """Puts on record what is watched. Not before training starts: the number of steps would load the data early."""
        trainer = find_parameter_group(watch.target, self._run.followed())
        assert trainer is not None
        rule = equilibrium_rule(*trainer)
        if watch.history is not None:
            settings = trainer.optimizer.param_groups[trainer.number]
            description = _description(watch.target, rule, settings, self._run.total_steps(trainer.optimizer))
            cadence = {name: self._options[name] for name in _CADENCES} if self._measures.fit else {}  # type: ignore[literal-required]
            watch.history.describe(description | cadence)
            watch.history.name_rows(self._row_names.get(watch.target.name, {}))
        if isinstance(watch.target, TableTarget):
            if rule.radial_decay <= 0:
                self._inform(f"'{watch.target.name}' under {rule.optimizer}: {rule.law}")
            self._say_how_sampled(watch.target)

    def _say_how_sampled(self, target: TableTarget) -> None:
        """Says once of a table how few of its rows are seen, where the frequent ones are hardly among them."""
        if target.sample.stride >= _SPARSE_SAMPLE:
            self._inform(
                f"'{target.name}': one row in {target.sample.stride:,} is tracked, so the rows that occur often are "
                "hardly among them; with row_counts= (torch.bincount(ids, minlength=rows)) each octave of frequency is"
            )

    def _warn(self, message: str) -> None:
        self._run.warn(f"{self._name}: {message}")

    def _say_here(self, message: str) -> None:
        """Warns on any rank of what may have come up on this one alone."""
        caution(f"{self._name}: {message}", stacklevel=2)

    def _inform(self, message: str) -> None:
        self._run.inform(f"{self._name}: {message}")


def _description(
    target: TableTarget | OutputTarget, rule: EquilibriumRule, group: dict[str, Any], total_steps: int | None
) -> dict[str, Any]:
    table: dict[str, Any] = {}
    if isinstance(target, TableTarget):
        table = {
            "rows": target.rows,
            "dim": target.dim,
            "tracked_rows": target.tracked_rows,
            **({"row_stride": target.sample.stride} if target.sample.stride else {"row_sample": "octaves of counts"}),
        }
    return {
        "target": target.name,
        "kind": target.kind,
        **table,
        "lr": nominal_lr(group),
        **({"base_lr": float(group["initial_lr"])} if group.get("initial_lr", 0.0) > nominal_lr(group) else {}),
        "weight_decay": float(group.get("weight_decay") or 0.0),
        "optimizer": rule.optimizer,
        **({"law": rule.law} if table else {}),
        "total_steps": total_steps,
        "version": __version__,
    }


def _counts_by_name(row_counts: RowCounts, targets: Sequence[Target]) -> Mapping[str, RowCounts]:
    """Target name to counts; those without a name are of the only table."""
    if row_counts is None or isinstance(row_counts, Mapping):
        return row_counts or {}
    return {target.name: row_counts for target in targets if isinstance(target, TableTarget)}


_SHORT_WINDOW = 50
_SPARSE_SAMPLE = 100
_CADENCES = ("every_n_steps", "fit_every_n_steps", "window")
"""Options that tell two records of one target apart."""


def _is_frozen(target: Target) -> bool:
    return isinstance(target, TableTarget) and not target.parameter.requires_grad


def _has_empty_windows(watch: Watch) -> bool:
    """Whether windows closed, none of which said anything."""
    fits = [fit for fit in watch.measurements.values() if isinstance(fit, WindowedFit)]
    if not watch.steps or any(isinstance(fit, EncoderBalance) and fit.gave_up for fit in fits):
        return False
    return any(fit.has_closed and not fit.has_judged for fit in fits)


def _unclosed_steps(watch: Watch) -> int | None:
    """Length of the window that did not close in the whole run; ``None`` if one did, or for another reason."""
    fits = [fit for fit in watch.measurements.values() if isinstance(fit, WindowedFit)]
    if not watch.steps or any(isinstance(fit, EncoderBalance) and fit.gave_up for fit in fits):
        return None
    return next((fit.unclosed_steps for fit in fits), None)
