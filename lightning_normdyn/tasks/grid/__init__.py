"""Comparison of normalizations: findings of a grid of trainings, diagnosis of one model, and advice."""
