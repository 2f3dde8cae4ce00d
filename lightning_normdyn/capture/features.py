"""Models of sentence-transformers: modules in a row that write into one dict of features, and which wrote what."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_normdyn.capture.vectors import TEXT_VECTORS, written
from lightning_normdyn.caution import OnError, contained


def is_normalizer(module: nn.Module) -> bool:
    """Whether a module is sentence-transformers' ``Normalize``, whose vectors are all of length one."""
    return _is_kind(module, "Normalize")


HookT = TypeVar("HookT", bound=Callable[..., None])


def untraced(hook: HookT, on_error: OnError | None) -> HookT:
    """A hook of a module that runs as it is where the module is compiled, its errors contained.

    Traced, it would be compiled again for every state that it is in.

    Args:
        hook: what is registered.
        on_error: see :func:`~lightning_normdyn.caution.contained`.
    """
    reason = (
        "vectors are heard outside of the graph: compile without fullgraph=True, or give the observer what "
        "torch.compile(module) returns, named as the target ('root' where it is the model)"
    )
    return torch.compiler.disable(contained(hook, on_error), reason=reason)  # type: ignore[no-any-return]


class FeatureWriters:
    """Hears, inside of a model, what its modules write into the features that they hand on.

    Of a final Normalize, whose vectors say nothing of lengths, what it was given stays; what the model itself makes of
    the features afterwards, as under ``MatryoshkaLoss``, which cuts them again and again, does not count either.

    Args:
        model: the model, or one of its modules that holds several, as Router.

    Attributes:
        listens: whether what passes, under grad mode, is heard.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = _writers(model)
        self._handles: list[RemovableHandle] = []
        self._features: dict[int, dict[str, Any]] = {}
        self._vectors: dict[str, Tensor] = {}
        self._hears_evaluation = False
        self.listens = False

    def normalizers(self, key: str | None = None) -> list[str]:
        """Names of the normalizing modules, within the model.

        Args:
            key: of the vectors that they normalize; ``None`` for any.
        """
        normalizers = {name: module for name, module in self._modules.items() if is_normalizer(module)}
        key_of = {name: getattr(module, "module_output_name", TEXT_VECTORS) for name, module in normalizers.items()}
        return [name for name in normalizers if key in (None, key_of[name])]

    def attach(self, on_error: OnError | None = None) -> None:
        """Starts to hear what passes while :attr:`listens` is set.

        Args:
            on_error: takes what goes wrong; ``None`` lets it through to the training.
        """
        self.detach()
        for module in self._modules.values():
            if not is_normalizer(module):
                self._handles.append(module.register_forward_pre_hook(untraced(self._note_given, on_error)))
                self._handles.append(module.register_forward_hook(untraced(self._note_written, on_error)))

    def detach(self) -> None:
        """Stops hearing anything."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.take()

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Within it they are heard, with or without gradients."""
        try:
            self.attach()
            self.listens = self._hears_evaluation = True
            yield
        finally:
            self.listens = self._hears_evaluation = False
            self.detach()

    def take(self) -> dict[str, Tensor] | None:
        """What was written last since the last call, by key; ``None`` where there are no such modules."""
        features, self._vectors = self._vectors, {}
        self._features.clear()
        return features if self._modules else None

    def _note_given(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        listens = self.listens and (self._hears_evaluation or torch.is_grad_enabled())
        if listens and args and isinstance(args[0], Mapping):
            self._features[id(module)] = dict(args[0])

    def _note_written(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        inputs = self._features.pop(id(module), None)
        if inputs is not None and isinstance(output, Mapping):
            features = written(output, [inputs])
            self._vectors |= {key: value for key, value in features.items() if isinstance(value, Tensor)}


def _writers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules inside of a model that write into its features: those that hold no others of the kind."""
    is_model = _is_kind(model, "BaseModel") or _is_kind(model, "SentenceTransformer")
    members = {
        name: child
        for name, child in model.named_modules()
        if name and (_is_kind(child, "Module") or (is_model and "." not in name))
    }
    return {
        name: child for name, child in members.items() if not any(member.startswith(f"{name}.") for member in members)
    }


def _is_kind(module: nn.Module, kind: str) -> bool:
    """Whether sentence-transformers has a class of this name among a module's own and their bases."""
    return any(
        base.__name__ == kind and base.__module__.partition(".")[0] == "sentence_transformers"
        for base in type(module).__mro__
    )
