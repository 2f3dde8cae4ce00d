"""What one gallery example must not leave to the next."""

import logging
import random
import warnings
from typing import Any

import matplotlib.pyplot as plt
import torch


def reset(gallery_conf: dict[str, Any], fname: str) -> None:
    """Starts an example from one seed and one style, whatever ran before it."""
    del gallery_conf, fname
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning")
    plt.rcParams.update(
        {"figure.figsize": (6.4, 3.6), "axes.spines.top": False, "axes.spines.right": False, "figure.autolayout": True}
    )
