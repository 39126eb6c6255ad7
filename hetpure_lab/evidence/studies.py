"""The numbers behind Figs 3, 4, 6, 8 and 9, beside Table 6 and beside a claim of others, measured
once and kept.

    hetpure study                                # the studies, and how many images each has
    hetpure study distance --n-images 128        # measure the images that are missing
    hetpure study cost --device cuda             # time and memory of another machine
    hetpure study feeding --bench imagenet-small # other inputs of the classifier of photographs

A study's file, ``results/BENCH/studies/NAME--KEY.jsonl``, holds one line per image: the rows of
numbers that it gave, their settings, and what produced them. It is append-only and resumable like
the evidence; the key follows the settings and the weights. Book: ch. 7, 9, 10, 12.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hetpure_core import HetPure, Purified, Uniform
from hetpure_lab import attacks, data, defences
from hetpure_lab.attacks import PGD, Undefended
from hetpure_lab.common import measure, specs, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.progress import bar
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import compare, compression, inputs, inside
from hetpure_lab.evidence.experiment import Experiment
from hetpure_lab.evidence.pixels import adversarial_images
from hetpure_lab.evidence.records import append, provenance, read
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

Rows = list[dict]

BACKGROUND = 100  # images whose median feature distance is the unit of every distance
LENGTHS = (1, 2, 5, 10, 20)  # of the resampling, U
STEPS = (5, 10, 20)  # reverse steps, T
COMPRESSED = (  # purifiers of all kinds that need no network of their own
    "uniform:t=0.05",
    "uniform:t=0.1",
    "uniform:t=0.2",
    "uniform:t=0.14,steps=1",
    "sde:t=0.1",
    "ode:t=0.1",
    "densepure:t=0.14",
    "diffap:t=0.1",
    "gradual",
    "freqpure",
    "lorid:t=0.05",
    "ssni:t=0.2",
    "gdmp:t=0.036",
    "langevin:t=0.03",
    "equal-energy",
    "hetpure:mask_kind=random",
    "hetpure:mask_kind=inverted",
    "hetpure",
)
READINGS = ("multi-step", "paper", "released")
MILD = 0.1  # the level at which photographs keep most of their detail
TRANSFER = PGD(iterations=20, eot=1, confirm=0)


@dataclass(frozen=True)
class Lab:
    """What a study works with: a bench, a seed, the unit of feature distance, and the evidence
    whose adversarial images it takes.
    """

    bench: Bench
    seed: int
    unit: float
    results: Path

    def behind(self, **settings) -> Purified:
        """The bench's method with some settings changed."""
        b = self.bench
        return b.defended(
            b.classifier,
            b.denoiser,
            replace(b.method, **settings),
            schedule=b.schedule,
            seed=f"study {self.seed}",
        )

    def seen(self, original: Tensor, image: Tensor, labels: Tensor) -> Iterator[dict]:
        """Per image: feature distance to the original in units, and whether the classifier is
        right.
        """
        if not len(labels):
            return
        far = inside.distance(self.bench.classifier, original, image) / self.unit
        right = self.bench.classifier(image).argmax(1) == labels
        yield from ({"distance": round(float(d), 5), "right": int(r)} for d, r in zip(far, right))


@torch.no_grad()
def consistency(lab: Lab, images: Images) -> list[Rows]:
    """Clean images purified with repeated and with single-step resampling: jump at the border of
    the mask, feature distance, verdict.

    Paper: Fig 3.
    """
    x, y = images.floats.to(lab.bench.device), images.labels.to(lab.bench.device)
    rows: list[Rows] = [[] for _ in images.ids]
    for reading, U in product(READINGS[:2], LENGTHS):
        defended = lab.behind(reading=reading, U=U)
        purified, mask = inside.ends(defended, x, images.ids)[1].clamp(0, 1), defended.mask(x, None)
        for row, seam, seen in zip(
            rows, inside.seam(purified, x, mask).tolist(), lab.seen(x, purified, y)
        ):
            row.append(
                {"reading": reading, "U": U, "seam": None if math.isnan(seam) else round(seam, 5)}
                | seen
            )
    return rows


@torch.no_grad()
def distance(lab: Lab, images: Images) -> list[Rows]:
    """Feature distance of purified to original images, per purifier, for natural, transferred and
    adaptive adversarial examples.

    Transferred ones were made against the bare classifier; adaptive ones come from the records of
    each purifier's own attack. Paper: Fig 9.
    """
    bench, ids = lab.bench, images.ids
    x, y = images.floats.to(bench.device), images.labels.to(bench.device)
    transferred = transfer(lab, x, y, ids)
    rows: list[Rows] = [[] for _ in ids]
    for text in purifiers(bench.method):
        defence = attacks.reseeded(defences.build(text, bench), f"study {lab.seed}")
        every = list(range(len(ids)))
        chosen = {
            "natural": (x, every),
            "transferred": (transferred, every),
            "adaptive": adaptive(lab, text, images),
        }
        for kind, (shown, places) in chosen.items():
            for i, seen in zip(
                places,
                lab.seen(x[places], purified(defence, shown, [ids[i] for i in places]), y[places]),
            ):
                rows[i].append({"kind": kind, "defence": text} | seen)
    return rows


def transfer(lab: Lab, x: Tensor, y: Tensor, ids: Sequence) -> Tensor:
    """Images (n, 3, h, w) in [0, 1] that fool the bare classifier, in 8 bits."""
    with torch.enable_grad():
        attacked, _ = TRANSFER.run(Undefended(lab.bench.classifier), x, y, ids, lab.seed)
    return (x + attacks.to_8_bit(attacked, x, TRANSFER.norm, TRANSFER.eps).to(x) / 255).clamp(0, 1)


@torch.no_grad()
def paths(lab: Lab, images: Images) -> list[Rows]:
    """Of transferred adversarial examples, per purifier: the share of the way back to the original
    in feature space, and Pearson's r of an image's pixels and features with the original's.

    Paper: Figs 4 and 6, which define neither. Book: ch09, eq-progress.
    """
    bench, ids = lab.bench, images.ids
    x, y = images.floats.to(bench.device), images.labels.to(bench.device)
    attacked = transfer(lab, x, y, ids)
    away = inside.distance(bench.classifier, attacked, x).clamp(min=1e-12)
    rows: list[Rows] = [[] for _ in ids]
    for text in travellers(bench.method):
        defence = attacks.reseeded(defences.build(text, bench), f"study {lab.seed}")
        back = purified(defence, attacked, ids)
        look = lambda images: inside.features(bench.classifier, images)
        found = {
            "progress": 1 - inside.distance(bench.classifier, back, x) / away,
            "pixels": alike(back, x),
            "features": alike(look(back), look(x)),
        }
        for i, row in enumerate(rows):
            row.append({"defence": text} | {k: round(float(v[i]), 5) for k, v in found.items()})
    return rows


def alike(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's r of the values of each pair of images or features (n, ...): (n,)."""
    a, b = (v.flatten(1).double() for v in (a, b))
    a, b = (v - v.mean(1, keepdim=True) for v in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)


def travellers(method: HetPure) -> tuple[str, ...]:
    """Whose paths are compared: uniform noise at half the strong level, at it and at twice it, and
    the method last.
    """
    levels = (method.t_l / 2, method.t_l, min(2 * method.t_l, 1.0))
    uniform = (specs.describe(Uniform(t=t, steps=method.steps), DEFENCES) for t in levels)
    return (*uniform, specs.describe(method, DEFENCES))


def purified(defence: Purified | Undefended, images: Tensor, ids: Sequence) -> Tensor:
    """What the classifier behind a defence sees of images, in [0, 1]."""
    if isinstance(defence, Undefended) or not ids:
        return images
    return defence.purify(images, defence.noise(len(ids), ids)).clamp(0, 1)


def purifiers(method: HetPure) -> tuple[str, ...]:
    """What is compared: nothing, two levels of uniform noise, two rivals, two controls, and the
    method last.
    """
    ours = lambda name, **changed: specs.write({"name": name} | asdict(method) | changed, DEFENCES)
    uniform = (
        specs.describe(Uniform(t=t, steps=method.steps), DEFENCES)
        for t in (method.t_l / 2, method.t_l)
    )
    return (
        "none",
        *uniform,
        "gradual",
        "sde",
        ours("equal-energy"),
        ours("hetpure", mask_kind="random"),
        ours("hetpure"),
    )


def adaptive(lab: Lab, defence: str, images: Images) -> tuple[Tensor, list[int]]:
    """The adversarial images that the headline attack made against `defence`, and which of `images`
    they belong to: those on record. A
    study that was run before the evidence lacks the others; its file has to be removed for them.
    """
    found = read(Experiment(defence, "pgd", lab.bench.name).path(lab.results))
    places = [i for i, key in enumerate(images.ids) if key in found]
    made = adversarial_images(images, found).float() / 255 if places else images.floats[:0]
    return made.to(lab.bench.device), places


def cost(lab: Lab, images: Images) -> list[Rows]:
    """Calls, passes, bytes and seconds of one exact gradient against U and against T, activations
    kept and recomputed. Paper: Fig 8, §7.
    """
    x, y = images.floats.to(lab.bench.device), images.labels.to(lab.bench.device)
    return [
        [gradient(lab, *point, x[i : i + 1], y[i : i + 1], [key]) for point in points(lab)]
        for i, key in enumerate(images.ids)
    ]


@torch.no_grad()
def feeding(lab: Lab, images: Images) -> list[Rows]:
    """Whether the classifier is right on clean images and on uniformly purified ones (t = `MILD`),
    fed in each of the `inputs.variants`.

    Raises `ValueError` for a classifier of anything but photographs. Paper: beside Table 6.
    """
    bench = lab.bench
    if not getattr(bench.classifier, "of_photographs", False):
        raise ValueError(
            "the study of what photographs are fed as needs the classifier of imagenet-small or"
            f" imagenet-small-10, not {bench.name}'s"
        )
    x, y = images.floats.to(bench.device), images.labels.to(bench.device)
    flat = bench.defended(
        bench.classifier,
        bench.denoiser,
        Uniform(MILD, bench.method.steps),
        schedule=bench.schedule,
        seed=f"study {lab.seed}",
    )
    kinds = {"clean": x, "purified": purified(flat, x, images.ids)}
    rows: list[Rows] = [[] for _ in images.ids]
    for (name, variant), (kind, pictures) in product(
        inputs.variants(bench.classifier).items(), kinds.items()
    ):
        for row, right in zip(rows, inputs.outcomes(variant, pictures, y)):
            row.append({"fed": name, "kind": kind, "right": int(right)})
    return rows


def compressed(lab: Lab, images: Images) -> list[Rows]:
    """How much is left of a small random difference between images after each of `COMPRESSED`,
    noise held fixed. Beside the paper: a claim of Yuezhang & Wei 2025 on what predicts robustness.
    """
    x, rows = images.floats.to(lab.bench.device), [[] for _ in images.ids]
    for text in COMPRESSED:
        defence = attacks.reseeded(defences.build(text, lab.bench), f"study {lab.seed}")
        for row, rate in zip(rows, compression.rate(defence, x, images.ids).tolist()):
            row.append({"defence": text, "rate": round(rate, 5)})
    return rows


def points(lab: Lab) -> list[tuple[str, int, int, bool]]:
    """(reading, U, T, checkpointing) of the cost study: U at the method's number of steps, then T
    at the method's U.
    """
    sizes = [(U, lab.bench.method.steps) for U in LENGTHS] + [
        (lab.bench.method.U, T) for T in STEPS
    ]
    return [
        (*point, how)
        for *point, how in (
            (r, U, T, how)
            for how in (False, True)
            for U, T in dict.fromkeys(sizes)
            for r in READINGS
        )
    ]


def gradient(
    lab: Lab,
    reading: str,
    U: int,
    T: int,
    checkpointing: bool,
    x: Tensor,
    y: Tensor,
    ids: Sequence,
    repeats: int = 2,
) -> dict:
    """One row of the cost study, for one image."""
    defended = lab.behind(reading=reading, U=U, steps=T)
    defended.checkpointing = checkpointing
    found = asdict(measure.measure(defended, x, y, ids, repeats))
    return {
        "reading": reading,
        "U": U,
        "T": T,
        "activations": "recomputed" if checkpointing else "kept",
    } | found


# ---- the studies and their files -----------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """What is measured (`rows`: a list of rows per image), the element of the paper it belongs to,
    and on how many images by default;
    `settings` it depends on beside the method's, and whether its numbers are those of a `host`.
    """

    paper: str
    rows: Callable[[Lab, Images], list[Rows]]
    n_images: int
    settings: Callable[[HetPure], Sequence]
    host: bool = False


STUDIES = {
    "consistency": Study("Fig 3", consistency, 32, lambda _: [LENGTHS]),
    "cost": Study("Fig 8", cost, 1, lambda _: [LENGTHS, STEPS], host=True),
    "paths": Study(
        "Fig 4",
        paths,
        64,
        lambda method: [travellers(method), specs.describe(TRANSFER, attacks.ATTACKS)],
    ),
    "feeding": Study("Table 6", feeding, 400, lambda method: [MILD, method.steps]),
    "compression": Study("beside", compressed, 16, lambda _: [COMPRESSED]),
    "distance": Study(
        "Fig 9",
        distance,
        64,
        lambda method: [purifiers(method), specs.describe(TRANSFER, attacks.ATTACKS)],
    ),
}


def config(name: str, bench: str, seed: int = 0, device: str = "cpu") -> dict:
    """What a study's numbers depend on; the weights by their checksums. Raises `ValueError` for
    unknown studies.
    """
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}; known: {', '.join(STUDIES)}")
    study, method = STUDIES[name], benches.method(bench)
    weights = {n: benches.card(n)["sha256"][:16] for n in defences.networks("hetpure", bench)}
    about = {
        "study": name,
        "bench": bench,
        "method": specs.describe(method, DEFENCES),
        "settings": study.settings(method),
    }
    return (
        about
        | {"seed": seed, "weights": weights}
        | ({"device": torch.device(device).type} if study.host else {})
    )


def path(
    name: str, bench: str, seed: int = 0, device: str = "cpu", results: Path = RESULTS
) -> Path:
    """The file of a study."""
    key = hashlib.sha256(
        json.dumps(config(name, bench, seed, device), sort_keys=True).encode()
    ).hexdigest()[:8]
    return results / bench / "studies" / f"{name}--{key}.jsonl"


def run(
    name: str,
    bench: Bench,
    everything: Images,
    n_images: int,
    seed: int = 0,
    batch: int = 16,
    results: Path = RESULTS,
) -> None:
    """Measure those of the first `n_images` of the tables' order that have no line yet."""
    device, images = bench.device.type, everything.take(n_images)
    file, about = (
        path(name, bench.name, seed, device, results),
        config(name, bench.name, seed, device),
    )
    ground = everything.take(min(BACKGROUND, len(everything))).floats.to(bench.device)
    lab = Lab(bench, seed, inside.spread(inside.features(bench.classifier, ground)), results)
    found = read(file)
    missing = [i for i, key in enumerate(images.ids) if key not in found]
    for start in bar(range(0, len(missing), batch), name, not missing):
        rows = images[torch.tensor(missing[start : start + batch])]
        shared = (
            {"config": about, "source": images.source, "unit": lab.unit}
            | provenance()
            | {"host": host(device)}
        )
        append(
            file,
            [
                {"image": key, "rows": numbers} | shared
                for key, numbers in zip(rows.ids, STUDIES[name].rows(lab, rows))
            ],
            results,
        )


def host(device: str) -> dict:
    """The processor that worked, and its threads."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor,
        "threads": torch.get_num_threads(),
    }


def table(
    name: str, bench: str, seed: int = 0, device: str = "cpu", results: Path = RESULTS
) -> pd.DataFrame:
    """All rows of a study with their image and the unit of its distances; empty if it was not
    measured.
    """
    found = read(path(name, bench, seed, device, results))
    return pd.DataFrame(
        [
            {"image": key, "unit": record["unit"]} | row
            for key, record in found.items()
            for row in record["rows"]
        ]
    )


# ---- what follows --------------------------------------------------------------------------------


def means(rows: pd.DataFrame, by: Sequence[str], column: str) -> dict[tuple, stats.Accuracy]:
    """The mean of a column over images with its 95 % bootstrap interval, per group."""
    groups = rows.dropna(subset=column).groupby(list(by), sort=False)
    return {
        key: stats.paired_difference(values := g[column].to_numpy(float), 0 * values)
        for key, g in groups
    }


def pair(a: pd.DataFrame, b: pd.DataFrame, column: str) -> compare.Pair | None:
    """A column on the images that both have a number for; None if there are none."""
    both = (
        a[["image", column]]
        .merge(b[["image", column]], on="image")
        .drop(columns="image")
        .dropna()
        .to_numpy(float)
    )
    return compare.Pair(*np.transpose(both)) if len(both) else None


def saved(rows: pd.DataFrame, what: str, activations: str, T: int = 10) -> dict[int, float]:
    """The share of `what` that the single step saves against repeated resampling with the same U,
    by U, from rows of the cost study.
    """
    mean = (
        rows[(rows.activations == activations) & (rows["T"] == T)]
        .groupby(["reading", "U"])[what]
        .mean()
    )
    return {U: 1 - mean["paper", U] / multi for U, multi in mean["multi-step"].items()}


def nearer(rows: pd.DataFrame, method: str = "hetpure") -> pd.DataFrame:
    """Fig 9's claim, paired: the method's feature distance minus every other purifier's, per kind
    of image. A family of tests.
    """
    ours = lambda kind: rows[(rows.kind == kind) & (rows.defence == method)]
    groups = rows[~rows.defence.isin((method, "none"))].groupby(["kind", "defence"], sort=False)
    pairs = {key: pair(ours(key[0]), other, "distance") for key, other in groups}
    lines = []
    for (kind, name), judged in compare.judge(
        {key: p for key, p in pairs.items() if p}, "study"
    ).items():
        d = judged.difference
        line = {"images": kind, "against": name, "n": d.n, "difference": signed(d)}
        lines.append(line | {"the method's distance is": word(d, judged.holm)})
    return pd.DataFrame(lines)


def resampled(rows: pd.DataFrame, single: int = 10, repeated: int = 20) -> pd.DataFrame:
    """Fig 3's claim, paired: the single step at one U minus repeated resampling at another. A
    family of tests.
    """
    pick = lambda reading, U: rows[(rows.reading == reading) & (rows.U == U)]
    names = {
        "seam": "jump at the mask's border",
        "distance": "feature distance",
        "right": "accuracy",
    }
    pairs = {
        name: pair(pick("paper", single), pick("multi-step", repeated), column)
        for column, name in names.items()
    }
    found = compare.judge({name: p for name, p in pairs.items() if p}, "study")
    lines = {
        name: {
            "n": j.difference.n,
            "difference": signed(j.difference),
            "the single step's is": word(j.difference, j.holm),
        }
        for name, j in found.items()
    }
    return pd.DataFrame(lines).T


def signed(d: stats.Accuracy) -> str:
    """A difference with its interval."""
    return f"{d.value:+z.3f} [{d.low:+z.3f}, {d.high:+z.3f}]"


def word(d: stats.Accuracy, p: float | None = None) -> str:
    """What may be said of the first: by a test's `p` if there is one, else by the interval of a
    statistic that no sign-flip can test.
    """
    decided = p < compare.LEVEL if p is not None else d.high < 0 or d.low > 0
    return "inconclusive" if not decided else "smaller" if d.value < 0 else "larger"


# ---- command line --------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hetpure study", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("names", nargs="*", help=", ".join(STUDIES))
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument(
        "--n-images",
        type=int,
        help="default: " + ", ".join(f"{name} {s.n_images}" for name, s in STUDIES.items()),
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="folder of parquet files (default: the usual search)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    files = {name: path(name, args.bench, args.seed, args.device) for name in args.names or STUDIES}
    if args.names:
        torch.set_num_threads(args.threads)
        bench = benches.load(args.bench, args.device)
        everything = data.load(bench.dataset, "test", args.data, quiet=True)
        for name in files:
            run(name, bench, everything, args.n_images or STUDIES[name].n_images, args.seed)
    for name, file in files.items():
        print(f"{name:12} {STUDIES[name].paper:6} {len(read(file)):4} images  {file.name}")
