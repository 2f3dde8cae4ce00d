"""Optimizers that torch does not have, as the papers and kernels state them, each small enough to be read."""

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


class AdamC(torch.optim.AdamW):
    """Decay of lr²·weight_decay/max_lr in groups that are said to be ``normalized`` (arXiv 2506.02285)."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0):
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)
        self.max_lr = lr

    def step(self):
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            if group.get("normalized"):
                group["weight_decay"] *= group["lr"] / self.max_lr
        super().step()
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay


class ScheduleFree(torch.optim.Optimizer):
    """Steps by ``z``, averages them into ``x``, and holds ``y`` between the two (arXiv 2405.15682)."""

    def __init__(self, params, lr, beta, beta2, weight_decay, **entries):
        others = {"k": 0, "warmup_steps": 0, "r": 0.0}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **entries, **others})
        self.beta, self.beta2 = beta, beta2

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["k"] += 1
            for y in group["params"]:
                state = self.state[y]
                if not state:
                    state.update(z=y.clone(), x=y.clone(), square=torch.zeros_like(y))
                step = y.grad
                if self.beta2:
                    state["square"].mul_(self.beta2).addcmul_(y.grad, y.grad, value=1 - self.beta2)
                    step = y.grad / ((state["square"] / (1 - self.beta2 ** group["k"])).sqrt() + 1e-8)
                state["z"].sub_(group["lr"] * (step + group["weight_decay"] * y))
                state["x"].lerp_(state["z"], 1 / group["k"])
                y.copy_(torch.lerp(state["z"], state["x"], self.beta))


class AdamWScheduleFree(ScheduleFree):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0):
        super().__init__(params, lr, *betas, weight_decay, betas=betas)


class SGDScheduleFree(ScheduleFree):
    def __init__(self, params, lr=1.0, momentum=0.9, weight_decay=0.0):
        super().__init__(params, lr, momentum, 0.0, weight_decay, momentum=momentum)


class RowwiseAdagrad(torch.optim.Optimizer):
    """FBGEMM's EXACT_ROWWISE_ADAGRAD: one sum a row, of the mean square of its gradient; decay on touched rows alone.

    ``weight_decay_mode`` is FBGEMM's: ``none``, ``l2`` (with the gradient) or ``decouple`` (of lr times the row).
    """

    def __init__(self, params, lr=1e-2, weight_decay=0.0, weight_decay_mode="none"):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "weight_decay_mode": weight_decay_mode})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            mode, decay = group["weight_decay_mode"], group["weight_decay"]
            for table in group["params"]:
                sums = self.state[table].setdefault("momentum1", torch.zeros(len(table), 1))
                touched = (table.grad != 0).any(1).nonzero().squeeze(1)
                rows, gradient = table[touched], table.grad[touched]
                if mode == "l2":
                    gradient = gradient + decay * rows
                sums[touched] += gradient.square().mean(1, keepdim=True)
                kept = rows * (1 - group["lr"] * decay) if mode == "decouple" else rows
                table[touched] = kept - group["lr"] * gradient / (sums[touched].sqrt() + 1e-10)
