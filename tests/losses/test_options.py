"""Options are written once, and everybody sees them: type checkers, jsonargparse, and who misspells one."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest
import yaml
from jsonargparse import ArgumentParser
from pytorch_lightning import LightningModule

from lightning_normdyn.cli import export
from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.losses import (
    AdaFace,
    ArcFace,
    ContrastiveMixin,
    CoSENT,
    CosFace,
    CosineMixin,
    DistillKLDiv,
    FullSoftmax,
    GradedContrastive,
    InfoNCE,
    MagFace,
    MarginMSE,
    MaxSim,
    NormFace,
    SigmoidContrastive,
    SupCon,
)
from lightning_normdyn.losses.contrastive import ContrastiveLoss
from lightning_normdyn.losses.options import InfoNCEOptions, SharedOptions, SoftmaxOptions
from lightning_normdyn.losses.similarity import NORMALIZATION_NAMES
from lightning_normdyn.report.grid.figures import COLOURS
from lightning_normdyn.tasks.contrast.contrastive_task import ContrastiveTask

SHARED = {
    "max_scale": 100.0,
    "shared_gamma": False,
    "chunk_size": None,
    "gather": True,
    "process_group": None,
    "check_finite": True,
    "reduction": "mean",
}
SOFTMAX = {**SHARED, "temperature": 0.05, "learnable_temperature": False}
INFONCE = {
    **SOFTMAX,
    "symmetric": False,
    "direction": "query_to_document",
    "same_side": "none",
    "joint": False,
    "queue_size": 0,
    "queue_positives": False,
    "shared_hard_negatives": True,
    "fused": False,
    "label_smoothing": 0.0,
    "margin": 0.0,
    "relative_margin": 0.0,
    "decoupled": False,
    "prior": 0.0,
    "guide_margin": 0.0,
    "guide_relative_margin": 0.0,
    "negative_margin": None,
    "negative_share": None,
    "hardness": "none",
    "hardness_strength": 5.0,
    "prefixes": None,
    "prefix_weights": None,
    "with_metrics": False,
}
SIGMOID = {**SHARED, "temperature": 0.1, "learnable_temperature": True, "bias": -10.0, "learnable_bias": True}


class CosineMixinAlone(CosineMixin, LightningModule):
    pass


class Plain(ContrastiveMixin, LightningModule):
    def __init__(self, width: int = 8, **contrastive: Any) -> None:
        super().__init__(**contrastive)
        self.width = width


class Preset(CosineMixin, LightningModule):
    pass


class Deep(LightningModule):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.depth = depth


class Heir(ContrastiveMixin, Deep):
    """One whose other base class has arguments of its own."""


TEACHER = {"normalization": "cosine", "teacher_temperature": 1.0, "teacher_normalization": "cosine"}
DIRECTIONS = {"symmetric": False, "direction": "query_to_document"}
MIXIN = INFONCE | TEACHER | {"normalization": None, "loss": "infonce", "candidates": "listed"}
EVERYTHING = {
    InfoNCE: INFONCE | {"normalization": "cosine"},
    FullSoftmax: SOFTMAX | {"normalization": "cosine", "share_documents": False},
    SupCon: SOFTMAX | {"normalization": "cosine"},
    MaxSim: SOFTMAX | {"normalization": "cosine", "symmetric": False, "length_normalize": True},
    SigmoidContrastive: SIGMOID | {"normalization": "cosine"},
    DistillKLDiv: SOFTMAX | TEACHER | DIRECTIONS | {"candidates": "listed", "with_metrics": False},
    MarginMSE: SOFTMAX | TEACHER | {"with_metrics": False},
    GradedContrastive: SOFTMAX | DIRECTIONS | {"normalization": "cosine"},
    CoSENT: SOFTMAX | {"normalization": "cosine"},
    Plain: MIXIN | {"width": 8},
    Preset: MIXIN,
}
HEAD = SOFTMAX | {"temperature": 1 / 64, "sample": 1.0, "seed": 0, "num_classes": None, "dim": None}
MAGFACE = {"lower_norm": 10.0, "upper_norm": 110.0, "lower_margin": 0.45, "upper_margin": 0.8, "norm_weight": 35.0}
HEADS = {
    NormFace: HEAD,
    CosFace: HEAD | {"margin": 0.35},
    ArcFace: HEAD | {"margin": 0.5},
    MagFace: HEAD | MAGFACE,
    AdaFace: HEAD | {"margin": 0.4, "concentration": 0.333, "momentum": 0.99},
}


def parser_of(cls: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "loss")
    return parser


@pytest.mark.parametrize(
    ("options", "defaults", "constructors"),
    [
        (SharedOptions, SHARED, [ContrastiveLoss]),
        (SoftmaxOptions, SOFTMAX, [ContrastiveLoss]),
        (InfoNCEOptions, INFONCE, [InfoNCE, ContrastiveLoss]),
    ],
)
def test_what_type_checkers_see_is_what_constructors_take(options, defaults, constructors):
    parameters = {
        name: parameter
        for cls in constructors
        for name, parameter in inspect.signature(cls, eval_str=True).parameters.items()
    }
    expected = get_type_hints(options)
    assert {name: parameters[name].annotation for name in expected} == expected
    assert {name: parameters[name].default for name in expected} == defaults


def test_names_of_normalizations_are_those_that_have_exponents_and_the_learnt_one():
    assert (*NORMALIZATIONS, "learnable") == NORMALIZATION_NAMES == ContrastiveTask.variants
    (option,) = (option for option in export.options if option.name == "normalization")
    assert option.choices == NORMALIZATION_NAMES
    assert set(NORMALIZATION_NAMES) <= set(COLOURS)


@pytest.mark.parametrize("cls", EVERYTHING, ids=lambda cls: cls.__name__)
def test_a_configuration_shows_every_option_with_its_default(cls):
    parser = parser_of(cls)
    assert vars(parser.get_defaults().loss) == EVERYTHING[cls]
    text = " ".join(parser.format_help().split())
    assert "(type: float, default: 100.0)" in text
    assert "(type: int | null, default: null)" in text or "(type: Optional[int], default: null)" in text
    assert "largest learnt ``1/temperature``" in text


@pytest.mark.parametrize("cls", HEADS, ids=lambda cls: cls.__name__)
def test_margin_heads_are_built_from_a_configuration_that_shows_every_option(cls):
    parser = parser_of(cls)
    assert vars(parser.get_defaults().loss) == HEADS[cls]
    parsed = parser.parse_string(yaml.safe_dump({"loss": {"num_classes": 5, "dim": 3, "sample": 0.5}}))
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes
    head = build(parsed).loss
    assert (tuple(head.weight.shape), head.sampling.sample) == ((5, 3), 0.5)
    with pytest.raises(TypeError, match=rf"^{cls.__name__}: .*'temprature'.*; did you mean 'temperature'\?$"):
        cls(5, 3, temprature=0.1)


@pytest.mark.parametrize("cls", EVERYTHING, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("words", [["--loss.max_scale=wide"], ["--loss.maxscale=3"], ["--loss.gather=3.5"]])
def test_a_configuration_is_checked(cls, words):
    with pytest.raises(Exception, match=words[0].split("=")[0].removeprefix("--")):
        parser_of(cls).parse_args(words)


@pytest.mark.parametrize("cls", EVERYTHING, ids=lambda cls: cls.__name__)
def test_a_misspelt_option_is_one_clear_error(cls):
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'max_scael'") as caught:
        cls(max_scael=3.0)
    if issubclass(cls, ContrastiveMixin):
        assert str(caught.value).startswith(f"{cls.__name__}: ")
        assert str(caught.value).endswith("did you mean 'max_scale'?")


def test_a_keyword_of_nobody_lists_what_the_loss_takes():
    with pytest.raises(TypeError, match="unexpected keyword argument 'xyz'; the loss takes check_finite, chunk_size"):
        Plain(xyz=3)


def test_another_error_of_a_base_class_stays_what_it_is():
    class Broken(LightningModule):
        def __init__(self, depth: int = 3) -> None:
            super().__init__()
            raise TypeError("depth is no depth")

    class Child(ContrastiveMixin, Broken):
        pass

    with pytest.raises(TypeError, match=r"^depth is no depth$"):
        Child(depth=2)


def test_keywords_of_the_next_class_arrive_there_from_python_and_from_a_configuration():
    assert Heir(depth=5, temperature=0.2).depth == 5
    parser = parser_of(Heir)
    parsed = parser.parse_string(yaml.safe_dump({"loss": {"depth": 5, "temperature": 0.2, "symmetric": True}}))
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    module = build(parsed).loss
    assert (module.depth, module.contrast.from_documents) == (5, True)
    assert float(module.contrast.temperature) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("cls", "word", "option"),
    [
        (InfoNCE, "normalisation", "normalization"),
        (InfoNCE, "symetric", "symmetric"),
        (SigmoidContrastive, "bais", "bias"),
        (FullSoftmax, "temprature", "temperature"),
        (Plain, "normalisation", "normalization"),
        (CosineMixinAlone, "temprature", "temperature"),
    ],
)
def test_a_misspelt_option_is_named_with_the_class_and_the_right_word(cls, word, option):
    with pytest.raises(TypeError, match=rf"^{cls.__name__}: .*'{word}'.*; did you mean '{option}'\?$"):
        cls(**{word: 1})


@pytest.mark.parametrize("cls", [InfoNCE, SigmoidContrastive, FullSoftmax, SupCon, MaxSim])
def test_the_error_lists_every_option(cls):
    with pytest.raises(TypeError) as caught:
        cls(zzz=1)
    assert set(str(caught.value).partition("it takes ")[2].split(", ")) == {"normalization", *EVERYTHING[cls]}
