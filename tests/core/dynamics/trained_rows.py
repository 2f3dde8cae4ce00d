"""Rows trained by a real optimizer on white tangential noise, at four strengths of it."""

import torch
from walks import random_rows, tangential_noise

DIM, GROUPS = 64, 4


def spreads(rows):
    """Four strengths of noise, so that a law is seen to hold across gradients and not at one of them."""
    return torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64).repeat_interleave(rows // GROUPS)


def second_moments(rows, presence=1.0, dim=DIM):
    """``V²`` of that noise."""
    return presence * (dim - 1) * spreads(rows).square()


def table(norms, dim=DIM):
    """A table of rows of these norms."""
    return random_rows(norms, dim)


def train(optimizer, lrs, presence=1.0, *, sparse=False, seed=1):
    """Trains the optimizer's only table at these rates and returns the norms at the end, ``[rows]`` in float64."""
    generator = torch.Generator().manual_seed(seed)
    (group,) = optimizer.param_groups
    (parameter,) = group["params"]
    x, spread = parameter.detach(), spreads(len(parameter)).float().unsqueeze(1)
    for lr in lrs:
        group["lr"] = lr
        touched = (torch.rand(len(x), generator=generator) < presence).nonzero().squeeze(1)
        gradient = tangential_noise(x[touched], spread[touched], generator)
        if sparse:
            parameter.grad = torch.sparse_coo_tensor(touched.unsqueeze(0), gradient, x.shape, check_invariants=False)
        else:
            parameter.grad = torch.zeros_like(x).index_copy_(0, touched, gradient)
        optimizer.step()
    return x.double().norm(dim=1)


def of_groups(norms):
    """Root mean square norm of the rows of each strength, ``[4]``."""
    return norms.double().view(GROUPS, -1).square().mean(1).sqrt()


def off_by(measured, predicted):
    """The largest relative error over the groups."""
    return float((of_groups(measured) / of_groups(predicted) - 1).abs().max())
