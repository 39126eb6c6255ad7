"""Cases: the records of one defence, and the way from a reported accuracy to an audited one. Used
by `audit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from hetpure_core import HetPure, Uniform
from hetpure_lab.attacks import ATTACKS
from hetpure_lab.attacks.gradients import looks_at_the_image
from hetpure_lab.audit.flags import Evidence, Flag
from hetpure_lab.common import specs, stats
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES, capabilities
from hetpure_lab.evidence import RESULTS, Outcomes, compare

HEADLINE = "pgd"  # the attack whose result is audited
BARE = "pgd:eot=1,confirm=1"  # what stands for it without a purifier
ATTEMPTS = {  # other attacks that an audit makes, by name
    "surrogate": "pgd:gradient=surrogate",
    "masked surrogate": "pgd:gradient=surrogate-masked",
    "BPDA": "bpda:iterations=20,eot=8",
    "transfer": "transfer",
    "Square": "square:iterations=500,eot=8",
    "budget": "pgd:iterations=40,eot=16",
    "averaging": "pgd:iterations=160,eot=1,confirm_every=40",
    "restarts": "pgd:random_start=1,keep=best,loss=margin,restarts=2",
    "paper's budget": "pgd:iterations=200,eot=20",
    "AutoAttack": "autoattack-corrected:iterations=20,eot=8,accept=16",
    "mask: change": "pgd-mask:steer=change",
    "mask: grow": "pgd-mask:steer=grow",
    "mask: shrink": "pgd-mask:steer=shrink",
    "acceptance": "autoattack:iterations=20,eot=8",
    "known noise": "pgd:frozen=all",
    "large radius": "pgd:eps=32/255,step=0.03",
}

Cell = tuple[str, str, int]  # defence, attack, seed


class NotMeasured(LookupError):
    """Records are missing; the message has the commands that make them."""


@dataclass(frozen=True)
class Case:
    """The knowledge of a `defence` on a `bench`: records by cell, the flags of a `live` run (None:
    there was none), and its parts (`has`): ``purifier``, ``surrogate`` (a diffusion chain that can
    be shortened), ``mask`` (one that depends on the image), ``file`` (of records).
    """

    bench: str
    defence: str
    found: dict[Cell, Evidence]
    live: tuple[Flag, ...] | None = None
    has: frozenset[str] = frozenset({"purifier"})
    records: compare.Known | None = field(default=None, compare=False, repr=False)
    results: Path = field(default=RESULTS, compare=False, repr=False)

    @classmethod
    def of(
        cls, bench: str, defence: str, results: Path = RESULTS, live: Sequence[Flag] | None = None
    ) -> Case:
        """The case as the records of the current weights have it; of two files of one cell the one
        with more images counts.
        """
        known = compare.known(bench, results)
        found = {
            cell: Evidence(known.files[cell], records) for cell, records in known.cells.items()
        }
        purifier = specs.parse(defence, DEFENCES)[1]
        has = {"purifier": purifier is not None, "mask": looks_at_the_image(purifier), "file": True}
        has["surrogate"] = purifier is not None and not capabilities(purifier).own_networks
        live = None if live is None else tuple(live)
        return cls(
            bench,
            specs.normal(defence, DEFENCES),
            found,
            live,
            frozenset(k for k, v in has.items() if v),
            known,
            results,
        )

    @cached_property
    def known(self) -> compare.Known:
        """The records as the rule of `compare` takes them."""
        return self.records or compare.Known({cell: e.records for cell, e in self.found.items()})

    def judged(self, one: Cell, two: Cell, side: str = "adversarial") -> compare.Judged:
        """One cell minus another by the rule. Raises `NotMeasured`."""
        self.get(one, two)
        if (found := self.known.between(one, two, side)) is None:
            raise NotMeasured(f"# no image in common: {one}, {two}")
        return found

    @property
    def headline(self) -> str:
        """The audited attack."""
        return BARE if self.defence == "none" else HEADLINE

    def cell(self, attack: str = HEADLINE, defence: str = "", seed: int = 0) -> Cell:
        """The cell of an attack on this defence, or on another one."""
        bare = (defence or self.defence) == "none" and attack == HEADLINE
        normal = defence and specs.normal(defence, DEFENCES)
        return normal or self.defence, specs.normal(BARE if bare else attack, ATTACKS), seed

    def get(self, *cells: Cell) -> list[Evidence]:
        """The records of these cells. Raises `NotMeasured` for cells without records."""
        if missing := [cell for cell in cells if cell not in self.found]:
            raise NotMeasured("\n".join(map(self.command, missing)))
        return [self.found[cell] for cell in cells]

    def command(self, cell: Cell) -> str:
        """The command line that measures a cell."""
        defence, attack, seed = cell
        words = (
            f"--bench {self.bench} --defence {defence} --attack {specs.readable(attack)}"
            " --n-images 64"
        )
        return f"hetpure run {words}" + (f" --seed {seed}" if seed else "")

    def measured(self, attacks: dict[str, str]) -> tuple[dict[str, Evidence], list[str]]:
        """Records of `attacks` by label, and the commands of attacks without records."""
        cells = {label: self.cell(attack) for label, attack in attacks.items()}
        found = {label: self.found[cell] for label, cell in cells.items() if cell in self.found}
        return found, [self.command(cell) for label, cell in cells.items() if label not in found]

    @property
    def purifier(self) -> HetPure | Uniform | None:
        return specs.parse(self.defence, DEFENCES)[1]


def difference(a: Evidence, b: Evidence, column: str = "adversarial") -> Accuracy:
    """The accuracy left in `a` minus the accuracy left in `b`, paired on shared images, with its
    interval.
    """
    first, second = compare.rates(a.records, b.records, column)
    if not len(first):
        raise NotMeasured(f"# no image in common: {a.about}, {b.about}")
    return stats.paired_difference(first, second)


# ---- from the reported number to the audited one -------------------------------------------------

LADDER = (
    (
        "AutoAttack on the surrogate, 20 votes",
        f"{ATTEMPTS['acceptance']},gradient=surrogate",
        "hard_20",
    ),
    ("PGD on the surrogate, 20 votes", ATTEMPTS["surrogate"], "hard_20"),
    ("the same, one purification", ATTEMPTS["surrogate"], "single"),
    ("surrogate that sees the mask", ATTEMPTS["masked surrogate"], "single"),
    ("exact gradient", HEADLINE, "single"),
    ("twice the budget", ATTEMPTS["budget"], "single"),
)


@dataclass(frozen=True)
class Rung:
    """The accuracy left by one way of attacking and scoring, or the command that measures it."""

    label: str
    accuracy: Accuracy | None
    run: str = ""


def waterfall(case: Case) -> list[Rung]:
    """From the released protocol's report to the worst of all attacks on each image, on the images
    that all rungs share.

    A defence without a surrogate starts at the exact gradient.
    """
    steps = LADDER if "surrogate" in case.has else LADDER[-2:]
    cells = [case.cell(attack) for _, attack, _ in steps]
    measured = [case.found[cell] for cell in cells if cell in case.found]
    shared = (
        [key for key in measured[0].records if all(key in e.records for e in measured)]
        if measured
        else []
    )
    rungs = []
    for (label, _, rule), cell in zip(steps, cells):
        e = case.found.get(cell)
        a = (
            Outcomes.of({key: e.records[key] for key in shared}).accuracy("adversarial", rule)
            if e and shared
            else None
        )
        rungs.append(Rung(label, a, "" if a else case.command(cell)))
    others = [
        e
        for cell, e in case.found.items()
        if comparable(cell, e, case) and all(key in e.records for key in shared)
    ]
    enough = shared and len(others) > 1
    return [
        *rungs,
        Rung(
            f"worst of {len(others)} attacks per image",
            stats.mean_rate(worst(others, shared)) if enough else None,
        ),
    ]


def fallen(rungs: Sequence[Rung]) -> str:
    """From the first rung to the last, in a sentence."""
    ends = [rung.accuracy for rung in (rungs[0], rungs[-1])]
    missing = [f"“{rung.label}”" for rung in (rungs[0], rungs[-1]) if rung.accuracy is None]
    if missing:
        return (
            f"Not measured yet: {', '.join(missing)}. Until then nobody can say how far the number"
            " falls."
        )
    return (
        f"“{rungs[0].label}” reports {ends[0]} %, “{rungs[-1].label}” leaves {ends[1]} % (n ="
        f" {ends[1].n})."
    )


def comparable(cell: Cell, e: Evidence, case: Case) -> bool:
    """Whether a cell has the headline's defence, seed, ball and scoring."""
    attack = e.config["attack"]
    same = (
        cell[0] == case.defence
        and cell[2] == 0
        and attack["norm"] == "Linf"
        and np.isclose(attack["eps"], 8 / 255)
    )
    return bool(same and not attack.get("frozen") and e.config["K"] > 1)


def worst(found: Sequence[Evidence], images: Sequence[str]) -> np.ndarray:
    """Shares of right outcomes (n,) under the attack that hurts each image most, which half of the
    purifications choose and the other
    half score, so that luck in choosing is not counted."""
    K = min(e.outcomes.K for e in found)
    right = np.stack(
        [
            Outcomes.of({key: e.records[key] for key in images}).correct("adversarial")[:, :K]
            for e in found
        ]
    )
    chosen = right[..., ::2].mean(-1).argmin(0)
    return right[chosen, np.arange(len(images)), 1::2].mean(-1)
