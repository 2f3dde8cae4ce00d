"""Steps of training two small encoders by a loss, on one process or several, whose gradients can be told in float64."""

from __future__ import annotations

import copy
import datetime
import pickle
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException, start_processes
from torch.nn.parallel import DistributedDataParallel

from lightning_normdyn.losses.cached import cached_loss
from lightning_normdyn.losses.float64_loop import PairLoss

Precision = Literal["float32", "bfloat16", "autocast"]
_WIDTH = 16
_PATIENCE = datetime.timedelta(seconds=60)


class Trial(NamedTuple):
    """A way of training.

    Attributes:
        ranks: processes under DistributedDataParallel; none of it for one.
        precision: of the embeddings that the loss is given; ``"autocast"`` is bfloat16 with the loss under autocast.
        accumulate: batches whose mean is stepped on.
        is_cached: whether the encoders see half of a batch at a time, by :func:`cached_loss`.
        pairs: of a rank in a batch.
    """

    ranks: int
    precision: Precision
    accumulate: int
    is_cached: bool
    pairs: int

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Inputs of both encoders ``[ranks * pairs, 16]``, for one of the accumulated batches."""
        inputs, noise = _eighths(2, self.ranks * self.pairs, _WIDTH, seed=number)
        return inputs, inputs + noise

    def rounded(self, embeddings: Tensor) -> Tensor:
        """Embeddings as the loss is given them."""
        return embeddings if self.precision == "float32" else embeddings.to(torch.bfloat16)


class Step(NamedTuple):
    """What came of a trial.

    Attributes:
        loss: mean over ranks and batches.
        gradient: of the weights of both encoders, in a row; empty if it failed.
        failure: the error, in words.
    """

    loss: float
    gradient: Tensor
    failure: str = ""


def reference_step(trial: Trial, reference: PairLoss) -> Step:
    """What should come of a trial: one process, float64, all pairs of all ranks at once.

    Inputs and weights are few eighths, so that float32 computes embeddings exactly, and rounding them to bfloat16 gives
    the same everywhere; what is off afterwards is the loss's work.

    Args:
        trial: whose embeddings the reference is given, as they were rounded.
        reference: takes them in float64.
    """
    weights = [weight.double().requires_grad_() for weight in _weights()]
    values = []
    for number in range(trial.accumulate):
        sides = []
        for inputs, weight in zip(trial.batch(number), weights, strict=True):
            embeddings = inputs.double() @ weight.T
            rounding = trial.rounded(embeddings).double() - embeddings
            sides.append(embeddings + rounding.detach())
        values.append(reference(*sides))
    value = torch.stack(values).mean()
    gradients = torch.autograd.grad(value, weights)
    return Step(float(value.detach()), torch.cat([gradient.flatten() for gradient in gradients]))


def run_trials(loss: PairLoss, trials: Sequence[Trial]) -> list[Step]:
    """Trains one step in each of several ways that have the same number of ranks.

    Args:
        loss: each trial has a copy of it.
        trials: what to do; more than one rank starts as many processes on the CPU.

    Raises:
        ValueError: if the loss cannot be sent to processes, or they ended before they were through.
    """
    ranks = trials[0].ranks
    with tempfile.TemporaryDirectory() as folder:
        if ranks == 1:
            with process_group(0, 1, folder):
                return [run_trial(trial, copy.deepcopy(loss), 0) for trial in trials]
        try:
            arguments = (_pickled(loss), trials, folder)
            start_processes(_work, arguments, nprocs=ranks, start_method="spawn")
        except ProcessException as error:
            last_line = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"loss: {ranks} processes ended before they were through ({last_line}); ranks have to call it equally "
                "often, it has to be of a file that can be imported, and a script has to call verify_loss under "
                "if __name__ == '__main__'"
            ) from error
        steps = torch.load(Path(folder) / "steps.pt", weights_only=True)
    return [Step(*step) for step in steps]


def _pickled(loss: PairLoss) -> bytes:
    try:
        return pickle.dumps(loss)
    except Exception as error:
        raise ValueError(
            f"loss: a {type(loss).__name__} cannot be sent to other processes ({error}); write it as a function or "
            "module of a file, without lambda, or take ranks=1"
        ) from error


def _work(rank: int, pickle_bytes: bytes, trials: Sequence[Trial], folder: str) -> None:
    torch.set_num_threads(1)
    with process_group(rank, trials[0].ranks, folder):
        steps = [run_trial(trial, pickle.loads(pickle_bytes), rank) for trial in trials]
        if rank == 0:
            torch.save([tuple(step) for step in steps], Path(folder) / "steps.pt")
        dist.barrier()


@contextmanager
def process_group(rank: int, ranks: int, folder: str) -> Iterator[None]:
    """Starts one of all ranks on the CPU, of a single rank too, since losses that gather ask for it, and ends it.

    Args:
        rank: of this process.
        ranks: how many there are.
        folder: where they meet.
    """
    excepthook = sys.excepthook  # torch puts the rank before every line of an error from then on
    place = (Path(folder) / "rendezvous").as_uri()
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=ranks, timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
        sys.excepthook = excepthook


def run_trial(trial: Trial, loss: PairLoss, rank: int) -> Step:
    """Trains one step on this rank, inside a process group that has all ranks of the trial.

    Args:
        trial: how.
        loss: is used up where it remembers.
        rank: which one this is.
    """
    try:
        return _trained(trial, loss, rank)
    except Exception as error:  # the other ways are measured all the same
        words = (str(error).strip().splitlines() or [""])[0]
        return Step(float("nan"), torch.zeros(0), f"{type(error).__name__}: {words}")


def _trained(trial: Trial, loss: PairLoss, rank: int) -> Step:
    model = _Encoders(trial, loss)
    parallel_model = DistributedDataParallel(model) if trial.ranks > 1 else None
    total = torch.zeros((), dtype=torch.float64)
    for number in range(trial.accumulate):
        inputs = [side.chunk(trial.ranks)[rank] for side in trial.batch(number)]
        waits = parallel_model is not None and number + 1 < trial.accumulate
        with parallel_model.no_sync() if parallel_model is not None and waits else nullcontext():
            value = (parallel_model or model)(*inputs)
            (value / trial.accumulate).backward()
        total += value.detach().double() / trial.accumulate / trial.ranks
    dist.all_reduce(total)
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in model.parameters()]
    return Step(float(total), torch.cat([gradient.flatten() for gradient in gradients]).double())


class _Encoders(nn.Module):
    """Two matrices, and a loss whose parameters are not DistributedDataParallel's business."""

    def __init__(self, trial: Trial, loss: PairLoss) -> None:
        super().__init__()
        self.query, self.document = (nn.Parameter(weight) for weight in _weights())
        self._trial, self._losses = trial, (loss,)

    def forward(self, query_inputs: Tensor, document_inputs: Tensor) -> Tensor:
        (loss,) = self._losses
        with self._autocast():
            if not self._trial.is_cached:
                value = loss(self._encoded(query_inputs, self.query), self._encoded(document_inputs, self.document))
            else:
                value = cached_loss(
                    loss,
                    query_inputs,
                    document_inputs,
                    encode_query=lambda inputs: self._encoded(inputs, self.query),
                    encode_document=lambda inputs: self._encoded(inputs, self.document),
                    module=self,
                    chunk_size=self._trial.pairs // 2,
                )
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: expected one number, got {shape}; return its mean")
        return value.squeeze()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if self._trial.precision == "autocast" else nullcontext()

    def _encoded(self, inputs: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self._trial.rounded(inputs @ weight.T)


def _weights() -> tuple[Tensor, Tensor]:
    weight, noise = _eighths(2, _WIDTH, _WIDTH, seed=-1)
    return weight, weight + noise / 2


def _eighths(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1_000 + seed)
    return torch.randint(-4, 5, shape, generator=generator) / 8
