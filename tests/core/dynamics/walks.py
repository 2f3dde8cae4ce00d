"""Rows that walk on tangential noise under a real optimizer."""

import torch
from third_party import SGDW, Lion

SGD, AdamW, Adam, RMSprop = torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop


OPTIMIZERS = {
    "sgd": (SGD, {}),
    "sgd, momentum": (SGD, {"momentum": 0.9}),
    "sgd, nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "sgdw": (SGDW, {"momentum": 0.9}),
    "adamw": (AdamW, {"betas": (0.9, 0.99)}),
    "adam": (Adam, {"betas": (0.9, 0.99)}),
    "nadam": (torch.optim.NAdam, {}),
    "nadam, decoupled": (
        torch.optim.NAdam,
        # Its momentum grows to beta1 over the run unless it does so at once.
        {"betas": (0.9, 0.99), "momentum_decay": 10.0, "decoupled_weight_decay": True},
    ),
    "rmsprop": (RMSprop, {"momentum": 0.5}),
    "lion": (Lion, {"betas": (0.9, 0.95)}),
}


def optimizer_of(name, parameter, lr, weight_decay):
    kind, options = OPTIMIZERS[name]
    return kind([parameter], lr=lr, weight_decay=weight_decay, **options)


def tangential_noise(x, spread, generator):
    """The gradient of a loss that sees directions alone, white on the unit sphere; ``[rows, d]``."""
    noise = torch.randn(x.shape, generator=generator)
    squares = x.square().sum(-1, keepdim=True)
    noise -= x * (noise * x).sum(-1, keepdim=True) / squares
    return noise * spread / squares.sqrt()


def random_rows(norms, dim):
    """Rows of these norms in random directions."""
    rows = torch.randn(len(norms), dim, generator=torch.Generator().manual_seed(0))
    return torch.nn.Parameter(rows / rows.norm(dim=-1, keepdim=True) * norms.float().unsqueeze(-1))


def squared_norms_and_turns(name, lr, weight_decay, *, norm, dim, spread, steps, rows=48):
    """Squared norms and angles between steps, ``[steps/2, rows]`` each, over the second half of a walk."""
    x = random_rows(torch.full((rows,), float(norm)), dim)
    optimizer, generator = optimizer_of(name, x, lr, weight_decay), torch.Generator().manual_seed(1)
    squares, turns = [], []
    for step in range(steps):
        before = x.detach().clone()
        x.grad = tangential_noise(before, spread, generator)
        optimizer.step()
        if step >= steps // 2:
            after = x.detach()
            chord = after / after.norm(dim=-1, keepdim=True) - before / before.norm(dim=-1, keepdim=True)
            turns.append(2 * (chord.norm(dim=-1) / 2).asin())
            squares.append(after.double().square().sum(-1))
    return torch.stack(squares), torch.stack(turns)
