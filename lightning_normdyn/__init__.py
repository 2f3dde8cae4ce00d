"""Norm dynamics of embeddings, measured, predicted and used inside PyTorch Lightning."""

from lightning_normdyn._version import __version__

__all__ = ["__version__"]
