"""The first page: the paper's proposal, what is left of it here, and a card for each chapter.

Sentences and numbers are functions of records: ``hetpure pages`` writes them into
``book/_include``, and the outcome of each chapter also into the chapter's title and under it
(`say_found`). The picture with the same message is `picture`, in ``figures/landing.svg``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetpure_core import HetPure, linear_schedule
from hetpure_lab.audit import cases, world
from hetpure_lab.common import names, stats
from hetpure_lab.common.paths import RESULTS, ROOT
from hetpure_lab.common.stats import Accuracy, mean_rate
from hetpure_lab.evidence import ablations, frontier, read, studies
from hetpure_lab.evidence.compare import FLOOR, compare, known
from hetpure_lab.evidence.frontier import OffTheCurve, Point
from hetpure_lab.paper.printed import COST, TABLES
from hetpure_lab.report import candidate, plots, premise, tables

BENCH, ATTACK, METHOD = "cifar10-small", "pgd", "hetpure"
STAND_IN = "pgd:gradient=surrogate"
FOUND = "**Found.**"
BESIDE = {  # what the picture names beside the method and the curve
    "none": "no defence",
    "hetpure:mask_kind=random": "the method, random mask",
    "at": "adversarial training",
}


@dataclass(frozen=True)
class Found:
    """The method, and the curve of uniform noise on the same images under the same attack."""

    method: Point
    curve: tuple[Point, ...]

    @classmethod
    def of(cls, results: Path = RESULTS) -> Found | None:
        """From the records of the common budget; None before there are any."""
        rows = {r["defence"]: r for r in tables.common(BENCH, attack=ATTACK, results=results)}
        levels = [name for name, r in rows.items() if _is_level(name) and r["n"] >= tables.ENOUGH]
        if METHOD not in rows or len(levels) < 2:
            return None
        point = lambda name: Point.of(name, read(results / BENCH / rows[name]["file"]))
        return cls(point(METHOD), tuple(map(point, sorted(levels))))

    def distance(self) -> frontier.Distance | None:
        """The method minus the curve at equal clean accuracy, or None where the curve does not
        reach.
        """
        try:
            return frontier.distance(self.method, self.curve)
        except OffTheCurve:
            return None


def _is_level(name: str) -> bool:
    return name.startswith("uniform:t=") and "," not in name


# ---- the sentences ---------------------------------------------------------------------------


def answer(results: Path = RESULTS) -> str:
    """Three sentences: the claim, the accuracy left here, and plain noise beside it. Markdown."""
    claim, (attack, *_) = TABLES["Table 1"].rows[-1], TABLES["Table 1"].attacks
    paper = (
        "Pei et al. (CVPR 2025, [*Divide and Conquer*](https://arxiv.org/abs/2503.01407)) propose"
        " strong noise where the classifier looks and weak noise elsewhere, which a diffusion model"
        f" then takes away. On CIFAR-10 they report **{_number(claim.robust[0])} %** right under"
        f" attack ({attack}) and {_number(claim.standard)} % without."
    )
    found = Found.of(results)
    if found is None:
        return f"{paper}\n\nNothing is measured here yet.\n"
    clean, left = (mean_rate(rates) for rates in (found.method.clean, found.method.attacked))
    here = (
        "We rebuilt it from its equations and attacked it through every step:"
        f" **{_percent(clean)}** right without attack, **{_percent(left)}** left {_between(left)}"
        " under it."
    )
    return f"{paper}\n\n{here} {_beside_noise(found, _rule(results))}\n"


def _rule(results: Path) -> str:
    """The word of `compare`'s rule for the method against the curve; empty without records."""
    judged = known(BENCH, results).at_equal_clean(METHOD, ATTACK)
    return judged.word if judged else ""


def _beside_noise(found: Found, word: str = "") -> str:
    """The method against the curve, decided by `word`, or by a test of its own."""
    d = found.distance()
    if d is None:
        return "No level of plain noise keeps as much: the two cannot be compared yet."
    start = f"Plain noise that keeps as much leaves **{100 * d.height:.0f} %**: "
    word = word or stats.word(d.difference, d.p)
    if word == "inconclusive":
        return f"{start}the two are **not told apart** {_between(d.difference)}."
    side = "above" if word == "higher" else "below"
    points = f"{abs(100 * d.difference.value):.1f} points {side}"
    return f"{start}the method lies **{points}** it {_between(d.difference)}."


def scale(results: Path = RESULTS) -> str:
    """The certainty and the scale."""
    found = Found.of(results)
    if found is None:
        return ""
    n = len(frontier.shared([found.method, *found.curve])[0].images)
    return (
        f"{names.bench(BENCH)} trained by this project, {n} images, ℓ∞ radius 8/255,"
        f" {names.attack(ATTACK)}. Brackets are 95 % intervals over images. Read the direction: the"
        " paper's networks are larger.\n"
    )


def _number(printed: str) -> str:
    return printed.partition("±")[0]


def _percent(a: Accuracy) -> str:
    return f"{100 * a.value:.0f} %"


def _between(a: Accuracy) -> str:
    return f"[{100 * a.low:z.1f},\u00a0{100 * a.high:z.1f}]"


# ---- one card a chapter ----------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a chapter found, in a sentence or two; and as a title, where records decide on that."""

    sentence: str
    title: str = ""


def _single_draws(results: Path) -> Outcome:
    """What AutoAttack's decisions on single draws add to the accuracy that it reports."""
    attacks = (tables.BUDGET[name] for name in ("autoattack", "autoattack-corrected"))
    pair = _pair(*(_under(results, attack) for attack in attacks), BENCH, results)
    what = "AutoAttack as packaged, deciding on single draws,"
    title = _titled("Shortcuts", "AutoAttack as packaged", "averaged decisions", _word(pair))
    return Outcome(_said(pair, what, "AutoAttack with averaged decisions"), title)


def _under(results: Path, attack: str) -> dict | None:
    """The method's row under an attack, by its specification."""
    rows = tables.evidence_rows(BENCH, attack=attack.partition(":")[0], results=results)
    mine = (r for r in rows if (r["defence"], r["seed"], r["attack"]) == (METHOD, 0, attack))
    return next(mine, None)


# Pages of a chapter that are notebooks of their own, by file: what each found.
SECTIONS: dict[str, Callable[[Path], Outcome]] = {"04_shortcuts": _single_draws}


def outcomes(results: Path = RESULTS) -> dict[int, Outcome]:
    """The outcome of each chapter."""
    return {
        1: Outcome(
            "Noise in, noise out: one formula takes an image to any time and back, by DDPM or"
            " DDIM.",
            "Noise and denoise: one formula takes an image to any level and back",
        ),
        2: Outcome(
            "Read to the letter, the printed mask holds at most one pixel per block. Min-max"
            " scaling repairs it.",
            "The mask: as printed it holds at most one pixel per block",
        ),
        3: _readings(results),
        4: _surrogate(results),
        5: _at_equal_accuracy(results),
        6: _other_bench("Street numbers", "svhn-small", None, results),
        7: _other_bench("Photographs", "imagenet-small-10", 4 / 255, results),
        8: _masks(results),
        9: _pictures(results),
        10: _savings(),
        11: _field(results),
        12: _ladder(results),
        13: _known_world(),
        14: _premise(results),
        15: Outcome(candidate.outcome(results), _candidate(results)),
    }


def _titled(subject: str, first: str, second: str, word: str) -> str:
    """A title from the word of a comparison of the first with the second; "" without one."""
    ends = {
        "higher": f"{first} leaves more than {second}",
        "lower": f"{second} leaves more than {first}",
        "inconclusive": f"{first} and {second} are not told apart",
        "floor": "too little is right without attack to decide",
    }
    return f"{subject}: {ends[word]}" if word in ends else ""


def _word(pair: dict | None) -> str:
    """The word of a comparison (`_pair`): "floor" where nothing can be decided, "" without one."""
    return "" if pair is None else "floor" if pair["judged"].floor else pair["verdict"]


def _pair(first: dict | None, second: dict | None, bench: str, results: Path) -> dict | None:
    """Two rows compared on shared images: first minus second."""
    if first is None or second is None:
        return None
    return compare(*(results / bench / r["file"] for r in (first, second)))


def _said(pair: dict | None, what: str, than: str) -> str:
    """What is left by one and by the other, under attack and without, or that it is open."""
    if pair is None:
        return f"{_capital(what)} against {than}: not measured yet."
    judged, d = pair["judged"], pair["difference"]
    images = f"({d.n} images)"
    if judged.floor:
        return (
            f"{_capital(what)} against {than}: nothing can be decided {images}, because one of them"
            f" keeps less than {100 * FLOOR:.0f} % of what is right without a defence."
        )
    under = f"under attack {what} {_leaves(d, pair['verdict'], than, 'leaves')}"
    clean, decided = judged.clean, judged.clean and 0 < max(judged.clean.low, -judged.clean.high)
    without = f" Without attack it {_leaves(clean, '', '', 'keeps')}." if decided else ""
    return f"{_capital(under)} {images}.{without}"


def _leaves(d: Accuracy, word: str, than: str, verb: str) -> str:
    """ "leaves 2.3 [..] points more than Y", or that the two are not told apart."""
    if word == "inconclusive":
        return f"is not told apart from {than} {_between(d)}"
    shown = d if d.value > 0 else stats.opposite(d)
    beside = f" than {than}" if than else ""
    more = "more" if d.value > 0 else "less"
    return f"{verb} {100 * shown.value:.1f} {_between(shown)} points {more}{beside}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _rows(results: Path, attack: str = ATTACK) -> dict[str, dict]:
    return {r["defence"]: r for r in tables.common(BENCH, attack=attack, results=results)}


def _readings(results: Path) -> Outcome:
    found = ablations.records(ablations.experiments("order"), results)
    if not {"paper", "released"} <= set(found):
        return Outcome(
            "One algorithm, three readings: the paper's, the released code's, and repeated"
            " resampling."
        )
    sides = ablations.established({"order": found}, results)["order: released"]
    under, without = sides["under attack"], sides["without attack"]
    papers = "the paper's"
    return Outcome(
        "One algorithm has three readings. Under attack the released code's"
        f" {_leaves(under.difference, under.word, papers, 'leaves')} ({under.difference.n} images)."
        f" Without attack it {_leaves(without.difference, '', '', 'keeps')}.",
        _titled("Two stages, three readings", "the released code's", papers, under.word),
    )


def _surrogate(results: Path) -> Outcome:
    pair = _pair(*(_under(results, a) for a in (STAND_IN, ATTACK)), BENCH, results)
    if pair is None:
        return Outcome(
            "Exact gradients through every step, in memory that does not grow with the defence."
        )
    told = _leaves(pair["difference"], pair["verdict"], "the exact gradient", "leaves")
    return Outcome(
        f"The released attack takes the gradient of a stand-in. It {told}"
        f" ({pair['difference'].n} images).",
        _titled("The attack", "the released gradient", "the exact one", _word(pair)),
    )


def _at_equal_accuracy(results: Path) -> Outcome:
    found = Found.of(results)
    if found is None:
        return Outcome("Not measured yet.")
    word = _rule(results)
    title = _titled("CIFAR-10", "the method", "plain noise", word)
    return Outcome(_beside_noise(found, word), title)


def _other_bench(subject: str, bench: str, eps: float | None, results: Path) -> Outcome:
    rows = {r["defence"]: r for r in tables.field(bench, eps=eps, results=results)}
    method = next(
        (r for name, r in rows.items() if name.startswith("hetpure") and "mask_kind" not in name),
        None,
    )
    noise = max(
        (r for name, r in rows.items() if name.startswith("uniform")),
        key=lambda r: r["adversarial_single"]["value"],
        default=None,
    )
    pair = _pair(method, noise, bench, results)
    said = _said(pair, "the method", "uniform noise at its best level")
    return Outcome(said, _titled(subject, "the method", "uniform noise", _word(pair)))


def _masks(results: Path) -> Outcome:
    rows = _rows(results)
    pair = _pair(rows.get(METHOD), rows.get("hetpure:mask_kind=random"), BENCH, results)
    title = _titled("Ablations", "attention", "a random mask", _word(pair))
    return Outcome(_said(pair, "the attention mask", "a random mask of its size"), title)


def _savings() -> Outcome:
    multi, one = (
        HetPure(U=20, reading=r).calls(linear_schedule()) for r in ("multi-step", "paper")
    )
    repeated, single = COST["time"]
    saved = f"{100 * (1 - one / multi):.0f} %"
    return Outcome(
        f"One long jump in place of 20 repetitions of every step saves {saved} of the denoiser"
        f" calls; the paper reports {100 * (1 - single / repeated):.0f} % of the time.",
        f"Cost: the single step saves {saved} of the calls",
    )


def _field(results: Path) -> Outcome:
    pairs = tables.against_the_method(BENCH, results=results)
    if pairs.empty:
        return Outcome(
            "Every other purifier of the paper's tables, and newer ones, under one attack."
        )
    count, beside = pairs["verdict"].value_counts(), pairs["beside"]
    more, less = int(count.get("higher", 0)), int(count.get("lower", 0))
    equal = int(((pairs["verdict"] == "higher") & (beside == "")).sum())
    floor = int(beside.str.contains("floor").sum())
    return Outcome(
        f"Of {len(pairs)} others under the same attack, {more} leave more than the method"
        f" ({equal} of them at equal clean accuracy) and {less} less. {floor} are right too seldom"
        f" without attack to be judged; {len(pairs) - more - less - floor} are not told apart.",
        f"Rivals: {more} of {len(pairs)} leave more than the method, {less} leave less",
    )


def _pictures(results: Path) -> Outcome:
    rows = studies.table("distance", BENCH, results=results)
    if rows.empty:
        return Outcome(
            "The paper's pictures, drawn from live objects, with every quantity defined."
        )
    count = studies.nearer(rows)["the method's distance is"].value_counts()
    near, far, open_ = (int(count.get(word, 0)) for word in ("smaller", "larger", "inconclusive"))
    return Outcome(
        f"Of {near + far + open_} comparisons with other purifiers, the method's feature distance"
        f" is smaller in {near}, larger in {far} and not told apart in {open_}.",
        f"The paper's pictures: the method is nearer in {near} of {near + far + open_} comparisons",
    )


def _ladder(results: Path) -> Outcome:
    rungs = cases.waterfall(cases.Case.of(BENCH, METHOD, results))
    first, last = (rung.accuracy for rung in (rungs[0], rungs[-1]))
    if first is None or last is None:
        return Outcome(
            "A sceptic's checklist for every defence here, and for yours. Not measured yet."
        )
    return Outcome(
        "Attacked and scored as the released code does it, with a stand-in's gradient and votes,"
        f" the method keeps {_percent(first)} {_between(first)}. The worst of all measured attacks"
        f" leaves {_percent(last)} {_between(last)} ({last.n} images).",
        f"The audit: {_percent(first)} reported, {_percent(last)} left",
    )


def _known_world() -> Outcome:
    """Chapter 13's result at its own settings; nothing is estimated in that world."""
    chosen = _settings(13)
    mixture = world.two_parts(8, *(chosen[name] for name in ("strong", "weak", "sigma")))
    eps, levels = chosen["radius"] / 255, HetPure(chosen["t_l"], chosen["t_s"], steps=6)
    bare = world.Truth(mixture, None).accuracy("Linf", eps).value
    voted = lambda share: (
        world.Truth(mixture, levels, world.mask_of(mixture, share, eps)).voted("Linf", eps).value
    )
    gains = [100 * (voted(share) - bare) for share in (1, 0.5, 0)]
    right, random, wrong = (f"{gain:+.0f}" for gain in gains)
    helps = "helps if" if gains[0] > 0 else "does not help even if"
    return Outcome(
        "Images are drawn from a mixture of Gaussians, for which the best attack is known. Beside"
        " no purifier, two noise levels change the accuracy of the majority vote by"
        f" {right} points if the mask covers all pixels that the attack overturns, by {random} if"
        f" it is random and by {wrong} if it misses them.",
        f"In a made-up world, noise on two levels {helps} its mask covers what the attack"
        " overturns",
    )


def _premise(results: Path) -> Outcome:
    setting = premise.Setting("cifar10-small-ffdnet")
    found = premise.rows(setting, premise.MASKS, {premise.KNOWN_MASKS}, results)
    by_name = {row.name: (row.distance, p) for row, p in zip(found, premise.held(found))}
    if not {"attention", "random half"} <= {name for name, (d, _) in by_name.items() if d}:
        return Outcome(
            "A denoiser that is told every pixel's level needs no sampler: not measured yet."
        )
    distance, p = by_name["random half"]
    said = {
        "attention": "masks of attention",
        "random, area of attention": "Random masks of the same area",
        "random half": "Random masks of half of the pixels",
    }
    parts = [
        f"{masks} {_beside_curve(*by_name[name])}."
        for name, masks in said.items()
        if name in by_name
    ]
    return Outcome(
        "One call of a denoiser that is told every pixel's level, beside uniform noise of equal"
        f" clean accuracy ({distance.difference.n} images): {' '.join(parts)}{_again(results)}",
        _titled(
            "No new sampler",
            "one call behind random masks",
            "uniform noise",
            stats.word(distance.difference, p),
        ),
    )


def _again(results: Path) -> str:
    """What the last of them does on images that it was not chosen on."""
    if not (results / candidate.FILE).exists():
        return ""
    first, *_ = candidate.trials(candidate.Candidate.load(results), results)
    if first.distance is None:
        return ""
    d = first.distance.difference
    return (
        f" On {d.n} images that they were not chosen on, the last"
        f" {_beside_curve(first.distance, first.holm)} (chapter 15)."
    )


def _candidate(results: Path) -> str:
    """Chapter 15's title, "" before a candidate is frozen."""
    if not (results / candidate.FILE).exists():
        return ""
    word = candidate.verdict(candidate.trials(candidate.Candidate.load(results), results))
    ends = "waits for its attacks" if word == "not measured yet" else word
    return f"Proofs below the attacks, and a candidate that {ends}"


def _beside_curve(distance: frontier.Distance | None, p: float) -> str:
    if distance is None:
        return "cannot be compared yet"
    d = distance.difference
    side = {"higher": "above it", "lower": "below it"}.get(stats.word(d, p))
    if side is None:
        return f"are not told apart from it {_between(d)}"
    shown = d if d.value > 0 else stats.opposite(d)
    return f"lie {100 * shown.value:.1f} {_between(shown)} points {side}"


def _settings(number: int) -> dict:
    """The parameters of a chapter, as it declares them."""
    (path,) = (path for n, path, _ in _chapters() if n == number)
    cells = json.loads(path.read_text())["cells"]
    (cell,) = (c for c in cells if "parameters" in c["metadata"].get("tags", []))
    return {
        line.target.id: ast.literal_eval(line.value)
        for line in ast.parse("".join(cell["source"])).body
        if isinstance(line, ast.AnnAssign)
    }


def say_found(results: Path = RESULTS) -> list[Path]:
    """Write every chapter's outcome into its title and under it; return the chapters that changed.

    Outputs and code stay as they are, so no chapter has to be executed again.
    """
    found, changed = outcomes(results), []
    said = {path: found[number] for number, path, _ in _chapters() if number in found}
    said |= {
        ROOT / "chapters" / f"{name}.ipynb": said_of(results) for name, said_of in SECTIONS.items()
    }
    for path, outcome in said.items():
        text = path.read_text()
        notebook = json.loads(text)
        cell = notebook["cells"][0]
        cell["source"] = with_outcome("".join(cell["source"]), outcome).splitlines(True)
        new = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if new != text:
            path.write_text(new)
            changed.append(path)
    return changed


README = ROOT / "README.md"
ANSWER = "<!-- what is left: written by hetpure pages -->"  # before and after the sentences


def say_answer(results: Path = RESULTS, readme: Path = README) -> None:
    """Write the three sentences between their marks in the README."""
    before, _, after = readme.read_text().split(ANSWER)
    readme.write_text(f"{before}{ANSWER}\n\n{answer(results)}\n{ANSWER}{after}")


def with_outcome(text: str, outcome: Outcome) -> str:
    """A chapter's first cell with this outcome in and under its title, in place of an older one."""
    title, _, rest = text.partition("\n")
    title = f"# {outcome.title}" if outcome.title else title
    rest = re.sub(rf"\A\s*{re.escape(FOUND)}.*?\n\s*", "\n", rest)
    return f"{title}\n\n{FOUND} {outcome.sentence}\n\n{rest.lstrip()}"


def cards(results: Path = RESULTS) -> str:
    """The chapters as cards: number, title, outcome; the build adds a picture of each."""
    said = {number: outcome.sentence for number, outcome in outcomes(results).items()}
    return "".join(
        f":::{{grid-item-card}} {n}. {title}\n:link: ../chapters/{path.stem}\n:link-type: doc\n"
        f":class-card: chapter-card chapter-{path.stem}\n\n{said.get(n, '')}\n:::\n\n"
        for n, path, title in _chapters()
    )


def _chapters() -> Iterator[tuple[int, Path, str]]:
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        if path.stem in SECTIONS:
            continue
        number = int(re.match(r"\d+", path.stem)[0])
        cells = json.loads(path.read_text())["cells"]
        lines = "".join(
            line for c in cells if c["cell_type"] == "markdown" for line in [*c["source"], "\n"]
        )
        yield number, path, re.search(r"^# (.*)$", lines, re.MULTILINE)[1].strip()


INCLUDES: dict[str, Callable[[Path], str]] = {
    "answer.md": answer,
    "scale.md": scale,
    "cards.md": lambda results=RESULTS: (
        "::::{grid} 1 2 2 3\n:gutter: 2\n\n" + cards(results) + "::::\n"
    ),
}


# ---- the picture -----------------------------------------------------------------------------


def picture(found: Found, results: Path = RESULTS) -> Figure:
    """The first page's picture, as wide as a phone."""
    figure, axis = plt.subplots(figsize=(4.9, 3.5))
    draw(axis, found, results)
    return figure


def draw(axis: Axes, found: Found, results: Path = RESULTS) -> None:
    """Attacked against clean accuracy: uniform noise as a line with its band, the rest as
    points.
    """
    band = frontier.band(found.curve)
    uniform, method = plots.COLOURS["uniform"], plots.COLOURS["hetpure"]
    axis.fill_between(
        100 * band.clean, 100 * band.low, 100 * band.high, color=uniform, alpha=0.2, linewidth=0
    )
    axis.plot(100 * band.clean, 100 * band.height, color=uniform, linewidth=2)
    for level in found.curve:
        place = 100 * level.clean.mean(), 100 * level.attacked.mean()
        axis.plot(*place, "o", color=uniform, markersize=4)
    first, last = max(found.curve, key=_attacked), min(found.curve, key=_attacked)
    for level, text, offset, side in (
        (first, "much uniform noise", (8, 4), "left"),
        (last, "little", (6, 8), "left"),
    ):
        place = 100 * level.clean.mean(), 100 * level.attacked.mean()
        axis.annotate(
            text, place, offset, textcoords="offset points", color=uniform, fontsize=10, ha=side
        )
    if d := found.distance():
        x, y, line = 100 * d.clean, 100 * d.attacked, 100 * d.height
        axis.annotate(
            "",
            (x, line),
            (x, y),
            arrowprops={"arrowstyle": "<->", "color": method, "shrinkA": 4, "shrinkB": 1},
        )
        words = f"{abs(100 * d.difference.value):.1f} points"
        axis.annotate(
            words,
            (x, (y + line) / 2),
            (-6, 0),
            textcoords="offset points",
            color=method,
            fontsize=10,
            ha="right",
            va="center",
        )
    _cross(axis, found.method, method, "the method")
    rows = _rows(results)
    for name, label in BESIDE.items():
        if name in rows:
            point = Point.of(name, read(results / BENCH / rows[name]["file"]))
            _cross(axis, point, plots.colour(name) if name != METHOD else method, label)
    axis.set(
        xlabel="right without attack, %",
        ylabel="right under attack, %",
        xlim=(58, 105),
        ylim=(-2, 45),
    )
    axis.tick_params(labelsize=9)
    axis.xaxis.label.set_size(10), axis.yaxis.label.set_size(10)


def shown(found: Found) -> set[str]:
    """The defences in the picture."""
    return {METHOD, *BESIDE, *(level.name for level in found.curve)}


def _attacked(point: Point) -> float:
    return float(point.attacked.mean())


def _cross(axis: Axes, point: Point, colour: str, label: str) -> None:
    """A point with the interval of its attacked accuracy, and its name."""
    a = mean_rate(point.attacked)
    x, y = 100 * float(point.clean.mean()), 100 * a.value
    axis.plot([x, x], [100 * a.low, 100 * a.high], color=colour, linewidth=1, clip_on=False)
    axis.plot(x, y, "o", color=colour, markersize=6, clip_on=False)
    left = (label != "the method" and x > 95) or "random" in label
    style = {"color": colour, "fontsize": 10, "ha": "right" if left else "left"}
    style["weight"] = "bold" if label == "the method" else "normal"
    axis.annotate(
        label, (x, y), (-7, -12) if left else (8, -3), textcoords="offset points", **style
    )
