"""Flags: signs in records, and in a short live run, that an evaluation overstates robustness.

A flag proves no mistake, and no flag proves no absence of one; ``book/flags`` explains each. The
idea is AutoAttack's (Croce & Hein 2020), beside the indicators of attack failure (Pintor et al.
2022).

    hetpure flags                     # of all committed records
    hetpure flags --live hetpure      # of a defence, on two images
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest, fisher_exact
from torch import Tensor, nn

from hetpure_core import Noise, Purified
from hetpure_lab import attacks, data, defences, evidence
from hetpure_lab.attacks import ATTACKS, Undefended
from hetpure_lab.attacks.threat import NORMS
from hetpure_lab.common import specs, stats
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES, capabilities
from hetpure_lab.evidence import RESULTS, Experiment, pixels, rescore
from hetpure_lab.evidence.outcomes import COLUMNS, Outcomes
from hetpure_lab.networks import benches

MEANING = {
    "zero-gradient": "the attack had no direction to go in",
    "inexact-gradient": "what is differentiated is not what the defence computes",
    "probabilities": "the defence returns probabilities where attacks expect logits",
    "deterministic": "a randomised defence gave the same answer every time",
    "random": "a defence without randomness gave different answers",
    "irreproducible": "one key gives different noise: nothing can be replayed",
    "reused-noise": "scoring saw noise of the attack, or the same noise more than once",
    "noise-level": "the noise put on the image is not what the settings say",
    "label-leak": "the defence knows the labels: what it sees does not decide what it says",
    "wrong-epsilon": "the stored images do not use the radius that is stated",
    "step-direction": "the attack's steps are not steepest in the norm of its ball",
    "single-acceptance": "one purification decided that an image is broken or robust",
    "early-acceptance": "images set aside as broken survive a vote",
    "above-control": "attacked images do better than clean or randomly perturbed ones",
    "weaker-than-noise": "random noise breaks images that the attack does not",
    "clean-accuracy": "accuracy without attack is not what the networks' card says",
    "costly-defence": "the defence loses much clean accuracy",
    "mixed-code": "records of one experiment were made by different code",
    "weaker-than-other": "a weaker attack breaks images that the stronger one does not",
    "not-converged": "with twice the iterations or purifications accuracy falls",
    "not-monotone": "a larger radius leaves more accuracy",
    "dropped-images": "images that were attacked are not counted",
    "not-the-outcomes": "the reported number does not follow from the recorded outcomes",
    "unequal-votes": "a vote is set beside single purifications",
    "floor": "a defence that keeps little without an attack is compared by what it keeps under one",
    "chosen-on-test": "the settings were chosen on the images that are reported",
    "not-8-bit": "the scored images are not ones that a file can hold",
}
RISK = 0.01  # of a false flag, over all images of a comparison
FEW = 4  # purifications that are too few to accept a result on
COSTLY = 0.2  # clean accuracy lost
USED = 0.9  # of the radius, by the image that moved farthest
FLAT = 1e-9  # of a directional derivative in double precision
# between the largest and the smallest logit: differences beyond it are scaled down before gradients
# are checked
CONFIDENT = 10


@dataclass(frozen=True)
class Flag:
    """One sign: its `name` in `MEANING`, what it is about, and what was seen."""

    name: str
    about: str
    seen: str

    def __str__(self) -> str:
        return f"{self.name}: {MEANING[self.name]} ({self.seen}) [{self.about}]"


@dataclass(frozen=True)
class Evidence:
    """The records of one experiment, and a name for it."""

    about: str
    records: dict[str, dict]

    @property
    def config(self) -> dict:
        return next(iter(self.records.values()))["config"]

    @cached_property
    def outcomes(self) -> Outcomes:
        return Outcomes.of(self.records)

    @property
    def randomised(self) -> bool:
        """Whether outcomes may differ: the defence draws noise, and not all of it is frozen."""
        name, frozen = self.config["defence"]["name"], self.config["attack"].get("frozen", "")
        return (
            name not in DEFENCES or capabilities(name).randomised
        ) and "all" not in frozen.split("+")

    def rates(self, column: str, images: Sequence[str] | None = None) -> np.ndarray:
        """Shares of right outcomes (n,) of all images or of those given."""
        all_rates = dict(zip(self.records, self.outcomes.correct(column).mean(1)))
        return np.array([all_rates[key] for key in (self.records if images is None else images)])


# ---- one experiment ------------------------------------------------------------------------------


def examine(experiment: Evidence, reference: float | None = None) -> list[Flag]:
    """The flags of one experiment's records; `reference` is the accuracy of the bare classifier on
    its card.
    """
    checks = (_randomness, _movement, _radius, _direction, _acceptance, _controls, _code)
    found = [flag for check in checks for flag in check(experiment)]
    return found + (_clean_accuracy(experiment, reference) if reference is not None else [])


def _randomness(e: Evidence) -> list[Flag]:
    varies, K = (
        any((e.outcomes.predicted[c] != e.outcomes.predicted[c][:, :1]).any() for c in COLUMNS),
        e.outcomes.K,
    )
    if not e.randomised:
        return [Flag("random", e.about, "outcomes of one image differ")] if varies else []
    expected = K > 1 and K * len(e.records) >= 400
    return (
        [Flag("deterministic", e.about, f"{K} equal outcomes for every image in every column")]
        if expected and not varies
        else []
    )


def _movement(e: Evidence) -> list[Flag]:
    if e.config["attack"]["name"] == "autoattack":
        return []  # as packaged it returns the clean image where it found nothing
    still = [r["image"] for r in e.records.values() if r["iterations"] > 0 and not _delta(r).any()]
    return (
        [
            Flag(
                "zero-gradient",
                e.about,
                f"{len(still)} of {len(e.records)} images never moved, such as {still[0]}",
            )
        ]
        if still
        else []
    )


def _delta(record: dict) -> Tensor:
    return pixels.unpack(record["delta"], (-1,)).float()


def _radius(e: Evidence) -> list[Flag]:
    attack = e.config["attack"]
    if attack["norm"] not in NORMS:
        return []  # no ball of pixels
    order = torch.inf if attack["norm"] == "Linf" else 2
    radii = [float(_delta(r).norm(order)) / 255 for r in e.records.values() if r["iterations"] > 0]
    largest, eps = max(radii, default=0.0), attack["eps"]
    if largest > eps * (1 + 1e-5):
        return [
            Flag(
                "wrong-epsilon",
                e.about,
                f"differences reach {largest:.4f}, the radius is {eps:.4f}",
            )
        ]
    if radii and 255 * eps >= 1 and largest < USED * int(255 * eps + 1e-4) / 255:
        return [
            Flag(
                "wrong-epsilon",
                e.about,
                f"no difference is above {largest:.4f}, the radius is {eps:.4f}",
            )
        ]
    return []


def _direction(e: Evidence) -> list[Flag]:
    attack = e.config["attack"]
    signs = attack["norm"] == "L2" and attack.get("l2_step") == "sign"
    return [Flag("step-direction", e.about, "sign steps in an l2 ball")] if signs else []


def _acceptance(e: Evidence) -> list[Flag]:
    attack, found = e.config["attack"], []
    if not e.randomised:
        return []
    if attack["name"] == "autoattack" or 0 < attack.get("confirm", 0) < FEW:
        found.append(
            Flag(
                "single-acceptance",
                e.about,
                f"{attack['name']} accepts after {attack.get('confirm', 1)} purification(s)",
            )
        )
    if "confirm" in attack and ATTACKS[attack["name"]].strength is None:
        stopped = {
            key: r
            for key, r in e.records.items()
            if r["iterations"] < attack["iterations"] * attack.get("restarts", 1)
        }
        alive = int(Outcomes.of(stopped).majority_correct("adversarial").sum()) if stopped else 0
        if alive > 0.02 * len(stopped) + 1:
            found.append(Flag("early-acceptance", e.about, f"{alive} of {len(stopped)}"))
    return found


def _controls(e: Evidence) -> list[Flag]:
    found, attacked = [], e.rates("adversarial")
    for control in ("clean", "null"):
        gain = stats.paired_difference(attacked, e.rates(control))
        if gain.low > 0:
            found.append(Flag("above-control", e.about, f"by {gain} points over {control}"))
    if worse := _clearly_above(attacked, e.rates("null"), e, list(e.records)):
        found.append(
            Flag(
                "weaker-than-noise",
                e.about,
                f"{len(worse)} of {len(e.records)} images, such as {worse[0]}",
            )
        )
    return found


def _clearly_above(
    strong: np.ndarray, weak: np.ndarray, e: Evidence, images: Sequence[str]
) -> list[str]:
    """Images that survive the first attack more often than the second, with a chance of `RISK` to
    name any by accident (Fisher's test).
    """
    K = e.outcomes.K
    counts = np.rint(np.stack([strong, weak]) * K).astype(int)
    p = lambda a, b: fisher_exact([[a, K - a], [b, K - b]], alternative="greater").pvalue
    above = np.flatnonzero(counts[0] > counts[1])
    return [images[i] for i in above if not e.randomised or p(*counts[:, i]) < RISK / len(images)]


def _code(e: Evidence) -> list[Flag]:
    if rescore.same_code(e.records):
        return []
    versions = {rescore.digest(r["code"]) for r in e.records.values()}
    return [Flag("mixed-code", e.about, f"{len(versions)} versions, not shown to score alike")]


def _clean_accuracy(e: Evidence, reference: float) -> list[Flag]:
    clean = e.outcomes.single("clean")
    if e.randomised:
        lost = reference - clean.high > COSTLY
        return (
            [
                Flag(
                    "costly-defence",
                    e.about,
                    f"{clean} after purification, {100 * reference:.1f} without",
                )
            ]
            if lost
            else []
        )
    surprise = binomtest(round(clean.value * clean.n), clean.n, reference).pvalue
    return (
        [Flag("clean-accuracy", e.about, f"{clean} instead of {100 * reference:.1f}")]
        if surprise < RISK
        else []
    )


# ---- experiments beside each other ---------------------------------------------------------------


def strength(attack: dict) -> int:
    """From weak to strong, as far as one may expect an order on every image: knowing more should
    never hurt an attack.

    Black-box attacks are below white-box ones with an approximate gradient, and those below the
    exact gradient.
    """
    declared = ATTACKS[attack["name"]].strength
    return declared if declared is not None else 3 if attack.get("gradient") == "exact" else 2


def compare(experiments: Sequence[Evidence]) -> list[Flag]:
    """The flags that pairs of experiments on shared images raise."""
    return [flag for a, b in permutations(experiments, 2) for flag in _pair(a, b)]


def _pair(a: Evidence, b: Evidence) -> list[Flag]:
    shared = [key for key in a.records if key in b.records]
    if not shared or _setting(a) != _setting(b) or a.outcomes.K != b.outcomes.K:
        return []
    x, y, one, two = (
        a.config["attack"],
        b.config["attack"],
        a.rates("adversarial", shared),
        b.rates("adversarial", shared),
    )
    about, found = f"{a.about} / {b.about}", []
    if (
        x["eps"] == y["eps"]
        and strength(x) > strength(y)
        and (worse := _clearly_above(one, two, a, shared))
    ):
        found.append(
            Flag(
                "weaker-than-other",
                about,
                f"{len(worse)} of {len(shared)} images, such as {worse[0]}",
            )
        )
    drop = lambda: stats.paired_difference(one, two)
    if _is_doubled(x, y) and drop().low > 0:
        found.append(Flag("not-converged", about, f"accuracy falls by {drop()} points"))
    if (
        x["eps"] > y["eps"]
        and x | {"eps": 0, "step": 0} == y | {"eps": 0, "step": 0}
        and drop().low > 0
    ):
        found.append(
            Flag(
                "not-monotone",
                about,
                f"{drop()} points more at {x['eps']:.4f} than at {y['eps']:.4f}",
            )
        )
    return found


def _setting(e: Evidence) -> tuple:
    c = e.config
    return (
        c["bench"],
        json.dumps(c["defence"]),
        c["attack"]["norm"],
        c["attack"].get("frozen", ""),
        json.dumps(c["weights"]),
    )


def _is_doubled(x: dict, y: dict) -> bool:
    """Whether attack y is attack x with at least twice the iterations or purifications per
    gradient.
    """
    same = x | {"iterations": 0, "eot": 0} == y | {"iterations": 0, "eot": 0}
    more = y["iterations"] >= x["iterations"] and y["eot"] >= x["eot"]
    return same and more and (y["iterations"] >= 2 * x["iterations"] or y["eot"] >= 2 * x["eot"])


# ---- a short live run ----------------------------------------------------------------------------


@dataclass
class Draws:
    """The keys of all noise drawn in a block: (seed, image, copy, draw)."""

    keys: list[tuple]

    def of(self, start: int, stop: int | None = None) -> set[tuple]:
        return set(self.keys[start:stop])


@contextmanager
def watched_noise() -> Iterator[Draws]:
    """Take note of every draw of `Noise` inside the block."""
    draws, generators = Draws([]), Noise.generators

    def noting(self: Noise, draw: str):
        draws.keys += [
            (self.seed, image, copy_, draw) for image, copy_ in zip(self.images, self.copies)
        ]
        return generators(self, draw)

    Noise.generators = noting
    try:
        yield draws
    finally:
        Noise.generators = generators


@dataclass(frozen=True)
class Watched:
    """An attack that remembers how many draws had been made when it ended, and how many iterations
    it spent.
    """

    attack: Any
    draws: Draws
    ends: list[int]
    spent: list[int]

    def __getattr__(self, name: str):
        return getattr(self.attack, name)

    def find(self, *args):
        result = self.attack.find(*args)
        self.ends.append(len(self.draws.keys))
        self.spent.append(int(result[1].sum()))
        return result


def live(
    experiment: Experiment,
    defence: Purified | Undefended,
    attack: Any,
    images: Images,
    device: str = "cpu",
) -> list[Flag]:
    """The flags of a defence and an `attack` object, from a few gradients and a miniature of the
    experiment on two or more `images`.
    """
    about = f"{experiment.defence} / {experiment.attack}"
    x, y, ids = images.floats.to(device), images.labels.to(device), images.ids
    found = _outputs(defence, x, ids)
    if getattr(attack, "gradient", "") == "exact":
        found += _gradient(defence, attacks.seen_by_the_attack(defence, attack.gradient), x, y, ids)
    if isinstance(defence, Purified):
        found += _levels(defence, x, ids) + _labels(defence, x, y, ids)
        if "zero-gradient" not in dict(found):
            found += _noise_use(experiment, defence, attack, images, device)
    return [Flag(name, about, seen) for name, seen in found]


@torch.no_grad()
def _outputs(defence: nn.Module, x: Tensor, ids: Sequence) -> list[tuple[str, str]]:
    found, logits, again, other = (
        [],
        defence(x, ids, [0] * len(x)),
        defence(x, ids, [0] * len(x)),
        defence(x, ids, [1] * len(x)),
    )
    purified = isinstance(defence, Purified)
    if not torch.equal(logits, again):
        found.append(
            (
                "irreproducible" if purified else "random",
                f"logits differ by {(logits - again).abs().max():.2g} under one key",
            )
        )
    if purified and torch.equal(logits, other):
        found.append(("deterministic", "two copies have equal logits"))
    if (logits >= 0).all() and torch.allclose(logits.sum(-1), torch.ones(len(x)).to(logits)):
        found.append(("probabilities", "every output is a distribution over classes"))
    return found


def _gradient(
    defence: nn.Module, attacked: nn.Module, x: Tensor, y: Tensor, ids: Sequence
) -> list[tuple[str, str]]:
    """The gradient of what the attack sees against difference quotients of the defence, in float64
    and under the same noise.
    """
    defence, attacked, x = (
        copy.deepcopy(defence).double(),
        copy.deepcopy(attacked).double(),
        x.double(),
    )
    z = (0.01 + 0.98 * x).requires_grad_()  # inside [0, 1], so that steps to both sides are images
    with torch.no_grad():
        logits = defence(z, ids, [0] * len(z))
    # where the loss is flat no quotient is exact
    calm = ((logits.amax(1) - logits.amin(1)) / CONFIDENT).clamp(min=1)[:, None]
    loss = lambda module, z: F.cross_entropy(
        module(z, ids, [0] * len(z)) / calm, y, reduction="none"
    )
    total = loss(attacked, z).sum()
    gradient = torch.autograd.grad(total, z)[0] if total.requires_grad else torch.zeros_like(z)
    if flat := [
        str(key)
        for key, g in zip(ids, gradient.flatten(1))
        if not g.any() or not g.isfinite().all()
    ]:
        return [("zero-gradient", f"{len(flat)} of {len(x)} images, such as {flat[0]}")]
    directions = [
        Noise("difference quotients", ids, [k] * len(x))("direction", x) for k in range(4)
    ]
    with torch.no_grad():
        quotients = [
            (loss(defence, z + 1e-6 * d) - loss(defence, z - 1e-6 * d)) / 2e-6 for d in directions
        ]
    slopes = torch.stack([(gradient * d).flatten(1).sum(1) for d in directions])
    if max(slopes.norm(), torch.stack(quotients).norm()) < FLAT:
        return []  # nothing to compare
    error = ((slopes - torch.stack(quotients)).norm() / torch.stack(quotients).norm()).item()
    return (
        [("inexact-gradient", f"relative error of directional derivatives {error:.2g}")]
        if error > 0.02
        else []
    )


class Blind(nn.Module):
    """A denoiser that removes nothing, so that all noise ever added stays visible."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


@torch.no_grad()
def _levels(defence: Purified, x: Tensor, ids: Sequence, copies: int = 16) -> list[tuple[str, str]]:
    """Noise over signal after a purification that removes nothing tells the time it was added at,
    inside and outside the mask.
    """
    if capabilities(defence.purifier).family != "method":  # of the others the levels are not known
        return []
    mask, settings = (
        defence.mask(x, defence.noise(len(x), ids)),
        replace(defence.purifier, sampler="ddim"),
    )
    blind = Purified(
        defence.classifier,
        Blind(),
        settings,
        schedule=defence.schedule,
        taps=defence.tap_modules,
        seed="levels",
    )
    ends = torch.stack(
        [
            2 * blind.purify(x, blind.noise(len(x), ids, [c] * len(x)), mask) - 1
            for c in range(copies)
        ]
    )
    variance, ratio = (
        ends.var(0).mean(1, keepdim=True),
        ((1 - defence.schedule.abar) / defence.schedule.abar).numpy(),
    )
    if mask is None:
        return [
            ("noise-level", text) for text in [_misplaced("t", settings.t, variance, ratio)] if text
        ]
    inside, outside = variance[mask == 1], variance[mask == 0]
    if min(len(inside), len(outside)) < 16:
        return []
    wrong = [
        _misplaced("t_l", settings.t_l, inside, ratio, exact=False),
        _misplaced("t_s", settings.t_s, outside, ratio, exact=False),
    ]
    if inside.mean() < outside.mean():
        wrong.append("the attended pixels get less noise than the others")
    return [("noise-level", text) for text in wrong if text]


def _misplaced(
    name: str, level: float, variance: Tensor, ratio: np.ndarray, exact: bool = True
) -> str:
    """What is wrong with measured noise over signal, if it is below that of the stated time or,
    where nothing adds more, above.
    """
    measured, stated, tolerance = (
        float(variance.mean()),
        ratio[round(level * (len(ratio) - 1))],
        1.35,
    )
    if stated / tolerance < measured < (tolerance * stated if exact else np.inf):
        return ""
    return (
        f"{name} = {level} is stated, {np.searchsorted(ratio, measured) / (len(ratio) - 1):.3f}"
        " measured"
    )


@torch.no_grad()
def _labels(
    defence: Purified, x: Tensor, y: Tensor, ids: Sequence, copies: int = 8
) -> list[tuple[str, str]]:
    """One blend of all images in the place of each: whose place it is must not decide which label
    comes out (Fisher's test).
    """
    blend = x.mean(0, keepdim=True).expand_as(x)
    said = torch.stack([defence(blend, ids, [c] * len(x)).argmax(-1) for c in range(copies)])
    own, other = (
        (said == y).sum(0),
        torch.stack([(said == label).sum(0)[y != label].sum() for label in y]),
    )
    places = torch.stack([(y != label).sum() for label in y])
    table = [
        [int(own.sum()), copies * len(y) - int(own.sum())],
        [int(other.sum()), copies * int(places.sum()) - int(other.sum())],
    ]
    if not places.any() or fisher_exact(table, alternative="greater").pvalue >= RISK:
        return []
    return [
        (
            "label-leak",
            (
                f"one image in all places is given the place's label {table[0][0]} times of"
                f" {sum(table[0])}"
            ),
        )
    ]


def _noise_use(
    experiment: Experiment, defence: Purified, attack: Any, images: Images, device: str
) -> list[tuple[str, str]]:
    """A miniature of the experiment, with all draws of noise noted: what scoring draws must be new,
    and new for every purification.
    """
    little = replace(attack, iterations=2, **({"eot": 2} if hasattr(attack, "eot") else {}))
    with watched_noise() as draws:
        watched = Watched(little, draws, [], [])
        evidence.evaluate(experiment, defence, watched, images, torch.device(device))
    attacked, scored = draws.of(0, watched.ends[0]), draws.of(watched.ends[0])
    # the null control's direction is no purification
    scored = {key for key in scored if not str(key[0]).startswith("null")}
    found, K = [], experiment.config["K"]
    if shared := attacked & scored:
        found.append(
            (
                "reused-noise",
                f"{len(shared)} of {len(scored)} draws of scoring had been seen by the attack",
            )
        )
    gradients = len({key[:3] for key in attacked if str(key[0]).startswith("attack")})
    takes = getattr(attack, "gradient", "none") not in ("none", "undefended") and not getattr(
        attack, "frozen", ""
    )
    if takes and 0 < gradients < (wanted := watched.spent[0] * little.eot):
        found.append(
            (
                "reused-noise",
                f"{wanted} gradients were taken under {gradients} different draws of noise",
            )
        )
    runs = len({key[:3] for key in scored})
    if runs < K * len(images):
        found.append(
            (
                "reused-noise",
                f"{runs} different purifications score {len(images)} images, not {K} each",
            )
        )
    return found


# ---- all -----------------------------------------------------------------------------------------


def committed(results: Path = RESULTS) -> list[Flag]:
    """The flags of all records of the current weights, one experiment at a time and side by side.

    What a defence costs does not depend on the attack: it is said once, where it was seen on the
    most images.
    """
    experiments = [Evidence(path.stem, evidence.read(path)) for path in evidence.files(results)]
    largest = {_defence(e): e for e in sorted(experiments, key=lambda e: len(e.records))}
    alone = [(e, flag) for e in experiments for flag in examine(e, reference_accuracy(e))]
    return [
        flag for e, flag in alone if flag.name != "costly-defence" or largest[_defence(e)] is e
    ] + compare(experiments)


def _defence(e: Evidence) -> str:
    """What is the same for all attacks on a defence; options that came after a record count as
    their defaults.
    """
    return json.dumps(
        [
            e.config["bench"],
            e.config["split"],
            specs.write(e.config["defence"], DEFENCES),
            e.config["weights"],
        ]
    )


def reference_accuracy(e: Evidence) -> float | None:
    """The bare classifier's accuracy on its card, if the defence uses it and the card knows it for
    the split.
    """
    if (name := f"{e.config['bench']}-classifier") not in e.config["weights"]:
        return None
    card = benches.card(name)
    return card.get("metrics", {}).get(e.config["split"], {}).get("clean")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure flags", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--live",
        metavar="DEFENCE",
        help="examine this defence on two images instead of the records",
    )
    parser.add_argument(
        "--attack", default="pgd", help="with --live: the attack that is examined with it"
    )
    parser.add_argument("--bench", default="cifar10-small")
    args = parser.parse_args(argv)
    found = _live(args.bench, args.live, args.attack) if args.live else committed()
    if args.json:
        print(
            json.dumps([asdict(flag) | {"meaning": MEANING[flag.name]} for flag in found], indent=1)
        )
    else:
        print("\n".join(map(str, found)) or "no flags")


def _live(bench_name: str, defence: str, attack: str) -> list[Flag]:
    experiment, bench = Experiment(defence, attack, bench_name, K=4), benches.load(bench_name)
    images = data.load_or_sample(bench.dataset, quiet=True).take(2)
    return live(experiment, defences.build(defence, bench), specs.parse(attack, ATTACKS)[1], images)
