"""What fine-tuning with each normalization gave, as a dated table that names the hardware and what could be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VARIANTS = ("dot", "qnorm", "dnorm", "learnable")
TITLES = {
    "heads/sts_benchmark": "STS-B, heads",
    "heads/banking77": "BANKING77, heads",
    "heads/scifact": "scifact, heads",
    "heads/few_of_scifact": "scifact of 1 in 5 other abstracts, heads",
    "heads/titles": "titles to abstracts, heads",
    "layers/scifact": "scifact, upper two layers",
    "layers/sts_benchmark": "STS-B, upper two layers",
}
NAMES = {"banking77": "BANKING77", "sts_benchmark": "STS-B"}


def tabulate(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    hardware, studies = report["machine"], report["studies"]
    lines = [
        f"# Which norms a pretrained encoder shall keep, {report['date']}",
        "",
        f"`python benchmarks/finetune_minilm.py MODEL DATA --only {' '.join(studies)}`; {hardware['cpu']}, "
        f"{hardware['cores']} cores, one thread; Python {hardware['python']}, torch {hardware['torch']}. "
        "all-MiniLM-L6-v2, mean over tokens, not normalised, 128 tokens a text. Every variant starts from the same "
        "weights and trains with AdamW, a warm-up of a tenth of the steps and cosine decay. In 'heads' the "
        "features stay as they are and a residual head of one hidden layer, the identity at first, trains on them; "
        "in 'upper two layers' the last two of six layers train, in bfloat16 with float32 weights.",
        "",
        "Each variant is at its own temperature and rate, chosen on validation with seed 0 among as many as any other: "
        "around the temperature at which its scores spread as those of cosine do, one more tried beyond where the best "
        "was at an edge. Gains over cosine in brackets with intervals that hold for all four variants at once (95%, "
        "bootstrap over queries, and the spread of seeds). 'Visible' is the smallest gain of any variant that such a "
        "comparison would have seen in four of five tries, had it been the only one: 2.8 standard errors.",
        "",
        "## On the test of the set that trained",
        "",
        *_table(studies, lambda study: study["test"], start=True),
        "",
        "## The same trainings, scored by cosine",
        "",
        *_table(studies, lambda study: study["by_cosine"]),
        "",
        "## On other sets",
        "",
        *_elsewhere(studies),
        "",
        *_overlap(studies),
        "## What was chosen",
        "",
        *_choices(studies),
        "",
        "## What it says",
        "",
        *(f"- {TITLES[name]}: {_verdict(study)}" for name, study in studies.items()),
        f"- {_limits(studies)}",
        "",
    ]
    return "\n".join(lines)


def _table(studies: Mapping[str, Any], of_study: Any, *, start: bool = False) -> Iterator[str]:
    first = ["study", "measure", "queries", "seeds", *(["before"] if start else []), "cosine"]
    yield f"| {' | '.join([*first, *VARIANTS, 'visible'])} |"
    yield f"|{' --- |' * (len(first) + len(VARIANTS) + 1)}"
    for name, study in studies.items():
        found = of_study(study)
        cells = [TITLES[name], study["measure"], f"{found['queries']:,}", str(found["seeds"])]
        cells += [f"{study['start']:.3f}"] if start else []
        yield _row(cells, found)


def _row(cells: list[str], found: Mapping[str, Any]) -> str:
    scores = found["scores"]
    gains = [_gain(scores[name]) for name in VARIANTS]
    visible = max(found["visible"].values())
    return f"| {' | '.join([*cells, format(scores['cosine']['mean'], '.3f'), *gains, format(visible, '.3f')])} |"


def _gain(score: Mapping[str, float]) -> str:
    return f"{score['gain']:+.3f} [{score['gain_low']:+.3f}, {score['gain_high']:+.3f}]"


def _elsewhere(studies: Mapping[str, Any]) -> Iterator[str]:
    yield f"| trained on | measured on | scored by | before | cosine | {' | '.join(VARIANTS)} | visible |"
    yield f"|{' --- |' * (6 + len(VARIANTS))}"
    for name, study in studies.items():
        for other, found in study["elsewhere"].items():
            for score, word in (("trained", "its own score"), ("cosine", "cosine")):
                yield _row([TITLES[name], NAMES[other], word, f"{found['start']:.3f}"], found[score])


def _overlap(studies: Mapping[str, Any]) -> Iterator[str]:
    rows = [(name, study) for name, study in studies.items() if study["seen"] is not None]
    if not rows:
        return
    yield "## scifact, queries whose abstracts were relevant in training, and others"
    yield ""
    yield f"| study | queries | seeds | cosine | {' | '.join(VARIANTS)} | visible |"
    yield f"|{' --- |' * (5 + len(VARIANTS))}"
    for name, study in rows:
        for part in ("seen", "unseen"):
            found = study[part]
            yield _row([f"{TITLES[name]}, {part}", str(found["queries"]), str(found["seeds"])], found)
    yield ""


def _choices(studies: Mapping[str, Any]) -> Iterator[str]:
    yield "Temperature, in brackets that of cosine it stands for (x: at the edge even of the extended list)."
    yield ""
    yield f"| study | steps of pairs | cosine | {' | '.join(VARIANTS)} | learnt exponents | norms of documents |"
    yield f"|{' --- |' * (5 + len(VARIANTS))}"
    for name, study in studies.items():
        setting = study["study"]
        cells = [TITLES[name], f"{setting['steps']} of {setting['batch']}"]
        for variant in ("cosine", *VARIANTS):
            choice = study["choices"][variant]
            edge = ", x" if choice["at_edge"] else ""
            cells.append(f"{choice['temperature']:.3g} ({choice['of_cosine']:.3g}{edge})")
        learnt = [sum(pair) / len(pair) for pair in zip(*study["exponents"], strict=True)]
        cells.append(", ".join(f"{gamma:.2f}" for gamma in learnt))
        spreads = {variant: sum(run[1][1] for run in runs) / len(runs) for variant, runs in study["norms"].items()}
        cells.append(
            f"vary by {study['start_norms'][1]:.0%}; "
            + ", ".join(f"{variant} {spread:.0%}" for variant, spread in spreads.items())
        )
        yield f"| {' | '.join(cells)} |"


def _limits(studies: Mapping[str, Any]) -> str:
    """What no study here says anything of."""
    if any(name.startswith("layers/") for name in studies):
        return "One encoder, whose lower layers stayed as they are: nothing of this tells of others."
    return (
        "One encoder, whose own layers stayed as they are (the script's studies `layers/...` train the upper two, and "
        "were not run): nothing of this tells of others, or of training all layers."
    )


def _verdict(study: Mapping[str, Any]) -> str:
    found, scores = study["test"], study["test"]["scores"]
    highest = max(scores[name]["gain_high"] for name in VARIANTS)
    losers = [name for name in VARIANTS if scores[name]["gain_high"] < 0]
    if found["recommended"] in VARIANTS:
        return f"{found['recommended']} beats cosine beyond doubt, {_gain(scores[found['recommended']])}."
    if len(losers) == len(VARIANTS):
        return "cosine beats all four beyond doubt."
    beaten = f"cosine beats {', '.join(losers)} beyond doubt; " if losers else ""
    return f"{beaten}no gain above {max(highest, 0):.3f} by any variant."
