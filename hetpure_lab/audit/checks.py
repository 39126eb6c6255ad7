"""Audit: a sceptic's questions about a defence, answered from records and a short live run.

Questions without a record are marked as not measured. Each check is a small function of a `Case`;
`CHECKS` lists them. They merge the checklists of Carlini et al. 2019, Athalye et al. 2018, Croce &
Hein 2020 and Kassis et al. 2025. A check is
``passed`` or ``failed`` only if its interval decides; otherwise it is ``open``.

    hetpure audit --defence hetpure           # the checklist, and the commands for what is missing
    hetpure audit --defence uniform:t=0.1 --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from hetpure_lab import data, defences
from hetpure_lab.attacks import ATTACKS
from hetpure_lab.audit import flags
from hetpure_lab.audit.cases import ATTEMPTS, BARE, HEADLINE, Case, NotMeasured, difference
from hetpure_lab.audit.flags import Flag
from hetpure_lab.common import names as human
from hetpure_lab.common import specs, stats
from hetpure_lab.common.stats import Accuracy, above, below, more_or_less, opposite
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES
from hetpure_lab.defences.equal_energy import EqualEnergy
from hetpure_lab.evidence import Experiment, ablations, rescore
from hetpure_lab.evidence.compare import Judged
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

STATES = ("passed", "failed", "open", "not measured")
TOLERANCE = 0.05  # accuracies that differ by less than this tell the same story


@dataclass(frozen=True)
class Verdict:
    """One of `STATES` and what was `seen`; the `difference` that decided, if it is one between the
    headline and another attack; the
    `record` behind it as BENCH/FILE, or the commands to `run` for what is missing."""

    state: str
    seen: str = ""
    difference: Accuracy | None = None
    record: str = ""
    run: str = ""


Judge = Callable[[Case], Verdict]


def tolerated(d: Accuracy) -> str:
    """``passed`` if a loss of `TOLERANCE` is excluded, ``failed`` if there is a loss that may be
    larger, else ``open``.

    Book: ch12, eq-verdict.
    """
    if below(d, TOLERANCE):
        return "passed"
    return "failed" if above(d) and d.high > TOLERANCE else "open"


def claimed(gain: Judged) -> str:
    """``passed`` if a claimed gain is established by the rule of `compare`, ``failed`` if its
    opposite is, else ``open``.
    """
    return {"higher": "passed", "lower": "failed"}.get(gain.word, "open")


# ---- does the attack work? -----------------------------------------------------------------------


def flagged(hits: Sequence[Flag], names: Sequence[str], record: str = "") -> Verdict:
    """``failed`` if one of `hits` has one of `names`."""
    bad = [f for f in hits if f.name in names]
    seen = "; ".join(f"{f.name}: {f.seen}" for f in bad) or f"no flag {', '.join(names)}"
    return Verdict("failed" if bad else "passed", seen, record=record)


def live(*names: str) -> Judge:
    """The short live run raised no such flag."""

    def judge(case: Case) -> Verdict:
        if case.live is None:
            raise NotMeasured(f"hetpure audit --bench {case.bench} --defence {case.defence}")
        return flagged(case.live, names)

    return judge


def recorded(*names: str) -> Judge:
    """The headline's records raise no such flag."""

    def judge(case: Case) -> Verdict:
        (e,) = case.get(case.cell())
        return flagged(flags.examine(e), names, e.about)

    return judge


def scored_again(case: Case) -> Verdict:
    """Stored images of the headline, scored again, gave the recorded labels."""
    (e,) = case.get(case.cell())
    known = {rescore.digest(r) for r in e.records.values()}
    found = [note for note in rescore.notes() if note.record in known]
    if not found:
        raise NotMeasured(f"hetpure rescore results/{e.about}")
    differing, labels = sum(n.differing for n in found), sum(n.of for n in found)
    seen = f"{differing} of {labels} labels differ, images: {len({n.record for n in found})}"
    return Verdict("failed" if differing else "passed", seen, record=e.about)


def near_zero(attack: str, defence: str = "", at_most: float = TOLERANCE) -> Judge:
    """No more than `at_most` is left."""

    def judge(case: Case) -> Verdict:
        (e,) = case.get(case.cell(attack, defence))
        left = e.outcomes.single("adversarial")
        state = "passed" if below(left, at_most) else "failed" if above(left, at_most) else "open"
        return Verdict(state, f"{left} % left, n = {left.n}", record=e.about)

    return judge


def beats_noise(case: Case) -> Verdict:
    """The attack breaks more than random noise of the same norm, and no image less."""
    (e,) = case.get(case.cell())
    d = stats.paired_difference(e.rates("adversarial"), e.rates("null"))
    hits = [f for f in flags.examine(e) if f.name in ("above-control", "weaker-than-noise")]
    state = "failed" if hits else "passed" if above(opposite(d)) else "open"
    left = f"the attack leaves {more_or_less(d)} than random noise"
    return Verdict(state, "; ".join([left, *(f.seen for f in hits)]), d, e.about)


def outdone(*names: str) -> Judge:
    """None of these `ATTEMPTS` leaves clearly less than the headline, on average or, where it knows
    less, on any image.
    """

    def judge(case: Case) -> Verdict:
        headline, *others = case.get(case.cell(), *(case.cell(ATTEMPTS[name]) for name in names))
        d, e = max(
            ((difference(headline, other), other) for other in others),
            key=lambda pair: pair[0].value,
        )
        hits = [
            f
            for other in others
            for f in flags.compare([headline, other])
            if f.name == "weaker-than-other"
        ]
        seen = "; ".join(
            [
                f"the headline leaves {more_or_less(d)}, n = {d.n}",
                *(f"it alone survives on {f.seen}" for f in hits),
            ]
        )
        return Verdict("failed" if hits else tolerated(d), seen, d, e.about)

    return judge


def known_noise(case: Case) -> Verdict:
    """An attacker who knows the noise breaks no less."""
    headline, frozen = case.get(case.cell(), case.cell(ATTEMPTS["known noise"]))
    d = difference(frozen, headline)
    seen = f"an attacker who knows the noise leaves {more_or_less(d)}"
    return Verdict(tolerated(d), seen, record=frozen.about)


def monotone(case: Case) -> Verdict:
    """No larger radius leaves more."""
    found = case.get(
        *(case.cell(attack) for attack in ("pgd:eps=2/255", "pgd:eps=4/255", HEADLINE))
    )
    rises = [difference(far, near) for near, far in pairwise(found)]
    seen = " / ".join(f"{100 * e.outcomes.single('adversarial').value:.1f}" for e in found)
    return Verdict(
        tolerated(max(rises, key=lambda d: d.value)), f"{seen} % left", record=found[-1].about
    )


# ---- is the score right? -------------------------------------------------------------------------


def packaged(case: Case) -> Verdict:
    """AutoAttack as packaged leaves no more than AutoAttack with averaged decisions."""
    found = case.get(case.cell(ATTEMPTS["acceptance"]), case.cell(ATTEMPTS["AutoAttack"]))
    d = difference(*found)
    return Verdict(tolerated(d), f"as packaged it leaves {more_or_less(d)}", record=found[0].about)


def votes(case: Case) -> Verdict:
    """A vote tells the same story as one purification."""
    (e,) = case.get(case.cell())
    d = stats.paired_difference(e.outcomes.majority_correct("adversarial"), e.rates("adversarial"))
    ways = tolerated(d), tolerated(opposite(d))
    state = "failed" if "failed" in ways else "open" if "open" in ways else "passed"
    seen = f"a vote of {e.outcomes.K} leaves {more_or_less(d)} than one purification"
    return Verdict(state, seen, record=e.about)


def flakiness(case: Case) -> Verdict:
    """Failing once in K has another cause than the defence's own noise."""
    (e,) = case.get(case.cell())
    clean, null, attacked = (e.outcomes.correct(c).all(1) for c in ("clean", "null", "adversarial"))
    d = stats.paired_difference(clean, attacked)
    shares = [
        f"{name} {right.mean():.1%}"
        for name, right in (("clean", clean), ("noise", null), ("attacked", attacked))
    ]
    seen = f"right {e.outcomes.K} times of {e.outcomes.K}: {', '.join(shares)}"
    return Verdict(
        "failed" if below(d, TOLERANCE) else "passed" if above(d) else "open", seen, record=e.about
    )


def seeds(case: Case) -> Verdict:
    """What is printed as ± in this field, the spread over runs, is not the larger part."""
    found = case.get(*(case.cell(seed=seed) for seed in range(3)))
    shared = [key for key in found[0].records if all(key in e.records for e in found)]
    s = stats.spread(np.stack([e.rates("adversarial", shared) for e in found]))
    seen = (
        f"run to run {100 * s.run_to_run:.1f}, image to image {100 * s.image_to_image:.1f} points,"
        f" n = {s.n}"
    )
    return Verdict(
        "passed" if s.run_to_run <= s.image_to_image else "failed", seen, record=found[0].about
    )


# ---- what is the reason? -------------------------------------------------------------------------


def price(case: Case) -> Verdict:
    """Purification alone costs little accuracy."""
    e, bare = case.get(case.cell(), case.cell(BARE, "none"))
    lost = difference(bare, e, "clean")
    state = (
        "passed" if below(lost, flags.COSTLY) else "failed" if above(lost, flags.COSTLY) else "open"
    )
    return Verdict(state, f"{lost} points of clean accuracy lost", record=e.about)


def better_than(control: Callable[[Case], str]) -> Judge:
    """More is left than with a `control` in the defence's place, under the headline attack or, if
    that is missing, that of the grids.
    """

    def judge(case: Case) -> Verdict:
        pairs = [
            (case.cell(attack), case.cell(attack, control(case)))
            for attack in (HEADLINE, ablations.ATTACK)
        ]
        pair = next((p for p in pairs if all(cell in case.found for cell in p)), pairs[0])
        _, theirs = case.get(*pair)
        judged = case.judged(*pair)
        other, attack = human.defence(pair[1][0]), human.attack(pair[1][1])
        left = f"the defence leaves {more_or_less(judged.difference)} than {other}"
        seen = f"{left}, n = {judged.difference.n}, under {attack}"
        return Verdict(
            claimed(judged), "; ".join(filter(None, (seen, judged.beside))), record=theirs.about
        )

    return judge


def random_mask(case: Case) -> str:
    return specs.describe(replace(case.purifier, mask_kind="random"), DEFENCES)


def equal_energy(case: Case) -> str:
    return specs.describe(EqualEnergy(**vars(case.purifier)), DEFENCES)


def equal_accuracy(case: Case) -> str:
    """The measured uniform purification whose clean accuracy is nearest."""
    (e,) = case.get(case.cell())
    levels = {
        d: u
        for (d, a, s), u in case.found.items()
        if d.startswith("uniform") and (a, s) == (HEADLINE, 0)
    }
    return min(
        levels, key=lambda d: abs(difference(e, levels[d], "clean").value), default="uniform:t=0.1"
    )


# ---- all -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A question with a short name, the chapter that explains it, and what a defence must have for
    it to make sense.
    """

    name: str
    question: str
    chapter: int
    judge: Judge
    needs: str = ""


WRONG_GRADIENT = ("zero-gradient", "inexact-gradient", "probabilities")
WRONG_NOISE = ("irreproducible", "deterministic", "random", "reused-noise", "noise-level")
WRONG_RUN = (
    "zero-gradient",
    "deterministic",
    "random",
    "single-acceptance",
    "early-acceptance",
    "mixed-code",
)

CHECKS = (
    Check(
        "exact gradient",
        "Does the attack differentiate what the defence computes?",
        4,
        live(*WRONG_GRADIENT),
    ),
    Check(
        "fresh noise",
        (
            "Can noise be replayed, is it of the stated level, and does scoring see "
            "noise of its own?"
        ),
        4,
        live(*WRONG_NOISE),
    ),
    Check("records", "Are the records free of signs of a broken run?", 4, recorded(*WRONG_RUN)),
    Check(
        "rescored",
        "Do stored images, scored again, give the recorded labels?",
        12,
        scored_again,
        "file",
    ),
    Check(
        "real images",
        "Are the scored images 8-bit, in the stated ball, and at its edge?",
        4,
        recorded("wrong-epsilon"),
    ),
    Check(
        "undefended",
        "Does the same code bring the bare network to zero?",
        4,
        near_zero(BARE, "none"),
    ),
    Check(
        "null control",
        "Does the attack break more than random noise of the same norm?",
        4,
        beats_noise,
    ),
    Check(
        "surrogate",
        "Is the attack at least as strong as one on the released surrogate?",
        4,
        outdone("surrogate"),
        "surrogate",
    ),
    Check(
        "masked surrogate",
        "As one on a surrogate that sees the mask?",
        4,
        outdone("masked surrogate"),
        "surrogate",
    ),
    Check(
        "BPDA",
        "As one with the identity in place of the purifier's gradient?",
        4,
        outdone("BPDA"),
        "purifier",
    ),
    Check("transfer", "As images that fool the bare network?", 4, outdone("transfer"), "purifier"),
    Check("Square", "As a search without gradients?", 4, outdone("Square"), "purifier"),
    Check(
        "budget",
        "As one of twice the iterations and purifications?",
        5,
        outdone("budget"),
        "purifier",
    ),
    Check(
        "averaging",
        "As one of many noisy steps at equal cost?",
        4,
        outdone("averaging"),
        "purifier",
    ),
    Check(
        "restarts",
        "As one with random starts, the margin loss and the best iterate?",
        4,
        outdone("restarts"),
        "purifier",
    ),
    Check(
        "paper's budget",
        "As one of the paper's 200 iterations of 20 purifications?",
        5,
        outdone("paper's budget"),
        "purifier",
    ),
    Check(
        "AutoAttack", "As AutoAttack with averaged decisions?", 4, outdone("AutoAttack"), "purifier"
    ),
    Check(
        "mask attacks",
        "As attacks that steer the mask?",
        4,
        outdone("mask: change", "mask: grow", "mask: shrink"),
        "mask",
    ),
    Check(
        "known noise",
        "Does an attacker who knows the noise break at least as much?",
        4,
        known_noise,
        "surrogate",
    ),
    Check("radius", "Does a larger radius leave less?", 5, monotone),
    Check(
        "large radius",
        "Does a very large radius leave nothing?",
        5,
        near_zero(ATTEMPTS["large radius"], at_most=0.1),
    ),
    Check(
        "acceptance",
        "Does AutoAttack as packaged report no more than with averaged decisions?",
        4,
        packaged,
        "purifier",
    ),
    Check("votes", "Does a vote tell the same story as one purification?", 8, votes, "purifier"),
    Check(
        "flakiness",
        "Is failing once in K due to the attack, not to the defence's own noise?",
        4,
        flakiness,
        "purifier",
    ),
    Check("seeds", "Is the spread over runs smaller than that over images?", 5, seeds, "purifier"),
    Check(
        "price",
        "Does purification alone cost less than 20 points of accuracy?",
        5,
        price,
        "purifier",
    ),
    Check(
        "random mask",
        "Is more left than with a random mask of equal area?",
        8,
        better_than(random_mask),
        "mask",
    ),
    Check(
        "equal energy",
        "Is more left than with uniform noise of equal energy and cost?",
        11,
        better_than(equal_energy),
        "mask",
    ),
    Check(
        "equal accuracy",
        "Is more left than with uniform noise of the nearest clean accuracy?",
        5,
        better_than(equal_accuracy),
        "mask",
    ),
)


def verdict(check: Check, case: Case) -> Verdict:
    """What is known about one check."""
    try:
        return check.judge(case)
    except NotMeasured as missing:
        return Verdict("not measured", run=str(missing))


def checklist(case: Case) -> list[tuple[Check, Verdict]]:
    """All checks that make sense for the defence, with their verdicts."""
    return [
        (check, verdict(check, case))
        for check in CHECKS
        if not check.needs or check.needs in case.has
    ]


def summary(rows: Sequence[tuple[Check, Verdict]]) -> str:
    """How many checks are in each state, and the names of those that failed or are open."""
    names = {state: [c.name for c, v in rows if v.state == state] for state in STATES}
    counts = ", ".join(f"{len(names[state])} {state}" for state in STATES)
    lists = [
        f"{state.capitalize()}: {', '.join(names[state])}."
        for state in ("failed", "open")
        if names[state]
    ]
    return " ".join([f"Of {len(rows)} checks: {counts}.", *lists])


def commands(rows: Sequence[tuple[Check, Verdict]]) -> list[str]:
    """The commands that measure what is missing, each once."""
    return list(dict.fromkeys(line for _, v in rows for line in v.run.splitlines()))


# ---- command line --------------------------------------------------------------------------------


def look(bench: Bench, defence: str, images: Images) -> list[Flag]:
    """The flags of a short live run of the headline attack on two or more `images`."""
    trial, (_, attack) = (
        Experiment(defence, HEADLINE, bench.name, K=4),
        specs.parse(HEADLINE, ATTACKS),
    )
    return flags.live(trial, defences.build(defence, bench), attack, images, str(bench.device))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure audit", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--defence", default="hetpure")
    parser.add_argument("--records-only", action="store_true", help="skip the live run")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    live = None
    if not args.records_only:
        bench = benches.load(args.bench)
        live = look(bench, args.defence, data.load_or_sample(bench.dataset, quiet=True).take(2))
    rows = checklist(Case.of(args.bench, args.defence, live=live))
    if args.json:
        print(
            json.dumps(
                [
                    {"check": c.name, "question": c.question, "chapter": c.chapter} | asdict(v)
                    for c, v in rows
                ],
                indent=1,
            )
        )
    else:
        print("\n".join(f"{v.state:12}  {c.name:16}  {v.seen}" for c, v in rows))
        print("\n".join([summary(rows), *commands(rows)]))
