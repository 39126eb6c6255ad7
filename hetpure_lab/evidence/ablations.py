"""One setting at a time: resumable grids of experiments around the method, and their paired tests.

    hetpure grid                                   # the grids, and how much of each is measured
    hetpure grid --grid tau --n-images 32          # run what is missing of one
    hetpure grid --grid tau --queue                # the same as lines for results/queue.txt

Paper: Fig 7, Table 7, §5.3. Book: chapter 8.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hetpure_core import HetPure
from hetpure_lab import data
from hetpure_lab.common import specs, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.data import Images
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import compare, engine
from hetpure_lab.evidence.compare import Judged, rates
from hetpure_lab.evidence.experiment import Experiment
from hetpure_lab.evidence.outcomes import Outcomes
from hetpure_lab.evidence.records import read
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

Found = dict[str, dict[str, dict]]  # by label of a point, then by image: records

# what a setting may gain and lose, with the column that holds it
SIDES = {"under attack": "adversarial", "without attack": "clean"}
# half the headline's iterations and copies: a grid has many points
ATTACK = "pgd:iterations=10,eot=4"
N_IMAGES = 32
METHOD = HetPure()


@dataclass(frozen=True)
class Grid:
    """What varies (`title`), the element of the paper it belongs to ("" if the paper leaves it
    out), the label of the `reference`, and the
    points: what each changes by label, `name` being another purifier with the method's settings.
    """

    title: str
    paper: str
    reference: str
    points: dict[str, dict]


def _one(name: str, values: Sequence) -> dict[str, dict]:
    return {f"{name} = {v}": {name: v} for v in values}


BLOCKS = range(4)
LEVELS = [
    (t_l, t_s) for t_l in (0.1, 0.15, 0.2, 0.3) for t_s in (0.025, 0.05, 0.1, 0.15) if t_s < t_l
]
READINGS = {
    "paper": {},
    "released": {"reading": "released"},
    "multi-step": {"reading": "multi-step"},
}

MASKS = {
    "attention": {},
    "random, equal area": {"mask_kind": "random"},
    "image gradient, equal area": {"name": "image-gradient"},
    "inverted": {"mask_kind": "inverted"},
    "top 15 %": {"mask_kind": "top-fraction"},
    "all": {"mask_kind": "all"},
    "none": {"mask_kind": "none"},
    "uniform, equal energy": {"name": "equal-energy"},
}
LEFT_OUT = {"all blocks": {}} | {
    f"without block {m + 1}": {"blocks": tuple(b for b in BLOCKS if b != m)} for m in BLOCKS
}

GRIDS = {
    "tau": Grid(
        "threshold of the mask",
        "Fig 7",
        "tau = 0.8",
        _one("tau", (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)),
    ),
    "levels": Grid(
        "strong and weak noise",
        "Fig 7",
        "t_l = 0.2, t_s = 0.05",
        {f"t_l = {a}, t_s = {b}": {"t_l": a, "t_s": b} for a, b in LEVELS},
    ),
    "blocks": Grid("blocks that feed the mask", "Table 7", "all blocks", LEFT_OUT),
    "mask": Grid("what the mask is", "", "attention", MASKS),
    "U": Grid("length of the resampling jump", "", "U = 10", _one("U", (1, 3, 5, 10, 20, 50))),
    "p": Grid("norm over channels", "", "p = 2", _one("p", (1, 2, 3, 4))),
    "steps": Grid("reverse steps", "", "steps = 10", _one("steps", (5, 10, 20))),
    "sampler": Grid(
        "sampler of the reverse steps", "", "sampler = ddim", _one("sampler", ("ddim", "ddpm"))
    ),
    "order": Grid("order of merge and denoising", "", "paper", READINGS),
}


def _check(name: str) -> Grid:
    if name not in GRIDS:
        raise ValueError(f"unknown grid {name!r}; known: {', '.join(GRIDS)}")
    return GRIDS[name]


def experiments(
    name: str,
    base: HetPure = METHOD,
    bench: str = "cifar10-small",
    attack: str = ATTACK,
    K: int = 20,
    seed: int = 0,
) -> dict[str, Experiment]:
    """The experiments of a grid by label: `base`, the bench's method, with one setting changed;
    raises `ValueError` for unknown grids.
    """
    text = {
        label: specs.write({"name": "hetpure"} | asdict(base) | changed, DEFENCES)
        for label, changed in _check(name).points.items()
    }
    return {
        label: Experiment(defence, attack, bench, K=K, seed=seed) for label, defence in text.items()
    }


def purifiers(name: str, base: HetPure = METHOD) -> dict[str, HetPure]:
    """The points of a grid as purifiers, by label."""
    return {
        label: specs.parse(e.defence, DEFENCES)[1] for label, e in experiments(name, base).items()
    }


def run(
    grid: dict[str, Experiment],
    images: Images,
    bench: Bench,
    progress: bool = True,
    results: Path = RESULTS,
) -> None:
    """Attack and score what is missing of a grid; stopped at any point, it goes on from there."""
    for experiment in grid.values():
        engine.run(experiment, images, bench, progress=progress, results=results)


def records(grid: dict[str, Experiment], results: Path = RESULTS) -> Found:
    """The records of every point of the grid that has some, by label."""
    found = {label: read(experiment.path(results)) for label, experiment in grid.items()}
    return {label: rows for label, rows in found.items() if rows}


def files(grid: dict[str, Experiment], found: Found) -> list[str]:
    """Where those records are, from the repository's root: what a figure of the grid names as its
    source.
    """
    return [grid[label].path(Path("results")).as_posix() for label in found]


# ---- paired tests --------------------------------------------------------------------------------


def tested(pairs: dict[Hashable, tuple[np.ndarray, np.ndarray]]) -> dict[Hashable, Judged]:
    """Every pair of per-image rates judged as a family of its own."""
    return compare.judge({key: compare.Pair(*pair) for key, pair in pairs.items()}, "table")


def against(
    found: Found, reference: str, column: str = "adversarial", results: Path = RESULTS
) -> pd.DataFrame:
    """Every other point of a grid against `reference`, paired: difference with interval, p-value,
    Holm's over the family, what is known.

    The family is that of all grids (`compare.Known.rivals`), or these points alone if they are of a
    live run.
    """
    rows = {label: test.cells for label, test in _tests(found, reference, column, results).items()}
    return pd.DataFrame(rows).T.rename_axis(f"against {reference}")


def established(grids: dict[str, Found], results: Path = RESULTS) -> dict[str, dict[str, Judged]]:
    """Every point of every grid against its grid's reference, under attack and without: what it
    gains on one side it may pay on the other.

    By point and by side of `SIDES`; Holm's correction is over all grids and both sides together,
    here and in `against`.
    """
    pairs = {
        (place(name, label), side): pair
        for name, found in grids.items()
        for side, column in SIDES.items()
        for label, pair in _pairs(found, GRIDS[name].reference, column).items()
    }
    every = tested(pairs)
    for name, found in grids.items():
        for side, column in SIDES.items():
            known = _known(found, GRIDS[name].reference, column, results)
            every |= {(place(name, label), side): judged for label, judged in known.items()}
    return {
        point: {side: every[point, side] for side in SIDES}
        for point in dict.fromkeys(point for point, _ in pairs)
    }


def place(grid: str, label: str) -> str:
    """What a point is called among those of all grids: "mask: attention", "tau = 0.3"."""
    return label if label.startswith(f"{grid} = ") else f"{grid}: {label}"


def side_by_side(points: dict[str, dict[str, Judged]]) -> pd.DataFrame:
    """`established` as a table with one row per point; empty if there is none."""
    columns = {
        side: pd.DataFrame({point: tests[side].cells for point, tests in points.items()}).T
        for side in SIDES
    }
    return pd.concat(columns, axis=1)


def in_words(points: dict[str, dict[str, Judged]]) -> list[str]:
    """The points of `established` that differ from their reference on one side at least, and what
    is known of the other side.
    """
    lines = []
    for point, tests in points.items():
        if any(test.word != "inconclusive" for test in tests.values()):
            (n,) = {test.difference.n for test in tests.values()}
            lines.append(
                f"{point}: {', '.join(test.said(side) for side, test in tests.items())} (n = {n})"
            )
    return lines


def choice(found: Found, reference: str, results: Path = RESULTS) -> str:
    """What the records say of the claim that no point of a grid leaves more under attack than
    `reference`. Paper: Fig 7.

    `compare.NOT_HERE`, with the points that leave more, after Holm's correction; **verified** if
    none does and some leave less; else **inconclusive**.
    """
    tests = _tests(found, reference, "adversarial", results)
    if not tests:
        return "**not tested**"
    more, less = (
        [label for label, test in tests.items() if test.word == word]
        for word in ("higher", "lower")
    )
    if not more and not less:
        return "**inconclusive**: no point is told apart from it"
    if not more:
        return f"**verified**: no point leaves more, and {len(less)} of {len(tests)} leave less"
    lines = (
        f"{label} ({100 * tests[label].difference.value:+.1f} points, Holm p"
        f" {tests[label].holm:.2g})"
        for label in more
    )
    return f"**{compare.NOT_HERE}**: more is left by {', '.join(lines)}"


def _tests(found: Found, reference: str, column: str, results: Path) -> dict[str, Judged]:
    """Every other point against the reference, as the family has it, or as a family of their
    own.
    """
    known = _known(found, reference, column, results)
    return known or tested(_pairs(found, reference, column))


def _known(found: Found, reference: str, column: str, results: Path) -> dict[str, Judged]:
    """The points as `compare` knows them from `results`; none if one of them is not from there."""
    if not (first := next(iter(found.get(reference, {}).values()), {}).get("config")):
        return {}
    bench, (method, attack, seed) = compare.known(first["bench"], results), compare.cell_of(first)
    judged = {
        name: test.opposite
        for (name, side), test in bench.rivals(method, attack, seed).items()
        if side == column
    }
    cells = {
        label: compare.cell_of(next(iter(rows.values()))["config"])
        for label, rows in found.items()
        if rows
    }
    if any(len(bench.cells.get(cell, ())) != len(found[label]) for label, cell in cells.items()):
        return {}
    return {
        label: judged[cell[0]]
        for label, cell in cells.items()
        if label != reference and cell[0] in judged
    }


def _pairs(found: Found, reference: str, column: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if reference not in found:
        return {}
    others = {
        label: rates(rows, found[reference], column)
        for label, rows in found.items()
        if label != reference
    }
    return {label: pair for label, pair in others.items() if len(pair[0])}


def curve(found: Found, column: str, rule: str = "single") -> dict[str, stats.Accuracy]:
    """The accuracy of every point of a grid in one column, with its 95 % interval."""
    return {label: getattr(Outcomes.of(rows), rule)(column) for label, rows in found.items()}


def votes(rows: dict[str, dict], column: str, S: int) -> stats.Accuracy:
    """Hard majority of S purifications: the mean over the disjoint groups of S among the K that a
    record keeps.
    """
    outcomes = Outcomes.of(rows)
    predicted = outcomes.predicted[column]
    groups = [predicted[:, i : i + S] for i in range(0, predicted.shape[1] - S + 1, S)]
    if not groups:
        raise ValueError(
            f"a vote of {S} needs {S} purifications per image; the records keep"
            f" {predicted.shape[1]}"
        )
    right = [Outcomes(outcomes.labels, {column: g}).majority_correct(column) for g in groups]
    return stats.mean_rate(np.mean(right, axis=0))


# ---- command line --------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hetpure grid", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--grid", action="append", default=[], help=f"repeatable; one of {', '.join(GRIDS)}"
    )
    parser.add_argument("--bench", default="cifar10-small")
    parser.add_argument("--attack", default=ATTACK)
    parser.add_argument("--n-images", type=int, default=N_IMAGES)
    parser.add_argument("--K", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="folder of parquet files (default: the usual search)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--queue", action="store_true", help="print lines for results/queue.txt instead of running"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the grids' progress as JSON instead of running"
    )
    return parser


def _queue_line(e: Experiment, n_images: int) -> str:
    changed = "".join(
        f" --{name} {getattr(e, name)}"
        for name in ("K", "seed")
        if getattr(e, name) != getattr(Experiment, name)
    )
    return (
        f"--bench {e.bench} --defence {e.defence} --attack {e.attack} --n-images"
        f" {n_images}{changed}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    bench = benches.load(args.bench, args.device)
    grids = {
        name: experiments(name, bench.method, args.bench, args.attack, args.K, args.seed)
        for name in args.grid or GRIDS
    }
    if args.queue:
        print(
            "\n".join(
                dict.fromkeys(
                    _queue_line(e, args.n_images) for grid in grids.values() for e in grid.values()
                )
            )
        )
    elif args.json or not args.grid:
        shares = {
            name: {"points": len(grid), "measured": len(records(grid))}
            for name, grid in grids.items()
        }
        lines = (
            f"{name:8} {share['measured']} of {share['points']} points measured"
            for name, share in shares.items()
        )
        print(json.dumps(shares, indent=1) if args.json else "\n".join(lines))
    else:
        torch.set_num_threads(args.threads)
        images = data.load(bench.dataset, "test", args.data, quiet=True).take(args.n_images)
        for grid in grids.values():
            run(grid, images, bench)
