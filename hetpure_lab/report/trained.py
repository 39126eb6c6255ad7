"""What a network trained on attacks adds before or behind a purifier: table and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hetpure_lab.common import names, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.evidence import compare
from hetpure_lab.evidence.compare import Judged, Pair, Records, known
from hetpure_lab.report import tables

PLAIN = "cifar10-small"
TRAINED = {
    "cifar10-small-at": "an adversarially trained classifier",
    "cifar10-small-addt": "a denoiser trained on attacks (ADDT)",
}
PURIFIERS = ("uniform:t=0.05", "uniform:t=0.1", "hetpure")


@dataclass(frozen=True)
class Row:
    """A purifier with a trained network: its records, those of what it is compared with, and the
    `files` of both."""

    purifier: str
    network: str
    than: str
    records: Records
    others: Records
    files: tuple[str, str]


def rows(attack: str = "pgd", results: Path = RESULTS) -> list[Row]:
    """Every purifier that met the attack with a trained network, against itself with plain networks
    and against the bare classifier where that has met the attack."""
    plain, found = known(PLAIN, results), []
    for bench, network in TRAINED.items():
        trained = known(bench, results)
        for purifier in PURIFIERS:
            ours = purifier, attack, 0
            for than, where, theirs in (
                ("the same with plain networks", plain, ours),
                ("that classifier without a purifier", trained, trained.alone(attack)),
            ):
                records, others = trained.cells.get(ours, {}), where.cells.get(theirs, {})
                if records.keys() & others.keys():
                    files = trained.files[ours], where.files[theirs]
                    found.append(Row(purifier, network, than, records, others, files))
    return found


def judged(found: list[Row]) -> list[Judged]:
    """Each row minus what it is compared with, corrected over all of them."""
    pairs = {
        i: Pair(*compare.rates(r.records, r.others), compare.rates(r.records, r.others, "clean"))
        for i, r in enumerate(found)
    }
    return list(compare.judge(pairs, "trained").values())


def table(found: list[Row]) -> pd.DataFrame:
    """One line per row: accuracies with 95 % intervals, the difference and its test."""
    lines = []
    for r, j in zip(found, judged(found)):
        clean, attacked = (
            stats.mean_rate(compare.rates(r.records, r.records, side)[0])
            for side in ("clean", "adversarial")
        )
        line = {"defence": names.defence(r.purifier), "with": r.network}
        line |= {"against": r.than} | {k: v for k, v in j.cells.items() if k != "p"}
        lines.append(line | {"clean, %": str(clean), "attacked, %": str(attacked)})
    return tables.behind(pd.DataFrame(lines), [name for r in found for name in r.files])


def conclusions(found: list[Row]) -> list[str]:
    """One sentence per row."""
    words = {
        "higher": "leaves more under attack than",
        "lower": "leaves less under attack than",
        "inconclusive": "is not told apart under attack from",
    }
    return [
        f"*{names.defence(r.purifier)}* with {r.network} {words[j.word]}"
        f" {r.than}: {j.difference} points, n = {j.difference.n}, {j.of}."
        for r, j in zip(found, judged(found))
    ]
