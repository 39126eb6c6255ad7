"""Findings: the statements that a reader wants judged, each by one paired difference. Page:
``book/findings.md`` (see `pages`). Verdicts are those of `evidence.compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hetpure_lab.audit.cases import ATTEMPTS, HEADLINE, Case, NotMeasured
from hetpure_lab.audit.checks import equal_accuracy, equal_energy, random_mask
from hetpure_lab.common import names, specs
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import RESULTS, ablations, compare, frontier
from hetpure_lab.evidence.compare import Cell, Judged
from hetpure_lab.networks import benches
from hetpure_lab.report import candidate, premise, tables

L2 = "norm=L2,eps=0.5"
LEVELS = {
    "Linf": {
        "exact gradient": HEADLINE,
        "identity backward (BPDA)": ATTEMPTS["BPDA"],
        "AutoAttack, averaged decisions": ATTEMPTS["AutoAttack"],
        "AutoAttack as packaged": ATTEMPTS["acceptance"],
        "released surrogate": ATTEMPTS["surrogate"],
    },
    "L2": {
        "exact gradient": f"pgd:{L2},step=0.05",
        "AutoAttack, averaged decisions": (
            f"autoattack-corrected:{L2},iterations=20,eot=8,accept=16"
        ),
        "AutoAttack as packaged": f"autoattack:{L2},iterations=20,eot=8",
    },
}
EXACT_L2, CORRECTED_L2, PACKAGED_L2 = LEVELS["L2"].values()
PHOTOGRAPHS, TEN = "pgd:eps=4/255,eot=4", "imagenet-small-10"
TOLD = "cifar10-small-ffdnet"  # its denoiser is told every pixel's level

Answer = Callable[[Case], tuple[Judged, str, list[str]]]  # difference, remark, files of records


@dataclass(frozen=True)
class Statement:
    """A statement that a positive difference of its two `sides` verifies, and the chapter that has
    the details."""

    text: str
    sides: str
    chapter: int
    answer: Answer
    bench: str = "cifar10-small"
    defence: str = ""  # which one is judged; the bench's method if empty


def versus(
    text: str, sides: str, chapter: int, attack: str, other: Callable[[Case], str] | str, **options
) -> Statement:
    """The defence minus `other`, another one or a function that finds it, both under `attack`.

    Where the best level of uniform noise keeps as much accuracy as the defence, the question is
    that of the curve, and has its answer."""

    def answer(case: Case) -> tuple[Judged, str]:
        name = other if isinstance(other, str) else other(case)
        pair = case.cell(attack), case.cell(attack, name)
        judged, files = case.judged(*pair), files_of(case, *pair)
        if other not in BEST:
            return judged, "", files
        curve = case.known.at_equal_clean(case.defence, case.cell(attack)[1])
        if judged.equal and curve:
            remark = f"{names.defence(name)} keeps as much accuracy: the answer of the curve"
            return curve, remark, curve_files(case, attack)
        return judged, edge(case, attack, name), files

    return Statement(text, sides, chapter, answer, **options)


def between(attack: str, *others: str) -> Answer:
    """What `attack` leaves minus what the strongest of `others` leaves."""

    def answer(case: Case) -> tuple[Judged, str]:
        first = case.cell(attack)
        found = {other: case.judged(first, case.cell(other)) for other in others}
        most = max(found, key=lambda other: found[other].difference.value)
        return found[most], "", files_of(case, first, *(map(case.cell, others)))

    return answer


def of_noise(which: Callable[[Case], str], attack: str, other: str) -> Answer:
    """What `attack` leaves minus what `other` leaves, for the uniform noise that `which` finds."""

    def answer(case: Case) -> tuple[Judged, str]:
        name = which(case)
        pair = case.cell(attack, name), case.cell(other, name)
        return case.judged(*pair), "", files_of(case, *pair)

    return answer


def noise_levels(case: Case, attack: str, enough: int = 1) -> dict[str, float]:
    """What uniform noise by DDIM leaves under `attack`, by defence, on `enough` images."""
    cell, known = case.cell(attack), case.known.cells
    same = {
        d: r
        for (d, *rest), r in known.items()
        if d.startswith("uniform") and tuple(rest) == cell[1:]
    }
    same = {d: r for d, r in same.items() if len(r) >= enough}
    return {d: sum(compare.shares(r, "adversarial").values()) / len(r) for d, r in same.items()}


BEST: set[Callable] = set()  # the functions below that choose by what is left


def best_noise(attack: str, enough: int = tables.ENOUGH) -> Callable[[Case], str]:
    """The uniform purification that leaves most under `attack`, of those measured on `enough`
    images; of one level nobody can say that it is the best."""

    def name(case: Case) -> str:
        left = noise_levels(case, attack, enough)
        if len(left) < 2:
            raise NotMeasured(
                "\n".join(
                    case.command(case.cell(attack, f"uniform:t={t}")) for t in (0.05, 0.1, 0.2)
                )
            )
        return max(left, key=left.get)

    BEST.add(name)
    return name


def edge(case: Case, attack: str, name: str) -> str:
    """That the best level is the lowest or the highest that was measured, so that a better one may
    lie beyond it; else nothing."""
    t = lambda d: specs.parse(d, DEFENCES)[1].t
    levels = sorted({t(d) for d in noise_levels(case, attack)})
    return (
        "the best level is at the edge of those measured"
        if t(name) in (levels[0], levels[-1])
        else ""
    )


def on_the_curve(
    text: str, attack: str, chapter: int = 5, bench: str = "cifar10-small", defence: str = ""
) -> Statement:
    """The method minus the curve of uniform noise at the method's own clean accuracy."""

    def answer(case: Case) -> tuple[Judged, str]:
        case.get(case.cell(attack))
        found = case.known.at_equal_clean(case.defence, case.cell(attack)[1])
        if found is None:
            raise NotMeasured(
                "\n".join(
                    case.command(case.cell(attack, f"uniform:t={t}")) for t in (0.05, 0.1, 0.2)
                )
            )
        return found, "", curve_files(case, attack)

    sides = "the method minus the curve of uniform noise"
    return Statement(text, sides, chapter, answer, bench, defence)


def told(text: str, mask: str) -> Statement:
    """One call of a denoiser that is told every pixel's level, behind one of `premise.MASKS`, minus
    the curve of uniform noise."""

    def answer(case: Case) -> tuple[Judged, str]:
        found = premise.rows(
            premise.Setting(case.bench), premise.MASKS, {premise.KNOWN_MASKS}, case.results
        )
        corrected = {row.name: p for row, p in zip(found, premise.held(found))}
        row = next((row for row in found if row.name == mask and row.distance), None)
        if row is None:
            raise NotMeasured(f"# {mask}: no records on this bench")
        tests = sum(row.distance is not None for row in found)
        judged = _beside_the_curve(row.distance, corrected[mask], tests, "premise")
        return judged, "", list(row.records)

    return Statement(text, f"{mask} minus the curve of uniform noise", 14, answer, TOLD)


def frozen(text: str, attack: str) -> Statement:
    """The candidate of chapter 15 minus the curve of uniform noise, under one of its attacks."""

    def answer(case: Case) -> tuple[Judged, str]:
        if not (case.results / candidate.FILE).exists():
            raise NotMeasured("# no candidate is frozen")
        chosen = candidate.Candidate.load(case.results)
        found = candidate.trials(chosen, case.results)
        (trial,) = (t for t in found if t.name == attack)
        if trial.distance is None:
            raise NotMeasured(f"# {trial.waits}")
        setting = chosen.setting(trial.attack)
        shown = [chosen.defence, *(p.name for p in setting.curve(case.results))]
        judged = _beside_the_curve(trial.distance, trial.holm, len(found), "candidate")
        return judged, "", premise.record_files(setting, shown)

    return Statement(text, "the candidate minus the curve of uniform noise", 15, answer, TOLD)


def _beside_the_curve(d: frontier.Distance, holm: float, tests: int, family: str) -> Judged:
    same = Accuracy(0.0, 0.0, 0.0, d.difference.n)  # by construction, the clean accuracy is equal
    return Judged(d.difference, d.p, holm, tests, same, family=family)


def files_of(case: Case, *cells: Cell) -> list[str]:
    """The files of records of these cells, as far as there are some."""
    return [case.known.files[cell] for cell in cells if cell in case.known.files]


def curve_files(case: Case, attack: str) -> list[str]:
    """The files of the defence and of the curve of uniform noise under an attack."""
    levels = case.known.levels(case.cell(attack)[1])
    return files_of(case, case.cell(attack), *(case.cell(attack, name) for name in levels))


def best_point(*grids: str) -> Callable[[Case], str]:
    """The point of ablation `grids` other than the defence itself that leaves most under their
    attack."""

    def name(case: Case) -> str:
        points = {e.defence for grid in grids for e in ablations.experiments(grid).values()} - {
            case.defence
        }
        found = {d: case.found.get(case.cell(ablations.ATTACK, d)) for d in sorted(points)}
        left = {d: e.outcomes.single("adversarial").value for d, e in found.items() if e}
        return max(left, key=left.get, default=min(points))

    return name


def vote(case: Case) -> tuple[Judged, str]:
    (e,) = case.get(case.cell())
    pair = compare.Pair(
        e.outcomes.majority_correct("adversarial").astype(float), e.rates("adversarial")
    )
    return compare.judge({"": pair})[""], "", files_of(case, case.cell())


UNIFORM, TRAINED = "the method minus uniform noise", "the method minus adversarial training"
PACKAGED = "as packaged minus averaged decisions"
LONG = "20 iterations of 8 minus 200 of 20"
LENGTHS = HEADLINE, ATTEMPTS["paper's budget"]
ACCEPTED = ATTEMPTS["acceptance"], ATTEMPTS["AutoAttack"]
STEERED = [attack for name, attack in ATTEMPTS.items() if name.startswith("mask:")]
BEST_LINF, BEST_L2 = best_noise(HEADLINE), best_noise(EXACT_L2)
STRONG_NOISE = "uniform:t=0.2"

STATEMENTS = (
    Statement(
        "The attack of the released code, on a short surrogate, overstates what the method leaves.",
        "released surrogate minus exact gradient",
        4,
        between(ATTEMPTS["surrogate"], HEADLINE),
    ),
    Statement(
        "AutoAttack as packaged, deciding by single purifications, overstates what the method"
        " leaves.",
        PACKAGED,
        4,
        between(*ACCEPTED),
    ),
    Statement(
        "AutoAttack as packaged overstates what uniform noise at its best level leaves.",
        PACKAGED,
        4,
        of_noise(BEST_LINF, *ACCEPTED),
    ),
    Statement(
        "AutoAttack as packaged overstates what the method leaves in the l2 ball.",
        PACKAGED,
        4,
        between(PACKAGED_L2, CORRECTED_L2),
    ),
    Statement(
        "Twice the iterations and purifications break more of the method.",
        "once minus twice",
        5,
        between(HEADLINE, ATTEMPTS["budget"]),
    ),
    Statement(
        "The literature's 200 iterations of 20 break more of the method.",
        LONG,
        5,
        between(*LENGTHS),
    ),
    Statement(
        "The literature's 200 iterations of 20 break more of uniform noise of the nearest clean"
        " accuracy.",
        LONG,
        5,
        of_noise(equal_accuracy, *LENGTHS),
    ),
    Statement(
        "An attack that also steers the mask breaks more of the method.",
        "exact gradient minus the best steered attack",
        4,
        between(HEADLINE, *STEERED),
    ),
    Statement(
        "A vote over purifications helps the method under attack.",
        "majority minus one purification",
        8,
        vote,
    ),
    versus(
        "The method leaves more with a mask where the classifier looks than with a random one.",
        "attention minus a random mask",
        8,
        HEADLINE,
        random_mask,
    ),
    versus(
        "Noise on two levels leaves more than one level of equal energy and cost.",
        UNIFORM,
        11,
        HEADLINE,
        equal_energy,
    ),
    on_the_curve("The method leaves more than uniform noise at the same clean accuracy.", HEADLINE),
    on_the_curve(
        "Under 200 iterations of 20 the method leaves more than uniform noise at the same clean"
        " accuracy.",
        LENGTHS[1],
    ),
    versus(
        "Under 200 iterations of 20 the method leaves more than the level of uniform noise of"
        " the nearest clean accuracy.",
        UNIFORM,
        5,
        LENGTHS[1],
        equal_accuracy,
    ),
    on_the_curve(
        "Under AutoAttack with averaged decisions the method leaves more than uniform noise at"
        " the same clean accuracy.",
        ACCEPTED[1],
    ),
    on_the_curve(
        "In the l2 ball the method leaves more than uniform noise at the same clean accuracy.",
        EXACT_L2,
    ),
    on_the_curve(
        "On CIFAR-10 with networks that nobody here trained, the method in five steps leaves"
        " more than uniform noise at the same clean accuracy.",
        HEADLINE,
        14,
        "cifar10-independent",
        "hetpure:steps=5",
    ),
    on_the_curve(
        "On digits with networks that nobody here trained, the method in five steps leaves more"
        " than uniform noise at the same clean accuracy.",
        HEADLINE,
        14,
        "svhn-independent",
        "hetpure:steps=5",
    ),
    on_the_curve(
        "On photographs with networks that nobody here trained, the method in six steps leaves"
        " more than uniform noise at the same clean accuracy.",
        HEADLINE,
        14,
        "photographs-independent-10",
        "hetpure:steps=6",
    ),
    versus(
        "The method leaves more than uniform noise at its best level.",
        UNIFORM,
        5,
        HEADLINE,
        BEST_LINF,
    ),
    versus(
        "In the l2 ball the method leaves more than uniform noise at t = 0.2.",
        UNIFORM,
        5,
        EXACT_L2,
        STRONG_NOISE,
    ),
    versus(
        "In the l2 ball, under AutoAttack with averaged decisions, the method leaves more than"
        " uniform noise at t = 0.2.",
        UNIFORM,
        5,
        CORRECTED_L2,
        STRONG_NOISE,
    ),
    versus(
        "In the l2 ball, under AutoAttack as packaged, the method leaves more than uniform noise"
        " at t = 0.2.",
        UNIFORM,
        5,
        PACKAGED_L2,
        STRONG_NOISE,
    ),
    versus(
        "Under AutoAttack with averaged decisions the method leaves more than uniform noise at t"
        " = 0.2.",
        UNIFORM,
        5,
        ACCEPTED[1],
        STRONG_NOISE,
    ),
    versus(
        "Under AutoAttack as packaged the method leaves more than uniform noise at t = 0.2.",
        UNIFORM,
        5,
        ACCEPTED[0],
        STRONG_NOISE,
    ),
    versus(
        "The paper's threshold and levels leave the most (Fig 7).",
        "the paper's choice minus the best other point of the two grids",
        8,
        ablations.ATTACK,
        best_point("tau", "levels"),
    ),
    versus(
        "The paper's reading leaves more than that of the released code.",
        "paper minus released",
        8,
        ablations.ATTACK,
        "hetpure:reading=released",
    ),
    versus(
        "The method is more robust than adversarial training of its classifier.",
        TRAINED,
        11,
        HEADLINE,
        "at",
    ),
    versus(
        "On digits the method leaves more than uniform noise at its best level.",
        UNIFORM,
        6,
        HEADLINE,
        best_noise(HEADLINE, 32),
        bench="svhn-small",
    ),
    versus(
        "On photographs of ten classes, at 4/255, the method leaves more than uniform noise at"
        " its best level.",
        UNIFORM,
        7,
        PHOTOGRAPHS,
        best_noise(PHOTOGRAPHS, 16),
        bench=TEN,
    ),
    versus(
        "On photographs of ten classes, at 4/255, the method is more robust than adversarial"
        " training.",
        TRAINED,
        7,
        PHOTOGRAPHS,
        "at:model=fast-at-linf",
        bench=TEN,
    ),
    told(
        "Masks of attention, with a denoiser that is told every pixel's level, leave more than"
        " uniform noise at the same clean accuracy.",
        "attention",
    ),
    told(
        "Random masks of the same area, with that denoiser, leave more than uniform noise.",
        "random, area of attention",
    ),
    told(
        "Random masks of half of the pixels, with that denoiser, leave more than uniform noise.",
        "random half",
    ),
    frozen(
        "Random masks of half of the pixels leave more than uniform noise at the same clean"
        " accuracy on images that they were not chosen on.",
        "maximum norm",
    ),
    frozen(
        "Random masks of half of the pixels leave more than uniform noise under an attack that"
        " was written against them.",
        "maximum norm, written against it",
    ),
    frozen(
        "Random masks of half of the pixels leave more than uniform noise in the l2 ball.", "l2"
    ),
    frozen(
        "Random masks of half of the pixels leave more than uniform noise in the l2 ball under"
        " an attack that was written against them.",
        "l2, written against it",
    ),
)


@dataclass(frozen=True)
class Answered:
    """A statement with what judged it: its verdict, scale and what must be said beside it."""

    statement: Statement
    judged: Judged | None
    remark: str = ""
    records: Sequence[str] = ()

    @property
    def scale(self) -> str:
        """One of `compare.SCALES`, or a dash."""
        j = self.judged
        return compare.scale(self.statement.bench, j.difference.n, j.floor) if j else "–"

    @property
    def verdict(self) -> str:
        """One of `compare.VERDICTS`."""
        return compare.verdict(1, self.judged, self.scale)


def answers(results: Path = RESULTS) -> Iterator[Answered]:
    """Every statement, judged where there are records."""
    cases = {
        (bench, defence): Case.of(
            bench, defence or specs.describe(benches.method(bench), DEFENCES), results
        )
        for bench, defence in {(q.bench, q.defence) for q in STATEMENTS}
    }
    for statement in STATEMENTS:
        try:
            yield Answered(statement, *statement.answer(cases[statement.bench, statement.defence]))
        except NotMeasured:
            yield Answered(statement, None)


def left(results: Path = RESULTS, norm: str = "Linf") -> dict[str, dict[str, str]]:
    """Per cent of right answers of the main defences on CIFAR-10, one purification, clean and under
    each of `LEVELS`.
    """
    case, levels = Case.of("cifar10-small", "hetpure", results), LEVELS[norm]
    try:
        best = (BEST_LINF if norm == "Linf" else BEST_L2)(case)
    except NotMeasured:
        best = STRONG_NOISE
    trained = "at" if norm == "Linf" else "at:model=pgd-at-l2"
    rows = {}
    try:
        equal = equal_accuracy(case)
    except NotMeasured:
        equal = best
    for defence in dict.fromkeys(("none", "hetpure", equal, best, trained)):
        places = {column: case.cell(attack, defence) for column, attack in levels.items()}
        found = {column: case.found.get(cell) for column, cell in places.items()}
        first = found["exact gradient"]
        if not any(found.values()) and norm != "Linf":
            continue
        cells = {"clean": _cell(first and first.outcomes.single("clean"))}
        cells |= {
            column: _cell(e and e.outcomes.single("adversarial")) for column, e in found.items()
        }
        sizes = {len(e.records) for e in found.values() if e}
        rows[names.markup(defence)] = cells | {
            "images": f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else str(*sizes) or "–",
            "records": tables.files(files_of(case, *places.values())),
        }
    return rows


def _cell(a: Accuracy | None) -> str:
    """The accuracy or difference, its interval on one line; a dash for none."""
    return str(a).replace(", ", ",\u00a0") if a else "–"


# ---- the page ------------------------------------------------------------------------------------

PAGE = r"""# Findings

The present state of the records, on one page; derivations, controls and limits are in the chapters.
`hetpure pages` computes all of it from `results/`. {limits}

## What is left

CIFAR-10, $\ell_\infty$ 8/255, per cent of right answers of one purification with a 95 % interval
over images.
"""

IN_L2 = r"""
In the $\ell_2$ ball of radius 0.5:
"""

ANSWERS = r"""
## Statements

One difference of accuracy under attack judges each statement, paired on the same images, in points,
with a 95 % interval for its size. The verdict follows from a sign-flip test after Holm's correction
over the family of the comparison, by the rule of the [scorecard](scorecard.md), which also explains
verdicts and scales. *p (Holm)* is the corrected p-value with the size of that family: among many
tests the same difference decides less. *Without attack* is the difference of the same records
without attack: a gain in one can be weighed against a loss in the other. The best level of uniform
noise and the best point of a grid are chosen on the images of the comparison.
"""

RIVALS = r"""
## Rivals

Every defence that has met the same attack, by the same rule 
([chapter 11](../chapters/11_rivals.ipynb)):
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def limits(results: Path = RESULTS) -> str:
    """The size of the networks, and their price in clean accuracy."""
    weights = benches.card("cifar10-small-denoiser")["parameters"]
    small = (
        f"This project trained small networks: the denoiser has {weights / 1e6:.2f} million weights"
    )
    case = Case.of("cifar10-small", "hetpure", results)
    found = [case.found.get(case.cell(HEADLINE, defence)) for defence in ("none", "hetpure")]
    if None in found:
        return f"{small}."
    bare, behind = (e.outcomes.single("clean").value for e in found)
    return (
        f"{small} and costs the method {100 * (bare - behind):.0f} points of clean accuracy. A"
        " larger one could change the direction of an effect, not only its size."
    )


def page(results: Path = RESULTS, chapter: Callable[[int], str] = str) -> str:
    """The page; `chapter` makes a link of a chapter's number."""
    shown = {norm: left(results, norm) for norm in LEVELS}
    levels = {
        norm: table(
            ["defence", *next(iter(rows.values()))],
            [[name, *cells.values()] for name, cells in rows.items()],
        )
        for norm, rows in shown.items()
        if rows
    }
    lines = []
    for found in answers(results):
        q, j = found.statement, found.judged
        said = "; ".join(filter(None, (found.remark, j.beside if j else "")))
        equal = j and j.clean and j.clean.low == j.clean.high == 0
        cells = [
            _cell(j and j.difference),
            j.of if j else "–",
            "equal" if equal else _cell(j and j.clean),
            str(j.difference.n) if j else "–",
        ]
        lines.append(
            [f"**{found.verdict}**", q.text, q.sides, found.scale, *cells, said, chapter(q.chapter)]
        )
        lines[-1].append(tables.files(found.records))
    head = [
        "verdict",
        "statement",
        "difference",
        "scale",
        "points",
        "p (Holm)",
        "without attack",
        "images",
        "beside",
        "chapter",
        "records",
    ]
    sentences = tables.conclusions(tables.against_the_method("cifar10-small", results=results))
    parts = [
        PAGE.replace("{limits}", limits(results)),
        levels["Linf"],
        *((IN_L2, levels["L2"]) if "L2" in levels else ()),
        ANSWERS,
        table(head, lines),
        RIVALS,
    ]
    return "\n".join([*parts, *(f"- {line}" for line in sentences), ""])
