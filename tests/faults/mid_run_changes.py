"""Things that users do to a model or its optimizer in the midst of a training, each written once.

A change takes the :class:`Scene` of a plain loop and alters it between two steps. What the observer owes it is one of

- ``unnoticed``: to go on and say nothing;
- ``followed``: to go on with what the model has now, and say so once;
- ``ended``: to say once why it measures the table no longer, whose keys end;
- ``ended for a while``: the same, until the table is trained again, if ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from small_models import DIM, ROWS, contrast
from torch import nn
from torch.nn.utils import parametrizations, parametrize

TABLE, ENCODER = "table.weight", "encoder"


class Towers(nn.Module):
    """A table, a second one, and an encoder over the first; ids beyond the table's end begin again at its start."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        self.others = nn.Embedding(ROWS, DIM)
        self.encoder = nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh(), nn.Linear(DIM, DIM))
        self.out = nn.Linear(DIM, ROWS, bias=False)

    def forward(self, pairs):
        ids = pairs[:, 0] % len(self.table.weight)
        queries = self.encoder(self.table(ids))
        self.lengths = queries.detach().double().norm(dim=1)
        documents = self.others(pairs[:, 1]).to(queries.dtype)
        return contrast(queries, documents, "dot") + self.out(queries).square().mean()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.2, weight_decay=0.02)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.05)


@dataclass
class Scene:
    """A model in training, and what trains it.

    Attributes:
        net: the model.
        optimizers: all of them; each makes a step.
        changes: what else is to be done, by the step before which it is.
    """

    net: nn.Module
    optimizers: list[torch.optim.Optimizer]
    changes: dict[int, object] = field(default_factory=dict)

    @property
    def optimizer(self):
        return self.optimizers[0]

    def retrain(self, make=sgd):
        """Takes a new optimizer of all that the model has now."""
        self.optimizers = [make([p for p in self.net.parameters() if p.requires_grad])]

    def swap(self, old, new):
        """Puts a parameter into the place of another in its group."""
        for group in self.optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]

    def drop(self, *parameters):
        """Takes parameters out of their groups."""
        ids = {id(parameter) for parameter in parameters}
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in ids]


def rows_of(scene, rows, dtype=None):
    """New rows of the table: the old ones again and again, somewhat longer."""
    weight = scene.net.table.weight.detach()
    return (1.5 * weight.repeat(-(-rows // len(weight)), 1)[:rows]).to(dtype or weight.dtype)


def replace_in_its_group(scene):
    old, new = scene.net.table.weight, nn.Parameter(rows_of(scene, ROWS))
    scene.net.table.weight = new
    scene.swap(old, new)


def replace_by_a_larger_one_in_a_new_group(scene):
    scene.drop(scene.net.table.weight)
    scene.net.table.weight = nn.Parameter(rows_of(scene, ROWS + 7))
    scene.optimizer.add_param_group({"params": [scene.net.table.weight]})


def replace_by_one_that_nobody_trains(scene):
    scene.net.table.weight = nn.Parameter(rows_of(scene, ROWS))


def resize_the_layer_under_a_new_optimizer(scene):
    """What resize_token_embeddings of transformers does."""
    layer = nn.Embedding(ROWS + 11, DIM)
    layer.weight.data = rows_of(scene, ROWS + 11)
    scene.net.table = layer
    scene.retrain()


def resize_the_layer_and_forget_the_optimizer(scene):
    layer = nn.Embedding(ROWS + 11, DIM)
    layer.weight.data = rows_of(scene, ROWS + 11)
    scene.net.table = layer


def grow_the_data(scene):
    scene.net.table.weight.data = rows_of(scene, ROWS + 5)
    scene.net.table.weight.grad = None


def shrink_the_data(scene):
    scene.net.table.weight.data = rows_of(scene, ROWS - 9)
    scene.net.table.weight.grad = None


def widen_the_data(scene):
    """Rows of another width, with an encoder that takes them."""
    scene.net.table.weight.data = rows_of(scene, ROWS).repeat(1, 2)
    scene.net.table.weight.grad = None
    scene.net.encoder[0].weight.data = scene.net.encoder[0].weight.data.repeat(1, 2)
    scene.net.encoder[0].weight.grad = None


def put_other_data_in(scene):
    scene.net.table.weight.data = rows_of(scene, ROWS)


def copy_other_values_in(scene):
    with torch.no_grad():
        scene.net.table.weight.copy_(rows_of(scene, ROWS))


def load_weights(scene):
    scene.net.load_state_dict({name: value * 1.1 for name, value in scene.net.state_dict().items()})


def double(scene):
    scene.net.double()


def bfloat16(scene):
    scene.net.bfloat16()


def double_and_back(scene):
    scene.net.double()
    scene.changes[17] = lambda scene: scene.net.float()


def take_an_optimizer_of_the_same_kind(scene):
    scene.retrain()


def take_an_optimizer_of_another_kind(scene):
    scene.retrain(adamw)


def take_an_optimizer_of_the_table_alone(scene):
    scene.drop(scene.net.table.weight)
    scene.optimizers.append(adamw([scene.net.table.weight]))


def load_the_optimizers_state(scene):
    scene.optimizer.load_state_dict(scene.optimizer.state_dict())


def freeze(scene):
    scene.net.table.weight.requires_grad_(False)


def freeze_for_a_while(scene):
    freeze(scene)
    scene.changes[18] = lambda scene: scene.net.table.weight.requires_grad_(True)


def freeze_and_take_out(scene):
    freeze(scene)
    scene.drop(scene.net.table.weight)


def freeze_the_encoder(scene):
    scene.net.encoder.requires_grad_(False)


def take_out(scene):
    scene.drop(scene.net.table.weight)


def take_out_for_a_while(scene):
    scene.drop(scene.net.table.weight)
    scene.changes[18] = lambda scene: scene.optimizer.add_param_group({"params": [scene.net.table.weight]})


def add_a_group_of_others(scene):
    scene.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})


def move_to_a_group_of_its_own(scene):
    scene.drop(scene.net.table.weight)
    scene.optimizer.add_param_group({"params": [scene.net.table.weight], "lr": 0.05, "weight_decay": 0.3})


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2


def parametrize_under_a_new_optimizer(scene):
    parametrize.register_parametrization(scene.net.table, "weight", Doubled())
    scene.retrain()


def parametrize_and_undo(scene):
    parametrize_under_a_new_optimizer(scene)

    def undo(scene):
        parametrize.remove_parametrizations(scene.net.table, "weight")
        scene.retrain()

    scene.changes[18] = undo


def weight_norm(scene):
    parametrizations.weight_norm(scene.net.table)
    scene.retrain()


def spectral_norm(scene):
    """Its power iteration moves whenever somebody asks for the weight."""
    parametrizations.spectral_norm(scene.net.table)
    scene.retrain()


class LowRank(nn.Module):
    """LoRA by hand: a frozen layer, and two narrow factors beside it."""

    def __init__(self, base, rows):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.full((rows, 2), 0.1))
        self.up = nn.Parameter(torch.full((2, DIM), 0.1))

    @property
    def weight(self):
        return self.base.weight


class LowRankTable(LowRank):
    def forward(self, ids):
        return self.base(ids) + self.down[ids] @ self.up


class LowRankLinear(LowRank):
    def forward(self, x):
        return self.base(x) + x @ self.down @ self.up


def adapt_the_table(scene):
    scene.net.table = LowRankTable(scene.net.table, ROWS)
    scene.retrain()


def adapt_the_encoder(scene):
    scene.net.encoder[2] = LowRankLinear(scene.net.encoder[2], DIM)
    scene.retrain()


def replace_the_encoder(scene):
    scene.net.encoder = nn.Sequential(nn.Linear(DIM, DIM))
    with torch.no_grad():
        scene.net.encoder[0].weight.copy_(torch.eye(DIM))
    scene.retrain()


class Through(nn.Module):
    """Calls another module by another name."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def wrap_the_encoder(scene):
    scene.net.encoder = Through(scene.net.encoder)


def rename_the_table(scene):
    scene.net.table = Renamed(scene.net.table)


class Renamed(Through):
    @property
    def weight(self):
        return self.inner.weight


def compile_the_table(scene):
    scene.net.table = torch.compile(scene.net.table, backend="eager")


def tie_the_table_to_the_output(scene):
    scene.drop(scene.net.out.weight)
    scene.net.out.weight = scene.net.table.weight


def take_the_other_tables_rows(scene):
    scene.drop(scene.net.table.weight)
    scene.net.table.weight = scene.net.others.weight


def exchange_the_tables(scene):
    net = scene.net
    net.table.weight, net.others.weight = net.others.weight, net.table.weight


def make_gradients_sparse(scene):
    scene.drop(scene.net.table.weight)
    scene.net.table.sparse = True
    scene.optimizers.append(torch.optim.SGD([scene.net.table.weight], lr=0.2))


def swap_tensors(scene):
    """What a module's conversions do under torch.__future__."""
    for p in scene.net.parameters():
        p.grad = None
    torch.utils.swap_tensors(scene.net.table.weight, nn.Parameter(rows_of(scene, ROWS + 3)))


def forget_a_gradient(scene):
    """The table gets none in one step, as in training that takes turns."""
    handle = scene.net.table.weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    scene.changes[15] = lambda _: handle.remove()


CHANGES = {
    "unnoticed": [
        put_other_data_in,
        copy_other_values_in,
        load_weights,
        load_the_optimizers_state,
        add_a_group_of_others,
        move_to_a_group_of_its_own,
        compile_the_table,
        tie_the_table_to_the_output,
        forget_a_gradient,
        freeze_the_encoder,
    ],
    "followed": [
        replace_in_its_group,
        replace_by_a_larger_one_in_a_new_group,
        resize_the_layer_under_a_new_optimizer,
        grow_the_data,
        shrink_the_data,
        widen_the_data,
        double,
        bfloat16,
        double_and_back,
        take_an_optimizer_of_the_same_kind,
        take_an_optimizer_of_another_kind,
        take_the_other_tables_rows,
        exchange_the_tables,
        swap_tensors,
        adapt_the_encoder,
        replace_the_encoder,
        wrap_the_encoder,
    ],
    "ended": [
        replace_by_one_that_nobody_trains,
        resize_the_layer_and_forget_the_optimizer,
        freeze_and_take_out,
        take_out,
        parametrize_under_a_new_optimizer,
        weight_norm,
        spectral_norm,
        adapt_the_table,
        rename_the_table,
    ],
    "ended for a while": [
        freeze,
        freeze_for_a_while,
        take_out_for_a_while,
        parametrize_and_undo,
        take_an_optimizer_of_the_table_alone,
        make_gradients_sparse,
    ],
}
"""What the observer owes each change."""
