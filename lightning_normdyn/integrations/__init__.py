"""Trainers other than Lightning's. Each module loads its framework, this package loads none."""
