"""The keys of ``audit.json``: they stay as they are when fields of the records are renamed."""

from __future__ import annotations

from typing import Any

from lightning_normdyn.retrieval.exponent.calibration import Calibration

_KEYS = {"lost_gain": "lost", "judged_count": "judged", "had_unit_step": "normalised"}
_FLAT_INTERVALS = ("alpha", "gain")


def json_fields(record: Any) -> dict[str, object]:
    """Fields of a record of the audit by their keys in the file.

    The intervals of a calibration are three numbers each there: ``alpha``, ``alpha_low``, ``alpha_high``.

    Args:
        record: a NamedTuple.

    Example:
        >>> from lightning_normdyn.retrieval.audit.saturation import LastLayer
        >>> json_fields(LastLayer("LayerNorm", is_norm=True, pooling="mean", had_unit_step=False))
        {'name': 'LayerNorm', 'is_norm': True, 'pooling': 'mean', 'normalised': False}
    """
    fields: dict[str, object] = {}
    for name, value in record._asdict().items():
        if isinstance(record, Calibration) and name in _FLAT_INTERVALS:
            fields |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            fields[_KEYS.get(name, name)] = value
    return fields
