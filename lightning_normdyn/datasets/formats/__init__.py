"""Readers of public formats: nothing is dropped in silence."""
