"""Recommendation from histories of interactions."""
