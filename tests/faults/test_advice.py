"""What refusals advise is right: each is met, its advice followed to the letter, and what was refused works."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_normdyn.capture.call import Call
from lightning_normdyn.capture.output import OutputTarget
from lightning_normdyn.capture.probe import Probe
from lightning_normdyn.capture.table import TableTarget
from lightning_normdyn.capture.targets import find_targets
from lightning_normdyn.cli.process_group import ended_process_group
from lightning_normdyn.instruments import NormObserver
from lightning_normdyn.losses import FullSoftmax, InfoNCE, cached_loss


class Net(nn.Module):
    """A table, an encoder, and a head whose output is no vector."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = Scalar()

    def forward(self, x):
        return self.head(self.encoder(x)) + self.table(torch.arange(4)).square().sum()

    def encode(self, x):
        """As its training does."""
        return self.encoder(x)


class Scalar(nn.Module):
    """One number a batch."""

    def forward(self, x):
        return x.square().sum()


class Restless(nn.Module):
    """Random by dropout that evaluation stops or does not."""

    def __init__(self, heeds_evaluation):
        super().__init__()
        self.layer, self.heeds_evaluation = nn.Linear(3, 4), heeds_evaluation

    def forward(self, x):
        return F.dropout(self.layer(x), training=self.training or not self.heeds_evaluation)


class Casting(nn.Module):
    """Gives half precision by itself, or where autocast has it so."""

    def __init__(self, dtype=None):
        super().__init__()
        self.layer, self.dtype = nn.Linear(3, 4), dtype

    def forward(self, x):
        return self.layer(x) if self.dtype is None else self.layer(x).to(self.dtype)


class Renorming(nn.Module):
    """Writes to its table in evaluation too."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4, max_norm=0.1)

    def forward(self, ids):
        return self.table(ids)


class Narrow(nn.Module):
    """Has memory for so many items."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x):
        if len(x) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return self.layer(x)


def observe(net, targets, forward=None, autocast=False, **options):
    """Three steps; what was logged of the last."""
    optimizer, logged = torch.optim.SGD(net.parameters(), lr=0.01, weight_decay=0.1), {}
    forward = net if forward is None else forward
    with NormObserver(
        net,
        optimizer,
        targets=targets,
        every_n_steps=1,
        total_steps=3,
        log=lambda news, _: logged.update(news),
        **options,
    ):
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                output = forward(torch.ones(4, 3))
            output.float().square().sum().backward()
            optimizer.step()
    assert logged
    return logged


def encode_pairs(module, queries, documents):
    loss = InfoNCE(gather=False)
    value = cached_loss(
        loss,
        torch.ones(4, 3),
        torch.ones(4, 3),
        encode_query=queries,
        encode_document=documents,
        module=module,
        chunk_size=2,
    )
    value.backward()
    return value


def assert_equal(left, right):
    torch.testing.assert_close(left, right)


MASK = torch.eye(4, dtype=torch.bool)
MASK[0, 1] = True
LONG = torch.full((4, 4), 1e25)
PAIRS = (torch.eye(4), torch.eye(4))
TWO_ENCODERS = nn.ModuleDict({"query": nn.Linear(3, 4), "document": nn.Linear(3, 4)})
ITEMS = torch.arange(24.0).reshape(8, 3)
ADVICE = {
    "a submodule's name for the submodule": (
        "pass the submodule itself",
        lambda: OutputTarget("encoder", "encoder"),
        lambda: OutputTarget("encoder", Net().encoder)
    ),
    "a table's name for the model": (
        "pass the model itself", lambda: TableTarget("table.weight", "net"), lambda: TableTarget("table.weight", Net())
    ),
    "a class for the model": ("pass the model itself", lambda: find_targets(Net), lambda: find_targets(Net())),
    "a name of nothing": (
        r"did you mean 'encoder'.*or 'root' for the model itself",
        lambda: find_targets(Net(), "encodr"),
        lambda: [find_targets(Net(), name) for name in ("encoder", "root", "table.weight", "head", "encode")],
    ),
    "no table": (
        "candidates are the tables table.weight",
        lambda: find_targets(Net(), "encoder.0.bias"),
        lambda: find_targets(Net(), "table.weight"),
    ),
    "a module without vectors": (
        "name the submodule that returns the vectors",
        lambda: observe(Net(), ["head"], probe=False),
        lambda: observe(Net(), ["encoder"], probe=False),
    ),
    "a probe of a module without vectors": (
        "name the submodule that returns the vectors",
        lambda: Probe("head", Net().head, [Call.of(ITEMS)]),
        lambda: Probe("encoder", Net().encoder, [Call.of(ITEMS)]),
    ),
    "fewer items than ranks": (
        r"give more in probe=, or switch the probe off",
        lambda: Probe("encoder", Net().encoder, [Call.of(ITEMS[:2])], ranks=4, gather=lambda rows: rows),
        lambda: Probe("encoder", Net().encoder, [Call.of(ITEMS)], ranks=4, gather=lambda rows: rows),
    ),
    "a probe of other columns": (
        "give what the encoder's forward takes",
        lambda: Probe("encoder", Net().encoder, [Call.of(ITEMS[:, :2])]),
        lambda: [Probe("encoder", Net().encoder, [Call.of(given)]) for given in (ITEMS, {"input": ITEMS})],
    ),
    "an encoder in half precision": (
        "train it under precision='bf16-mixed' instead",
        lambda: observe(Casting(torch.bfloat16), ["root"], probe=ITEMS),
        lambda: observe(Casting(), ["root"], probe=ITEMS, autocast=True),
    ),
    "an encoder in half precision, unprobed": (
        "switch the probe off with probe=False",
        lambda: observe(Casting(torch.bfloat16), ["root"], probe=ITEMS),
        lambda: observe(Casting(torch.bfloat16), ["root"], probe=False),
    ),
    "a random encoder": (
        r"before what is random in it stops under module.eval\(\)",
        lambda: observe(Restless(False), ["root"], probe=ITEMS),
        lambda: observe(Restless(True), ["root"], probe=ITEMS),
    ),
    "an encoder that writes": (
        "switch the probe off with probe=False",
        lambda: Probe("root", Renorming(), [Call.of(torch.arange(8))]),
        lambda: observe(net := Renorming(), ["root"], lambda _: net(torch.arange(4)), probe=False),
    ),
    "a probe beyond the memory": (
        "set probe_items to fewer",
        lambda: Probe("root", Narrow(), [Call.of(torch.ones(16, 3))]),
        lambda: observe(Narrow(), ["root"], probe=torch.ones(16, 3), probe_items=8),
    ),
    "ids as numbers": (
        "use torch.long",
        lambda: InfoNCE()(*PAIRS, query_ids=torch.arange(4.0)),
        lambda: InfoNCE()(*PAIRS, query_ids=torch.arange(4.0).to(torch.long)),
    ),
    "positives and labels": (
        "give one of them",
        lambda: InfoNCE()(*PAIRS, labels=torch.arange(4), positives=torch.arange(4)[:, None]),
        lambda: [
            InfoNCE()(*PAIRS, labels=torch.arange(4)),
            InfoNCE()(*PAIRS, positives=torch.arange(4)[:, None]),
        ],
    ),
    "positives as a mask": (
        r"pass torch\.where\(mask, torch\.arange\(4\), -1\)",
        lambda: InfoNCE()(*PAIRS, positives=MASK),
        lambda: assert_equal(
            InfoNCE()(*PAIRS, positives=torch.where(MASK, torch.arange(4), -1)),
            InfoNCE()(*PAIRS, positives=torch.tensor([[0, 1], [1, -1], [2, -1], [3, -1]])),
        ),
    ),
    "one candidate": (
        "take larger batches, hard negatives or a queue_size",
        lambda: InfoNCE()(torch.ones(1, 4), torch.ones(1, 4)),
        lambda: [
            InfoNCE()(*PAIRS),
            InfoNCE()(torch.ones(1, 4), torch.ones(1, 4), hard_negatives=torch.ones(1, 2, 4)),
        ],
    ),
    "a queue of one direction": (
        "choose symmetric=True or the direction",
        lambda: InfoNCE(queue_size=8, direction="document_to_query"),
        lambda: [InfoNCE(queue_size=8, symmetric=True), InfoNCE(queue_size=8, direction="query_to_document")],
    ),
    "a queue of one rank": (
        "leave gather=True",
        lambda: InfoNCE(queue_size=8, gather=False),
        lambda: InfoNCE(queue_size=8)(*PAIRS),
    ),
    "several positives in one sum": (
        "leave out labels and positives",
        lambda: InfoNCE(joint=True, symmetric=True)(*PAIRS, labels=torch.arange(4)),
        lambda: InfoNCE(joint=True, symmetric=True)(*PAIRS),
    ),
    "scores out of range": (
        "normalise a side",
        lambda: InfoNCE(normalization="dot")(LONG, LONG),
        lambda: InfoNCE(normalization="qnorm")(LONG, LONG),
    ),
    "a softmax that shares with a symmetric loss": (
        "leave symmetric, direction, same_side, joint, queue_size and what shapes the sum .* as they are by default",
        lambda: FullSoftmax.sharing(InfoNCE(symmetric=True)),
        lambda: FullSoftmax.sharing(InfoNCE())(*PAIRS, torch.arange(4)),
    ),
    "ids of a full softmax as numbers": (
        "use torch.long",
        lambda: FullSoftmax()(*PAIRS, torch.arange(4), document_ids=torch.arange(4.0)),
        lambda: FullSoftmax()(*PAIRS, torch.arange(4), document_ids=torch.arange(4.0).to(torch.long)),
    ),
    "a cold learnt temperature": (
        "start at a higher temperature or raise the bound",
        lambda: InfoNCE(temperature=0.001, learnable_temperature=True),
        lambda: [
            InfoNCE(temperature=0.02, learnable_temperature=True),
            InfoNCE(temperature=0.001, learnable_temperature=True, max_scale=1000.0),
        ],
    ),
    "no temperature": ("0.05 is common", lambda: InfoNCE(temperature=0.0), lambda: InfoNCE(temperature=0.05)(*PAIRS)),
    "no bound": ("100 is common", lambda: InfoNCE(max_scale=-1.0), lambda: InfoNCE(max_scale=100.0)(*PAIRS)),
    "a function for the module of a cached loss": (
        "pass what holds the encoders",
        lambda: encode_pairs(torch.relu, *TWO_ENCODERS.values()),
        lambda: encode_pairs(TWO_ENCODERS, *TWO_ENCODERS.values()),
    ),
    "one encoder for the module of two": (
        "pass the module that holds both encoders",
        lambda: encode_pairs(TWO_ENCODERS["query"], *TWO_ENCODERS.values()),
        lambda: encode_pairs(TWO_ENCODERS, *TWO_ENCODERS.values()),
    ),
    "an encoder that leaves inputs out": (
        "leave out what has no embedding before it is encoded",
        lambda: encode_pairs(TWO_ENCODERS, lambda x: TWO_ENCODERS["query"](x)[:1], TWO_ENCODERS["document"]),
        lambda: encode_pairs(TWO_ENCODERS, *TWO_ENCODERS.values()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ADVICE)
def test_what_is_advised_works(case):
    sentence, meet, follow = ADVICE[case]
    with pytest.raises((ValueError, TypeError, UserWarning), match=sentence):
        meet()
    follow()


def test_a_group_of_processes_that_was_lost_can_be_set_again(tmp_path):
    """As is a mesh of two dimensions, of which one is to be named."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    with ended_process_group():
        mesh = dist.device_mesh.init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
        with pytest.raises(ValueError, match=r"as in mesh\['data_parallel'\], or where all ranks are, leave it out"):
            InfoNCE(process_group=mesh)
        loss = InfoNCE(process_group=mesh["data_parallel"])
        assert loss(*PAIRS) == InfoNCE()(*PAIRS)
        with pytest.raises(ValueError, match="nothing is gathered over it where gather=False; leave one of them out"):
            InfoNCE(process_group=mesh["data_parallel"], gather=False)
        with pytest.raises(TypeError, match="expected a process group of torch or a device mesh"):
            InfoNCE(process_group="data_parallel")
        unpickled = pickle.loads(pickle.dumps(loss))
        with pytest.raises(ValueError, match=r"set loss\.process_group again where the loss is unpickled"):
            unpickled(*PAIRS)
        unpickled.process_group = mesh["data_parallel"]
        assert unpickled(*PAIRS) == loss(*PAIRS)
