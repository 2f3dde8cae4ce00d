"""The verdict on scoring in words: what to do and how sure, the confound by length, and the evidence in lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from lightning_normdyn.core.statistics.interval import Interval

if TYPE_CHECKING:
    from lightning_normdyn.retrieval.exponent.calibration import Calibration
    from lightning_normdyn.retrieval.exponent.confounds import ConfoundReport

Verdict = Literal["no gain", "length", "partly length", "norm", "unclear"]


class ScoringVerdict(NamedTuple):
    """How to score with some embeddings, and why.

    Attributes:
        kind: ``no gain``; ``norm`` where norms gain and lengths, if they are known, do not explain it; ``partly
            length`` and ``length`` where they do; ``unclear`` where neither norms without length nor length gain alone.
        alpha: exponent of the norm to score with; 0 where the verdict is not to use one.
        length_exponent: exponent of ``1 + length`` that gains by itself; 0 where none does.
        action: what to do and how sure that is, a sentence.
        confound: what length has to do with it, a sentence; empty where there is no gain to explain.
        evidence: how that was tested and what else was measured, short sentences.
    """

    kind: Verdict
    alpha: float
    length_exponent: float
    action: str
    confound: str
    evidence: tuple[str, ...] = ()

    @property
    def opening(self) -> str:
        """What to do and how sure, and then the confound."""
        return f"{self.action} {self.confound}".rstrip()

    @property
    def sentence(self) -> str:
        """All of it: the opening and the evidence."""
        return " ".join((self.opening, *self.evidence))


def scoring_verdict(norm: Calibration, confounds: ConfoundReport | None = None) -> ScoringVerdict:
    """The one verdict on the same vectors, queries and judgements, whoever asks.

    Args:
        norm: calibration by norms.
        confounds: what lengths explain of it, where lengths are known.

    Returns:
        The verdict in numbers and words.

    Raises:
        ValueError: if something is no record of that kind.
    """
    for argument, record, maker in (("norm", norm, "calibrate"), ("confounds", confounds, "confound_report")):
        if not hasattr(type(record), "sentence") and (record is not None or argument == "norm"):
            raise ValueError(f"{argument}: expected what {maker} returns, got {type(record).__name__}")
    kind: Verdict = ("norm" if norm.significant else "no gain") if confounds is None else confounds.verdict
    length_exponent = confounds.length.alpha.value if confounds is not None and confounds.length_helps else 0.0
    alpha = 0.0 if kind == "length" and length_exponent else norm.advice
    evidence = _evidence(norm, confounds)
    if confounds is None:
        return ScoringVerdict(kind, alpha, 0.0, _of_norms(norm), _UNKNOWN if norm.significant else "", evidence)
    if kind == "length":
        return ScoringVerdict(kind, alpha, length_exponent, _of_length(confounds), _through_length(confounds), evidence)
    action = _of_norms(norm, in_part=kind == "partly length")
    confound = _explanation(confounds) if norm.significant else _no_gain_by_length(confounds)
    return ScoringVerdict(kind, alpha, length_exponent, action, confound, evidence)


_UNKNOWN = "Lengths of the documents were not at hand, so nobody knows whether they explain it."


def _of_norms(norm: Calibration, *, in_part: bool = False) -> str:
    p = f"p = {norm.p_value:.2g}"
    if norm.significant:
        edge = "; it is the edge of the sweep: sweep further" * norm.at_edge
        return (
            f"Norms help{', in part through length' * in_part}: take exponent {_bracketed(norm.alpha, 2)}, which "
            f"raises {norm.measure} from {norm.baseline:.4f} by {_bracketed(norm.gain)} ({p}){edge}."
        )
    if norm.flat:
        return f"No gain: score by cosine, for no exponent changes {norm.measure} of any query ({norm.baseline:.4f})."
    if norm.p_value > 1 - norm.level:
        return (
            f"No gain: score by cosine, for no exponent raises {norm.measure} above its {norm.baseline:.4f} beyond "
            f"chance ({p})."
        )
    doubt = (
        f"from one sample of the queries to the next the best one changes its sign ({_bracketed(norm.alpha, 2)})"
        if norm.gain.low > 0
        else f"choosing it on some queries does not surely help others (p = {norm.gain_p_value:.2g})"
    )
    return (
        f"No gain to rely on: score by cosine until more queries are judged; some exponent raises {norm.measure} above "
        f"its {norm.baseline:.4f} ({p}), but {doubt}."
    )


def _of_length(confounds: ConfoundReport) -> str:
    norm, length, controls = confounds.norm, confounds.length, _controls(confounds)
    if not confounds.length_helps:
        return (
            f"{controls.capitalize()} {_verb(confounds, 'explain')} the gain: score by cosine, or by exponent "
            f"{_bracketed(norm.alpha, 2)} of the norm while {controls} stay{'s' * (len(confounds.controls) == 1)} as "
            f"here; it raises {norm.measure} from {norm.baseline:.4f} by {_bracketed(norm.gain)} "
            f"(p = {norm.p_value:.2g})."
        )
    opening = (
        f"{controls.capitalize()} {_verb(confounds, 'explain')} the gain: score"
        if norm.significant
        else "Length helps and norms do not: score"
    )
    return (
        f"{opening} by cos · (1 + length)^{_exponent(length.alpha)} instead of the norm; it raises {length.measure} "
        f"from {length.baseline:.4f} by {_bracketed(length.gain)} (p = {length.p_value:.2g})."
    )


def _through_length(confounds: ConfoundReport) -> str:
    norm = confounds.norm
    if not norm.significant:
        return f"Norms gain {_gain(norm)} (p = {norm.p_value:.2g}){_correlation(confounds)}."
    return (
        f"Norms gain {_gain(norm)} at exponent {norm.alpha.value:.2f}, and with {_controls(confounds)} taken out "
        f"{_gain(confounds.residual)}{_correlation(confounds)}."
    )


def _explanation(confounds: ConfoundReport) -> str:
    controls = _controls(confounds)
    name, verb = controls.capitalize(), _verb(confounds, "explain")
    explanation = {
        "norm": f"{name} {_verb(confounds, 'do')} not explain the gain",
        "partly length": f"{name} {verb} part of the gain",
        "unclear": f"Whether {controls} {verb} the gain is open",
    }[confounds.verdict]
    return f"{explanation}{_correlation(confounds)}."


def _no_gain_by_length(confounds: ConfoundReport) -> str:
    """That length was tried as well."""
    return f"Nor does any exponent of length (p = {confounds.length.p_value:.2g}){_correlation(confounds)}."


def _evidence(norm: Calibration, confounds: ConfoundReport | None) -> tuple[str, ...]:
    """What was measured, and how it was tested."""
    by_length = [] if confounds is None else _gains_by_length(norm, confounds)
    if confounds is None and not norm.significant and not norm.flat:
        by_length = [f"Held-out change by norms {_gain(norm)}."]
    losses = [_loss("norms", norm), "" if confounds is None else _loss("length", confounds.length)]
    return tuple(sentence for sentence in (*by_length, *losses, _test(norm, confounds)) if sentence)


def _gains_by_length(norm: Calibration, confounds: ConfoundReport) -> list[str]:
    """Gains by norms without what is held fixed, by what that predicts, and by length."""
    length, predicted, controls = confounds.length, confounds.predicted, _controls(confounds)
    if not norm.significant:
        return [f"Held-out change by norms {_gain(norm)}, by length {_gain(length)}."]
    through = "" if predicted is None else f", those that {controls} alone would predict {_gain(predicted)}"
    chance = ", neither beyond chance once corrected" if confounds.verdict == "unclear" else ""
    gains = f"With {controls} taken out norms gain {_gain(confounds.residual)}, length alone {_gain(length)}{chance}"
    helps = ""
    if confounds.verdict != "length" and confounds.length_helps:
        more = " and more than norms do" if confounds.over_length.high < 0 else ""
        helps = f"Length helps by itself{more}: cos · (1 + length)^{_exponent(length.alpha)}."
    return [f"{gains}{through}.", helps]


def _loss(name: str, calibration: Calibration) -> str:
    """Why the p of a change that is surely negative is near 1."""
    if calibration.flat or not calibration.gain.high < 0:
        return ""
    return (
        f"The change by {name} is below 0, for an exponent that some queries choose costs others; p is near 1 all the "
        "same, as it asks for gains alone."
    )


def _test(norm: Calibration, confounds: ConfoundReport | None) -> str:
    lengths = "" if confounds is None else f", of length for {_tried(confounds.length)}"
    return (
        f"Tested on {_sample(norm)}: gains are of those that did not choose the exponent; p is one-sided and corrected "
        f"for {_tried(norm)}{lengths}."
    )


def _correlation(confounds: ConfoundReport) -> str:
    correlation = confounds.correlations.get("length")
    if correlation is None or not math.isfinite(correlation.r):
        return ""
    return f"; Spearman of norm and length {_bracketed(correlation.interval, 2, sign='+')}"


def _controls(confounds: ConfoundReport) -> str:
    *others, last = confounds.controls
    return f"{', '.join(others)} and {last}" if others else last


def _verb(confounds: ConfoundReport, verb: str) -> str:
    singular = {"explain": "explains", "do": "does"}
    return singular[verb] if len(confounds.controls) == 1 else verb


def _tried(calibration: Calibration) -> str:
    alphas = calibration.alphas
    return f"{len(alphas)} exponents from {float(alphas[0]):.3g} to {float(alphas[-1]):.3g}"


def _sample(calibration: Calibration) -> str:
    return f"{calibration.queries} queries" + (
        f", {calibration.left_out} without judgements left out" * bool(calibration.left_out)
    )


def _gain(calibration: Calibration) -> str:
    return _bracketed(calibration.gain, sign="+")


def _bracketed(interval: Interval, digits: int = 4, *, sign: str = "") -> str:
    """A value with its ends in brackets, in ASCII that can be read again."""
    value, low, high = (f"{number:{sign}.{digits}f}" for number in interval)
    return f"{value} [{low}, {high}]"


def _exponent(interval: Interval) -> str:
    """As many digits as an exponent needs, however small it is."""
    digits = 2 if abs(interval.value) >= 0.1 else 3
    return _bracketed(interval, digits)
