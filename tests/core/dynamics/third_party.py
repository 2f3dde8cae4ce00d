"""Optimizers that torch does not have, as the papers state them: Lion (arXiv 2302.06675), SGDW (arXiv 1711.05101)."""

import torch


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, **others):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, **others})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for x in group["params"]:
                memory = self.state[x].setdefault("memory", torch.zeros_like(x))
                x.mul_(1 - group["lr"] * group["weight_decay"])
                x.add_((beta1 * memory + (1 - beta1) * x.grad).sign(), alpha=-group["lr"])
                memory.mul_(beta2).add_(x.grad, alpha=1 - beta2)


class SGDW(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, **others):
        options = {"momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, {"lr": lr, **options, **others})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            momentum = group["momentum"]
            for x in group["params"]:
                x.mul_(1 - group["lr"] * group["weight_decay"])
                step = x.grad
                if momentum:
                    first = "memory" not in self.state[x]
                    memory = self.state[x].setdefault("memory", torch.zeros_like(x))
                    memory.mul_(momentum).add_(x.grad, alpha=1 if first else 1 - group["dampening"])
                    step = x.grad + momentum * memory if group["nesterov"] else memory
                x.add_(step, alpha=-group["lr"])
