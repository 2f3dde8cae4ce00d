"""Chooses the Triton kernels for a loss where ``fused=True`` and the tensors allow it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_normdyn.caution import caution
from lightning_normdyn.core.contrast.factored import Factored

_HALF = (torch.bfloat16, torch.float16)


class FusedKernels:
    """Fused log-sum-exps for embeddings in half precision on an NVIDIA device of capability 8.0 or more.

    They take embeddings as they came, and norms and temperature as a factor of each: neither the scores nor a float32
    copy of the embeddings is ever made. Scores, sums and gradients are in float32, so that a gradient in bfloat16 is
    off by its own rounding alone, and in float16 by 1.4 times as much. ``chunk_size`` plays no part. Norms are safe
    between 1e-10 and 1e10, which in bfloat16 is not all there is: beyond, leave ``fused`` out.

    Triton is imported when first asked for, because that takes its time. Where it is missing a module says so once.
    Whatever else the kernels cannot take goes the usual way without a word: other devices and precisions, labels, lists
    of positives, negatives of the same side, joint sums, queues, and :func:`cached_loss`, which widens embeddings.
    """

    def __init__(self) -> None:
        self._has_warned = False

    def serve(self, queries: Tensor, documents: Tensor) -> bool:
        """Whether they can take these embeddings ``[n, d]`` and ``[m, d]``."""
        from lightning_normdyn.core.fused import language

        if not (language.is_installed() or self._has_warned):
            self._has_warned = True
            caution(
                "fused=True: Triton is not installed, and the loss is computed without it; install triton, or leave "
                "fused out",
                stacklevel=2,
            )
        return queries.dtype in _HALF and language.supports(queries, documents)

    def log_sum_exp(self, queries: Factored, documents: Factored, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """See :func:`lightning_normdyn.core.fused.log_sum_exp.fused_log_sum_exp`."""
        from lightning_normdyn.core.fused.log_sum_exp import fused_log_sum_exp

        return fused_log_sum_exp(queries, documents, **options)
