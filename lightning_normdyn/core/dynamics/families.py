"""All laws of the norm by name, and how fast each relaxes."""

from __future__ import annotations

import math

from lightning_normdyn.core.dynamics import adam_laws, averaged_laws, laws, matrix_laws, table_laws
from lightning_normdyn.core.dynamics.law import Law
from lightning_normdyn.core.dynamics.laws import Family
from lightning_normdyn.core.number_checks import check_not_negative, check_number

LAWS: dict[Family, Law] = {**laws.LAWS, **adam_laws.LAWS, **table_laws.LAWS, **matrix_laws.LAWS, **averaged_laws.LAWS}


def relaxation_steps(lr: float, radial_decay: float, family: Family) -> float:
    """Steps in which the distance of a norm from its equilibrium falls by a factor of e.

    ``1/(power·lr·lambda_rad)``, with the power of R that the law's class states (theory: relaxation, transients,
    forecast).

    Args:
        lr: effective learning rate.
        radial_decay: relative shrinkage per unit of lr.
        family: how the optimizer sizes its steps.

    Returns:
        Steps; infinity if there is no decay, NaN where norms settle nowhere.

    Raises:
        ValueError: if the family is unknown, an argument is no number, or the learning rate a negative one.

    Example:
        >>> relaxation_steps(lr=1.0, radial_decay=1e-3, family="sgd")
        250.0
    """
    check_not_negative(unknown=True, lr=lr)
    check_number(radial_decay=radial_decay)
    if family not in LAWS:
        raise ValueError(f"family: expected one of {sorted(LAWS)}, got {family!r}")
    if not LAWS[family].settles:
        return math.nan
    rate = LAWS[family].power * lr * radial_decay
    return 1 / rate if rate > 0 else math.inf
