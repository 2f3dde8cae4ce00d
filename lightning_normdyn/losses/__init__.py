"""Contrastive losses for the 2x2 grid of normalizations: exact in every precision and on any number of ranks."""

from lightning_normdyn.losses.cached import cached_loss
from lightning_normdyn.losses.cosent import CoSENT
from lightning_normdyn.losses.distillation import DistillKLDiv
from lightning_normdyn.losses.full_softmax import FullSoftmax
from lightning_normdyn.losses.infonce import InfoNCE
from lightning_normdyn.losses.margin_heads import AdaFace, ArcFace, CosFace, MagFace, NormFace
from lightning_normdyn.losses.margin_mse import MarginMSE
from lightning_normdyn.losses.max_sim import MaxSim
from lightning_normdyn.losses.mixin import (
    ContrastiveMixin,
    CosineMixin,
    DNormMixin,
    DotMixin,
    LearnableNormMixin,
    QNormMixin,
)
from lightning_normdyn.losses.sigmoid import SigmoidContrastive
from lightning_normdyn.losses.similarity import NormalizedSimilarity
from lightning_normdyn.losses.soft_targets import GradedContrastive
from lightning_normdyn.losses.summed import SummedLoss
from lightning_normdyn.losses.sup_con import SupCon
from lightning_normdyn.losses.verification import verify_loss

__all__ = [
    "AdaFace",
    "ArcFace",
    "CoSENT",
    "ContrastiveMixin",
    "CosFace",
    "CosineMixin",
    "DNormMixin",
    "DistillKLDiv",
    "DotMixin",
    "FullSoftmax",
    "GradedContrastive",
    "InfoNCE",
    "LearnableNormMixin",
    "MagFace",
    "MarginMSE",
    "MaxSim",
    "NormFace",
    "NormalizedSimilarity",
    "QNormMixin",
    "SigmoidContrastive",
    "SummedLoss",
    "SupCon",
    "cached_loss",
    "verify_loss",
]
