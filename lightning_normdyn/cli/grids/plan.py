"""Which trainings a grid needs, and which of them are there already."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.cli.grids.job import RESULT_FILE, UNTRAINED, Job
from lightning_normdyn.cli.run_folder import create_run_folder, make_writable
from lightning_normdyn.cli.shipped_configs import config_file
from lightning_normdyn.tasks.grid.tuning import Choice

PLAN_FILE, LOOKS_FILE, RUNS_FOLDER = "grid.json", "looks.json", "runs"


@dataclass(frozen=True)
class Plan:
    """A grid.

    Attributes:
        words: of LightningCLI: configs and overrides.
        variants: normalizations.
        lrs: that each variant tries with the first seed.
        seeds: trainings of each variant at its choice.
        folder: of the whole grid.
        threads: of each process.
        temperature_factors: temperatures that each variant tries at its rate, in units of the one at which its scores
            spread like those of cosine.
        most_seeds: trainings of a variant at most, where seeds are added until the answer is clear; ``None`` for
            ``seeds`` and no more.
    """

    words: tuple[str, ...]
    variants: tuple[str, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    folder: Path
    threads: int
    temperature_factors: tuple[float, ...] = (1.0,)
    most_seeds: int | None = None

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds after which one looks whether the answer is clear; none where there is one look."""
        return () if self.most_seeds is None else tuple(range(len(self.seeds), self.most_seeds + 1))

    def trainings(self, seeds: int) -> int:
        """How many there are in all with so many seeds, without what lists are extended by."""
        return len(self.variants) * (len(self.lrs) + len(self.temperature_factors) - 1 + seeds - 1)

    @property
    def centre(self) -> float:
        """The temperature at which learning rates are tried."""
        factors = sorted(self.temperature_factors)
        return 1.0 if 1.0 in factors else factors[len(factors) // 2]

    def trials(self) -> list[Job]:
        """What needs no training, and every variant at every rate with the first seed."""
        choices = [Choice(lr, self.centre) for lr in self.lrs]
        first = self.seeds[0]
        return [self.untrained(), *(self.job(name, choice, first) for name in self.variants for choice in choices)]

    def repeats(self, choices: Mapping[str, Choice], seeds: Sequence[int]) -> list[Job]:
        """Every variant at its own choice with some seeds."""
        return [self.job(variant, choice, seed) for seed in seeds for variant, choice in choices.items()]

    def floors(self) -> dict[str, float]:
        """What needs no training, if it has been measured."""
        file = self.folder / RUNS_FOLDER / UNTRAINED / RESULT_FILE
        measures = _read(file) if file.is_file() else {}
        return {name: value for name, value in measures.items() if value is not None}

    def untrained(self) -> Job:
        """What needs no training."""
        return self.job(UNTRAINED, Choice(self.lrs[0]), self.seeds[0])

    def job(self, variant: str, choice: Choice, seed: int) -> Job:
        """A training."""
        job = Job(self.words, variant, choice.lr, seed, "", self.threads, choice.temperature_factor)
        return replace(job, folder=str(self.folder / RUNS_FOLDER / job.name))


def make_folder(out: str | None, words: Sequence[str]) -> Path:
    """A new folder for a grid, or one that holds the same grid and is gone on with.

    Raises:
        ValueError: if it holds something else.
        OSError: if it cannot be written.
    """
    configuration = _contents(words)
    if out is None or not (Path(out) / PLAN_FILE).is_file():
        folder = create_run_folder(out, command="grid")
        write_json(folder / PLAN_FILE, configuration, indent=2)
        return folder
    folder = Path(out)
    make_writable(folder)
    before = _read(folder / PLAN_FILE)
    if before != configuration:
        raise ValueError(
            f"out: '{folder}' holds a grid of another configuration ({_difference(before, configuration)}); take that "
            "one's again, or choose another folder"
        )
    return folder


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What a configuration has that the one before it had not, and the other way round."""
    words = [content.get("words") or [] for content in (before, now)]
    only = [shlex.join(word for word in these if word not in those) for these, those in (words, words[::-1])]
    sides = [f"{side} {options}" for side, options in zip(("with", "without"), only, strict=True) if options]
    if sides:
        return f"it was made {' and '.join(sides)}"
    return "a config file reads otherwise now" if words[0] == words[1] else "its options stand in another order"


def fix_looks(folder: Path, looks: Sequence[int]) -> None:
    """Writes down, before the first look, when one will look: levels that hold over all looks depend on it.

    Raises:
        ValueError: if the grid of the folder was to be looked at otherwise.
    """
    file, content = folder / LOOKS_FILE, {"seeds": list(looks)}
    if not file.is_file():
        write_json(file, content)
        return
    before = _read(file)
    if before != content:
        fixed = before.get("seeds") or [0]
        raise ValueError(
            f"max_seeds: expected looks at {fixed[0]} to {fixed[-1]} seeds, as this grid began with, got {looks[0]} to "
            f"{looks[-1]}; what is decided after looking holds no longer, so pass --seeds {fixed[0]} --max-seeds "
            f"{fixed[-1]}, or another --out"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"out: '{file}' is damaged ({error}); remove it, or choose another folder") from error


def _contents(words: Sequence[str]) -> dict[str, Any]:
    """What trainings of one folder share: the configs as they read now, and the overrides."""
    files = [word for word, previous in zip(words, ["", *words], strict=False) if previous == "--config"]
    return {
        "words": list(words),
        "configs": [Path(config_file(file)).read_text(encoding="utf-8") for file in files],
    }
