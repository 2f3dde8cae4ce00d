"""One training of a grid, as it is handed to a process of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_normdyn.atomic_file import write_json
from lightning_normdyn.cli.fit import WITHOUT_RUN

RESULT_FILE, JOB_FILE, LOG_FILE = "result.json", "job.json", "log.txt"
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Job:
    """What to train.

    Attributes:
        words: of LightningCLI: the configs and what overrides them.
        variant: the normalization, or ``untrained`` for what needs no training at all.
        lr: the peak of the learning rate.
        seed: of everything.
        temperature_factor: its temperature, in units of the one at which its scores spread like those of cosine.
        folder: of this run alone.
        threads: that torch may use.
    """

    words: tuple[str, ...]
    variant: str
    lr: float
    seed: int
    folder: str
    threads: int
    temperature_factor: float = 1.0

    @property
    def name(self) -> str:
        """Unique within a grid; the last part of the folder."""
        if self.variant == UNTRAINED:
            return UNTRAINED
        return f"{self.variant}-lr{self.lr:g}-t{self.temperature_factor:g}-seed{self.seed}"

    @property
    def result(self) -> Path:
        """Where the outcome goes."""
        return Path(self.folder) / RESULT_FILE

    def command_line(self) -> list[str]:
        """Words of LightningCLI for this very run; what it writes stays in its folder."""
        variant = "cosine" if self.variant == UNTRAINED else self.variant
        settings = {
            "seed_everything": self.seed,
            "model.init_args.normalization": variant,
            "model.init_args.lr": self.lr,
            "trainer.default_root_dir": self.folder,
            "trainer.enable_progress_bar": "false",
        }
        return [*self.words, *(f"--{name}={value}" for name, value in settings.items()), *WITHOUT_RUN]

    def write(self) -> Path:
        """Writes the job into its folder, for the process that does it."""
        file = Path(self.folder) / JOB_FILE
        write_json(file, asdict(self))
        return file


def read_job(file: Path) -> Job:
    """What :meth:`Job.write` wrote."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return Job(**content | {"words": tuple(content["words"])})
