"""The one rule by which two experiments are compared, and the words that a verdict may use.

Every comparison of this project, on whatever page, is one of `Known.rivals` (two defences under one
attack) or `Known.attacks` (two attacks on one defence): paired on the images that both have,
decided by a sign-flip test after Holm's correction over a family that does not depend on the page.
The interval says how large a difference is; it decides nothing. `coverage` says how often it holds.

`FAMILIES` declares every family of tests that any page corrects over; `corrected` is the one place
where that happens.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import specs, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import frontier
from hetpure_lab.evidence.outcomes import Outcomes
from hetpure_lab.evidence.records import read
from hetpure_lab.evidence.select import files
from hetpure_lab.networks import benches

Records = dict[str, dict]  # by image
Key = TypeVar("Key", bound=Hashable)
Cell = tuple[str, str, int]  # defence, attack, seed
SIDES = ("adversarial", "clean")  # what a family tests of every pair

# ---- words -----------------------------------------------------------------------------------

NOT_HERE = "does not hold at small scale"
VERDICTS = ("verified", "falsified", NOT_HERE, "inconclusive", "not tested")
ARITHMETIC = ("right", "wrong", "impossible as printed")
SCALES = {
    "paper": "the published networks and the published protocol",
    "independent": "networks that nobody here trained",
    "small": "small networks trained by this project",
    "toy": "fewer than 64 images, a stand-in for a network or a chain, or accuracies at the floor",
}
LEVEL = 0.05  # of every test, after correction
ENOUGH = 64  # images, below which a result is a toy
FLOOR = 0.5  # of the undefended clean accuracy: a defence that keeps less can decide nothing
EQUAL_CLEAN = 0.05  # clean accuracies that differ by more are not called equal
# Every family of tests over which Holm's correction goes, by what its members share.
FAMILIES = {
    "rivals": "all defences that met one attack on one bench against the method, under attack and"
    " without it",
    "attacks": "all attacks of one norm and radius on one defence against the plainest of them",
    "curve": "the method against the curve of uniform noise at its own clean accuracy, under every"
    " attack on one bench that the curve has met",
    "trained": "all purifiers with a network trained on attacks, against the same ones with"
    " plain networks and against that network alone",
    "pair": "one comparison that belongs to no other family",
    "table": "all lines of one table of a live run",
    "study": "all lines of one table of a study (Figs 3, 4, 6 and 9)",
    "votes": "McNemar's tests of the votes of one table",
    "premise": "all masks of chapter 14 against the curve of uniform noise",
    "candidate": "all attacks of the frozen candidate, measured or not, against the curve of"
    " uniform noise",
    "faults": "all faults of the bug zoo on one bench",
}


def corrected(family: str, p: Sequence[float]) -> list[float]:
    """p-values of one of `FAMILIES` after Holm's correction for their number."""
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; declared: {', '.join(FAMILIES)}")
    return stats.holm(p)


def scale(bench: str, n: int, floor: bool = False, stand_in: bool = False) -> str:
    """One of `SCALES`: what a bench's networks are, unless the result is a toy."""
    if n < ENOUGH or floor or stand_in:
        return "toy"
    return benches.scale(bench)


def verdict(claimed: float, judged: Judged | None, at: str) -> str:
    """One of `VERDICTS` on a claim that a difference has the sign of `claimed`, tested at a scale.

    Only the published networks and protocol can falsify what is said about them.
    """
    if judged is None:
        return "not tested"
    if judged.word == "inconclusive":
        return "inconclusive"
    if (judged.word == "higher") == (claimed > 0):
        return "verified"
    return "falsified" if at == "paper" else NOT_HERE


# ---- one family ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Per-image rates (n,) of two experiments on the same images, what they are without attack
    (equal to the first two if that is what is compared), and the bare network's accuracy."""

    a: np.ndarray
    b: np.ndarray
    clean: tuple[np.ndarray, np.ndarray] | None = None
    undefended: float | None = None

    @property
    def floor(self) -> bool:
        """Whether one side keeps less than `FLOOR` of the undefended accuracy."""
        if self.clean is None or self.undefended is None:
            return False
        return min(side.mean() for side in self.clean) < FLOOR * self.undefended


@dataclass(frozen=True)
class Judged:
    """A paired difference with the p-value of its sign-flip test, Holm's over the `tests` of one of
    `FAMILIES`, the difference of clean accuracy on the same images, and whether a side is at the
    floor."""

    difference: Accuracy
    p: float
    holm: float
    tests: int = 1
    clean: Accuracy | None = None
    floor: bool = False
    family: str = "pair"

    @property
    def word(self) -> str:
        """``higher``, ``lower`` or ``inconclusive``; at the floor nothing is decided."""
        return "inconclusive" if self.floor else stats.word(self.difference, self.holm)

    @property
    def equal(self) -> bool:
        """Whether clean accuracies are equal within `EQUAL_CLEAN`."""
        return self.clean in (None, self.difference) or abs(self.clean.value) <= EQUAL_CLEAN

    @property
    def beside(self) -> str:
        """What must be said beside a difference: the floor, or clean accuracies that differ."""
        if self.floor:
            return "at the floor: cannot decide"
        return "" if self.equal else f"clean accuracy differs by {self.clean} points"

    @property
    def opposite(self) -> Judged:
        """The same seen from the other side."""
        turned = self.clean and stats.opposite(self.clean)
        return replace(self, difference=stats.opposite(self.difference), clean=turned)

    @property
    def cells(self) -> dict[str, object]:
        """As cells of a table, in points."""
        values = {"n": self.difference.n, "difference, points": self.difference, "p": two(self.p)}
        return values | {"p (Holm)": two(self.holm), "accuracy is": self.word}

    @property
    def of(self) -> str:
        """The p-value after correction, and over how many tests: a word alone would hide them."""
        tests = "a test of its own" if self.tests == 1 else f"of {self.tests} tests"
        return f"p {two(self.holm):g}, {tests}"

    def said(self, where: str) -> str:
        """In words: which way `where`, and how far in points."""
        if self.word == "inconclusive":
            return f"{self.word} {where} ({self.difference})"
        d = self.difference if self.word == "higher" else stats.opposite(self.difference)
        return f"**{self.word}** {where} by {d}"


def two(p: float) -> float:
    """A p-value to two digits: more of them a test of drawn signs does not have."""
    return float(f"{p:.2g}")


def judge(pairs: Mapping[Key, Pair], family: str = "pair") -> dict[Key, Judged]:
    """Every pair of a family, first minus second, with Holm's correction over all of them."""
    p = [stats.sign_flip(pair.a, pair.b) for pair in pairs.values()]
    found = {}
    for (key, pair), one, holm in zip(pairs.items(), p, corrected(family, p)):
        clean = pair.clean and stats.paired_difference(*pair.clean)
        d = stats.paired_difference(pair.a, pair.b)
        found[key] = Judged(d, one, float(holm), len(p), clean, pair.floor, family)
    return found


# ---- what is known of a bench ----------------------------------------------------------------


def shares(records: Records, column: str) -> dict[str, float]:
    """Per image the share of right answers."""
    return {
        key: float(np.mean(np.equal(r[column]["labels"], r["label"]))) for key, r in records.items()
    }


def rates(a: Records, b: Records, column: str = "adversarial") -> tuple[np.ndarray, np.ndarray]:
    """Per-image shares of right answers of two experiments, on the images they share."""
    shared = [key for key in a if key in b]
    first, second = (
        np.array(list(shares({k: records[k] for k in shared}, column).values()))
        for records in (a, b)
    )
    return first, second


@dataclass(frozen=True, eq=False)
class Known:
    """The records of one bench by cell, of two files of one cell the one with more images, and the
    file of each cell as BENCH/FILE."""

    cells: dict[Cell, Records]
    files: dict[Cell, str] = field(default_factory=dict)

    @cached_property
    def undefended(self) -> float | None:
        """The clean accuracy of the bare network, on the most images it was shown."""
        bare = [r for (defence, *_), r in self.cells.items() if defence == "none"]
        if not bare:
            return None
        return float(np.mean(list(shares(max(bare, key=len), "clean").values())))

    def bare(self, attack: str) -> str:
        """The attack that stands for `attack` on the bare network, which needs no expectation."""
        settings = specs.parse(attack, ATTACKS)[1]
        once = {name: 1 for name in ("eot", "confirm") if hasattr(settings, name)}
        return specs.describe(replace(settings, **once), ATTACKS)

    def met(self, attack: str, seed: int = 0) -> dict[str, Records]:
        """Every defence's records under one attack."""
        found = {d: r for (d, a, s), r in self.cells.items() if (a, s) == (attack, seed)}
        if bare := self.cells.get(self.alone(attack, seed)):
            found["none"] = bare
        return found

    def alone(self, attack: str, seed: int = 0) -> Cell:
        """The cell of the bare network under an attack, or under the one that stands for it."""
        cell = "none", attack, seed
        return cell if cell in self.cells else ("none", self.bare(attack), seed)

    def rivals(self, method: str, attack: str, seed: int = 0) -> dict[tuple[str, str], Judged]:
        """The family of an attack: `method` minus every other defence that met it, by (defence,
        side of `SIDES`)."""
        return _rivals(self, method, attack, seed)

    def attacks(self, defence: str, first: str, seed: int = 0) -> dict[str, Judged]:
        """The family of a defence: what `first` leaves minus what every other attack of the same
        norm and radius leaves, by attack."""
        return _attacks(self, defence, first, seed)

    def at_equal_clean(self, method: str, attack: str, seed: int = 0) -> Judged | None:
        """The method minus the curve that uniform noise draws as its level grows, at the same clean
        accuracy (`frontier.distance`), corrected over all attacks that the curve has met. None if
        fewer than two levels are measured or none is as clean."""
        return self.curves(method, seed).get(attack)

    def curves(self, method: str, seed: int = 0) -> dict[str, Judged]:
        """The family of `at_equal_clean`, by attack."""
        return _curves(self, method, seed)

    def levels(self, attack: str, seed: int = 0) -> dict[str, Records]:
        """The levels of uniform noise that differ in nothing else: the largest such group, and of
        it the levels on `ENOUGH` images if there are two."""
        groups: dict[str, dict[str, Records]] = {}
        for name, records in self.met(attack, seed).items():
            if name.startswith("uniform:"):
                groups.setdefault(re.sub(r"t=[\d.]+", "", name), {})[name] = records
        most = max(groups.values(), key=len, default={})
        enough = {name: r for name, r in most.items() if len(r) >= ENOUGH}
        return enough if len(enough) > 1 else most

    def between(self, one: Cell, two: Cell, side: str = "adversarial") -> Judged | None:
        """One cell minus another as their family has it, alone if they are of none; None if one has
        no records or they share no image."""
        if one not in self.cells or two not in self.cells:
            return None
        if found := _in_family(self, one, two, side):
            return found
        pair = rates(self.cells[one], self.cells[two], side)
        clean = rates(self.cells[one], self.cells[two], "clean")
        return judge({"": Pair(*pair, clean, self.undefended)})[""] if len(pair[0]) else None


@lru_cache(maxsize=512)
def _rivals(known: Known, method: str, attack: str, seed: int) -> dict[tuple[str, str], Judged]:
    met = known.met(attack, seed)
    if method not in met:
        return {}
    pairs = {}
    for name, records in met.items():
        if name == method:
            continue
        both = {side: rates(met[method], records, side) for side in SIDES}
        if len(both["clean"][0]):
            for side in SIDES:
                pairs[name, side] = Pair(*both[side], both["clean"], known.undefended)
    return judge(pairs, "rivals")


@lru_cache(maxsize=512)
def _attacks(known: Known, defence: str, first: str, seed: int) -> dict[str, Judged]:
    reference = known.cells.get((defence, first, seed))
    if reference is None:
        return {}
    others = {
        a: rates(reference, r)
        for (d, a, s), r in known.cells.items()
        if (d, s) == (defence, seed) and a != first and _ball(a) == _ball(first)
    }
    return judge({a: Pair(*pair) for a, pair in others.items() if len(pair[0])}, "attacks")


@lru_cache(maxsize=64)
def _curves(known: Known, method: str, seed: int) -> dict[str, Judged]:
    attacks = sorted({a for d, a, s in known.cells if (d, s) == (method, seed)})
    alone = {a: _at_equal_clean(known, method, a, seed) for a in attacks}
    alone = {a: judged for a, judged in alone.items() if judged}
    holm = corrected("curve", [judged.p for judged in alone.values()])
    return {
        a: replace(judged, holm=p, tests=len(alone), family="curve")
        for (a, judged), p in zip(alone.items(), holm)
    }


def _at_equal_clean(known: Known, method: str, attack: str, seed: int) -> Judged | None:
    ours, levels = known.cells.get((method, attack, seed)), known.levels(attack, seed)
    if ours is None or len(levels) < 2:
        return None
    curve = [frontier.Point.of(name, records) for name, records in levels.items()]
    try:
        found = frontier.distance(frontier.Point.of(method, ours), curve)
    except ValueError:  # no level is as clean, or too few images are common
        return None
    n, floor = found.difference.n, known.undefended and found.clean < FLOOR * known.undefended
    return Judged(found.difference, found.p, found.p, 1, Accuracy(0.0, 0.0, 0.0, n), bool(floor))


def _ball(attack: str) -> tuple[str, float]:
    settings = specs.parse(attack, ATTACKS)[1]
    return settings.norm, round(settings.eps, 6)


@lru_cache(maxsize=4)
def _known(results: Path, stamp: tuple) -> dict[str, Known]:
    found: dict[str, Known] = {}
    every = [
        (path, records, _config(records)) for path in files(results) if (records := read(path))
    ]
    splits: dict[str, set[str]] = {}
    for _, _, config in every:
        splits.setdefault(config["bench"], set()).add(config["split"])
    for path, records, config in every:
        if config["split"] != main_split(splits[config["bench"]]):
            continue
        cell = cell_of(config)
        bench = found.setdefault(config["bench"], Known({}))
        if len(records) > len(bench.cells.get(cell, {})):
            bench.cells[cell] = records
            bench.files[cell] = f"{path.parent.name}/{path.name}"
    return found


def _config(records: dict[str, dict]) -> dict:
    return next(iter(records.values()))["config"]


def main_split(splits: Iterable[str]) -> str:
    """The split that a bench's tables are about: ``test`` if it has records, else the first by
    name. Records of another one are about other images, and never stand in the same table."""
    found = set(splits)
    return "test" if "test" in found or not found else min(found)


def cell_of(config: dict) -> Cell:
    """The cell of a record's settings."""
    defence, attack = (
        specs.write(config["defence"], DEFENCES),
        specs.write(config["attack"], ATTACKS),
    )
    return defence, attack, config["seed"]


def everything(results: Path = RESULTS) -> dict[str, Known]:
    """What is known of every bench; read anew when a file of records has changed."""
    paths = sorted(results.glob("*/*.jsonl"))
    return _known(results, tuple((path, path.stat().st_mtime_ns) for path in paths))


def known(bench: str, results: Path = RESULTS) -> Known:
    """What is known of one bench."""
    return everything(results).get(bench, Known({}))


# ---- two files -------------------------------------------------------------------------------

VOTE = "p (vote, McNemar)"
# The tests of a table of comparisons, and their names once they are corrected.
TESTS = {"p (difference)": "p (difference, Holm)", VOTE: "p (vote, McNemar, Holm)"}


def compare(reference: Path, other: Path, level: float = 0.05) -> dict:
    """Two files of records, first minus second: the rule's verdict on attacked accuracy, in the
    family that they belong to, and McNemar's test of the votes.

    `detectable`: with votes that differ on as many images, the difference that McNemar at this
    level finds four times in five.
    """
    a, b = read(reference), read(other)
    judged = in_family(a, b, reference.parent.parent)
    shared = [key for key in a if key in b]
    sides = [Outcomes.of({key: r[key] for key in shared}) for r in (a, b)]
    one, two = (o.majority_correct("adversarial") for o in sides)
    found = {"n": len(shared), "difference": judged.difference, "p (difference)": judged.p}
    found |= {VOTE: stats.mcnemar(one, two), "detectable": _detectable(one, two, level)}
    return found | {TESTS["p (difference)"]: judged.holm, "verdict": judged.word, "judged": judged}


def in_family(
    a: Records, b: Records, results: Path = RESULTS, column: str = "adversarial"
) -> Judged:
    """The difference of two experiments as their family has it; alone if they are of none, such as
    records of a live run."""
    alone = lambda: judge({"": Pair(*rates(a, b, column))})[""]
    first, second = (next(iter(r.values())).get("config") for r in (a, b))
    if not first or not second or first["bench"] != second["bench"]:
        return alone()
    bench, one, two = known(first["bench"], results), cell_of(first), cell_of(second)
    if any(len(bench.cells.get(cell, ())) != len(r) for cell, r in ((one, a), (two, b))):
        return alone()
    return bench.between(one, two, column) or alone()


def _in_family(bench: Known, one: Cell, two: Cell, side: str) -> Judged | None:
    """Where two cells of a bench are compared: as attacks on one defence against the plainest, or
    as defences under one attack against the method, the plainest heterogeneous one."""
    if one[0] == two[0] and one[2] == two[2] and side == "adversarial":
        first, second = sorted((one[1], two[1]), key=lambda a: (len(a), a))
        found = bench.attacks(one[0], first, one[2]).get(second)
        return found if first == one[1] else found and found.opposite
    if "none" in (one[0], two[0]) or one[1:] == two[1:]:
        plain = lambda c: (not c[0].startswith("hetpure"), len(c[0]), c)
        method, other = sorted((one, two), key=plain)
        if not method[0].startswith("hetpure"):
            return None
        found = bench.rivals(*method).get((other[0], side))
        return found if method == one else found and found.opposite
    return None


def together(pairs: dict[Hashable, tuple[Path, Path]]) -> dict[Hashable, dict]:
    """`compare` of every pair, McNemar's p-values after Holm's correction over the table.

    `detectable` is at the strictest level of that correction. Pairs without a shared image are left
    out.
    """
    pairs = {
        name: pair for name, pair in pairs.items() if read(pair[0]).keys() & read(pair[1]).keys()
    }
    found = {name: compare(*pair, 0.05 / len(pairs)) for name, pair in pairs.items()}
    votes = corrected("votes", [pair.pop(VOTE) for pair in found.values()])
    for pair, p in zip(found.values(), votes):
        pair[TESTS[VOTE]] = float(p)
    return found


def _detectable(a: np.ndarray, b: np.ndarray, level: float) -> str:
    """`stats.smallest_detectable` in points, or that no difference would be found."""
    least = (
        stats.smallest_detectable(len(a), np.mean(a != b), alpha=level) if (a != b).any() else None
    )
    return "none" if least is None else f"{100 * least:.0f} points"


# ---- how often the interval holds ------------------------------------------------------------


def coverage(
    values: np.ndarray, n: int, samples: int = 1000, resamples: int = 500, seed: int = 0
) -> float:
    """How often the percentile interval of n images covers the mean, if images are drawn from
    `values` (m,), the paired differences of m real ones: a share in [0, 1]."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.asarray(values, dtype=float), (samples, n))
    hits = 0
    for sample in drawn:
        means = sample[rng.integers(n, size=(resamples, n))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        hits += low <= values.mean() <= high
    return hits / samples
