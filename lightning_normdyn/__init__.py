"""Norm dynamics of embeddings, measured, predicted and used inside PyTorch Lightning.

``import lightning_normdyn as nd`` offers what people come for: callbacks, losses, levers, norm-aware retrieval. The
names stand in ``__init__.pyi``, and each loads its part of the package, and torch, when it is first used. Everything
else lies in the packages below, the formulas in :mod:`lightning_normdyn.core`.
"""

import lazy_loader

from lightning_normdyn._version import __version__

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]
