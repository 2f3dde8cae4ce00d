"""Names of rows: given by the user or held by a datamodule, kept in the history, read back without a trainer."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser
from pytorch_lightning import Callback
from small_models import DIM, ROWS, Batches, Lit, PairTable, TwoTables, TwoTowers, pair_batches, seeded

from lightning_normdyn.callbacks import NormDynamics
from lightning_normdyn.history import read_run
from lightning_normdyn.instruments import NormObserver

TABLE = "net.table.weight"
WORDS = [f"word {number}" for number in range(ROWS)]


class Tokenizer:
    """As much of a tokenizer of transformers as names need."""

    def __len__(self):
        return ROWS

    def convert_ids_to_tokens(self, ids):
        return [f"token {number}" for number in ids]


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def names_after(fit, folder, net=PairTable, target=TABLE, **options):
    fit(Lit(seeded(net), sgd), pair_batches(2), NormDynamics(**options))
    return read_run(folder)[target].row_names()


def numbered(words):
    return dict(enumerate(words))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (WORDS, WORDS),
        (tuple(WORDS), WORDS),
        ({TABLE: WORDS}, WORDS),
        (Tokenizer(), [f"token {number}" for number in range(ROWS)]),
        (lambda numbers: [f"row {number}" for number in numbers], [f"row {number}" for number in range(ROWS)]),
    ],
    ids=["list", "tuple", "mapping", "tokenizer", "function"],
)
def test_names_that_a_user_gives(fit, tmp_path, names, expected):
    assert names_after(fit, tmp_path, names=names) == numbered(expected)


class Short(Tokenizer):
    """One that is shorter than the table, and has a hole."""

    def __len__(self):
        return ROWS - 2

    def convert_ids_to_tokens(self, ids):
        return [None if number == 1 else ["a", "b", "c", *WORDS][: ROWS - 2][number] for number in ids]


def test_rows_beyond_a_tokenizer_are_numbered(fit, tmp_path):
    names = names_after(fit, tmp_path, names=Short())
    assert [names[row] for row in (0, 1, ROWS - 2, ROWS - 1)] == ["a", "row 1", f"row {ROWS - 2}", f"row {ROWS - 1}"]


def test_names_of_a_target_that_is_not_there_are_said_to_be_unused(fit, tmp_path):
    with pytest.warns(UserWarning, match="no target 'net.tabel.weight', so its names are not used") as warned:
        assert names_after(fit, tmp_path, names={TABLE: WORDS, "net.tabel.weight": WORDS}) == numbered(WORDS)
    assert sum("not used" in str(warning.message) for warning in warned) == 1


def test_a_byte_order_mark_is_no_part_of_a_name(fit, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8-sig")
    assert names_after(fit, tmp_path, names=tmp_path / "words.txt") == numbered(WORDS)


def test_a_file_of_names_that_is_no_utf8_is_named(fit, tmp_path):
    (tmp_path / "words.txt").write_bytes("\n".join(["café"] * ROWS).encode("latin1"))
    with pytest.raises(ValueError, match=r"names: '.*words\.txt' is no UTF-8 text .*; save it as UTF-8"):
        names_after(fit, tmp_path, names=tmp_path / "words.txt")


def test_a_text_file_from_yaml(fit, tmp_path):
    """What follows a tab is no part of a name: a vocabulary.tsv holds counts there."""
    file = tmp_path / "vocabulary.tsv"
    file.write_text("".join(f"{word}\t{number}\n" for number, word in enumerate(WORDS)), encoding="utf-8")
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    entry = {"class_path": "lightning_normdyn.callbacks.NormDynamics", "init_args": {"names": str(file)}}
    config = parser.parse_string(yaml.safe_dump({"callbacks": [entry]}))
    (callback,) = (getattr(parser, "instantiate", None) or parser.instantiate_classes)(config).callbacks
    fit(Lit(seeded(PairTable), sgd), pair_batches(2), callback)
    assert read_run(tmp_path)[TABLE].row_names() == numbered(WORDS)


def test_rows_that_are_not_tracked_need_no_name_on_disk(fit, tmp_path):
    names = names_after(fit, tmp_path, names=WORDS, max_tracked_rows=10)
    assert names == {number: WORDS[number] for number in range(0, ROWS, 3)}


def test_several_tables_need_a_mapping(fit, tmp_path):
    with pytest.raises(ValueError, match=r"^names: expected a mapping of target names to row names, since there are 2"):
        names_after(fit, tmp_path, TwoTables, names=WORDS)


def test_names_without_a_table_need_a_mapping(fit, tmp_path):
    with pytest.raises(ValueError, match=r"^names: expected a mapping .* since there are 0 tables; the targets are"):
        names_after(fit, tmp_path, TwoTowers, targets=["net.encoder"], names=WORDS)


def test_one_of_several_tables(fit, tmp_path):
    names = names_after(fit, tmp_path, TwoTables, "net.queries.weight", names={"net.queries.weight": WORDS})
    assert names == numbered(WORDS)
    assert read_run(tmp_path)["net.documents.weight"].row_names() == {}


def test_items_of_a_probe(fit, tmp_path):
    items = ["first", "second", "third"]
    probe = torch.randn(3, DIM)
    options = {"targets": ["net.encoder"], "probe": probe, "names": {"net.encoder": items}}
    assert names_after(fit, tmp_path, TwoTowers, "net.encoder", **options) == numbered(items)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (WORDS[:-1], rf"^names: expected a name for each of {ROWS} rows, got {ROWS - 1} for 'net.table.weight'"),
        (lambda _: ["one"], rf"^names: expected a name for each of {ROWS} rows, got 1 for 'net.table.weight'"),
    ],
)
def test_too_few_names(fit, tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        names_after(fit, tmp_path, names=names)


@pytest.mark.parametrize("names", [5, {TABLE: 0.5}])
def test_what_names_nothing(names):
    with pytest.raises(ValueError, match=r"^names: expected one name a row, a path, a tokenizer, a function "):
        NormDynamics(names=names)


def test_a_file_that_is_not_there():
    with pytest.raises(ValueError, match=r"^names: no file 'nowhere.txt'; write one name a line there"):
        NormDynamics(names="nowhere.txt")


class Data(pl.LightningDataModule):
    """Batches, and what is known about the rows."""

    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(type(self) if isinstance(value, property) else self, name, value)

    def train_dataloader(self):
        return Batches(pair_batches(2))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"vocabulary": WORDS}, WORDS),
        ({"vocab": {word: number for number, word in enumerate(WORDS)}}, WORDS),
        ({"row_names": {TABLE: WORDS}}, WORDS),
        ({"tokenizer": Tokenizer()}, [f"token {number}" for number in range(ROWS)]),
        ({"vocabulary": WORDS[:-1]}, []),  # of something else
        ({"row_names": {TABLE: WORDS[:-1]}}, []),
        ({"vocabulary": property(lambda _: 1 / 0)}, []),
        ({"vocabulary": 12, "tokenizer": object()}, []),
    ],
)
def test_names_that_a_datamodule_holds(tmp_path, attributes, expected):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[NormDynamics()],
    )

    class OwnData(Data):
        """So that a property of one case is none of the next."""

    trainer.fit(Lit(seeded(PairTable), sgd), datamodule=OwnData(**attributes))
    assert read_run(tmp_path)[TABLE].row_names() == numbered(expected)


def test_names_that_a_module_holds_count_for_one_table_alone(fit, tmp_path):
    """Two tables of one size: nobody can tell whose they are, even if the user names the rows of one."""

    class Twins(TwoTables):
        def __init__(self):
            super().__init__()
            self.documents = torch.nn.Embedding(ROWS, DIM)

    for net, target, expected in ((PairTable, TABLE, WORDS), (Twins, "net.queries.weight", [])):
        module = Lit(seeded(net), sgd)
        module.vocabulary = WORDS
        names = {"net.documents.weight": Tokenizer()} if net is Twins else None
        fit(module, pair_batches(2), NormDynamics(names=names))
        assert read_run(tmp_path)[target].row_names() == numbered(expected)


def test_the_plain_observer_takes_names_too(tmp_path):
    net = seeded(PairTable)
    optimizer = sgd(net)
    with NormObserver(net, optimizer, log_dir=tmp_path, names=WORDS):
        net(pair_batches(1)[0]).backward()
        optimizer.step()
    assert read_run(tmp_path)["table.weight"].row_names() == numbered(WORDS)


def test_a_damaged_file_is_named(fit, tmp_path):
    names_after(fit, tmp_path, names=WORDS)
    (tmp_path / "normdyn" / "row_names.json").write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"row_names\.json' is damaged"):
        assert read_run(tmp_path)[TABLE].row_names() == {}
