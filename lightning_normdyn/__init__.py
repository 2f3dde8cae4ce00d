"""Norm dynamics of embeddings, measured, predicted and used inside PyTorch Lightning.

``import lightning_normdyn as nd`` offers what people come for: callbacks, losses, levers, norm-aware retrieval. The
names stand in ``__init__.pyi``, and each loads its part of the package, and torch, when it is first used. Everything
else lies in the packages below, the formulas in :mod:`lightning_normdyn.core`.
"""

import lazy_loader

from lightning_normdyn._version import __version__

_load, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]


def __getattr__(name: str) -> object:
    """Loads a name's part of the package; of a name that there is not, says which one is near."""
    if name in _names or name.startswith("_"):
        return _load(name)
    from lightning_normdyn.nearest_word import nearest

    raise AttributeError(f"lightning_normdyn has no name {name!r}{nearest(name, _names)}", name=name)
