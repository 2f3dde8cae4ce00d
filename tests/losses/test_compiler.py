"""torch.compile leaves the losses alone, and importing them does not load it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lightning_normdyn.losses import ContrastiveMixin, FullSoftmax, InfoNCE, SigmoidContrastive


def loads_the_compiler(statement: str) -> bool:
    code = f"import sys; {statement}; print('torch._dynamo' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return run.stdout.strip() == "True"


def test_importing_the_losses_does_not_load_the_compiler():
    assert not loads_the_compiler("import lightning_normdyn.losses")


def test_the_import_check_can_fail():
    assert loads_the_compiler("import torch; torch.compiler.disable(print)")


class Model(ContrastiveMixin, torch.nn.Module):
    def forward(self, queries, documents):
        return self.full_softmax_loss(queries, documents, torch.arange(len(queries)))


class Targeted(FullSoftmax):
    def forward(self, queries, documents):
        return super().forward(queries, documents, torch.arange(len(queries)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the compiler itself
@pytest.mark.parametrize("make", [InfoNCE, SigmoidContrastive, Targeted, Model])
def test_the_graph_breaks_at_the_loss_and_nothing_is_compiled_twice(make):
    torch.compiler.reset()
    loss = make()
    operations: list[str] = []
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        operations.extend(node.name for node in graph.graph.nodes if node.op in ("call_function", "call_method"))
        return graph.forward

    def step(queries, documents):
        return 2 * loss(queries.sin(), documents.cos())

    compiled = torch.compile(step, backend=backend)
    generator = torch.Generator().manual_seed(0)
    graph_counts = []
    for _ in range(4):
        sides = [torch.randn(5, 3, generator=generator, requires_grad=True) for _ in range(2)]
        value = compiled(*sides)
        gradients = torch.autograd.grad(value, sides)
        expected = step(*sides)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, sides))
        graph_counts.append(len(graphs))
    assert len(set(graph_counts)) == 1
    assert {"sin", "cos", "mul"} <= set(operations)
    assert not {name for name in operations if "log_sum_exp" in name or "isfinite" in name or "rescale" in name}
    if make in (InfoNCE, SigmoidContrastive):
        assert sorted(operations) == ["cos", "mul", "sin"]
