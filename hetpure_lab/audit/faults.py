"""The bug zoo: evaluation faults of papers and releases, what each adds, which flag catches it.

A fault changes one part of a sound evaluation: the defence as it is written, the attack as it is
run, or what is counted. Both are run on the same images, and the difference is the *fake
robustness* that the fault adds. It can be negative: then the fault flatters the attack.

    hetpure zoo                                  # the faults, and what is on record
    hetpure zoo --n-images 64                    # measure what is missing, on a bench
    hetpure zoo --bench world --n-images 256     # in the world whose truth is known

Records are lines of ``results/zoo.jsonl``, append-only. ``book/bug-zoo`` is made from them."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from hetpure_core import HetPure, Plan, Purified, Uniform
from hetpure_lab import attacks, data, evidence
from hetpure_lab.attacks import PGD, Attack, Found, Tick, Undefended, no_tick
from hetpure_lab.attacks.gradients import coarser, with_purifier
from hetpure_lab.audit import flags, reported, world
from hetpure_lab.audit.flags import Evidence, Flag
from hetpure_lab.audit.own import Trial
from hetpure_lab.audit.reported import Report, report
from hetpure_lab.common import stats
from hetpure_lab.common.progress import bar
from hetpure_lab.data import Images
from hetpure_lab.evidence import RESULTS, append, provenance, read
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

ZOO = "zoo.jsonl"
CODE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[
    :12
]  # when it is imported: the file may be edited while a run goes on


# ---- the sound evaluation, in parts --------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """Where faults are measured: the bench's networks behind one noise level in one step (Carlini
    et al. 2023), where a fault is about more of them behind several steps or two levels, on
    `images`, under a short attack."""

    bench: Bench
    images: Images
    uniform: Uniform = field(default_factory=lambda: Uniform(0.1, 1))
    two_levels: HetPure = field(
        default_factory=lambda: HetPure(t_l=0.2, t_s=0.05, tau=0.5, steps=2)
    )
    forgetful: Uniform = field(default_factory=lambda: Uniform(0.4, 1))
    attack: PGD = field(default_factory=lambda: PGD(iterations=10, eot=2, confirm=0))
    l2: PGD = field(
        default_factory=lambda: PGD("L2", 0.5, iterations=10, eot=2, step=0.1, confirm=0)
    )
    levels: tuple[float, ...] = (0.07, 0.085, 0.1, 0.115)
    K: int = 8

    def behind(self, purifier: Uniform | HetPure, kind: type[Purified] = Purified) -> Purified:
        """The bench's networks behind a purifier; chains are short, so activations are kept."""
        b = self.bench
        return kind(b.classifier, b.denoiser, purifier, schedule=b.schedule, checkpointing=False)

    @property
    def settings(self) -> dict:
        """All but the bench and the images, as a record keeps it."""
        names = ("uniform", "two_levels", "forgetful", "attack", "l2")
        return {name: asdict(getattr(self, name)) for name in names} | {
            "levels": self.levels,
            "K": self.K,
        }


Rates = dict[str, float]  # by image
Defence = Callable[[Setting], "Purified | Undefended"]
Count = Callable[["Zoo", "Run"], "tuple[Rates, Report]"]


@dataclass(frozen=True)
class Arm:
    """One way to evaluate: the defence, the attack, and what is reported."""

    defence: Defence
    attack: Callable[[Setting], Attack]
    count: Count


@dataclass(frozen=True)
class Run:
    """An evaluation that was run: its records and what they are of."""

    evidence: Evidence
    defence: Purified | Undefended
    attack: Attack
    flags: tuple[Flag, ...] = ()


def sound_defence(s: Setting) -> Purified:
    return s.behind(s.uniform)


def as_reported(r: Report) -> tuple[Rates, Report]:
    """The rates of a report by image, and the report."""
    return dict(zip(r.images, map(float, r.rates))), r


def single(zoo: Zoo, run: Run) -> tuple[Rates, Report]:
    """The expected accuracy of one purification."""
    return as_reported(report(run.evidence))


SOUND = Arm(sound_defence, lambda s: s.attack, single)


@dataclass(frozen=True)
class Fault:
    """A fault by `name`: what it `does`, who `made` it or showed it (citation keys, a colon, and
    where; "" if nobody is named here), the flag that it is `caught` by, its `arm` and the `sound`
    one beside it."""

    name: str
    does: str
    made: str
    caught: str
    arm: Arm
    sound: Arm = SOUND


# ---- defences that are written wrong -------------------------------------------------------------


class Detached(Purified):
    """The purifier under no_grad: its output does not know its input."""

    def purify(self, images: Tensor, noise, mask=None) -> Tensor:
        return super().purify(images.detach(), noise, mask) + 0 * images


@dataclass(frozen=True)
class PathDetached(HetPure):
    """One of the paths by which the input enters carries no gradient: the known region of Eq 8."""

    def plan(self, x_adv, mask, eps, noise, schedule) -> Plan:
        return super().plan(x_adv.detach(), mask, eps, noise, schedule)


class InAttacks(Purified):
    """A defence that does something else when a gradient is asked for."""

    def purify(self, images: Tensor, noise, mask=None) -> Tensor:
        if not torch.is_grad_enabled() or not images.requires_grad:
            return super().purify(images, noise, mask)
        other = self.other()
        return Purified.purify(
            other, images, noise, other.mask(images, noise) if mask is None else mask
        )

    def other(self) -> Purified:
        """What is differentiated instead."""
        raise NotImplementedError


class FewSteps(InAttacks):
    """The gradient is that of the released surrogate: its own order of operations, two calls."""

    def other(self) -> Purified:
        return with_purifier(self, coarser(self.purifier, "surrogate", self.schedule))


class OtherSampler(InAttacks):
    """The gradient is that of another sampler, from the same start."""

    def other(self) -> Purified:
        return with_purifier(self, replace(self.purifier, sampler="ddim"))


class Unnormalised(Purified):
    """In attacks the classifier is fed the sampler's [-1, 1] scale instead of [0, 1]."""

    def purify(self, images: Tensor, noise, mask=None) -> Tensor:
        purified = super().purify(images, noise, mask)
        return 2 * purified - 1 if torch.is_grad_enabled() and images.requires_grad else purified


class RoundsInside(Purified):
    """The defence rounds its input to 8 bits, which has no derivative."""

    def purify(self, images: Tensor, noise, mask=None) -> Tensor:
        return super().purify((images * 255).round() / 255, noise, mask)


class Probabilities(Purified):
    """The defence ends in a softmax."""

    def forward(self, images, ids=None, copies=None, mask=None) -> Tensor:
        return super().forward(images, ids, copies, mask).softmax(-1)


class LabelGuided(Purified):
    """The purified image goes a step towards the class that is asked for, and that is the true
    one."""

    known: dict[str, int]

    def purify(self, images: Tensor, noise, mask=None) -> Tensor:
        purified = super().purify(images, noise, mask)
        with torch.enable_grad():
            z = purified.detach().requires_grad_()
            labels = torch.tensor([self.known[key] for key in noise.images], device=z.device)
            (slope,) = torch.autograd.grad(
                F.cross_entropy(self.classifier(z), labels, reduction="sum"), z
            )
        return purified - 8 / 255 * slope.sign()


def label_guided(s: Setting) -> Purified:
    defence = s.behind(s.uniform, LabelGuided)
    defence.known = dict(zip(s.images.ids, s.images.labels.tolist()))
    return defence


@dataclass(frozen=True)
class OneLevel(HetPure):
    """Both levels are the weak one, while the settings name two."""

    def plan(self, x_adv, mask, eps, noise, schedule) -> Plan:
        return Uniform(self.t_s, self.steps).plan(x_adv, None, eps, noise, schedule)


def two_levels(s: Setting) -> Purified:
    return s.behind(s.two_levels)


def ancestral(s: Setting, kind: type[Purified] = Purified) -> Purified:
    return s.behind(replace(s.uniform, steps=4, sampler="ddpm"), kind)


def many_steps(s: Setting, kind: type[Purified] = Purified) -> Purified:
    return s.behind(replace(s.two_levels, steps=4), kind)


# ---- attacks that are run wrong ------------------------------------------------------------------


@dataclass(frozen=True)
class HalfRadius(PGD):
    """A radius of the [0, 1] scale used on images in [-1, 1]: half of what is stated."""

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        return PGD(self.norm, self.eps / 2).project(x, images)


@dataclass(frozen=True)
class OneDraw(PGD):
    """Every gradient is taken under one and the same draw of noise."""

    def loss_and_gradient(self, attacked, x, images, labels, ids, copies) -> tuple[Tensor, Tensor]:
        return super().loss_and_gradient(attacked, x, images, labels, ids, [0] * self.eot)


@dataclass(frozen=True)
class ReturnsClean(PGD):
    """Where one look at the result is right, the clean image is handed in."""

    def run(
        self,
        defence,
        images: Tensor,
        labels: Tensor,
        ids: Sequence,
        seed: int = 0,
        tick: Tick = no_tick,
    ) -> Found:
        found, spent = super().run(defence, images, labels, ids, seed, tick)
        held = (
            attacks.logits_of(attacks.reseeded(defence, f"accept {seed}"), found, ids, [0])[
                0
            ].argmax(-1)
            == labels
        )
        return torch.where(held.reshape(-1, 1, 1, 1), images, found), spent


# ---- numbers that are counted wrong --------------------------------------------------------------


def best_of_k(zoo: Zoo, run: Run) -> tuple[Rates, Report]:
    """An image counts as right if any of its K purifications is."""
    right = run.evidence.outcomes.correct("adversarial")
    return as_reported(
        Report(run.evidence, right.any(1).astype(float), tuple(run.evidence.records))
    )


def survivors(zoo: Zoo, run: Run) -> tuple[Rates, Report]:
    """Only images that one purification without an attack leaves right are counted."""
    e = run.evidence
    kept = e.outcomes.correct("clean")[:, 0]
    return as_reported(
        Report(e, e.rates("adversarial")[kept], tuple(np.array(list(e.records))[kept]))
    )


def voted(zoo: Zoo, run: Run) -> tuple[Rates, Report]:
    """A vote of K, beside a single purification of the other row."""
    return as_reported(report(run.evidence, "majority", against=report(run.evidence)))


def at_the_floor(zoo: Zoo, run: Run) -> tuple[Rates, Report]:
    """What a defence keeps that has forgotten the image, beside the bare network's nothing."""
    bare = zoo.run(BARE).evidence
    clean, chance = bare.outcomes.single("clean").value, 1 / len(zoo.setting.bench.classes)
    return as_reported(report(run.evidence, against=report(bare), undefended=clean, chance=chance))


def unrounded(zoo: Zoo, run: Run) -> tuple[Rates, Report]:
    """Images are scored as the attack left them, between grey levels."""
    images, device = zoo.setting.images, zoo.setting.bench.device
    x, y = images.floats.to(device), images.labels.to(device)
    found, _ = run.attack.run(run.defence, x, y, images.ids, 0)
    scored = attacks.logits_of(
        attacks.reseeded(run.defence, "score 0"), found, images.ids, range(zoo.setting.K)
    )
    right = (scored.argmax(-1) == y).double().mean(0).cpu().numpy()
    return as_reported(Report(run.evidence, right, tuple(images.ids), shown=found))


def chosen(zoo: Zoo, run: Run) -> tuple[Rates, Report]:
    """The best of several settings on some of the images, reported on these: each image's mean over
    random choices of them."""
    settings = at_levels(zoo)
    best = max(settings, key=lambda e: e.outcomes.single("adversarial").value)
    return selected(settings, counted=True), report(best, tried=len(settings))


def held_out(zoo: Zoo, run: Run) -> tuple[Rates, Report]:
    """The same settings, reported on the images that did not choose them."""
    return selected(at_levels(zoo), counted=False), report(run.evidence)


def at_levels(zoo: Zoo) -> list[Evidence]:
    """The records of uniform purification at each of the levels to choose from."""
    behind = lambda t: lambda s: s.behind(replace(s.uniform, t=t))
    return [zoo.run(replace(SOUND, defence=behind(t))).evidence for t in zoo.setting.levels]


def selected(
    settings: Sequence[Evidence], counted: bool, test: int = 16, splits: int = 400
) -> Rates:
    """Per image, the mean rate of those settings that were the best on `test` images, this one
    `counted` among them or not."""
    rates, images = np.stack([e.rates("adversarial") for e in settings]), list(settings[0].records)
    total, seen, rng = np.zeros(len(images)), np.zeros(len(images)), np.random.default_rng(0)
    for _ in range(splits):
        choosing = np.isin(
            np.arange(len(images)), rng.permutation(len(images))[: min(test, len(images) // 2)]
        )
        best, rows = rates[rates[:, choosing].mean(1).argmax()], choosing == counted
        total[rows] += best[rows]
        seen[rows] += 1
    return dict(zip(images, (total / np.maximum(seen, 1)).tolist()))


BARE = Arm(lambda s: Undefended(s.bench.classifier), lambda s: replace(s.attack, eot=1), single)
FORGETFUL = Arm(lambda s: s.behind(s.forgetful), lambda s: s.attack, at_the_floor)
L2 = replace(SOUND, attack=lambda s: s.l2)


# ---- all faults ----------------------------------------------------------------------------------


def _defence(make: Defence, sound: Defence = sound_defence) -> dict[str, Arm]:
    return {"arm": replace(SOUND, defence=make), "sound": replace(SOUND, defence=sound)}


def _attack(
    make: Callable[[Setting], Attack], sound: Callable[[Setting], Attack] = lambda s: s.attack
) -> dict[str, Arm]:
    return {"arm": replace(SOUND, attack=make), "sound": replace(SOUND, attack=sound)}


def _as(kind: type[PGD]) -> Callable[[Setting], Attack]:
    return lambda s: kind(**asdict(s.attack))


def _uniform(kind: type[Purified]) -> Defence:
    return lambda s: s.behind(s.uniform, kind)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "detached purifier",
            "The purifier runs without gradient tracking, so the attack has no direction.",
            "athalye2018obfuscated: obfuscated gradients, of most of the defences looked at",
            "zero-gradient",
            **_defence(_uniform(Detached)),
        ),
        Fault(
            "detached path",
            "One of the paths by which the input enters the purifier carries no gradient.",
            "kassis2025diffbreak: attacks on guided purifiers left the guidance out",
            "inexact-gradient",
            **_defence(lambda s: s.behind(PathDetached(**asdict(s.two_levels))), two_levels),
        ),
        Fault(
            "few-step surrogate",
            "The attack differentiates two network calls, the defence makes many.",
            "lee2023robust, pei2025divide, pei2025freqpure: the protocol, and the releases",
            "inexact-gradient",
            **_defence(partial(many_steps, kind=FewSteps), many_steps),
        ),
        Fault(
            "another sampler",
            "The attack differentiates DDIM steps, the defence takes ancestral ones.",
            "wang2024diffhammer, kassis2025diffbreak: a fine grid taken back in coarse steps",
            "inexact-gradient",
            **_defence(partial(ancestral, kind=OtherSampler), ancestral),
        ),
        Fault(
            "missing normalisation",
            "In attacks the classifier is fed images in [-1, 1], in scoring images in [0, 1].",
            "pei2025divide: the release's mask and its ImageNet classifier are fed another scale",
            "inexact-gradient",
            **_defence(_uniform(Unnormalised)),
        ),
        Fault(
            "rounding in the defence",
            "The defence rounds its input, and rounding has no derivative.",
            "athalye2018obfuscated: input transformations",
            "zero-gradient",
            **_defence(_uniform(RoundsInside)),
        ),
        Fault(
            "probabilities for logits",
            "The defence ends in a softmax, and the attack's loss takes another.",
            "carlini2017towards: defensive distillation rested on a saturated softmax",
            "probabilities",
            **_defence(_uniform(Probabilities)),
        ),
        Fault(
            "known labels in guidance",
            "The purifier is guided towards a class, and the code passes the true label.",
            "",
            "label-leak",
            **_defence(label_guided),
        ),
        Fault(
            "mechanism switched off",
            "The settings name two noise levels, the code passes the weak one twice.",
            "pei2025divide: the release from March to November 2025",
            "noise-level",
            **_defence(lambda s: s.behind(OneLevel(**asdict(s.two_levels))), two_levels),
        ),
        Fault(
            "wrong radius",
            "A radius for [0, 1] is used on images in [-1, 1].",
            "pei2025divide: the release's l2 attack gets 8/255 for 0.5",
            "wrong-epsilon",
            **_attack(_as(HalfRadius)),
        ),
        Fault(
            "sign step in l2",
            "In an l2 ball the attack takes sign steps, which are not steepest there.",
            "pei2025divide: the release's PGD",
            "step-direction",
            **_attack(lambda s: replace(s.l2, l2_step="sign", step=0.007), lambda s: s.l2),
        ),
        Fault(
            "one-draw acceptance",
            "An image is set aside as broken once one purification is wrong.",
            "croce2020autoattack: the packaged version for randomised defences",
            "single-acceptance",
            **_attack(lambda s: replace(s.attack, confirm=1, confirm_every=1)),
        ),
        Fault(
            "clean images returned",
            "Where one look at the adversarial image is right, the clean image is scored.",
            "croce2020autoattack, pei2025divide: the packaged library, and the release's score",
            "zero-gradient",
            **_attack(_as(ReturnsClean)),
        ),
        Fault(
            "reused noise",
            "All gradients are taken under one draw of noise, the score under others.",
            "",
            "reused-noise",
            **_attack(_as(OneDraw)),
        ),
        Fault(
            "best of K",
            "An image counts as robust if any of its K purifications is right.",
            "",
            "not-the-outcomes",
            arm=replace(SOUND, count=best_of_k),
        ),
        Fault(
            "votes against single",
            "A vote is set beside single purifications of the other row.",
            "pei2025divide: the release votes 20 times, rows of other papers do not",
            "unequal-votes",
            arm=replace(SOUND, count=voted),
        ),
        Fault(
            "lost images not counted",
            "Images that purification alone loses are left out.",
            "",
            "dropped-images",
            arm=replace(SOUND, count=survivors),
        ),
        Fault(
            "floor comparison",
            "A defence that has forgotten the image is set beside a network left with nothing.",
            "",
            "floor",
            arm=FORGETFUL,
            sound=BARE,
        ),
        Fault(
            "selection on test images",
            "The best of several settings on the test images is reported on the same images.",
            "pei2025divide: levels are chosen by Figure 7, which names no other images",
            "chosen-on-test",
            arm=replace(SOUND, count=chosen),
            sound=replace(SOUND, count=held_out),
        ),
        Fault(
            "no rounding",
            "Images are scored between grey levels, as no file can hold them.",
            "",
            "not-8-bit",
            arm=replace(L2, count=unrounded),
            sound=L2,
        ),
    )
}


# ---- running -------------------------------------------------------------------------------------


def evaluate(s: Setting, arm: Arm, batch: int = 16) -> Run:
    """Attack and score a setting's images as the evidence does."""
    defence, attack = arm.defence(s), arm.attack(s)
    trial = Trial(
        "pgd", attack, s.K if isinstance(defence, Purified) else 1, s.bench.name, _name(defence)
    )
    rows = [
        s.images[torch.arange(i, min(i + batch, len(s.images)))]
        for i in range(0, len(s.images), batch)
    ]
    records = [
        r for part in rows for r in evidence.evaluate(trial, defence, attack, part, s.bench.device)
    ]
    return Run(
        Evidence(f"{_name(defence)} / {type(attack).__name__}", {r["image"]: r for r in records}),
        defence,
        attack,
    )


def _name(defence: Purified | Undefended) -> str:
    return "none" if isinstance(defence, Undefended) else "yours"


def flagged(s: Setting, run: Run) -> tuple[Flag, ...]:
    """What the audit says of a defence and an attack, live, and of the records."""
    trial = Trial("pgd", run.attack, 4, s.bench.name, _name(run.defence))
    live = flags.live(trial, run.defence, run.attack, distinct(s.images), str(s.bench.device))
    return (*live, *flags.examine(run.evidence))


def distinct(images: Images, n: int = 2) -> Images:
    """The first images of up to `n` different classes, or the first `n` if there is one class
    only."""
    labels = images.labels.tolist()
    first = sorted(labels.index(label) for label in set(labels))[:n]
    return images[torch.tensor(first if len(first) > 1 else list(range(min(n, len(labels)))))]


@dataclass(frozen=True)
class Finding:
    """What a fault adds: rates per image with it and without, and the flags of both."""

    fault: Fault
    faulty: Rates
    sound: Rates
    flags: tuple[Flag, ...] = ()
    sound_flags: tuple[Flag, ...] = ()

    @cached_property
    def added(self) -> stats.Accuracy:
        """Points of fake robustness: reported with the fault minus reported without, with a 95 %
        interval over images.

        Paired on shared images; where the fault drops images, the interval is that of the resampled
        ratio of means."""
        return added(self.faulty, self.sound)

    @property
    def caught(self) -> bool:
        """Whether the flag that should catch the fault did, and did not where there is none."""
        return self.fault.caught in {f.name for f in self.flags} and self.fault.caught not in {
            f.name for f in self.sound_flags
        }


def added(faulty: Rates, sound: Rates, resamples: int = 2000) -> stats.Accuracy:
    """The difference of two means over images, paired by resampling the images of `sound`; `faulty`
    may lack some of them."""
    keys = list(sound)
    b = np.array([sound[k] for k in keys])
    if all(k in faulty for k in keys):
        return stats.paired_difference(np.array([faulty[k] for k in keys]), b)
    a = np.array([faulty.get(k, np.nan) for k in keys])
    rng = np.random.default_rng(0)
    draws = [
        (np.nanmean(a[i]), b[i].mean())
        for i in rng.integers(len(keys), size=(resamples, len(keys)))
        if not np.isnan(a[i]).all()
    ]
    low, high = np.quantile(np.subtract(*np.transpose(draws)), [0.025, 0.975])
    return stats.Accuracy(float(np.nanmean(a) - b.mean()), float(low), float(high), len(keys))


def chance(faulty: Rates, sound: Rates) -> float:
    """p-value of the sign-flip test of `added`; an image that is dropped has the reported mean."""
    mean = float(np.mean(list(faulty.values())))
    return stats.sign_flip(
        np.array([faulty.get(k, mean) for k in sound]), np.array([*sound.values()])
    )


class Zoo:
    """Runs faults in one setting; arms that several faults share are run once."""

    def __init__(self, setting: Setting):
        self.setting, self.runs = setting, {}

    def run(self, arm: Arm) -> Run:
        """The run of an arm's defence and attack."""
        defence, attack = arm.defence(self.setting), arm.attack(self.setting)
        purifier = getattr(defence, "purifier", None)
        key = (
            type(defence),
            type(purifier),
            purifier,
            getattr(defence, "known", None) is None,
            type(attack),
            attack,
        )
        if key not in self.runs:
            run = evaluate(self.setting, arm)
            self.runs[key] = replace(run, flags=flagged(self.setting, run))
        return self.runs[key]

    def find(self, fault: Fault) -> Finding:
        """Both arms of a fault, run and examined."""
        both = []
        for arm in (fault.arm, fault.sound):
            run = self.run(arm)
            rates, claimed = arm.count(self, run)
            both.append((rates, (*run.flags, *reported.examine(claimed))))
        (faulty, caught), (sound, none) = both
        return Finding(fault, faulty, sound, caught, none)


def line(finding: Finding, setting: Setting) -> dict:
    """A finding as a line of the records: rates per image, flags, settings, and what produced
    it."""
    n = len(setting.images)
    about = {
        "image": f"{setting.bench.name}/{finding.fault.name}/{n}"
    }  # the key of a line, as in all records
    about |= {"bench": setting.bench.name, "fault": finding.fault.name, "n": n}
    for name, rates, hits in (
        ("faulty", finding.faulty, finding.flags),
        ("sound", finding.sound, finding.sound_flags),
    ):
        about |= {
            name: {k: round(v, 6) for k, v in rates.items()},
            f"{name}_flags": sorted({f.name for f in hits}),
        }
    weights = {name: digest[:16] for name, digest in setting.bench.weights.items()}
    about |= {"settings": setting.settings, "source": setting.images.source, "weights": weights}
    return about | provenance() | {"faults": CODE}


def measure(setting: Setting, names: Sequence[str], results: Path = RESULTS) -> None:
    """Add a line for each of the faults that has none with so many images on this bench."""
    zoo, path = Zoo(setting), results / ZOO
    for name in bar(names, "zoo", unit="fault"):
        if f"{setting.bench.name}/{name}/{len(setting.images)}" in read(path):
            continue
        found = zoo.find(FAULTS[name])
        append(path, [line(found, setting)])
        caught = f"{'' if found.caught else 'NOT '}caught by {FAULTS[name].caught}"
        tqdm.write(f"{name:26} {found.added}  {caught}", file=sys.stderr)


def recorded(bench: str, results: Path = RESULTS) -> dict[str, dict]:
    """By fault, the line of a bench with the most images."""
    found: dict[str, dict] = {}
    for record in read(results / ZOO).values():
        known = found.get(record["fault"])
        if record["bench"] == bench and (known is None or record["n"] > known["n"]):
            found[record["fault"]] = record
    return found


def setting(bench: str, n_images: int, folder: str | None = None, device: str = "cpu") -> Setting:
    """The setting of a bench, ``world`` being the one whose truth is known."""
    if bench == "world":
        about = world.two_parts()
        known = about.bench(attends=world.mask_of(about, 1.0)), about.sample(n_images)
        l2 = PGD(
            "L2", 0.2, iterations=10, eot=4, step=0.04, confirm=0, loss="margin"
        )  # cross-entropy is flat where Bayes is sure
        return Setting(
            *known, Uniform(0.2, 1), HetPure(t_l=0.4, t_s=0.05, steps=3), Uniform(0.9, 1), l2=l2
        )
    loaded = benches.load(bench, device)
    return Setting(loaded, data.load(loaded.dataset, "test", folder, quiet=True).take(n_images))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="hetpure zoo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="FAULT", help="some of them; all if none is named"
    )
    parser.add_argument("--bench", default="cifar10-small", help="a bench, or world")
    parser.add_argument(
        "--n-images", type=int, help="measure those that have no record with so many images"
    )
    parser.add_argument("--data", help="folder of images (default: the usual search)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in FAULTS]:
        raise ValueError(f"unknown fault {unknown[0]!r}; known: {', '.join(FAULTS)}")
    if args.n_images is not None:
        if args.n_images < 4:
            raise ValueError(f"a fault is measured on at least 4 images, not {args.n_images}")
        measure(
            setting(args.bench, args.n_images, args.data, args.device), args.names or list(FAULTS)
        )
    found = recorded(args.bench)
    rows = {name: found.get(name) for name in args.names or FAULTS}
    if args.json:
        print(json.dumps(list(filter(None, rows.values())), indent=1))
        return
    for name, record in rows.items():
        seen = (
            f"{added(record['faulty'], record['sound'])} points, n = {record['n']}"
            if record
            else "not measured"
        )
        print(f"{name:26} {seen:36} {FAULTS[name].caught}")


if __name__ == "__main__":
    main()
