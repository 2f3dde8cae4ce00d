"""The losses that a :class:`ContrastiveMixin` is given by one word, and which of its options each heeds."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.cosent import CoSENT
from lightning_normdyn.losses.distillation import DistillKLDiv
from lightning_normdyn.losses.full_softmax import FullSoftmax
from lightning_normdyn.losses.in_batch import InBatchLoss
from lightning_normdyn.losses.infonce import InfoNCE
from lightning_normdyn.losses.margin_mse import MarginMSE
from lightning_normdyn.losses.max_sim import MaxSim
from lightning_normdyn.losses.options import MixinLoss, SoftmaxOptions
from lightning_normdyn.losses.sigmoid import SigmoidContrastive
from lightning_normdyn.losses.soft_targets import GradedContrastive
from lightning_normdyn.losses.summed import SummedLoss
from lightning_normdyn.losses.sup_con import SupCon
from lightning_normdyn.nearest_word import nearest

NamedContrast = InBatchLoss | MaxSim | CoSENT | FullSoftmax | SupCon
"""What a word makes."""
_SUMMABLE = ("infonce", "sigmoid")
_SHARED = frozenset(SoftmaxOptions.__optional_keys__)
_DIRECTIONS = frozenset({"symmetric", "direction"})
_TEACHER = frozenset({"teacher_temperature", "teacher_normalization"})
DISTILL_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(DistillKLDiv).parameters.items()
    if name in _TEACHER or name == "candidates"
}
"""What a mixin takes for the losses of a teacher alone."""


class _Word(NamedTuple):
    """A loss by its word.

    Attributes:
        make: its class.
        heeds: the options that mean something to it.
        reason: why the others do not.
    """

    make: type[
        SigmoidContrastive | MaxSim | FullSoftmax | SupCon | DistillKLDiv | MarginMSE | GradedContrastive | CoSENT
    ]
    heeds: frozenset[str]
    reason: str


_WORDS = {
    "sigmoid": _Word(SigmoidContrastive, _SHARED, "the sigmoid loss, which judges each pair by itself"),
    "maxsim": _Word(MaxSim, _SHARED | {"symmetric"}, "MaxSim, which scores a vector a token"),
    "full_softmax": _Word(FullSoftmax, _SHARED, "the full softmax, which goes from queries to a table of documents"),
    "supcon": _Word(SupCon, _SHARED, "SupCon, which takes embeddings and their labels"),
    "distill_kl": _Word(
        DistillKLDiv,
        _SHARED | _DIRECTIONS | _TEACHER | {"candidates", "with_metrics"},
        "DistillKLDiv, whose target is a teacher's distribution",
    ),
    "margin_mse": _Word(
        MarginMSE, _SHARED | _TEACHER | {"with_metrics"}, "MarginMSE, which compares the listed documents of a query"
    ),
    "graded": _Word(GradedContrastive, _SHARED | _DIRECTIONS, "GradedContrastive, whose target is made of grades"),
    "cosent": _Word(CoSENT, _SHARED, "CoSENT, which compares pairs in the order of their grades"),
}


def named_loss(word: object, infonce: InfoNCE, given: Mapping[str, Any]) -> NamedContrast:
    """The loss of a word, or of several, with the options of an InfoNCE.

    Args:
        word: one of :data:`MixinLoss`; a list of those that can be summed, or their weights.
        infonce: which it is in place of.
        given: options that are not as by default.

    Raises:
        ValueError: if there is no such word, or an option means nothing to the loss.

    Example:
        >>> named_loss("margin_mse", InfoNCE(temperature=1.0), {"temperature": 1.0}).temperature
        tensor(1.)
    """
    words = get_args(MixinLoss)
    if isinstance(word, (list, tuple, dict)):
        return _named_sum(word, infonce, given)
    if word not in words:
        raise ValueError(f"loss: expected one of {', '.join(words)}, got {word!r}{nearest(str(word).lower(), words)}")
    if word == "infonce":
        _refuse(given, given.keys() - DISTILL_DEFAULTS.keys(), "InfoNCE, which has no teacher", "distill_kl")
        return infonce
    entry = _WORDS[str(word)]
    _refuse(given, entry.heeds, entry.reason, "infonce")
    further = {name: value for name, value in given.items() if name not in _SHARED}
    return entry.make(
        normalization=infonce.similarity.normalization,
        temperature=infonce.scaling.start,
        learnable_temperature=infonce.scaling.learnable,
        **infonce.shared_options,
        **further,
    )


def _named_sum(
    words: list[str] | tuple[str, ...] | dict[str, float], infonce: InfoNCE, given: Mapping[str, Any]
) -> SummedLoss:
    """The sum of some losses, weighed by 1 where no weights are given."""
    weights = words if isinstance(words, dict) else dict.fromkeys(words, 1.0)
    for word in weights:
        if word not in _SUMMABLE:
            raise ValueError(f"loss: expected {' and '.join(_SUMMABLE)} in a sum, got {word!r} in {words!r}")
    if len(weights) < len(words) or not weights:
        raise ValueError(f"loss: expected each of {' and '.join(_SUMMABLE)} once in a sum, got {words!r}")
    of_others = given
    if "infonce" in weights:  # which everything else is for
        of_others = {name: value for name, value in given.items() if name in _SHARED}
    losses = {word: named_loss(word, infonce, given if word == "infonce" else of_others) for word in weights}
    return SummedLoss({word: (weights[word], loss) for word, loss in losses.items() if isinstance(loss, InBatchLoss)})


def options_of(contrast: ContrastiveLoss) -> dict[str, Any]:
    """The options of a loss by the names under which a mixin takes them, as far as they can be told."""
    options: dict[str, Any] = {
        "normalization": contrast.similarity.normalization,
        "temperature": contrast.scaling.start,
        "learnable_temperature": contrast.scaling.learnable,
        **contrast.shared_options,
    }
    if isinstance(contrast, MaxSim):
        options["symmetric"] = contrast.symmetric
    if isinstance(contrast, (DistillKLDiv, GradedContrastive)):
        options["symmetric"] = all(contrast.directions)
    if isinstance(contrast, (DistillKLDiv, MarginMSE)):
        options |= {name: getattr(contrast, name) for name in DISTILL_DEFAULTS}
    return options


def defaults() -> dict[str, Any]:
    """What each option is where nobody says otherwise."""
    made = {
        name: parameter.default
        for loss in (ContrastiveLoss, InfoNCE)
        for name, parameter in inspect.signature(loss).parameters.items()
    }
    return made | DISTILL_DEFAULTS


def _refuse(given: Mapping[str, Any], heeds: Any, reason: str, other: str) -> None:
    for name in given:
        if name not in heeds:
            raise ValueError(f"{name}: it means nothing to {reason}; leave it out, or take loss={other!r}")
