"""Findings: the questions that a reader brings, each answered by one paired difference. Page: ``book/findings.md`` (see `pages`).

An answer is a function of an interval: *yes* if the difference is established, *no* if its opposite is, else *open*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hetpure_lab.audit.cases import ATTEMPTS, HEADLINE, Case, NotMeasured, difference
from hetpure_lab.audit.checks import equal_accuracy, equal_energy, random_mask
from hetpure_lab.common import specs, stats
from hetpure_lab.common.stats import Accuracy, above, opposite
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import RESULTS, ablations
from hetpure_lab.networks import benches
from hetpure_lab.report import tables

LEVELS = {
    "exact gradient": HEADLINE,
    "identity backward (BPDA)": ATTEMPTS["BPDA"],
    "AutoAttack, averaged decisions": ATTEMPTS["AutoAttack"],
    "AutoAttack as packaged": ATTEMPTS["acceptance"],
    "released surrogate": ATTEMPTS["surrogate"],
}
PHOTOGRAPHS, TEN = "pgd:eps=4/255,eot=4", "imagenet-small-10"


@dataclass(frozen=True)
class Question:
    """A question, the two `sides` whose difference answers it, and the chapter that has the details.

    If the sides are two defences, `beside` is their difference without attack: what one gains under it may be paid for there.
    """

    text: str
    sides: str
    chapter: int
    answer: Callable[[Case], Accuracy]
    bench: str = "cifar10-small"
    beside: Callable[[Case], Accuracy] | None = None


def versus(text: str, sides: str, chapter: int, attack: str, other: str | Callable[[Case], str], bench: str = "cifar10-small") -> Question:
    """A question whose sides are the defence and `other`, another one or a function that finds it, both under `attack`."""
    return Question(text, sides, chapter, minus(attack, other), bench, minus(attack, other, "clean"))


def minus(attack: str, other: str | Callable[[Case], str], column: str = "adversarial") -> Callable[[Case], Accuracy]:
    """A column of the defence's records under `attack` minus that of `other`, a defence or a function that finds one."""

    def answer(case: Case) -> Accuracy:
        return difference(*case.get(case.cell(attack), case.cell(attack, other if isinstance(other, str) else other(case))), column)

    return answer


def between(attack: str, *others: str) -> Callable[[Case], Accuracy]:
    """What `attack` leaves minus what the strongest of `others` leaves."""

    def answer(case: Case) -> Accuracy:
        e, *rest = case.get(*map(case.cell, (attack, *others)))
        return max((difference(e, other) for other in rest), key=lambda d: d.value)

    return answer


def of_noise(which: Callable[[Case], str], attack: str, other: str) -> Callable[[Case], Accuracy]:
    """What `attack` leaves minus what `other` leaves, for the uniform noise that `which` finds."""

    def answer(case: Case) -> Accuracy:
        name = which(case)
        return difference(*case.get(case.cell(attack, name), case.cell(other, name)))

    return answer


def best_noise(attack: str, enough: int = tables.ENOUGH) -> Callable[[Case], str]:
    """The uniform purification that leaves most under `attack`, of those measured on `enough` images."""

    def name(case: Case) -> str:
        same = {d: e for (d, a, seed), e in case.found.items() if d.startswith("uniform") and (a, seed) == case.cell(attack)[1:]}
        left = {d: e.outcomes.single("adversarial").value for d, e in same.items() if len(e.records) >= enough}
        return max(left, key=left.get, default="uniform:t=0.2")

    return name


def best_point(*grids: str) -> Callable[[Case], str]:
    """The point of ablation `grids` other than the defence itself that leaves most under their attack."""

    def name(case: Case) -> str:
        points = {e.defence for grid in grids for e in ablations.experiments(grid).values()} - {case.defence}
        found = {d: case.found.get(case.cell(ablations.ATTACK, d)) for d in sorted(points)}
        left = {d: e.outcomes.single("adversarial").value for d, e in found.items() if e}
        return max(left, key=left.get, default=min(points))

    return name


def vote(case: Case) -> Accuracy:
    (e,) = case.get(case.cell())
    return stats.paired_difference(e.outcomes.majority_correct("adversarial"), e.rates("adversarial"))


UNIFORM, TRAINED = "the method minus uniform noise", "the method minus adversarial training"
PACKAGED = "as packaged minus averaged decisions"
LONG = "20 iterations of 8 minus 200 of 20"
LENGTHS = HEADLINE, ATTEMPTS["paper's budget"]
ACCEPTED = ATTEMPTS["acceptance"], ATTEMPTS["AutoAttack"]
STEERED = [attack for name, attack in ATTEMPTS.items() if name.startswith("mask:")]

QUESTIONS = (
    Question(
        "Does the attack of the released code, on a short surrogate, overstate what is left?",
        "released surrogate minus exact gradient",
        4,
        between(ATTEMPTS["surrogate"], HEADLINE),
    ),
    Question("Does AutoAttack, deciding by single purifications, overstate it?", PACKAGED, 4, between(*ACCEPTED)),
    Question("Does it for uniform noise at its best level?", PACKAGED, 4, of_noise(best_noise(HEADLINE), *ACCEPTED)),
    Question("Would twice the iterations and purifications break more?", "once minus twice", 5, between(HEADLINE, ATTEMPTS["budget"])),
    Question("Would the literature's 200 iterations of 20?", LONG, 5, between(*LENGTHS)),
    Question("Would they break more of uniform noise of the nearest clean accuracy?", LONG, 5, of_noise(equal_accuracy, *LENGTHS)),
    Question("Does steering the mask break more?", "exact gradient minus the best steered attack", 4, between(HEADLINE, *STEERED)),
    Question("Does a vote help under attack?", "majority minus one purification", 8, vote),
    versus("Does it help to mask where the classifier looks?", "attention minus a random mask", 8, HEADLINE, random_mask),
    versus("Does noise on two levels beat one of equal energy and cost?", UNIFORM, 11, HEADLINE, equal_energy),
    versus("One of the nearest clean accuracy?", UNIFORM, 5, HEADLINE, equal_accuracy),
    versus("And under 200 iterations of 20?", UNIFORM, 5, LENGTHS[1], equal_accuracy),
    versus("One at its best level?", UNIFORM, 5, HEADLINE, best_noise(HEADLINE)),
    versus(
        "Do the paper's threshold and levels leave the most (Fig 7)?",
        "the paper's choice minus the best other point of the two grids",
        8,
        ablations.ATTACK,
        best_point("tau", "levels"),
    ),
    versus(
        "Does the paper's reading leave more than that of the released code?",
        "paper minus released",
        8,
        ablations.ATTACK,
        "hetpure:reading=released",
    ),
    versus("Is the method more robust than adversarial training of its classifier?", TRAINED, 11, HEADLINE, "at"),
    versus("On digits, does it beat noise at its best level?", UNIFORM, 6, HEADLINE, best_noise(HEADLINE, 32), "svhn-small"),
    versus("On photographs of ten classes, at 4/255?", UNIFORM, 7, PHOTOGRAPHS, best_noise(PHOTOGRAPHS, 16), TEN),
    versus("Does it beat adversarial training there?", TRAINED, 7, PHOTOGRAPHS, "at:model=fast-at-linf", TEN),
)


def verdict(d: Accuracy) -> str:
    """``yes``, ``no`` or ``open``."""
    return "yes" if above(d) else "no" if above(opposite(d)) else "open"


def answers(results: Path = RESULTS) -> Iterator[tuple[Question, Accuracy | None, Accuracy | None]]:
    """Every question with its difference and, if its sides are two defences, the one without attack; None where records are missing."""
    cases = {bench: Case.of(bench, specs.describe(benches.method(bench), DEFENCES), results) for bench in {q.bench for q in QUESTIONS}}
    for question in QUESTIONS:
        case = cases[question.bench]
        try:
            yield question, question.answer(case), question.beside and question.beside(case)
        except NotMeasured:
            yield question, None, None


def left(results: Path = RESULTS) -> dict[str, dict[str, str]]:
    """Per cent of right answers of the main defences on CIFAR-10, one purification, clean and under each of `LEVELS`."""
    case = Case.of("cifar10-small", "hetpure", results)
    names = {"no defence": "none", "the method": "hetpure", "uniform noise": best_noise(HEADLINE)(case), "adversarial training": "at"}
    rows = {}
    for title, defence in names.items():
        found = {column: case.found.get(case.cell(attack, defence)) for column, attack in LEVELS.items()}
        first = found["exact gradient"]
        cells = {"clean": _cell(first and first.outcomes.single("clean"))}
        cells |= {column: _cell(e and e.outcomes.single("adversarial")) for column, e in found.items()}
        sizes = {len(e.records) for e in found.values() if e}
        rows[f"{title}, `{defence}`"] = cells | {"images": f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else str(*sizes) or "–"}
    return rows


def _cell(a: Accuracy | None) -> str:
    """The accuracy or difference, its interval on one line; a dash for none."""
    return str(a).replace(", ", ",\u00a0") if a else "–"


# ---- the page ----------------------------------------------------------------------------------------------------------------

PAGE = r"""# Findings

What the records say today, on one page; derivations, controls and limits are in the chapters. All of it is computed from `results/` by
`hetpure pages`, and a test fails if it is not up to date. The networks are small ones trained by this project: read
directions and orders of size, not the paper's numbers.

## What is left

CIFAR-10, $\ell_\infty$ 8/255, per cent of right answers of one purification with a 95 % interval over images.
"""

ANSWERS = r"""
## Questions

Each is answered by one difference of what is left under attack, paired on the same images, in points, with a 95 % interval. **yes**: it is
above zero. **no**: it is below. **open**: the images do not decide. Where the sides are two defences, the difference of the same records
without attack stands beside it, so that a gain in one can be weighed against a loss in the other. One line in twenty may err, and the best
level of uniform noise and the best point of a grid are chosen on the images that they are compared on.
"""

RIVALS = r"""
## Rivals

Every defence that has met the same attack, after Holm's correction ([chapter 11](../chapters/11_rivals.ipynb)):
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def page(results: Path = RESULTS, chapter: Callable[[int], str] = str) -> str:
    """The page; `chapter` makes a link of a chapter's number."""
    rows = left(results)
    levels = table(["defence", *next(iter(rows.values()))], [[name, *cells.values()] for name, cells in rows.items()])
    lines = []
    for q, d, clean in answers(results):
        said = f"**{verdict(d)}**" if d else "not measured yet"
        lines.append([q.text, q.sides, said, _cell(d), _cell(clean), str(d.n) if d else "–", chapter(q.chapter)])
    questions = table(["question", "difference", "answer", "points", "without attack", "images", "chapter"], lines)
    sentences = tables.conclusions(tables.against_the_method("cifar10-small", results=results))
    return "\n".join([PAGE, levels, ANSWERS, questions, RIVALS, *(f"- {line}" for line in sentences), ""])
