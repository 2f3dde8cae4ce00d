"""What one gallery example must not leave to the next."""

import importlib.util
import logging
import random
import warnings
from typing import Any

import matplotlib.pyplot as plt
import torch

PACKAGES = {
    "plot_13_metric_learning": "pytorch_metric_learning",
    "plot_14_graph_links": "torch_geometric",
    "plot_15_lightly": "lightly",
    "plot_16_pykeen": "pykeen",
}
"""The package that an example is about, of those that the package's own extras do without."""


SCRIPTS = ("torchrec_movielens",)
"""Examples that are started on several processes: they are shown, and a test runs them."""


def not_run() -> dict[str, str]:
    """The examples whose package is not installed: they are shown and not run."""
    return {page: package for page, package in PACKAGES.items() if importlib.util.find_spec(package) is None}


def pattern() -> str:
    """Matches the examples that are run."""
    pages = "|".join((*not_run(), *SCRIPTS))
    return rf"/(?!(?:{pages})\.py$)\w+\.py$"


def reset(gallery_conf: dict[str, Any], fname: str) -> None:
    """Starts an example from one seed and one style, whatever ran before it."""
    del gallery_conf, fname
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning")
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # torch_geometric, as it is imported
    plt.rcParams.update(
        {"figure.figsize": (6.4, 3.6), "axes.spines.top": False, "axes.spines.right": False, "figure.autolayout": True}
    )
