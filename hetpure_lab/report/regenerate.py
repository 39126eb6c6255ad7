"""Shared by the chapters that regenerate a table: images, the live run, the networks behind it, and
sentences from records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from torch import Tensor

from hetpure_core import HetPure
from hetpure_lab import data as lab_data
from hetpure_lab import evidence
from hetpure_lab.attacks import ATTACKS, Attack
from hetpure_lab.common import names, specs, stats
from hetpure_lab.common.paths import HOME
from hetpure_lab.cost import planner
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import RESULTS, Experiment, Outcomes, code
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench, BenchError
from hetpure_lab.report import figures, notebook, plots, tables

Runs = dict[str, dict[str, dict]]  # by defence, then by image: records


def spec(method: HetPure) -> str:
    """The method's settings as a defence."""
    return specs.write({"name": "hetpure"} | asdict(method), DEFENCES)


def images_for(bench: Bench, folder: str = "", split: str = "test") -> Images:
    """The bench's images, or the sample that a package ships where there are none. Refuses labels
    that the classifier cannot give.
    """
    images = lab_data.load_or_sample(bench.dataset, split, folder or None)
    closed = getattr(bench.classifier, "closed", None)
    if closed is not None and (other := images.labels[closed.cpu()[images.labels] > 0]).numel():
        raise BenchError(
            f"{bench.name} decides between ten classes only, but {images.source} has label"
            f" {int(other[0])}"
        )
    return images


LIVE = HOME / "out" / "live" / code.fingerprint()  # of all sources that decide an outcome


def live(
    bench: Bench,
    defences: Sequence[str],
    attack: str | Attack,
    images: Images,
    K: int,
    seed: int = 0,
    split: str = "test",
) -> Runs:
    """Attack and score `images` behind each defence. Records are kept in `LIVE`, so that a stopped
    run continues; records of the paper's networks lie in `RESULTS`, where `hetpure run` adds to
    them.
    """
    split = images.split or split  # a sample does not pass for what it stands in for
    runs = {
        defence: Experiment(defence, attack, bench.name, split, K, seed) for defence in defences
    }
    home = RESULTS if benches.scale(bench.name) == "paper" else LIVE
    missing = [
        name for name, e in runs.items() if not set(images.ids) <= set(evidence.read(e.path(home)))
    ]
    settings = runs[missing[0]].settings if missing else None
    if settings and settings.ascends:
        rates = planner.calibrate(bench, rows=4)
        seconds = planner.at_most(bench.name, missing, settings, len(images), K, rates)
        notebook.announce(f"{len(images)} images behind {len(missing)} defences, at most", seconds)
    return {
        name: evidence.run(e, images, bench, str(bench.device), results=home)
        for name, e in runs.items()
    }


def outcome_table(runs: Runs) -> tables.Table:
    """Accuracy with 95 % intervals per defence: clean, under random noise and attacked, for one
    purification and for the vote of all. The caption says on how many images, and how attacked.
    """
    outcomes = {name: Outcomes.of(records) for name, records in runs.items()}
    table = {
        name: (
            {f"{title}, single": str(o.single(c)) for c, title in figures.COLUMNS.items()}
            | {f"{title}, vote": str(o.majority(c)) for c, title in figures.COLUMNS.items()}
        )
        for name, o in outcomes.items()
    }
    n, K = max((o.correct("clean").shape for o in outcomes.values()), key=lambda shape: shape[1])
    attack = names.attack(specs.write(_config(runs)["attack"], ATTACKS))
    said = (
        f"Right in this run, in per cent with 95 % intervals: {n} images, {attack}, {K}"
        " purifications of each image; 'vote' is their majority."
    )
    return tables.show(pd.DataFrame(table).T.rename_axis("defence"), said)


def _config(runs: Runs) -> dict:
    """The settings of the records of the last defence: the undefended network, which comes first,
    needs a shorter attack."""
    return next(iter(runs[list(runs)[-1]].values()))["config"]


def answer(method: HetPure, usual: HetPure, masks: Sequence[Tensor], runs: Runs) -> Markdown:
    """The effect of a run's settings, in sentences: the differences from the bench's `usual` ones,
    the share of the images that the mask covers with each (`masks` of both, (n, 1, h, w)), and the
    accuracy under attack, paired with uniform noise on the same images.
    """
    given, known = asdict(method), asdict(usual)
    changed = [f"{k} = {v} instead of {known[k]}" for k, v in given.items() if v != known[k]]
    covered, before = (float(mask.mean()) for mask in masks)
    area = f"The mask covers {covered:.0%} of the pixels of the pictures below"
    outcomes = {name: Outcomes.of(records) for name, records in runs.items()}
    n, K = max((o.correct("clean").shape for o in outcomes.values()), key=lambda shape: shape[1])
    lines = [
        "## What the parameters did",
        f"With {', '.join(changed)}:" if changed else "The method has its usual settings here.",
        f"- {area}, {before:.0%} with the usual settings." if changed else f"- {area}.",
    ]
    for name, o in outcomes.items():
        clean, left = (str(o.single(c)).replace(" ", "\u00a0") for c in ("clean", "adversarial"))
        lines.append(f"- {names.markup(name)}: {clean} % right without attack, {left} % under it.")
    lines.append(_against_uniform(outcomes, spec(method)))
    said = f"*{n} images, {K} purifications each; 95 % intervals over images.*"
    return Markdown("\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:]) + f"\n\n{said}")


def _against_uniform(outcomes: dict[str, Outcomes], method: str) -> str:
    """The method minus uniform noise, paired, and its verdict in words."""
    uniform = next((name for name in outcomes if name.startswith("uniform")), None)
    if uniform is None:
        return "- No uniform noise was run beside it."
    a, b = (outcomes[name].correct("adversarial").mean(1) for name in (method, uniform))
    difference = stats.paired_difference(a, b)
    word = stats.word(difference, p := stats.sign_flip(a, b))
    said = tables.unbroken(stats.more_or_less(difference))
    return (
        f"- Under attack, on the same images, the method leaves {said} than uniform noise"
        f" (p = {p:.2g}): **{word}**."
    )


def network_table(bench: Bench) -> pd.DataFrame:
    """The cards of a bench's networks."""
    cards = {name: _facts(benches.card(name)) for name in bench.weights}
    return pd.DataFrame(cards).fillna("").rename_axis("card")


def _facts(about: dict) -> dict[str, str]:
    facts = {"network": about["network"], "parameters": f"{about['parameters']:,}"}
    if "licence" in about:  # somebody else's: how it was trained is their story
        facts |= {"from": about.get("package") or about["origin"], "licence": about["licence"]}
    else:
        facts |= {
            "images seen": f"{about['images_seen']:,}",
            "hours": f"{about['seconds'] / 3600:.1f}",
        }
    metrics = {
        f"{split}: {k}": f"{v:.1%}"
        for split, m in about.get("metrics", {}).items()
        for k, v in m.items()
        if k != "n"
    }
    return facts | {"sha256": about["sha256"][:12]} | metrics


def training_curves(bench: Bench) -> Figure | Markdown:
    """Held-out metrics over the images seen, a panel per network that was trained here, or why
    there is none.
    """
    cards = [card for name in bench.weights if "curve" in (card := benches.card(name))]
    if not cards:
        return Markdown(
            "No network of this bench was trained by this project: there are no curves to show."
        )
    figure, axes = plt.subplots(
        1, len(cards), figsize=(plots.WIDTH * len(cards) / 2, 2.2), squeeze=False
    )
    for axis, card in zip(axes[0], cards):
        curve = pd.DataFrame(card["curve"])
        for metric in curve.columns.difference(["step", "images", "loss", "seconds"]):
            axis.plot(curve["images"] / 1e3, curve[metric], label=metric.replace("mse_", "t = "))
        denoiser = "accuracy" not in curve
        axis.set(
            xlabel="thousand images seen",
            title=card["name"],
            yscale="log" if denoiser else "linear",
        )
        axis.set_ylabel("noise MSE" if denoiser else "accuracy")
        axis.legend(fontsize=7)
    return figure


def paired(rows: Sequence[dict], method: str, bench: str) -> pd.DataFrame:
    """The record of `method` among `rows` against every other under the same attack, image by
    image: difference of attacked accuracy with its sign-flip test, McNemar's test of the votes,
    both after Holm's correction over the table, the verdict of the first, and what must be said
    beside it.
    """
    files = {r["defence"]: RESULTS / bench / r["file"] for r in rows}
    attack = next((r["attack"] for r in rows if r["defence"] == method), None)
    same = [r["defence"] for r in rows if r["attack"] == attack or r["defence"] == "none"]
    lines = {}
    for name, p in tables.together(
        {n: (files[method], files[n]) for n in same if attack and n != method}
    ).items():
        corrected = {column: f"{p[column]:.2g}" for column in tables.TESTS.values()}
        said = {"n": p["n"], "difference, points": str(p["difference"])}
        judged = {"the method is": p["verdict"], "beside": tables.beside(p["judged"])}
        lines[name] = said | corrected | judged
    frame = pd.DataFrame(lines).T.rename_axis("defence")
    return tables.behind(frame, [f"{bench}/{r['file']}" for r in rows if r["defence"] in lines])


def or_nothing(frame: pd.DataFrame, caption: str = "") -> tables.Table | Markdown:
    """A table for display with its caption and links to its records, or a sentence where there is
    no record yet.
    """
    return tables.show(frame, caption) if len(frame) else Markdown("Not measured yet.")


VERDICTS = {
    "higher": "Under attack the method leaves **more** than {}.",
    "lower": "Under attack the method leaves **less** than {}.",
    "inconclusive": "Under attack the method is **not told apart** from {}.",
    tables.AT_FLOOR: (
        "Nothing is decided against {}: one of the two keeps too little clean accuracy."
    ),
}


def verdicts(pairs: pd.DataFrame) -> str:
    """The verdicts of the paired table, a sentence for each, as Markdown."""
    if pairs.empty:
        return "No record compares the method with another defence yet."
    said: dict[str, list[str]] = {}
    for name, row in pairs.iterrows():
        kind = tables.AT_FLOOR if row["beside"] == tables.AT_FLOOR else row["the method is"]
        said.setdefault(kind, []).append(names.markup(name))
    return " ".join(VERDICTS[k].format("; ".join(said[k])) for k in VERDICTS if k in said)


def radius_effect(rows: dict[float, Sequence[dict]], bench: str) -> pd.DataFrame:
    """Records of the same defences at two radii, image by image: the cost of the larger radius."""
    (_, small), (_, large) = sorted(
        (eps, {r["defence"]: r["file"] for r in found}) for eps, found in rows.items()
    )
    both = [name for name in small if name in large]
    pairs = {
        name: tables.compare(RESULTS / bench / large[name], RESULTS / bench / small[name])
        for name in both
    }
    frame = pd.DataFrame(
        {name: {"n": p["n"], "change, points": str(p["difference"])} for name, p in pairs.items()}
    ).T
    records = [f"{bench}/{found[name]}" for name in both for found in (small, large)]
    return tables.behind(frame.rename_axis("defence"), records)


def claimed_points(table: str) -> list[tuple[str, str, float, float]]:
    """(kind, method, standard, robust) of a table's rows as numbers, without the ± part."""
    number = lambda text: float(text.partition("±")[0])
    return [
        (c.kind, c.method, number(c.standard), number(c.robust[0]))
        for c in tables.TABLES[table].rows
    ]


def claims_plot(table: str) -> Figure:
    """A table of the paper as a plane: standard against robust accuracy, uniform noise as a line
    through its levels.
    """
    figure, axis = plt.subplots(figsize=(0.75 * plots.WIDTH, 2.8))
    colours = {"AT": plots.COLOURS["paper"], "AP": plots.COLOURS["null"]}
    points = claimed_points(table)
    diffpure = np.array([(x, y) for _, name, x, y in points if "DiffPure" in name])
    axis.plot(*diffpure.T, "-", color=plots.COLOURS["uniform"], linewidth=1)
    for kind, name, x, y in points:
        role = "hetpure" if name == "the method" else "uniform" if "DiffPure" in name else None
        axis.plot(
            x, y, "o" if kind == "AP" else "x", color=plots.COLOURS[role] if role else colours[kind]
        )
        label = name.replace("Nie et al. (DiffPure, ", "").rstrip(")").partition(" (")[0]
        axis.annotate(label, (x, y), (4, 3), textcoords="offset points", fontsize=6)
    axis.margins(0.22, 0.12)
    axis.set(
        xlabel="standard accuracy, %", ylabel="robust accuracy, %", title=f"the paper's {table}"
    )
    return figure
