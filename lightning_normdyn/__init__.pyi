"""What people come for, in one list: `lightning_normdyn/__init__.py` loads each name when it is first used."""

from . import (
    callbacks as callbacks,
    cli as cli,
    core as core,
    datasets as datasets,
    history as history,
    instruments as instruments,
    integrations as integrations,
    levers as levers,
    losses as losses,
    metrics as metrics,
    report as report,
    retrieval as retrieval,
    tasks as tasks,
)
from .callbacks import (
    EquilibriumFitMonitor as EquilibriumFitMonitor,
    GradientSplitMonitor as GradientSplitMonitor,
    HardNegativeMining as HardNegativeMining,
    NormDynamics as NormDynamics,
    NormTrajectoryMonitor as NormTrajectoryMonitor,
    StepTime as StepTime,
)
from .cli import advise as advise, audit as audit, export as export, grid as grid
from .core import (
    equilibrium_norm as equilibrium_norm,
    equilibrium_rule as equilibrium_rule,
    fit_log_log as fit_log_log,
    forecast_norm as forecast_norm,
    kernel_votes as kernel_votes,
    norm_budget as norm_budget,
)
from .history import read_run as read_run
from .instruments import Instrument as Instrument, NormObserver as NormObserver
from .levers import (
    CorrectedDecay as CorrectedDecay,
    NormVariance as NormVariance,
    cut_init as cut_init,
    decay_by_frequency as decay_by_frequency,
    equilibrium_init as equilibrium_init,
    repair_rows as repair_rows,
    scale_gradient as scale_gradient,
    weight_decay_for as weight_decay_for,
)
from .losses import (
    AdaFace as AdaFace,
    ArcFace as ArcFace,
    ContrastiveMixin as ContrastiveMixin,
    CoSENT as CoSENT,
    CosFace as CosFace,
    CosineMixin as CosineMixin,
    DistillKLDiv as DistillKLDiv,
    DNormMixin as DNormMixin,
    DotMixin as DotMixin,
    FullSoftmax as FullSoftmax,
    GradedContrastive as GradedContrastive,
    InfoNCE as InfoNCE,
    LearnableNormMixin as LearnableNormMixin,
    MagFace as MagFace,
    MarginMSE as MarginMSE,
    MaxSim as MaxSim,
    NormalizedSimilarity as NormalizedSimilarity,
    NormFace as NormFace,
    QNormMixin as QNormMixin,
    SigmoidContrastive as SigmoidContrastive,
    cached_loss as cached_loss,
    verify_loss as verify_loss,
)
from .metrics import norm_diagnostics as norm_diagnostics
from .report import write_report as write_report
from .retrieval import (
    NormAwareScore as NormAwareScore,
    calibrate as calibrate,
    confound_report as confound_report,
    export_vectors as export_vectors,
    mine_hard_negatives as mine_hard_negatives,
    norm_aware_top_k as norm_aware_top_k,
    sweep_alpha as sweep_alpha,
)

__version__: str
