"""Verdicts on a run: rules that say what is wrong, why, and what to set to what."""
