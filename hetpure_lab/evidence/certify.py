r"""Certificates: proven radii within which no perturbation changes the vote of a purifier.

Randomised smoothing of the denoised classifier (Cohen et al. 2019; Carlini et al. 2023).

The base classifier adds Gaussian noise to the image, denoises and classifies. If all that it does
after the noise sees the image through that noise alone, the vote g(x) of infinitely many such runs
obeys the theorem of Cohen et al.: with p the probability of the winner, at least one half,

.. math:: g(x + \delta) = g(x) \quad\text{for all}\quad
   \sum_i \delta_i^2 / \sigma_i^2 \le \Phi^{-1}(p)^2 .

With one level this is the ball of radius :math:`\sigma\,\Phi^{-1}(p)`; with a fixed level per pixel
an ellipsoid, whose inner ball has the smallest sigma. A pixel that several independent draws show
counts with :math:`\sigma_i^{-2} = \sum_k \sigma_{ik}^{-2}`. Where the levels are drawn anew without
a look at the image, the ball of the smallest sigma holds as well: the bound :math:`\Phi(\Phi^{-1}
(p) - a)` is convex in p. Where they depend on the image, a perturbation moves them too, and there
is no proof. Images are in [0, 1], as in attacks. Book: ch15, eq-certificate.

The probability is bounded by an exact binomial interval: `n0` runs choose the class, `n` others
count it, and with probability 1 - `alpha` the radius is not too large.

    hetpure certify --defence uniform:t=0.1,steps=1 --n-images 64
    hetpure certify                          # what there is
    hetpure certify --verify FILE            # count again
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import beta
from torch import Tensor

from hetpure_core import Purified, linear_schedule
from hetpure_lab import data, defences
from hetpure_lab.attacks import reseeded
from hetpure_lab.common import progress, specs, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES
from hetpure_lab.defences.interface import capabilities
from hetpure_lab.defences.spread import Spread, spread
from hetpure_lab.evidence import pixels, records
from hetpure_lab.evidence.engine import check_origin
from hetpure_lab.evidence.outcomes import Outcomes
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

ROWS = 64  # purifications at once
OTHERS = 256  # images that a common mask is made of


def common_mask(bench: Bench, images: Images) -> Tensor:
    """One mask for all images: the pixels that most of `images` attend to, as many as they attend
    to on average (1, 1, h, w)."""
    defended = defences.of(bench.method, bench)
    parts = images.floats.to(bench.device).split(ROWS)
    each = torch.cat([defended.mask(x, None) for x in parts])
    often = each.mean(0).flatten()
    mask = torch.zeros_like(often)
    mask[often.argsort(descending=True, stable=True)[: round(float(often.sum()))]] = 1
    return mask.reshape(1, 1, *each.shape[-2:])


# ---- from counts to a radius ---------------------------------------------------------------------


def at_least(k: int, n: int, alpha: float) -> float:
    """A lower bound of a probability that k of n independent trials showed: right with probability
    1 - alpha at least (Clopper & Pearson 1934, one side)."""
    return float(beta.ppf(alpha, k, n - k + 1)) if k else 0.0


@dataclass(frozen=True)
class Certificate:
    """What is proven of an image: `voted` is the class, or None where the vote abstains; `margin`
    is :math:`\\Phi^{-1}(p)`, to be multiplied by the noise."""

    image: str
    label: int
    voted: int | None
    margin: float

    @classmethod
    def of(cls, record: dict) -> Certificate:
        """From the counts of a record."""
        n, alpha = record["config"]["n"], record["config"]["alpha"]
        chosen = int(np.argmax(record["selection"]))
        p = at_least(record["estimation"][chosen], n, alpha)
        voted = chosen if p > 0.5 else None
        margin = float(ndtri(p)) if voted is not None else 0.0
        return cls(record["image"], record["label"], voted, margin)

    @property
    def right(self) -> bool:
        """Whether a class was certified, and it is the image's."""
        return self.voted == self.label


# ---- certificates on record ----------------------------------------------------------------------


@dataclass(frozen=True)
class Smoothing:
    """Which vote is certified, and how: `n0` purifications choose a class and `n` count it.
    `fixed_mask` holds the method's mask at `common_mask`."""

    defence: str
    bench: str = "cifar10-small"
    split: str = "test"
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    seed: int = 0
    fixed_mask: bool = False

    def __post_init__(self):
        object.__setattr__(self, "defence", specs.normal(self.defence, DEFENCES))
        if min(self.n0, self.n) < 1:
            raise ValueError(f"n0 and n must be at least 1, not {self.n0} and {self.n}")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha is a chance of error in (0, 0.5), not {self.alpha}")
        if self.fixed_mask and not capabilities(self.purifier).attention:
            raise ValueError(f"a fixed mask is for the method, and {self.defence} has none to fix")
        self.spread()  # its checks

    @property
    def purifier(self) -> object:
        """The settings that the spec names."""
        return specs.parse(self.defence, DEFENCES)[1]

    @cached_property
    def config(self) -> dict:
        """All settings, spelt out, and the weights' checksums."""
        weights = {
            name: benches.card(name)["sha256"][:16]
            for name in defences.networks(self.defence, self.bench)
        }
        return asdict(self) | {"certificate": "l2", "weights": weights}

    def path(self, results: Path = RESULTS) -> Path:
        """The file of the counts."""
        key = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.=+-]+", "-", self.defence) + ("-fixed-mask" if self.fixed_mask else "")
        return results / "certificates" / self.bench / f"{name}--{key}.jsonl"

    def spread(self, mask: Tensor | None = None) -> Spread:
        """The noise; of the method with a fixed mask that of `mask`, or without one of an empty
        mask, which has the same inner ball."""
        side = data.DATASETS[benches.dataset(self.bench)].size
        if self.fixed_mask and mask is None:
            mask = torch.zeros(1, 1, side, side)
        own = getattr(benches.BENCHES[self.bench.partition("+")[0]], "schedule", None)
        return spread(self.purifier, own or linear_schedule(), (side, side), mask)


def counted(
    defence: Purified,
    images: Images,
    copies: int,
    seed: str,
    classes: int,
    mask: Tensor | None,
    device: torch.device,
) -> np.ndarray:
    """How often each class came out of `copies` purifications of every image (n, classes)."""
    defence, counts = reseeded(defence, seed), np.zeros((len(images), classes), int)
    x, ids = images.floats.to(device), images.ids
    every = [(i, copy) for i in range(len(images)) for copy in range(copies)]
    with torch.no_grad():
        for start in range(0, len(every), ROWS):
            index, own = zip(*every[start : start + ROWS])
            given = {} if mask is None else {"mask": mask.to(device).expand(len(index), -1, -1, -1)}
            labels = defence(x[list(index)], [ids[i] for i in index], own, **given).argmax(1)
            np.add.at(counts, (index, labels.cpu().numpy()), 1)
    return counts


def measure(
    smoothing: Smoothing,
    everything: Images,
    n_images: int,
    device: str = "cpu",
    results: Path = RESULTS,
) -> Path:
    """Count those of the first `n_images` of the tables' order that have no line yet; returns the
    file."""
    path = smoothing.path(results)
    images, found = everything.take(n_images), records.read(path)
    check_origin(smoothing, images, found, path)
    bench = benches.load(smoothing.bench, device)
    mask = common_mask(bench, others(everything)) if smoothing.fixed_mask else None
    shared = {"config": smoothing.config, "source": images.source, "data": images.digest}
    shared |= records.provenance(type(smoothing.purifier)) | {"device": bench.device.type}
    if mask is not None:
        shared["unit"] = {"mask": packed(mask)}
    missing = [i for i, key in enumerate(images.ids) if key not in found]
    for i in progress.bar(missing, path.stem, not missing):
        (line,) = counts_of(smoothing, bench, images[torch.tensor([i])], mask)
        records.append(path, [line | shared], results)
    return path


def counts_of(
    smoothing: Smoothing, bench: Bench, images: Images, mask: Tensor | None
) -> list[dict]:
    """Per image its label, and how often each class was named when one was chosen and when it was
    counted; the noise of both is keyed by the seed and the image."""
    defence, classes = defences.build(smoothing.defence, bench), len(bench.classes)
    columns = {
        what: counted(
            defence, images, n, f"certificate {what} {smoothing.seed}", classes, mask, bench.device
        )
        for what, n in (("selection", smoothing.n0), ("estimation", smoothing.n))
    }
    labels = images.labels.tolist()
    return [
        {"image": key, "label": labels[i]} | {what: c[i].tolist() for what, c in columns.items()}
        for i, key in enumerate(images.ids)
    ]


def others(everything: Images) -> Images:
    """The last images of the tables' order: those that nobody certifies first."""
    ordered = everything.take(len(everything))
    return ordered[torch.arange(len(ordered))[-OTHERS:]]


def packed(mask: Tensor) -> str:
    """A mask (1, 1, h, w) as rows of 0 and 1."""
    return "/".join("".join(map(str, row)) for row in mask[0, 0].int().tolist())


def unpacked(text: str) -> Tensor:
    """The mask of such a text."""
    rows = [[float(c) for c in row] for row in text.split("/")]
    return torch.tensor(rows)[None, None]


# ---- what follows --------------------------------------------------------------------------------


def read(smoothing: Smoothing, results: Path = RESULTS) -> list[Certificate]:
    """The certificates on record, or none."""
    return [Certificate.of(r) for r in records.read(smoothing.path(results)).values()]


def recorded_spread(smoothing: Smoothing, results: Path = RESULTS) -> Spread:
    """The noise of certificates on record, with the mask that they were counted under."""
    first = next(iter(records.read(smoothing.path(results)).values()), {})
    mask = first.get("unit", {}).get("mask")
    return smoothing.spread(unpacked(mask) if mask else None)


def certified(found: Sequence[Certificate], inner: float, radius: float) -> Accuracy:
    """The share of images that are right, and proven to stay so within an l2 `radius`: each of the
    proofs holds with its own probability 1 - alpha. The interval is exact (Clopper & Pearson)."""
    if radius < 0:
        raise ValueError(f"a radius is at least 0, not {radius}")
    proven = [c.right and c.margin * inner >= radius for c in found]
    return stats.clopper_pearson(np.array(proven))


def broken(found: Sequence[dict[str, dict]]) -> dict[str, float]:
    """Per image that all attacks on record have (their records by image) the smallest l2 length of
    a perturbation that turns the vote of all K purifications: 0 if no perturbation is needed,
    infinity if none of them does it."""
    if not found:
        return {}
    shared = set.intersection(*(set(by_image) for by_image in found))
    lengths = dict.fromkeys((key for key in found[0] if key in shared), math.inf)
    for by_image in found:
        chosen = {key: by_image[key] for key in lengths}
        outcomes = Outcomes.of(chosen)
        lost, unfounded = (
            ~outcomes.majority_correct(column) for column in ("adversarial", "clean")
        )
        for i, (key, record) in enumerate(chosen.items()):
            if unfounded[i]:
                lengths[key] = 0.0
            elif lost[i]:
                lengths[key] = min(lengths[key], length_of(record))
    return lengths


def length_of(record: dict) -> float:
    """The l2 length of a record's perturbation of an image in [0, 1]."""
    text = record["delta"]
    side = data.DATASETS[benches.dataset(record["config"]["bench"])].size
    return float(pixels.unpack(text, (3, side, side)).float().norm()) / 255


def left(lengths: dict[str, float], radius: float) -> Accuracy:
    """The share of images that no attack on record turns within an l2 `radius`: from above, what no
    certificate can exceed but by the error of a vote of K."""
    return stats.wilson(np.array([length > radius for length in lengths.values()]))


def contradicted(
    found: Sequence[Certificate], inner: float, lengths: dict[str, float]
) -> list[str]:
    """The images whose vote an attack turned within their certificate. A few in a thousand may be
    there, and those that a vote of K decides otherwise than one of n."""
    return [
        c.image for c in found if c.right and 0 < lengths.get(c.image, math.inf) <= c.margin * inner
    ]


# ---- are they true? ------------------------------------------------------------------------------


def faults(path: Path) -> Iterator[str]:
    """What is wrong with the lines of a file of certificates by themselves."""
    for line in records.lines(path.read_bytes()):
        if line.wrong:
            yield f"line {line.number}: {line.wrong}"
        if line.record is None:
            continue
        config = line.record.get("config", {})
        for what, wanted in (("selection", "n0"), ("estimation", "n")):
            counts = line.record.get(what)
            whole = isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts)
            if not whole or sum(counts) != config.get(wanted):
                yield f"line {line.number}: {what} does not add up to {wanted}"


def smoothing_of(record: dict) -> Smoothing:
    """The settings of a record."""
    known = Smoothing.__dataclass_fields__
    return Smoothing(**{name: record["config"][name] for name in known})


def counted_again(
    path: Path, n_images: int, folder: str | None = None, device: str = "cpu"
) -> list[str]:
    """What comes out differently when `n_images` of a file are counted again with the same noise;
    `ValueError` if the weights are not those of the file."""
    found = list(records.read(path).values())
    if not found:
        raise ValueError(f"{path} holds no certificates")
    smoothing = smoothing_of(found[0])
    if smoothing.config["weights"] != found[0]["config"]["weights"]:
        raise ValueError(f"{path}: the weights are not those that were certified")
    chosen = {record["image"]: record for record in found[:n_images]}
    everything = data.load(benches.dataset(smoothing.bench), smoothing.split, folder, quiet=True)
    images = pixels.with_records(everything, chosen)
    text = found[0].get("unit", {}).get("mask")
    mask, bench = unpacked(text) if text else None, benches.load(smoothing.bench, device)
    return [
        f"image {now['image']}: {what} comes out as {now[what]}, not {chosen[now['image']][what]}"
        for now in counts_of(smoothing, bench, images, mask)
        for what in ("label", "selection", "estimation")
        if now[what] != chosen[now["image"]][what]
    ]


# ---- command line --------------------------------------------------------------------------------


def on_record(results: Path = RESULTS) -> list[Smoothing]:
    """All certificates that there are."""
    firsts = (
        next(iter(records.read(path).values()), None)
        for path in sorted((results / "certificates").glob("*/*.jsonl"))
    )
    return [smoothing_of(first) for first in firsts if first]


def described(smoothing: Smoothing, radii: Sequence[float], results: Path = RESULTS) -> str:
    """Certified accuracies at `radii` in a line."""
    found, inner = read(smoothing, results), smoothing.spread().inner
    at = ", ".join(f"{r:g}: {certified(found, inner, r)}" for r in radii)
    mask = ", one mask for all" if smoothing.fixed_mask else ""
    about = f"{smoothing.bench}, {smoothing.defence}{mask}, n = {len(found)}"
    return f"{about}, {smoothing.n} votes: {at}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hetpure certify", description=__doc__.split("\n\n")[0])
    parser.add_argument("--defence", help="what to certify; without it, what is on record is shown")
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--split", default="test")
    parser.add_argument("--n-images", type=int, help="default: 64, or 1 to count again")
    parser.add_argument("--n0", type=int, default=100, help="purifications that choose a class")
    parser.add_argument("--n", type=int, default=1000, help="purifications that count it")
    parser.add_argument("--alpha", type=float, default=0.001, help="chance of a wrong radius")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixed-mask", action="store_true", help="one mask for all images")
    parser.add_argument("--radii", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1.0])
    parser.add_argument("--verify", type=Path, metavar="FILE", help="count again, and compare")
    parser.add_argument("--data", help="folder of the data set (default: the usual search)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    if (n_images := args.n_images or (1 if args.verify else 64)) < 1:
        raise ValueError(f"--n-images must be at least 1, not {n_images}")
    torch.set_num_threads(args.threads)
    if args.verify:
        if not args.verify.is_file():
            raise ValueError(f"no file {args.verify}")
        wrong = [
            *faults(args.verify),
            *counted_again(args.verify, n_images, args.data, args.device),
        ]
        print("\n".join(wrong) or f"{args.verify.name}: nothing wrong, {n_images} counted again")
        return 1 if wrong else 0
    chosen = on_record()
    if args.defence:
        own = Smoothing(
            args.defence, args.bench, args.split, args.n0, args.n, args.alpha, args.seed,
            args.fixed_mask,
        )  # fmt: skip
        dataset = benches.dataset(own.bench)
        everything = data.load(dataset, own.split, args.data)
        measure(own, everything, n_images, args.device)
        chosen = [own]
    print("\n".join(described(s, args.radii) for s in chosen) or "no certificates on record")
    return 0
