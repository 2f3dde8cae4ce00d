"""The four callbacks: norm trajectories, gradient split, equilibrium fit, and all of them in one."""

from __future__ import annotations

from typing_extensions import Unpack

from lightning_normdyn.callbacks.monitor import NormMonitor
from lightning_normdyn.instruments.instrument_factory import ALL_MEASURES, Measures
from lightning_normdyn.instruments.options import LookOptions, NormOptions, spelled_out


@spelled_out(NormOptions)
class NormDynamics(NormMonitor):
    """Norm trajectories, gradient split and equilibrium fit, sharing one look at each step.

    Args:
        save_history: whether to keep a history in ``<log_dir>/normdyn/``.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[NormDynamics()], logger=False, barebones=False)  # doctest: +SKIP
    """

    measures = ALL_MEASURES

    def __init__(self, *, save_history: bool = True, **options: Unpack[NormOptions]) -> None:
        super().__init__(save_history=save_history, options=options)


@spelled_out(NormOptions)
class EquilibriumFitMonitor(NormMonitor):
    """Predicts the norms of embeddings from gradients and hyper-parameters, and says how well that went.

    Args:
        save_history: whether to keep moments and predictions in ``<log_dir>/normdyn/``.

    Example:
        >>> monitor = EquilibriumFitMonitor(window=1000)
    """

    measures = Measures(fit=True)

    def __init__(self, *, save_history: bool = True, **options: Unpack[NormOptions]) -> None:
        super().__init__(save_history=save_history, options=options)


@spelled_out(LookOptions)
class GradientSplitMonitor(NormMonitor):
    """Splits gradients and applied updates into radial and tangential parts, and keeps the budget of squared norms.

    Args:
        save_history: whether to keep a history in ``<log_dir>/normdyn/``.

    Example:
        >>> monitor = GradientSplitMonitor(every_n_steps=100)
    """

    measures = Measures(split=True)

    def __init__(self, *, save_history: bool = True, **options: Unpack[LookOptions]) -> None:
        super().__init__(save_history=save_history, options=options)


@spelled_out(LookOptions)
class NormTrajectoryMonitor(NormMonitor):
    """Follows the norms of embedding tables and of submodules' outputs.

    Logs mean, coefficient of variation and quantiles, and keeps the norm of every tracked row.

    Args:
        save_history: whether to keep a history in ``<log_dir>/normdyn/``.

    Example:
        >>> monitor = NormTrajectoryMonitor(targets=["encoder.*.weight"], every_n_steps=10)
    """

    measures = Measures(trajectory=True)

    def __init__(self, *, save_history: bool = True, **options: Unpack[LookOptions]) -> None:
        super().__init__(save_history=save_history, options=options)
