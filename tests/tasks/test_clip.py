"""Image and text: both directions against loops, pairs that must not part, open_clip, the command line."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from lightning_normdyn.cli.main import main
from lightning_normdyn.core import NORMALIZATIONS
from lightning_normdyn.datasets import CaptionedImages, Judgements
from lightning_normdyn.tasks import ImageText, ImageTextData
from lightning_normdyn.tasks.clip.pixels import center_crop, random_shift
from lightning_normdyn.tasks.contrast.contrast_data import collate_pairs
from lightning_normdyn.tasks.contrast.encoded import Encoded
from lightning_normdyn.tasks.encoders import SmallImageEncoder, SmallTextEncoder
from lightning_normdyn.tasks.encoders.image_text_towers import ApartTowers
from lightning_normdyn.tasks.sources import CaptionedImagesSource

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
    "ignore:The '.*dataloader' does not have many workers",
    "ignore:The number of training batches",
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # pytorch_lightning 2.6 calls what 4.40 deprecated
    with torch.random.fork_rng():
        yield


VARIANTS = ["learnable", *NORMALIZATIONS]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class Swatches(CaptionedImagesSource):
    """Forty images of ten groups, two captions a group, two images a caption."""

    def read(self):
        names = [f"{colour} {number}" for number in range(10) for colour in ("red", "blue") for _ in range(2)]
        images = [
            Image.new("RGB", (8, 8), tuple(part - place for part in (250, 240, 230))) for place in range(len(names))
        ]
        return CaptionedImages(images, names, [name.split()[1] for name in names])


def swatches(**options):
    return ImageTextData(Swatches(), image_size=8, shift=1, batch_size=8, **options)


def towers():
    torch.manual_seed(0)
    return ApartTowers(
        SmallImageEncoder(size=8, channels=3, width=4, blocks=2, dim=6), SmallTextEncoder(dim=6, buckets=50, hidden=4)
    )


def score(query, document, exponents):
    product = sum(a * b for a, b in zip(query, document, strict=True))
    return product / math.hypot(*query) ** exponents[0] / math.hypot(*document) ** exponents[1]


def hit(scores, right, k):
    """Whether one of the right places is among the first k."""
    return float(
        bool({place for _, place in sorted((-value, place) for place, value in enumerate(scores))[:k]} & right)
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_recall_of_both_directions_is_that_of_loops(normalization):
    torch.manual_seed(0)
    captions = torch.randn(15, 3) * torch.rand(15, 1).exp() ** 3
    own = torch.arange(30) % 15
    images = captions[own] + 1.5 * torch.randn(30, 3)
    encoded = Encoded(images, captions, Judgements(torch.arange(30), own, torch.ones(30)))
    found = ImageText(towers=towers()).measures(encoded, NORMALIZATIONS[normalization])
    scores = [[score(a, b, NORMALIZATIONS[normalization]) for b in captions.tolist()] for a in images.tolist()]
    for k in (1, 5, 10):
        to_text = [hit(row, {int(own[place])}, k) for place, row in enumerate(scores)]
        to_image = [
            hit([row[caption] for row in scores], set((own == caption).nonzero().flatten().tolist()), k)
            for caption in range(15)
        ]
        assert found[f"image_to_text_recall@{k}"].tolist() == to_text
        assert found[f"text_to_image_recall@{k}"].tolist() == to_image
        both = [(one + to_image[int(own[place])]) / 2 for place, one in enumerate(to_text)]
        assert found[f"recall@{k}"].tolist() == both
        assert 0 < sum(both) < 30 or k > 1


def test_groups_stay_together_and_captions_are_listed_once():
    data = swatches(validation_share=0.2, test_share=0.2)
    groups = [{data.pairs.groups[place] for place in data.places[split]} for split in ("train", "validation", "test")]
    assert [len(some) for some in groups] == [6, 2, 2]
    assert len(set.union(*groups)) == 10
    split = data.evaluation("test")
    assert len(split.queries) == 8
    assert len(split.documents) == len(set(split.documents)) == 4
    for image, document in zip(split.judgements.queries.tolist(), split.judgements.documents.tolist(), strict=True):
        place = data.places["test"][image]
        assert split.documents[document] == data.pairs.captions[place]
        assert torch.equal(split.queries[image], center_crop(data.pairs.images[place], 8))


def test_loss_is_symmetric_and_leaves_images_of_one_caption_alone():
    data = swatches()
    pairs = data.training_pairs()
    batch = collate_pairs([pairs[place] for place in range(6)])
    texts = batch["documents"]
    assert len(set(texts)) == 3
    model = ImageText(towers=towers(), normalization="qnorm", temperature=0.5).eval()
    scores = [
        [score(a, b, NORMALIZATIONS["qnorm"]) / 0.5 for b in model.encode_documents(texts).double().tolist()]
        for a in model.encode_queries(batch["queries"]).double().tolist()
    ]
    total = 0.0
    for i, own in enumerate(texts):
        others = [j for j, text in enumerate(texts) if j == i or text != own]
        for row in (scores[i], [row[i] for row in scores]):
            total += math.log(sum(math.exp(row[j]) for j in others)) - row[i]
    assert model.loss(batch).item() == pytest.approx(total / 12, rel=1e-5)


def test_floor_is_what_guesses_hit():
    data = swatches()
    own = data.evaluation("test").judgements.documents
    torch.manual_seed(0)
    hits = [
        (float(torch.randint(own.max() + 1, ()) == caption) + float(own[torch.randint(len(own), ())] == caption)) / 2
        for _ in range(2000)
        for caption in own
    ]
    assert data.floors("test")["chance"] == pytest.approx(sum(hits) / len(hits), rel=0.05)


def test_shift_moves_what_is_there_and_repeats_the_edge():
    image = torch.arange(3 * 5 * 5, dtype=torch.uint8).view(3, 5, 5)
    assert random_shift(image, 0) is image
    torch.manual_seed(0)
    seen = {random_shift(image, 1).numpy().tobytes() for _ in range(100)}
    assert len(seen) == 9
    padded = torch.nn.functional.pad(image.float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
    windows = {padded[:, y : y + 5, x : x + 5].contiguous().numpy().tobytes() for y in range(3) for x in range(3)}
    assert seen == windows


def test_the_middle_of_a_wide_image_is_kept():
    wide = Image.new("RGB", (30, 10), COLOURS["red"])
    wide.paste(COLOURS["blue"], (10, 0, 20, 10))
    assert center_crop(wide, 10)[:, 5, 5].tolist() == [0, 0, 255]
    assert center_crop(wide, 10)[0].max() == 0
    assert center_crop(wide.resize((60, 20)), 10).shape == (3, 10, 10)


def test_towers_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"^text: expected embeddings as long as those of images, 6, got 5"):
        ApartTowers(SmallImageEncoder(size=8, channels=3, blocks=2, dim=6), SmallTextEncoder(dim=5))


@pytest.mark.parametrize("options", [{"image_size": 0}, {"shift": 8}])
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=rf"^{next(iter(options))}: "):
        ImageTextData(Swatches(), **{"image_size": 8, **options})


@pytest.fixture
def open_clip_folder(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**config).state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_open_clip_gives_its_own_embeddings_before_their_normalisation(open_clip_folder):
    import open_clip

    from lightning_normdyn.tasks.encoders.open_clip import OpenClip

    name = f"local-dir:{open_clip_folder}"
    ours = OpenClip(name).eval()
    theirs, _, preprocess = open_clip.create_model_and_transforms(name)
    theirs.eval()
    image = Image.radial_gradient("L").convert("RGB").resize((40, 24))
    images = center_crop(image, 16)[None]
    text = ["a red heart"]
    with torch.no_grad():
        found = ours.encode_images(images), ours.encode_texts(text)
        expected = theirs.encode_image(preprocess(image)[None]), theirs.encode_text(open_clip.get_tokenizer(name)(text))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
            assert abs(one.norm() - 1) > 1e-3
    ours.encode_texts(["one two three four five six", "one two three four five six seven eight"])
    assert (ours.texts, ours.truncated_texts) == (3, 1)
    with pytest.warns(UserWarning, match="33.3% of the captions are longer"):
        ours.tell_truncation()
    with pytest.raises(ValueError, match="set the data's image_size=16"):
        ours.encode_images(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"^model: expected a model of open_clip"):
        OpenClip("local-dir:nowhere")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_open_clip_weights_go_by_a_tag_behind_the_name(open_clip_folder, tmp_path, monkeypatch):
    """A stand-in among open_clip's own tags, whose weights lie here; open_clip loads them by itself."""
    import open_clip

    from lightning_normdyn.tasks.audited_model import load_audited
    from lightning_normdyn.tasks.encoders.open_clip import OpenClip

    config = json.loads((open_clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "Tiny-B-8.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(tmp_path / "Tiny-B-8.json")
    weights = str(open_clip_folder / "open_clip_pytorch_model.bin")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-B-8", {"stand_in": {"file": weights}})
    expected = OpenClip(f"local-dir:{open_clip_folder}").eval().encode_texts(["a red heart"])
    for model in (OpenClip("Tiny-B-8/stand_in").eval(), load_audited("Tiny-B-8/stand-in")):
        torch.testing.assert_close(model.encode_texts(["a red heart"]), expected)
    assert load_audited("Tiny-B-8").notes == ["The model has random weights: name trained ones with --pretrained."]
    assert load_audited("Tiny-B-8/stand_in").notes == []
    with pytest.raises(ValueError, match=r"weights that open_clip has of Tiny-B-8 \(stand_in\), got 'other'; name one"):
        OpenClip("Tiny-B-8/other")
    with pytest.raises(ValueError, match=r"^pretrained: expected no other weights beside Tiny-B-8/stand_in, got 'x'"):
        OpenClip("Tiny-B-8/stand_in", pretrained="x")
    with pytest.raises(ValueError, match=r"^query_prompt: expected a model of transformers .*'Tiny-B-8' of open_clip"):
        load_audited("Tiny-B-8", query_prompt="query")


@pytest.fixture
def table(tmp_path):
    for place in range(12):
        Image.new("RGB", (8, 8), (20 * place, 0, 0)).save(tmp_path / f"{place}.png")
    rows = [f"{place}.png,shade {place // 2}" for place in range(12)]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *rows]) + "\n")
    return str(tmp_path)


@pytest.mark.cautions("exponents can move by at most")
@pytest.mark.parametrize("normalization", VARIANTS)
def test_every_variant_runs_from_the_config_by_one_word(normalization, table, tmp_path):
    config = yaml.safe_load((Path(__file__).resolve().parents[2] / "configs/clip.yaml").read_text())
    image = {"size": 8, "channels": 3, "width": 4, "blocks": 2, "dim": 8}
    small = {"image": {"class_path": "SmallImageEncoder", "init_args": image}}
    small["text"] = {"class_path": "SmallTextEncoder", "init_args": {"dim": 8, "buckets": 50, "hidden": 8}}
    config["model"]["init_args"] |= {"normalization": normalization}
    config["model"]["init_args"]["towers"] = {"class_path": "ApartTowers", "init_args": small}
    config["data"]["init_args"] |= {
        "source": {"class_path": "ImageTextTable", "init_args": {"path": table}},
        "image_size": 8,
        "batch_size": 4,
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(file), "--trainer.fast_dev_run", "true"]) == 0
