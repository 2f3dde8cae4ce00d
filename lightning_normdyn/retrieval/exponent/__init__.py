"""Which exponent of the norm ranks best: scores, sweeps, calibration and confounds."""
