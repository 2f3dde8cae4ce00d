"""What Triton's interpreter has to be taught before it can be trusted with bfloat16."""

from __future__ import annotations

import torch


def teach_bfloat16() -> None:
    """The interpreter multiplies the bits of bfloat16 as integers, and cuts where a GPU rounds: both put right."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    dot, convert = interpreter.InterpreterBuilder.create_dot, interpreter._convert_float

    def rounded(x: np.ndarray, source: tl.dtype, target: tl.dtype, mode: object) -> np.ndarray:
        if (source, target) == (tl.float32, tl.bfloat16):
            single = torch.from_numpy(np.ascontiguousarray(x).view(np.float32).copy())
            return single.to(torch.bfloat16).view(torch.uint16).numpy()
        return convert(x, source, target, mode)

    def widened(self: object, a: object, b: object, *rest: object) -> object:
        handles = [
            interpreter.TensorHandle(
                convert(x.data, tl.bfloat16, tl.float32, None).view(np.float32).reshape(x.data.shape), tl.float32
            )
            if x.dtype.scalar == tl.bfloat16
            else x
            for x in (a, b)
        ]
        return dot(self, *handles, *rest)

    interpreter.InterpreterBuilder.create_dot, interpreter._convert_float = widened, rounded
