"""Codes of embeddings: how 8-bit numbers and packed bits, in wider types too, are told from embeddings, and decoded."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from lightning_normdyn.core.array_conversion import ArrayLike, as_tensors
from lightning_normdyn.core.tensor_checks import check_dense

Precision = Literal["int8", "uint8", "binary", "ubinary"]
"""Names of codes, as sentence-transformers has them."""

_PRECISIONS = ("int8", "uint8", "binary", "ubinary")
_CODE_TYPES = ("int8", "uint8", "bool")
_LARGEST_CODE = 255
_INT8_SHIFT = 128


def is_code_type(dtype: object) -> bool:
    """Whether numbers of a type, of torch or numpy or by name, are codes and no embeddings: 8 bits or one.

    Example:
        >>> is_code_type(torch.int8), is_code_type("uint8"), is_code_type(torch.float16)
        (True, True, False)
    """
    return str(dtype).rpartition(".")[2] in _CODE_TYPES


def codes_error(name: object, dtype: object) -> ValueError:
    """The error of codes where embeddings are expected.

    Args:
        name: of the argument or the file.
        dtype: of the codes.
    """
    return ValueError(
        f"{name}: expected embeddings in floating-point numbers, got {str(dtype).rpartition('.')[2]}, which are codes "
        "(quantised to 8 bits, or packed bits): norms and scores of codes are not those of the embeddings; take the "
        "embeddings themselves, or decode them with lightning_normdyn.core.decode_embeddings (8-bit codes in a .npz or "
        ".safetensors are decoded as they are read where 'ranges' [2, d] lies beside them)"
    )


_LEAST_NUMBERS = 512
_LOOKED_AT = 256
_LEAST_SPAN = 128
_MOST_ZEROS = 0.1


def wide_codes(vectors: Tensor) -> str | None:
    """What codes of 8 bits in a wider type are like, such as int8 codes that were saved as float32 or int32.

    All numbers are whole and lie in one range of 8 bits, half of it at least is used, and few are zero: counts of words
    are whole too, but mostly zero. Some 256 rows, spread evenly, are looked at.

    Args:
        vectors: ``[n, d]``, of any type.

    Returns:
        Words for an error; ``None`` of embeddings, and of fewer than 512 numbers, which tell nothing.

    Example:
        >>> codes = torch.randint(-128, 128, (64, 8), generator=torch.Generator().manual_seed(0)).float()
        >>> wide_codes(codes)
        'whole numbers from -128 to 127'
        >>> wide_codes(codes * 0.01) is None
        True
    """
    if vectors.ndim != 2 or vectors.numel() < _LEAST_NUMBERS or vectors.is_complex() or vectors.dtype == torch.bool:
        return None
    numbers = vectors.detach()[:: -(-len(vectors) // _LOOKED_AT)].double()
    if numbers.numel() < _LEAST_NUMBERS or not bool((numbers == numbers.round()).all()):
        return None
    low, high = float(numbers.amin()), float(numbers.amax())
    in_range = (low >= -_INT8_SHIFT and high < _INT8_SHIFT) or (low >= 0 and high <= _LARGEST_CODE)
    if not in_range or high - low < _LEAST_SPAN or float((numbers == 0).double().mean()) >= _MOST_ZEROS:
        return None
    return f"whole numbers from {low:g} to {high:g}"


def check_no_wide_codes(**embeddings: Tensor) -> None:
    """Refuses codes that were saved in a wider type, see :func:`wide_codes`.

    Args:
        embeddings: name of an argument or a file to what came.

    Raises:
        ValueError: naming it.

    Example:
        >>> check_no_wide_codes(documents=torch.arange(-128, 128).repeat(2, 1))
        Traceback (most recent call last):
            ...
        ValueError: documents: expected embeddings, got whole numbers from -128 to 127: codes of 8 bits in a ...
    """
    for name, vectors in embeddings.items():
        codes = wide_codes(vectors)
        if codes is not None:
            raise ValueError(
                f"{name}: expected embeddings, got {codes}: codes of 8 bits in a wider type, whose norms and scores "
                "are not those of the embeddings; take these, or make codes int8 or uint8 again and decode them with "
                "lightning_normdyn.core.decode_embeddings (if these are the embeddings, multiply all by 0.01, which "
                "changes no ranking)"
            )


def check_no_codes(**embeddings: Any) -> None:
    """Refuses codes, by the type of what has one; of anything else nothing is said here.

    Args:
        embeddings: name of an argument to what came.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> check_no_codes(documents=torch.zeros(2, 3, dtype=torch.int8))
        Traceback (most recent call last):
            ...
        ValueError: documents: expected embeddings in floating-point numbers, got int8, which are codes (...
    """
    for name, vectors in embeddings.items():
        dtype = getattr(vectors, "dtype", None)
        if dtype is not None and is_code_type(dtype):
            raise codes_error(name, dtype)


def as_embeddings(**embeddings: ArrayLike) -> tuple[Tensor, ...]:
    """Tensors of embeddings, however they come, without codes.

    Args:
        embeddings: name of an argument to what came.

    Returns:
        A tensor for each, in order.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    tensors = as_tensors(**embeddings)
    by_name = dict(zip(embeddings, tensors, strict=True))
    check_dense(**by_name)
    check_no_codes(**by_name)
    check_no_wide_codes(**by_name)
    return tensors


def decode_embeddings(codes: ArrayLike, precision: Precision, *, ranges: ArrayLike | None = None) -> Tensor:
    """Embeddings of codes that sentence-transformers' ``quantize_embeddings`` makes.

    Codes of 8 bits stand for one of 256 steps between the smallest and the largest number of each dimension; the middle
    of the step comes out, off by half a step at most where the embedding lay between them. Norms come out nearly as
    they were. Packed bits hold signs alone: all norms are equal then.

    Args:
        codes: ``[n, d]``, or ``[n, d / 8]`` packed bits.
        precision: what ``quantize_embeddings`` was called with.
        ranges: smallest and largest number of each dimension ``[2, d]`` that the codes were made with, for ``int8`` and
            ``uint8`` alone. Where ``quantize_embeddings`` got none it took those of its calibration embeddings, or of
            the embeddings themselves.

    Returns:
        ``[n, d]`` in float32, in float64 if the ranges are; signs, 1 and -1, of packed bits. Where ``d`` was no
        multiple of 8 there are up to 7 dimensions of -1 at the end, which are to be cut off.

    Raises:
        ValueError: if codes are of another type than the precision, or ranges are missing, superfluous or do not fit.

    Example:
        >>> codes = torch.tensor([[-128, 127], [0, 0]], dtype=torch.int8)
        >>> decode_embeddings(codes, "int8", ranges=torch.tensor([[0.0, -1.0], [25.5, 2.0]]))
        tensor([[ 0.0500,  2.0000],
                [12.8500,  0.5118]])
        >>> decode_embeddings(torch.tensor([[0b10100000]], dtype=torch.uint8), "ubinary")
        tensor([[ 1., -1.,  1., -1., -1., -1., -1., -1.]])
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(_PRECISIONS)}, got {precision!r}")
    (numbers,) = as_tensors(codes=codes)
    code_type = torch.int8 if precision in ("int8", "binary") else torch.uint8
    if numbers.ndim != 2 or numbers.dtype != code_type:
        raise ValueError(
            f"codes: expected {code_type} [n, d] for {precision}, got {numbers.dtype} {list(numbers.shape)}"
        )
    steps = numbers.short() + (_INT8_SHIFT if code_type == torch.int8 else 0)
    if precision in ("binary", "ubinary"):
        if ranges is not None:
            raise ValueError(f"ranges: expected none for {precision}, whose bits are signs, got some; leave them out")
        return _signs(steps)
    if ranges is None:
        raise ValueError(f"ranges: expected those that the {precision} codes were made with, [2, d], got none")
    low, high = _checked_ranges(ranges, numbers.shape[1])
    # As there: a dimension that never varies has steps of 1, and its codes are 0, which stand for the number itself.
    width = (high - low) / _LARGEST_CODE
    return low + (steps.to(low) + 0.5).clamp(max=_LARGEST_CODE) * width


def _checked_ranges(ranges: ArrayLike, d: int) -> tuple[Tensor, Tensor]:
    (ends,) = as_tensors(ranges=ranges)
    if ends.shape != (2, d) or not ends.is_floating_point() or not ends.isfinite().all():
        raise ValueError(
            f"ranges: expected the smallest and the largest number of each dimension, finite [2, {d}], got "
            f"{ends.dtype} {list(ends.shape)}"
        )
    low, high = ends.to(torch.promote_types(ends.dtype, torch.float32)).unbind(0)
    if bool((low > high).any()):
        dimension = int((low > high).nonzero()[0])
        raise ValueError(
            f"ranges: expected the smallest number before the largest, got {float(low[dimension]):g} and "
            f"{float(high[dimension]):g} in dimension {dimension}; exchange the rows"
        )
    return low, high


def _signs(packed: Tensor) -> Tensor:
    """Of bytes ``[n, b]`` the bits, the highest first, as 1 and -1, ``[n, 8 b]``."""
    shifts = torch.arange(7, -1, -1, device=packed.device, dtype=packed.dtype)
    bits = (packed.unsqueeze(2) >> shifts) & 1
    return bits.flatten(1).float() * 2 - 1
