"""The options that contrastive losses share, as types for what they take beyond the arguments of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack
else:

    class Unpack:
        """``Any`` to whoever looks while the program runs.

        A TypedDict holds no defaults. jsonargparse would believe it, and show options without any in ``--help`` and
        ``--print_config``; left to itself it follows ``**options`` to the constructor that has names, types and
        defaults. Type checkers see the true ``Unpack``.
        """

        def __class_getitem__(cls, options: object) -> Any:
            return Any


MixinLoss = Literal[
    "infonce", "sigmoid", "maxsim", "full_softmax", "supcon", "distill_kl", "margin_mse", "graded", "cosent"
]
StartTemperature = float | Literal["auto"]
Direction = Literal["query_to_document", "document_to_query"]
SameSide = Literal["none", "queries", "documents", "both"]
Joint = bool | Literal["sentence_transformers"]
Hardness = Literal["none", "in_batch_negatives", "hard_negatives", "all_negatives"]
Reduction = Literal["mean", "sum", "none"]
TeacherNormalization = Literal["cosine", "dot", "qnorm", "dnorm"]
DistillationCandidates = Literal["listed", "in_batch"]


class SharedOptions(TypedDict, total=False):
    """What every loss takes and hands on, see :class:`ContrastiveLoss`."""

    max_scale: float
    shared_gamma: bool
    chunk_size: int | None
    gather: bool
    process_group: Any
    check_finite: bool
    reduction: Reduction


class SoftmaxOptions(SharedOptions, total=False):
    """The same with the temperature, which has another default in the sigmoid loss."""

    temperature: StartTemperature
    learnable_temperature: bool


class MarginOptions(SoftmaxOptions, total=False):
    """What every margin head takes besides its class table and its margin."""

    sample: float
    seed: int


class InfoNCEOptions(SoftmaxOptions, total=False):
    """What :class:`InfoNCE` and :class:`ContrastiveMixin` take besides ``normalization``."""

    symmetric: bool
    direction: Direction
    same_side: SameSide
    joint: Joint
    queue_size: int
    queue_positives: bool
    shared_hard_negatives: bool
    fused: bool
    label_smoothing: float
    margin: float
    relative_margin: float
    decoupled: bool
    prior: float
    guide_margin: float
    guide_relative_margin: float
    negative_margin: float | None
    negative_share: float | None
    hardness: Hardness
    hardness_strength: float
    prefixes: Sequence[int] | None
    prefix_weights: Sequence[float] | None
    with_metrics: bool
