"""The norms that a run ended with as a section of Markdown, for the card of the model that it trained."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from lightning_normdyn._version import __version__
from lightning_normdyn.atomic_file import write_atomically
from lightning_normdyn.core.object_checks import check_path
from lightning_normdyn.history import TargetHistory, read_run
from lightning_normdyn.report.kit.numbers import percent, plain
from lightning_normdyn.report.run.target_record import Series, read_series

_BEGIN, _END = "<!-- normdyn: norms of embeddings -->", "<!-- normdyn: end -->"
_BEFORE = ("### Framework Versions", "## Citation")
"""Headings of sentence-transformers' cards that the section goes ahead of."""
_HEAD = ("target", "median norm", "5% to 95%", "spread", "at first", "would settle at", "steps")


def model_card_section(log_dir: str | os.PathLike[str]) -> str:
    """The norms of each target at the end of a run, and where they began and would settle, as Markdown.

    The norms are of the vectors that were met: rows of a table, or what an encoder returned in the last measured step.
    Spread is their standard deviation over their mean: a cosine loses it, an inner product ranks by it.

    Args:
        log_dir: folder of the run, which holds ``normdyn/``; ``output_dir`` of a Trainer of transformers.

    Returns:
        A heading, a table with a line a target, and a line that names this package; ends with a line break.

    Raises:
        FileNotFoundError: if there is no history in the folder.
        ValueError: if it holds no norms.
    """
    lines = [line for name, history in read_run(log_dir).items() if (line := _line(name, history))]
    if not lines:
        raise ValueError(
            f"log_dir: expected the history of a run that logged norms, got '{os.fspath(log_dir)}' without any"
        )
    table = [_row(_HEAD), _row(["---"] * len(_HEAD)), *lines]
    source = f"Measured while it trained, by lightning-normdyn {__version__}."
    return "\n".join(["### Norms of embeddings", "", *table, "", source, ""])


def write_model_card_section(card: str | os.PathLike[str], log_dir: str | os.PathLike[str]) -> None:
    """Puts :func:`model_card_section` into a model card, in the place of one that it put there before.

    Args:
        card: the card, as ``README.md`` in the folder that ``model.save_pretrained`` wrote.
        log_dir: folder of the run.

    Raises:
        FileNotFoundError: if there is no such card, or no history.
    """
    check_path(card=card, hint="pass the README.md that the model was saved with")
    path = Path(card)
    if not path.is_file():
        raise FileNotFoundError(f"card: no file '{path}'; save the model first, which writes README.md beside it")
    section = f"{_BEGIN}\n{model_card_section(log_dir)}{_END}\n"
    text = re.sub(rf"{re.escape(_BEGIN)}.*?{re.escape(_END)}\n\n?", "", path.read_text(encoding="utf-8"), flags=re.S)
    places = [place for heading in _BEFORE if (place := text.find(f"\n{heading}")) >= 0]
    place = min(places) + 1 if places else len(text)
    before = text[:place] if places or text.endswith("\n\n") or not text else text.rstrip("\n") + "\n\n"
    write_atomically(path, f"{before}{section}\n{text[place:]}".encode())


def _line(name: str, history: TargetHistory) -> str:
    series = read_series(history.quantities())
    norms = series.get("norm_p50")
    if norms is None or not len(norms.steps):
        return ""
    cells = {key: _last(series, key) for key in ("norm_p05", "norm_p95", "equilibrium_norm_p50", "norm_cv")}
    low, high, settled, spread = (cells[key] for key in ("norm_p05", "norm_p95", "equilibrium_norm_p50", "norm_cv"))
    return _row(
        [
            f"`{name}`",
            plain(norms.last),
            "" if low is None or high is None else f"{plain(low)} to {plain(high)}",
            "" if spread is None else percent(spread),
            plain(float(norms.values[0])),
            "" if settled is None else plain(settled),
            f"{int(norms.steps[-1]):,}",
        ]
    )


def _last(series: Mapping[str, Series], key: str) -> float | None:
    entries = series.get(key)
    return entries.last if entries is not None and len(entries.steps) else None


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
