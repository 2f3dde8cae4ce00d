"""Few-shot episodes: drawn right, measured right, trained as Snell et al. do, through the command line."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from lightning_normdyn.cli.main import main
from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.datasets import LabelledImages
from lightning_normdyn.tasks import FewShot, FewShotData
from lightning_normdyn.tasks.contrast.contrast_data import collate_pairs
from lightning_normdyn.tasks.encoders import ImageEncoder, SmallImageEncoder
from lightning_normdyn.tasks.fewshot.episodes import ClassDraws, Episodes, EpisodeShape, EpisodeSplit, draw_episodes
from lightning_normdyn.tasks.fewshot.fewshot import half_interval
from lightning_normdyn.tasks.sources import LabelledImagesSource

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
    "ignore:The '.*dataloader' does not have many workers",
    "ignore:The number of training batches",
)

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # pytorch_lightning 2.6 calls what 4.40 deprecated
    with torch.random.fork_rng():
        yield


VARIANTS = ["euclidean", "learnable", *NORMALIZATIONS]


class Squares(LabelledImagesSource):
    """Twelve classes, two a group, six images each: 8 x 8 noise around a pattern of the class."""

    def read(self):
        generator = torch.Generator().manual_seed(0)
        patterns = torch.randint(0, 200, (12, 1, 1, 8, 8), generator=generator)
        images = patterns + torch.randint(0, 40, (12, 6, 1, 8, 8), generator=generator)
        names = [str(place) for place in range(12)]
        return LabelledImages(
            images.flatten(0, 1).to(torch.uint8),
            torch.arange(12).repeat_interleave(6),
            names,
            [f"group {place // 2}" for place in range(12)],
        )


def squares(**options):
    shape = {"ways": 4, "queries": 2, "evaluation_ways": 2, "evaluation_queries": 3, "episodes": 7}
    return FewShotData(Squares(), **{**shape, **options})


class Flat(ImageEncoder):
    """Pixels as they are, scaled by a weight."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, pixels):
        return pixels.flatten(1) * self.scale


def score(query, prototype, normalization):
    if normalization == "euclidean":
        return -sum((a - b) ** 2 for a, b in zip(query, prototype, strict=True))
    exponents = NORMALIZATIONS[normalization]
    product_ = sum(a * b for a, b in zip(query, prototype, strict=True))
    return product_ / math.hypot(*query) ** exponents[0] / math.hypot(*prototype) ** exponents[1]


def mean(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def accuracy_by_loops(items, episodes, normalization):
    found = []
    for supports, queries in zip(episodes.supports.tolist(), episodes.queries.tolist(), strict=True):
        prototypes = [mean([items[place] for place in places]) for places in supports]
        right = [
            max(range(len(prototypes)), key=lambda way: score(items[place], prototypes[way], normalization)) == own
            for own, places in enumerate(queries)
            for place in places
        ]
        found.append(sum(right) / len(right))
    return found


@pytest.mark.parametrize("normalization", ["euclidean", *NORMALIZATIONS])
def test_accuracy_is_that_of_loops_over_episodes(normalization):
    torch.manual_seed(0)
    labels = torch.arange(6).repeat_interleave(5)
    items = torch.randn(6, 1, 3).expand(6, 5, 3).flatten(0, 1) + torch.randn(30, 3)
    episodes = draw_episodes(labels, EpisodeShape(3, 2, 3), episodes=20, seed=1)
    encoded = EpisodeSplit.of(items, episodes).assemble(items, torch.ones(30, dtype=torch.bool))
    model = FewShot(normalization=normalization, encoder=Flat())
    expected = accuracy_by_loops(items.tolist(), episodes, normalization)
    assert model.trained_measures(encoded)["accuracy"].tolist() == pytest.approx(expected)
    if normalization != "euclidean":
        assert model.measures(encoded, NORMALIZATIONS[normalization])["accuracy"].tolist() == pytest.approx(expected)
    assert 1 / 3 < sum(expected) / 20 < 1


def test_chance_is_what_equal_embeddings_get():
    episodes = draw_episodes(torch.arange(4).repeat_interleave(3), EpisodeShape(4, 1, 2), episodes=3, seed=0)
    encoded = EpisodeSplit.of([0] * 12, episodes).assemble(torch.ones(12, 2), torch.ones(12, dtype=torch.bool))
    assert FewShot(encoder=Flat()).trained_measures(encoded)["accuracy"].tolist() == [0.25] * 3


def test_episodes_hold_distinct_items_of_distinct_classes_and_come_again():
    labels = torch.tensor([0] * 3 + [1] * 5 + [2] * 4 + [3] * 2)
    shape = EpisodeShape(3, 1, 2)
    drawn = draw_episodes(labels, shape, episodes=50, seed=5)
    items = torch.cat(drawn, 2)
    assert (items.flatten(1).sort(1).values.diff(dim=1) > 0).all()
    assert (labels[items] == labels[items[:, :, :1]]).all()
    assert labels[items[:, :, 0]].sort(1).values.tolist() == [[0, 1, 2]] * 50
    again, other = (draw_episodes(labels, shape, episodes=50, seed=seed) for seed in (5, 6))
    assert torch.equal(again.supports, drawn.supports)
    assert not torch.equal(other.supports, drawn.supports)
    with pytest.raises(ValueError, match=r"^ways: expected at most the 3 classes with 3 items or more, got 4"):
        draw_episodes(labels, EpisodeShape(4, 1, 2), episodes=1, seed=0)


def test_episodes_with_items_that_were_not_encoded_are_left_out():
    episodes = Episodes(torch.tensor([[[0], [2]], [[4], [6]]]), torch.tensor([[[1], [3]], [[5], [7]]]))
    seen = torch.arange(8) < 6
    encoded = EpisodeSplit.of([0] * 8, episodes).assemble(torch.eye(8), seen)
    assert encoded.episodes == 1
    assert encoded.queries.argmax(1).tolist() == [1, 3]
    assert encoded.documents.argmax(1).tolist() == [0, 2]
    assert encoded.judgements.documents.tolist() == [0, 1]


def test_no_group_is_in_two_splits_and_the_items_are_whose_they_are():
    data, read = squares(), Squares().read()
    of_image = {image.numpy().tobytes(): int(label) for image, label in zip(read.images, read.labels, strict=True)}
    groups = {}
    for split in ("validation", "test"):
        labels = {of_image[image.numpy().tobytes()] for image in data.evaluation(split).queries}
        groups[split] = {read.groups[label] for label in labels}
    draws = data.training_pairs()
    labels = {of_image[image.numpy().tobytes()] for image in draws.items}
    groups["train"] = {read.groups[label] for label in labels}
    assert sum(map(len, groups.values())) == 6
    assert set.union(*groups.values()) == set(read.groups)
    assert len(draws) == 4 * len(labels)


def test_floors_are_guessing_and_the_nearest_pixels():
    data = squares(evaluation_shots=2)
    split = data.evaluation("test")
    expected = accuracy_by_loops((split.queries.flatten(1).double() / 255).tolist(), split.episodes, "euclidean")
    floors = data.floors("test")
    assert floors["nearest pixels"] == pytest.approx(sum(expected) / 7)
    assert floors["chance"] == 0.5


def test_training_draws_are_of_one_class_and_turned_alike():
    images = torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2)
    draws = ClassDraws(images, torch.tensor([0, 0, 0, 1, 1, 1]), EpisodeShape(2, 1, 2), turns=4)
    assert len(draws) == 8
    pair = draws[7]
    there = {turned.numpy().tobytes() for turned in torch.rot90(images[3:], 3, (-2, -1))}
    drawn = [image.numpy().tobytes() for image in torch.cat((pair.document, pair.query))]
    assert set(drawn) == there
    assert len(drawn) == 3
    assert pair.query_id == pair.document_id == 7
    assert {draws[0].document.sum().item() for _ in range(40)} == {6, 22, 38}


@pytest.mark.parametrize("normalization", ["euclidean", *NORMALIZATIONS])
def test_loss_is_the_cross_entropy_over_the_prototypes_of_an_episode(normalization):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3 * 4, 1, 2, 2), dtype=torch.uint8)
    draws = ClassDraws(images, torch.arange(3).repeat_interleave(4), EpisodeShape(3, 2, 2))
    batch = collate_pairs([draws[place] for place in range(3)])
    model = FewShot(normalization=normalization, encoder=Flat(), temperature=0.5)
    supports, queries = ((batch[side].double() / 255).flatten(2).tolist() for side in ("documents", "queries"))
    prototypes = [mean(vectors) for vectors in supports]
    total = 0.0
    for own, place in product(range(3), range(2)):
        logits = [score(queries[own][place], prototype, normalization) / 0.5 for prototype in prototypes]
        total += math.log(sum(map(math.exp, logits))) - logits[own]
    assert model.loss(batch).item() == pytest.approx(total / 6, rel=1e-6)


def test_interval_covers_the_mean_in_95_of_100_cases():
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(2000, 60, generator=generator)
    covered = [abs(draw.mean() - 0.5) <= half_interval(draw) for draw in draws]
    assert 0.93 < sum(map(bool, covered)) / 2000 < 0.97


@pytest.mark.parametrize(
    "options", [{"ways": 1}, {"shots": 0}, {"evaluation_queries": 0}, {"episodes": 0}, {"test_share": 0.9}]
)
def test_options_out_of_range_are_named(options):
    name = "shares" if "test_share" in options else next(iter(options))
    with pytest.raises(ValueError, match=rf"^{name}: "):
        squares(**options).training_pairs()


def test_images_of_another_size_are_refused_with_the_way_out():
    with pytest.raises(
        ValueError, match=r"^images: expected \[b, 1, 28, 28\], got \[2, 1, 8, 8\]; set the encoder's size"
    ):
        SmallImageEncoder().encode(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


@pytest.fixture
def texts(tmp_path):
    words = ["card", "cash", "rate", "fee", "loan", "fraud", "limit", "transfer"]
    lines = [f"{word} {one} {number}\t{word}" for word in words for one in ("lost", "new") for number in range(2)]
    (tmp_path / "train.tsv").write_text("\n".join(["text\tcategory", *lines]) + "\n")
    return str(tmp_path)


@pytest.mark.cautions("'learnable' beside a fixed temperature", "exponents can move by at most")
@pytest.mark.parametrize("normalization", VARIANTS)
def test_every_variant_runs_from_the_config_by_one_word(normalization, texts, tmp_path):
    config = yaml.safe_load((Path(__file__).resolve().parents[2] / "configs/fewshot.yaml").read_text())
    config["model"]["init_args"] |= {
        "normalization": normalization,
        "encoder": {"class_path": "SmallTextEncoder", "init_args": {"dim": 8, "buckets": 50, "hidden": 8}},
    }
    config["data"]["init_args"] = {
        "source": {"class_path": "LabelledTextFiles", "init_args": {"folder": texts}},
        "ways": 2,
        "queries": 1,
        "evaluation_ways": 2,
        "evaluation_queries": 1,
        "episodes": 3,
        "validation_share": 0.25,
        "test_share": 0.25,
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(file), "--trainer.fast_dev_run", "true"]) == 0


def test_a_split_of_too_few_classes_names_the_option_and_the_split():
    with pytest.raises(ValueError, match=r"evaluation_ways: expected at most .* got 9; .*validation_share"):
        squares(evaluation_ways=9).evaluation("validation")


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **options)


def test_floors_are_measured_once_all_episodes_are():
    data, model = squares(), FewShot(encoder=SmallImageEncoder(size=8, width=4, blocks=2, dim=4), lr=1e-3)
    (tested,) = trainer().test(model, datamodule=data, verbose=False)
    floors = {name: value for name, value in tested.items() if "/floor/" in name}
    assert floors == pytest.approx({f"test/floor/{name}": value for name, value in data.floors("test").items()})
    (part,) = trainer(limit_test_batches=1).test(model, datamodule=squares(evaluation_batch_size=8), verbose=False)
    assert not [name for name in part if "/floor/" in name]


def test_a_training_that_diverged_is_no_guess():
    model = FewShot(encoder=SmallImageEncoder(size=8, width=4, blocks=2, dim=4), lr=1e-3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ValueError, match="training diverged: items of the test split"):
        trainer().test(model, datamodule=squares(), verbose=False)
