"""Codes of embeddings are told from embeddings, and decoded by the scale that made them."""

import math

import numpy as np
import pytest
import torch

from lightning_normdyn.core import decode_embeddings
from lightning_normdyn.core.embedding_codes import as_embeddings, check_no_codes

VECTORS = np.random.default_rng(0).normal(size=(60, 13)) * np.geomspace(0.01, 30, 13)
VECTORS[:, 4] = 2.5  # a dimension that never varies
RANGES = np.vstack([VECTORS.min(0), VECTORS.max(0)])


def code(value: float, low: float, high: float) -> int:
    """From 0 to 255, by the text of sentence-transformers' function, a number at a time."""
    step = (high - low) / 255 or 1.0
    return min(255, max(0, math.floor((value - low) / step)))


def codes_of(vectors: np.ndarray) -> np.ndarray:
    rows = [[code(value, *RANGES[:, column]) for column, value in enumerate(row)] for row in vectors]
    return np.array(rows)


@pytest.mark.parametrize(("precision", "shift"), [("uint8", 0), ("int8", 128)])
def test_decoded_numbers_are_within_half_a_step_and_have_the_same_codes(precision, shift) -> None:
    codes = (codes_of(VECTORS) - shift).astype(precision)
    decoded = decode_embeddings(codes, precision, ranges=RANGES)
    assert decoded.dtype == torch.float64
    steps = (RANGES[1] - RANGES[0]) / 255
    assert (np.abs(decoded.numpy() - VECTORS) <= steps / 2 * (1 + 1e-9)).all()
    assert np.array_equal(codes_of(decoded.numpy()) - shift, codes)
    change = np.linalg.norm(decoded.numpy(), axis=1) - np.linalg.norm(VECTORS, axis=1)
    assert (np.abs(change) <= np.linalg.norm(steps / 2) * (1 + 1e-9)).all()
    assert decode_embeddings(codes, precision, ranges=RANGES.astype(np.float32)).dtype == torch.float32


@pytest.mark.parametrize(("precision", "kind", "shift"), [("ubinary", np.uint8, 0), ("binary", np.int8, 128)])
def test_packed_bits_are_signs(precision, kind, shift) -> None:
    packed = (np.packbits(VECTORS > 0, axis=-1).astype(np.int16) - shift).astype(kind)
    decoded = decode_embeddings(packed, precision)
    assert decoded.shape == (60, 16)
    assert np.array_equal(decoded[:, :13].numpy(), np.where(VECTORS > 0, 1.0, -1.0))


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_codes_of_sentence_transformers(precision) -> None:
    quantization = pytest.importorskip("sentence_transformers.quantization")
    codes = quantization.quantize_embeddings(VECTORS.astype(np.float32), precision, ranges=RANGES.astype(np.float32))
    ranges = None if "binary" in precision else RANGES
    decoded = decode_embeddings(codes, precision, ranges=ranges)[:, :13].numpy()
    if ranges is None:
        assert np.array_equal(decoded > 0, VECTORS > 0)
    else:
        assert (np.abs(decoded - VECTORS) <= (RANGES[1] - RANGES[0]) / 255 * 1.01).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_codes_are_no_embeddings(dtype) -> None:
    codes = torch.zeros(2, 8, dtype=dtype)
    for came in (codes, codes.numpy()):
        with pytest.raises(
            ValueError, match=f"^documents: expected embeddings .* got {str(dtype)[6:]}, which are codes"
        ):
            check_no_codes(documents=came)
        with pytest.raises(ValueError, match=r"^documents: expected embeddings"):
            as_embeddings(documents=came)
    check_no_codes(documents=codes.long(), queries=[1], nothing=None)


@pytest.mark.parametrize(
    ("codes", "precision", "ranges", "complaint"),
    [
        (torch.zeros(2, 4, dtype=torch.int8), "int4", None, "^precision: expected one of int8, .* got 'int4'"),
        (torch.zeros(2, 4, dtype=torch.int8), "uint8", None, r"^codes: expected torch.uint8 \[n, d\] for uint8"),
        (torch.zeros(4, dtype=torch.int8), "int8", None, r"^codes: .* got torch.int8 \[4\]"),
        (torch.zeros(2, 4, dtype=torch.int8), "int8", None, "^ranges: expected those that the int8 codes were made"),
        (torch.zeros(2, 4, dtype=torch.int8), "int8", torch.zeros(2, 3), r"^ranges: .* \[2, 4\], got .* \[2, 3\]"),
        (torch.zeros(2, 4, dtype=torch.int8), "int8", torch.full((2, 4), math.nan), "^ranges: .* finite"),
        (
            torch.zeros(2, 1, dtype=torch.int8),
            "int8",
            torch.tensor([[1.0], [0.0]]),
            "^ranges: .* dimension 0; exchange",
        ),
        (torch.zeros(2, 4, dtype=torch.int8), "binary", torch.zeros(2, 4), "^ranges: expected none for binary"),
        ([[1, 2]], "int8", None, "^codes: expected a tensor or an array, got list"),
    ],
)
def test_what_cannot_be_decoded_is_said(codes, precision, ranges, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        decode_embeddings(codes, precision, ranges=ranges)


WIDE = ["float16", "float32", "float64", "int16", "int32", "int64"]


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shift", [0, 128])
def test_codes_in_a_wider_type_are_no_embeddings(dtype, shift) -> None:
    codes = (codes_of(VECTORS) - shift).astype(dtype)
    low, high = codes.min(), codes.max()
    came = f"^documents: expected embeddings, got whole numbers from {low:g} to {high:g}: codes of 8 bits in a wider"
    for vectors in (codes, torch.tensor(codes)):
        with pytest.raises(ValueError, match=came):
            as_embeddings(documents=vectors)
    if "float" in dtype:
        as_embeddings(documents=codes * 0.01)  # as the sentence says


@pytest.mark.parametrize("seed", range(5))
def test_what_only_looks_like_codes_passes(seed) -> None:
    draw = np.random.default_rng(seed)
    counts = draw.poisson(draw.gamma(0.2, 2.0, (300, 40)))
    counts[0, 0] = 200
    fine = {
        "counts of words": counts.astype(np.float32),
        "one-hot": np.eye(64, dtype=np.float32),
        "signs": np.sign(draw.normal(size=(60, 32))),
        "small whole numbers": draw.integers(1, 9, (60, 32)).astype(np.float32),
        "beyond 8 bits": draw.integers(-500, 500, (60, 32)).astype(np.float32),
        "one number with a fraction": draw.integers(-128, 128, (60, 32)) + 0.5 * np.eye(60, 32),
        "few": draw.integers(-128, 128, (6, 32)).astype(np.float32),
        "not finite": np.full((60, 32), np.nan),
        "a row": draw.integers(-128, 128, 900).astype(np.float32),
    }
    for name, vectors in fine.items():
        assert as_embeddings(documents=vectors)[0].shape == vectors.shape, name
    embeddings = draw.normal(size=(300, 16)).astype(np.float16) * 3000  # whole by rounding, in half precision
    as_embeddings(documents=embeddings)
