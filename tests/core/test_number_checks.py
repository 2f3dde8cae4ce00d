"""Numbers that arguments are checked to be."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from lightning_normdyn.core.number_checks import (
    check_count,
    check_finite_number,
    check_flag,
    check_positive,
    check_share,
)


@pytest.mark.parametrize("count", [1, 7, np.int64(3)])
def test_whole_numbers_pass(count: object) -> None:
    check_count(rows=count)
    check_count(0, rows=0)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, 2.0, True, math.nan, None, "3", np.bool_(True), torch.tensor(3)])
def test_what_is_no_count_is_refused_in_one_sentence(wrong: object) -> None:
    message = f"rows: expected a whole number, 1 or more, got {wrong!r}; 8 is common"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_count(dim=1, rows=wrong, hint="8 is common")


@pytest.mark.parametrize("number", [1, 0.5, np.float32(0.25), torch.tensor(3.0)])
def test_positive_numbers_pass(number: object) -> None:
    check_positive(lr=number)


@pytest.mark.parametrize("wrong", [0, -0.5, True, math.nan, math.inf, None, "3", 1j])
def test_what_is_not_positive_is_refused_in_one_sentence(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'lr: expected a positive number, got {wrong!r}')}$"):
        check_positive(lr=wrong)


@pytest.mark.parametrize("number", [0, -0.5, np.float32(0.25), torch.tensor(3.0)])
def test_finite_numbers_pass(number: object) -> None:
    check_finite_number(alpha=number)


@pytest.mark.parametrize("wrong", [True, math.nan, -math.inf, None, "3", 1j, torch.tensor([1.0, 2.0])])
def test_what_is_not_finite_is_refused_in_one_sentence(wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'alpha: expected a finite number, got {wrong!r}')}$"):
        check_finite_number(alpha=wrong)


@pytest.mark.parametrize("wrong", [0, 1, 95, -0.1, True, math.nan, None, "0.95"])
def test_what_is_no_share_is_refused_in_one_sentence(wrong: Any) -> None:
    check_share(level=0.95)
    with pytest.raises(ValueError, match=f"^{re.escape(f'level: expected a share between 0 and 1, got {wrong!r}')}$"):
        check_share(level=wrong)


@pytest.mark.parametrize("wrong", ["no", 0, 1.0, None, np.bool_(True)])
def test_what_is_neither_true_nor_false_is_refused_in_one_sentence(wrong: Any) -> None:
    check_flag(symmetric=True, joint=False)
    with pytest.raises(ValueError, match=f"^{re.escape(f'symmetric: expected True or False, got {wrong!r}')}$"):
        check_flag(symmetric=wrong)
