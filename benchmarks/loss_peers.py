"""The losses that are compared: ours, those of other packages, and what plain PyTorch makes of the same terms."""

from __future__ import annotations

import math
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIM = 512
SCALE = 20.0
MINI_BATCH = 32
WIDTHS = (64, 128, 256, 512)
CLASSES, MARGIN = 10_000, 0.5
_TILE_ROWS, _TILE_COLUMNS = 512, 1024
_NEEDED = {
    "sentence-transformers": ("scipy", "scikit-learn", "joblib", "threadpoolctl", "narwhals", "cloudpickle"),
    "lightly": ("lightly-utils",),
    "pytorch-metric-learning": (),
}


class Step(NamedTuple):
    """A loss, ready to be computed.

    Attributes:
        run: forward and backward; returns the loss.
        gradients: of the queries and of the documents, once it ran.
        parameters: of the loss itself.
        clear: forgets the gradients.
    """

    run: Callable[[], Tensor]
    gradients: Callable[[], tuple[Tensor, Tensor]]
    parameters: list[nn.Parameter]
    clear: Callable[[], None]


class Case(NamedTuple):
    """A loss in the table.

    Attributes:
        title: what the table calls it.
        terms: what it sums; cases of the same terms have the same value.
        kind: ours, peer, plain or floor.
        build: makes it, ready for queries and documents.
        most: largest batch at which it is run.
    """

    title: str
    terms: str
    kind: str
    build: Callable[[Tensor, Tensor], Step]
    most: int | None = None


def embeddings(batch: int) -> tuple[Tensor, Tensor]:
    """Queries and documents ``[batch, 512]``, the same ones every time: positives at a cosine of about 0.45.

    Their lengths are log-normal around 1, because embeddings that nobody normalised have different ones.
    """
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(batch, DIM, generator=generator)
    documents = 0.5 * queries + torch.randn(batch, DIM, generator=generator)
    lengths = torch.randn(2, batch, 1, generator=generator).mul(0.3).exp()
    return F.normalize(queries) * lengths[0], F.normalize(documents) * lengths[1]


def _by_autograd(loss: nn.Module | None, value: Callable[[Tensor, Tensor], Tensor], q: Tensor, d: Tensor) -> Step:
    q.requires_grad_()
    d.requires_grad_()
    parameters = [] if loss is None else [p for p in loss.parameters() if p.requires_grad]

    def run() -> Tensor:
        loss_value = value(q, d)
        loss_value.backward()  # type: ignore[no-untyped-call, unused-ignore]
        return loss_value.detach()

    def gradients() -> tuple[Tensor, Tensor]:
        assert q.grad is not None
        assert d.grad is not None
        return q.grad, d.grad

    def clear() -> None:
        for tensor in (q, d, *parameters):
            tensor.grad = None

    return Step(run, gradients, parameters, clear)


def _summed(q: Tensor, d: Tensor) -> Step:
    from lightning_normdyn import losses

    pairs = {"infonce": losses.InfoNCE(temperature=1 / SCALE, symmetric=True), "sigmoid": losses.SigmoidContrastive()}
    loss = losses.SummedLoss({name: (1.0, member) for name, member in pairs.items()})
    return _by_autograd(loss, loss, q, d)


def _one_by_one(q: Tensor, d: Tensor) -> Step:
    from lightning_normdyn import losses

    pairs = nn.ModuleList((losses.InfoNCE(temperature=1 / SCALE, symmetric=True), losses.SigmoidContrastive()))
    return _by_autograd(pairs, lambda q, d: torch.stack([loss(q, d) for loss in pairs]).sum(), q, d)


def _ours(name: str, **options: Any) -> Callable[[Tensor, Tensor], Step]:
    def build(q: Tensor, d: Tensor) -> Step:
        from lightning_normdyn import losses

        loss = getattr(losses, name)(**options)
        return _by_autograd(loss, loss, q, d)

    return build


def _clip(q: Tensor, d: Tensor) -> Step:
    from open_clip.loss import ClipLoss

    loss = ClipLoss()
    return _by_autograd(None, lambda q, d: loss(F.normalize(q, dim=-1), F.normalize(d, dim=-1), SCALE), q, d)


def _ranking(q: Tensor, d: Tensor) -> Step:
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(nn.Identity(), scale=SCALE)
    nobody = torch.empty(0)
    return _by_autograd(None, lambda q, d: loss.compute_loss_from_embeddings([q, d], nobody), q, d)


def _cached_ranking(q: Tensor, d: Tensor) -> Step:
    """As its ``forward`` does: embeddings come in mini-batches, and each goes backward inside the loss."""
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss

    nothing = nn.Sequential(nn.Identity())  # it looks at the first module of the model
    loss = CachedMultipleNegativesRankingLoss(nothing, scale=SCALE, mini_batch_size=MINI_BATCH)
    sides = [[part.detach().requires_grad_() for part in side.split(MINI_BATCH)] for side in (q, d)]

    def gradients() -> tuple[Tensor, Tensor]:
        of_q, of_d = (torch.cat([part.grad for part in side]) for side in sides)
        return of_q, of_d

    def clear() -> None:
        for part in (part for side in sides for part in side):
            part.grad = None

    return Step(lambda: loss.calculate_loss(sides, with_backward=True), gradients, [], clear)


def _nt_xent(q: Tensor, d: Tensor) -> Step:
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(temperature=1 / SCALE)
    return _by_autograd(loss, loss, q, d)


def _plain(value: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Step]:
    return lambda q, d: _by_autograd(None, value, q, d)


def _one_direction(q: Tensor, d: Tensor) -> Tensor:
    return F.cross_entropy(SCALE * F.normalize(q) @ F.normalize(d).T, torch.arange(len(q)))


def _both_directions(logits: Tensor) -> Tensor:
    places = torch.arange(len(logits))
    return (F.cross_entropy(logits, places) + F.cross_entropy(logits.T, places)) / 2


def _symmetric(q: Tensor, d: Tensor) -> Tensor:
    return _both_directions(SCALE * F.normalize(q) @ F.normalize(d).T)


def _simclr(q: Tensor, d: Tensor) -> Tensor:
    views = F.normalize(torch.cat((q, d)))
    logits = SCALE * views @ views.T
    logits.fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(views)).roll(len(q)))


class _LearnableGamma(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(2))

    def forward(self, q: Tensor, d: Tensor) -> Tensor:
        query, document = self.raw.sigmoid().unbind()
        q, d = q / q.norm(dim=1, keepdim=True) ** query, d / d.norm(dim=1, keepdim=True) ** document
        return _both_directions(SCALE * q @ d.T)


class _Sigmoid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(-10.0))  # in the order of ours, so that gradients can be compared
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, q: Tensor, d: Tensor) -> Tensor:
        logits = self.log_scale.exp() * F.normalize(q) @ F.normalize(d).T + self.bias
        return -F.logsigmoid((2 * torch.eye(len(q)) - 1) * logits).sum() / len(q)


def _plain_module(make: type[nn.Module]) -> Callable[[Tensor, Tensor], Step]:
    def build(q: Tensor, d: Tensor) -> Step:
        loss = make()
        return _by_autograd(loss, loss, q, d)

    return build


def _prefixes(q: Tensor, d: Tensor) -> Tensor:
    return torch.stack([_one_direction(q[:, :width], d[:, :width]) for width in WIDTHS]).sum()


def _classes(value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Step]:
    """A loss of embeddings, a table of class vectors and classes; the table stands in for the documents."""

    def build(q: Tensor, _: Tensor) -> Step:
        table = torch.randn(CLASSES, q.shape[1], generator=torch.Generator().manual_seed(1)) / q.shape[1] ** 0.5
        labels = torch.arange(len(q)) % CLASSES
        return _by_autograd(None, lambda q, table: value(q, table, labels), q, table)

    return build


def _arc_face(q: Tensor, d: Tensor) -> Step:
    from lightning_normdyn.losses import ArcFace

    head = ArcFace(CLASSES, DIM, margin=MARGIN, temperature=1 / SCALE)
    call = torch.func.functional_call
    return _classes(lambda x, table, labels: call(head, {"weight": table}, (x, labels)))(q, d)


def _peer_arc_face(q: Tensor, d: Tensor) -> Step:
    from pytorch_metric_learning.losses import ArcFaceLoss

    loss = ArcFaceLoss(CLASSES, DIM, margin=math.degrees(MARGIN), scale=SCALE)
    call = torch.func.functional_call
    return _classes(lambda x, table, labels: call(loss, {"W": table.T}, (x, labels)))(q, d)


def _plain_arc_face(x: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    cosines = F.normalize(x) @ F.normalize(table).T
    own = cosines.gather(1, labels[:, None]).clamp(-1, 1)
    own = own * math.cos(MARGIN) - (1 - own.square()).sqrt() * math.sin(MARGIN)
    return F.cross_entropy(SCALE * cosines.scatter(1, labels[:, None], own), labels)


def _floor(products: int) -> Callable[[Tensor, Tensor], Step]:
    """The matrix products of a streamed loss and nothing else: scores once or twice, and both gradients."""

    def build(q: Tensor, d: Tensor) -> Step:
        held: dict[str, Tensor] = {}

        def run() -> Tensor:
            of_q, of_d = held["q"], held["d"] = torch.zeros_like(q), torch.zeros_like(d)
            scores = q.new_empty(min(len(q), _TILE_ROWS), min(len(d), _TILE_COLUMNS))
            for sweep in range(products - 2):
                for left in range(0, len(d), _TILE_COLUMNS):
                    for top in range(0, len(q), _TILE_ROWS):
                        rows, columns = q[top : top + _TILE_ROWS], d[left : left + _TILE_COLUMNS]
                        torch.mm(rows, columns.T, out=scores)
                        if sweep == products - 3:
                            of_q[top : top + _TILE_ROWS].addmm_(scores, columns)
                            of_d[left : left + _TILE_COLUMNS].addmm_(scores.T, rows)
            return q.new_zeros(())

        return Step(run, lambda: (held["q"], held["d"]), [], held.clear)

    return build


NESTED = "q→d of four prefixes"
ANGLES = f"ArcFace over {CLASSES:,} classes"
SUM = "q→d, d→q and sigmoid"
ONE, BOTH, GAMMA, PAIRS, ALL = "q→d", "q→d, d→q", "q→d, d→q, learnt gamma", "sigmoid of each pair", "q→d, d→q, q→q, d→d"
CASES: dict[str, Case] = {
    "one": Case("**ours** InfoNCE, one direction", ONE, "ours", _ours("InfoNCE", temperature=1 / SCALE)),
    "prefixes": Case(
        f"**ours** InfoNCE, prefixes {', '.join(map(str, WIDTHS))}",
        NESTED,
        "ours",
        _ours("InfoNCE", temperature=1 / SCALE, prefixes=WIDTHS),
        4096,
    ),
    "plain_prefixes": Case("plain PyTorch", NESTED, "plain", _plain(_prefixes), 4096),
    "mnrl": Case("sentence-transformers MultipleNegativesRankingLoss", ONE, "peer", _ranking),
    "cached": Case(
        f"sentence-transformers CachedMultipleNegativesRankingLoss (mini-batch {MINI_BATCH})",
        ONE,
        "peer",
        _cached_ranking,
    ),
    "plain_one": Case("plain PyTorch", ONE, "plain", _plain(_one_direction)),
    "symmetric": Case(
        "**ours** InfoNCE, symmetric", BOTH, "ours", _ours("InfoNCE", temperature=1 / SCALE, symmetric=True)
    ),
    "clip": Case("open_clip ClipLoss", BOTH, "peer", _clip),
    "plain_symmetric": Case("plain PyTorch", BOTH, "plain", _plain(_symmetric)),
    "gamma": Case(
        "**ours** InfoNCE, symmetric, learnable",
        GAMMA,
        "ours",
        _ours("InfoNCE", normalization="learnable", temperature=1 / SCALE, symmetric=True),
    ),
    "plain_gamma": Case("plain PyTorch", GAMMA, "plain", _plain_module(_LearnableGamma)),
    "sigmoid": Case("**ours** SigmoidContrastive", PAIRS, "ours", _ours("SigmoidContrastive")),
    "plain_sigmoid": Case("plain PyTorch", PAIRS, "plain", _plain_module(_Sigmoid)),
    "summed": Case("**ours** SummedLoss of symmetric InfoNCE and SigmoidContrastive", SUM, "ours", _summed),
    "one_by_one": Case("**ours** InfoNCE, symmetric, and SigmoidContrastive, one by one", SUM, "plain", _one_by_one),
    "simclr": Case(
        "**ours** InfoNCE, symmetric, same_side both",
        ALL,
        "ours",
        _ours("InfoNCE", temperature=1 / SCALE, symmetric=True, same_side="both"),
        4096,
    ),
    "lightly": Case("lightly NTXentLoss", ALL, "peer", _nt_xent, 4096),
    "plain_simclr": Case("plain PyTorch", ALL, "plain", _plain(_simclr), 4096),
    "arc_face": Case("**ours** ArcFace", ANGLES, "ours", _arc_face, 1024),
    "peer_arc_face": Case("pytorch-metric-learning ArcFaceLoss", ANGLES, "peer", _peer_arc_face, 1024),
    "plain_arc_face": Case("plain PyTorch", ANGLES, "plain", _classes(_plain_arc_face), 1024),
    "floor_3": Case("floor: three matrix products", "none", "floor", _floor(3)),
    "floor_4": Case("floor: four matrix products", "none", "floor", _floor(4)),
}
REFERENCES = {case.terms: name for name, case in CASES.items() if case.kind == "plain"}


def peers_python(root: Path) -> Path:
    """The interpreter of an environment that has the project's packages and the peers; made once, in ``.venv-peers``.

    The project's own packages are seen through a path file, so that torch is not installed twice. What cannot be
    installed is named and left out.
    """
    folder = root / ".venv-peers"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready = folder / ".ready"
    if ready.exists():
        return python
    print("Making .venv-peers (once) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    mine = sysconfig.get_paths()
    (packages / "project.pth").write_text("\n".join(dict.fromkeys((mine["purelib"], mine["platlib"]))) + "\n")
    whole = True
    for peer, needed in _NEEDED.items():
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", peer, *needed]
        if subprocess.run(install, check=False, capture_output=True).returncode:
            print(f"{peer} could not be installed; the rest goes on", flush=True)
            whole = False
    if whole:
        ready.touch()
    return python
