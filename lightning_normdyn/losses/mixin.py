"""Contrastive losses for any LightningModule, as plain classes to inherit from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_normdyn.caution import caution
from lightning_normdyn.core.sharded_tensor import is_sharded
from lightning_normdyn.losses.cached import cached_loss
from lightning_normdyn.losses.chunked_encoder import Encode
from lightning_normdyn.losses.contrastive import ContrastiveLoss, option_hint
from lightning_normdyn.losses.full_softmax import FullSoftmax
from lightning_normdyn.losses.infonce import InfoNCE
from lightning_normdyn.losses.learnt import average_gradients
from lightning_normdyn.losses.max_sim import MaxSim
from lightning_normdyn.losses.named_losses import DISTILL_DEFAULTS, NamedContrast, defaults, named_loss, options_of
from lightning_normdyn.losses.options import (
    DistillationCandidates,
    InfoNCEOptions,
    MixinLoss,
    TeacherNormalization,
    Unpack,
)
from lightning_normdyn.losses.similarity import Normalization
from lightning_normdyn.losses.teacher import check_teacher_options

_LEAST_REACH = 0.05
_LOSS_OPTIONS = InfoNCEOptions.__optional_keys__
_DEFAULTS = defaults()


class ContrastiveMixin:
    """Gives a LightningModule ``self.contrastive_loss(queries, documents, ...)``, configured by its constructor.

    Put it before the LightningModule and hand keywords on, so that one word in a config swaps the loss:

    .. code-block:: python

        class Retriever(ContrastiveMixin, LightningModule):
            def __init__(self, width: int = 64, **contrastive: Any) -> None:
                super().__init__(**contrastive)
                self.encoder = nn.Linear(32, width)

            def training_step(self, batch):
                return self.contrastive_loss(self.encoder(batch["query"]), self.encoder(batch["document"]))

    The loss is ``self.contrast``, an :class:`InfoNCE` or, by one word, another, or by several words a
    :class:`SummedLoss`; its learnt temperature and exponents belong to the module's parameters, and are logged as
    ``normdyn/contrast/<name>``, as are its metrics if it keeps them (``with_metrics``).
    ``self.contrast.parameter_group(lr=1e-2)`` is their own group for an optimizer.
    The callbacks see queries and documents as the targets ``queries`` and ``documents``. Under Lightning's
    ``ModelParallelStrategy`` it gathers over the data-parallel dimension of the mesh, unless ``process_group`` says
    another.

    Args:
        args: handed on to the next class.
        normalization: as for :class:`InfoNCE`; ``None`` for the class's own, which is cosine here.
        loss: ``"infonce"``, or ``"sigmoid"`` for :class:`SigmoidContrastive` with the same normalization, temperature
            (0.05 and fixed, unless said otherwise) and shared options, and a bias that is learnt from -10, or
            ``"maxsim"`` for :class:`MaxSim` with the same and ``symmetric``, and means over a query's tokens;
            ``"full_softmax"`` for :class:`FullSoftmax`, whose call takes ``targets`` too, ``"supcon"`` for
            :class:`SupCon`, whose call is ``self.contrastive_loss(embeddings, labels)``;
            ``"distill_kl"`` for :class:`DistillKLDiv`, ``"margin_mse"`` for :class:`MarginMSE`, ``"graded"`` for
            :class:`GradedContrastive` and ``"cosent"`` for :class:`CoSENT`, each with what it takes of the options.
            Several words, as in ``["infonce", "sigmoid"]`` or with weights ``{"infonce": 1.0, "sigmoid": 0.2}``, for
            their :class:`SummedLoss`, each with the options that it knows.
        teacher_temperature: of the losses that have a teacher.
        teacher_normalization: likewise.
        candidates: of ``"distill_kl"``.
        options: those of :class:`InfoNCE`; what it does not know is handed on to the next class.

    Raises:
        ValueError: if an option is out of its range or means nothing to the loss; when the loss is used, if
            ``self.contrast`` was set to one that does not have the options that were given here.
    """

    contrast: NamedContrast
    _given_options: Mapping[str, Any] = MappingProxyType({})
    default_normalization: ClassVar[Normalization] = "cosine"
    _decay_checked = False
    _meshed_trainer: Any = None
    _mesh_handles: Sequence[Any] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if nn.Module in order and order.index(nn.Module) < order.index(ContrastiveMixin):
            raise TypeError(
                f"{cls.__name__}: expected ContrastiveMixin before the LightningModule among its bases; write "
                f"class {cls.__name__}(ContrastiveMixin, LightningModule)"
            )

    def __init__(
        self,
        *args: Any,
        normalization: Normalization | None = None,
        loss: MixinLoss | list[MixinLoss] | dict[str, float] = "infonce",
        teacher_temperature: float = 1.0,
        teacher_normalization: TeacherNormalization = "cosine",
        candidates: DistillationCandidates = "listed",
        **options: Unpack[InfoNCEOptions],
    ) -> None:
        loss_options = _take_loss_options(options)
        try:
            super().__init__(*args, **options)  # type: ignore[misc]
        except TypeError as error:
            raise _unexpected(type(self).__name__, options, error) from error
        options = loss_options  # under one name: jsonargparse follows ``**options`` into both calls
        infonce = InfoNCE(
            normalization=self.default_normalization if normalization is None else normalization, **options
        )
        check_teacher_options(
            teacher_temperature=teacher_temperature,
            teacher_normalization=teacher_normalization,
            candidates=candidates,
        )
        of_teacher = {
            "teacher_temperature": teacher_temperature,
            "teacher_normalization": teacher_normalization,
            "candidates": candidates,
        }
        given = {name: value for name, value in {**loss_options, **of_teacher}.items() if value != _DEFAULTS[name]}
        self.contrast = named_loss(loss, infonce, given)
        self._given_options = given if normalization is None else {**given, "normalization": normalization}
        self.contrast.has_options_of_mixin = True

    def contrastive_loss(self, queries: Tensor, documents: Tensor, **options: Any) -> Tensor:
        """The loss of a batch, see :meth:`InfoNCE.forward`; logs what trains in the loss itself, and its metrics."""
        self._see_mesh()
        loss: Tensor = self.contrast(queries, documents, **options)
        self._log_learnt()
        self._log_metrics()
        return loss

    def cached_contrastive_loss(
        self,
        query_inputs: Any,
        document_inputs: Any,
        *,
        encode_query: Encode,
        encode_document: Encode,
        chunk_size: int,
        loss: Callable[..., Tensor] | None = None,
        **options: Any,
    ) -> Tensor:
        """The same loss with encoders that see ``chunk_size`` inputs at a time, see :func:`cached_loss`.

        Another ``loss`` is a function of queries and documents, such as one that adds something to ``self.contrast``.
        """
        self._see_mesh()
        value = cached_loss(
            self.contrast if loss is None else loss,
            query_inputs,
            document_inputs,
            encode_query=encode_query,
            encode_document=encode_document,
            module=cast(nn.Module, self),
            chunk_size=chunk_size,
            **options,
        )
        self._log_learnt()
        if loss is None:
            self._log_metrics()
        return value

    def full_softmax_loss(self, queries: Tensor, documents: Tensor, targets: Tensor, **options: Any) -> Tensor:
        """The loss of queries that choose from a whole table of documents, see :class:`FullSoftmax`."""
        if isinstance(self.contrast, MaxSim):
            raise ValueError(
                "loss: 'maxsim' scores a vector a token, and a full softmax one a document; take 'infonce'"
            )
        self._see_mesh()
        loss: Tensor = FullSoftmax.sharing(self.contrast)(queries, documents, targets, **options)
        self._log_learnt()
        return loss

    def _see_mesh(self) -> None:
        """Lets the loss gather over the ranks that are given batches of their own, where Lightning made a mesh."""
        self._check_options()
        mesh = getattr(self, "device_mesh", None)
        self.contrast.rank_group.see_mesh(mesh)
        trainer = getattr(self, "_trainer", None)
        if mesh is not None and trainer is not None and trainer.training and self._meshed_trainer is not trainer:
            self._meshed_trainer = trainer
            self._train_as_one(trainer.optimizers)

    def _check_options(self) -> None:
        """Refuses a loss that was set afterwards and lacks what the constructor was given, as by a config."""
        if self.contrast.has_options_of_mixin or not self._given_options:
            return
        for contrast in self.contrast.summands:
            self._check_options_of(contrast)
        self.contrast.has_options_of_mixin = True

    def _check_options_of(self, contrast: ContrastiveLoss) -> None:
        name, values = type(contrast).__name__, options_of(contrast)
        for option, value in self._given_options.items():
            if option in values and values[option] != value:
                raise ValueError(
                    f"{option}: {value!r} was given to the module, and self.contrast was set to a {name} that has "
                    f"{values[option]!r}; write loss='sigmoid' for a sigmoid loss that heeds it, or give it to {name}"
                )
            if option not in values and (option in DISTILL_DEFAULTS or not isinstance(contrast, InfoNCE)):
                raise ValueError(
                    f"{option}: {value!r} was given to the module, and self.contrast was set to a {name}, which knows "
                    "no such option; leave one of them out"
                )

    def _train_as_one(self, optimizers: Sequence[Optimizer]) -> None:
        """Lets all ranks train what the loss learns as one, where FSDP2 may hold it or not."""
        optimized = {id(p): p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        loss_parameters = [p for p in self.contrast.parameters() if id(p) in optimized]
        for handle in self._mesh_handles:
            handle.remove()
        local_parameters = [p for p in loss_parameters if not is_sharded(p)]
        self._mesh_handles = average_gradients(local_parameters, self.contrast.rank_group.group)
        for optimizer in optimizers:  # inside of forward, FSDP2 has copies of its parameters, which it throws away
            self._mesh_handles.append(optimizer.register_step_post_hook(lambda *_: self._hold()))

    def _hold(self) -> None:
        for loss in self.contrast.summands:
            loss.scaling.hold()

    def _log_learnt(self) -> None:
        """Logs what trains in the loss itself, at the trainer's own cadence."""
        values = self.contrast.learnt()
        trainer = getattr(self, "_trainer", None)
        if values and trainer is not None and trainer.training:
            if not self._decay_checked:
                self._decay_checked = True
                self._warn_of_decay(trainer.optimizers)
                self._warn_of_omission(trainer.optimizers)
                self._warn_of_exponents(trainer)
            cast(Any, self).log_dict({f"normdyn/contrast/{name}": value for name, value in values.items()})

    def _log_metrics(self) -> None:
        """Logs what the batch says beside its loss, where the loss keeps it."""
        trainer = getattr(self, "_trainer", None)
        if self.contrast.with_metrics and trainer is not None and trainer.training:
            values = self.contrast.metrics()
            cast(Any, self).log_dict({f"normdyn/contrast/{name}": value for name, value in values.items()})

    def _warn_of_decay(self, optimizers: Sequence[Optimizer]) -> None:
        """Says so if weight decay pulls at what the loss learns: a gamma that is held at a half looks learnt."""
        parameter_ids = {id(parameter) for parameter in self.contrast.parameters()}
        groups = [group for optimizer in optimizers for group in optimizer.param_groups if group.get("weight_decay")]
        if any(id(parameter) in parameter_ids for group in groups for parameter in group["params"]):
            caution(
                "the optimizer's weight decay pulls the loss's temperature towards 1 and its exponents towards 1/2; "
                "put self.contrast.parameters() into a parameter group with weight_decay=0",
                stacklevel=4,
            )

    def _warn_of_exponents(self, trainer: Any) -> None:
        """Says so if learnt exponents would tell of something else than of lengths."""
        losses = [loss for loss in self.contrast.summands if loss.similarity.normalization == "learnable"]
        if any(not loss.scaling.learnable for loss in losses):
            caution(
                "normalization='learnable' beside a fixed temperature: exponents also stand in for the temperature, so "
                "that they say little of lengths; set learnable_temperature=True",
                stacklevel=4,
            )
        reaches = [_reach_of_exponents(loss, trainer) for loss in losses]
        reach = min((reach for reach in reaches if reach is not None), default=None)
        if reach is not None and reach < _LEAST_REACH:
            caution(
                f"the exponents can move by at most {reach:.1g} from where they started in this run, and would look "
                "learnt; give the optimizer self.contrast.parameter_group(lr=1e-2)",
                stacklevel=4,
            )

    def _warn_of_omission(self, optimizers: Sequence[Optimizer]) -> None:
        """Says so if no optimizer trains what the loss learns: it would be logged, and never move."""
        optimized_ids = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        parameters = list(self.contrast.parameters())
        if parameters and not any(id(parameter) in optimized_ids for parameter in parameters):
            caution(
                "no optimizer trains the loss's temperature or exponents; put self.contrast.parameters() into one of "
                "its parameter groups",
                stacklevel=4,
            )


def _reach_of_exponents(loss: ContrastiveLoss, trainer: Any) -> float | None:
    """How far an optimizer whose steps have about the size of its rate can take them; ``None`` for any other."""
    exponents = getattr(loss.similarity, "raw_gammas", None)
    steps = trainer.estimated_stepping_batches
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            if "betas" in group and any(parameter is exponents for parameter in group["params"]):
                # A gamma is the sigmoid of what trains, whose slope is a quarter at most.
                return float(max(group["lr"], group.get("initial_lr", 0.0))) * float(steps) / 4
    return None


def _take_loss_options(options: Any) -> InfoNCEOptions:
    """Takes the loss's own options out of all that came."""
    return cast(InfoNCEOptions, {name: options.pop(name) for name in _LOSS_OPTIONS.intersection(options)})


def _unexpected(module: str, options: Iterable[str], error: TypeError) -> TypeError:
    """The error of a base class that was handed a keyword it does not know, in terms of who wrote the keyword."""
    for name in options:
        if f"'{name}'" in str(error):
            names = sorted([*_LOSS_OPTIONS, "normalization"])
            advice = option_hint(name, names) or f"; the loss takes {', '.join(names)}"
            return TypeError(f"{module}: got an unexpected keyword argument {name!r}{advice}")
    return error


class CosineMixin(ContrastiveMixin):
    """:class:`ContrastiveMixin` that keeps no norm."""

    default_normalization = "cosine"


class DotMixin(ContrastiveMixin):
    """:class:`ContrastiveMixin` that keeps both norms."""

    default_normalization = "dot"


class QNormMixin(ContrastiveMixin):
    """:class:`ContrastiveMixin` that keeps the norm of documents."""

    default_normalization = "qnorm"


class DNormMixin(ContrastiveMixin):
    """:class:`ContrastiveMixin` that keeps the norm of queries."""

    default_normalization = "dnorm"


class LearnableNormMixin(ContrastiveMixin):
    """:class:`ContrastiveMixin` that learns how much of each norm to keep."""

    default_normalization = "learnable"
