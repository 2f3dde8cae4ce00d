"""Searches multiply in whole float32, and leave the settings of torch as they found them."""

import pytest
import torch

from lightning_normdyn.core.contrast.exact_products import exact_products

NEW = hasattr(torch.backends.cuda.matmul, "fp32_precision")

pytestmark = pytest.mark.filterwarnings("ignore:Please use the new API settings")  # torch 2.9, of what the tests set


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    if NEW:
        torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("asked", ["medium", "high", "highest"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_precision_for_training_is_put_back(asked, device):
    torch.set_float32_matmul_precision(asked)
    with exact_products(torch.device(device)):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == asked


@pytest.mark.skipif(not NEW, reason="this torch has one kind of settings")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_setting_that_is_inherited_goes_on_following_its_parent(device):
    backend = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    for one in (torch.backends.cuda, torch.backends.mkldnn):
        one.matmul.fp32_precision = "none"
    torch.backends.fp32_precision = "tf32"
    with exact_products(torch.device(device)):
        assert backend.matmul.fp32_precision == "ieee"
    assert backend.matmul.fp32_precision == "tf32"
    torch.backends.fp32_precision = "ieee"
    assert backend.matmul.fp32_precision == "ieee"
