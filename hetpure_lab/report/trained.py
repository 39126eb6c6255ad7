"""What a network trained on attacks adds before or behind a purifier: table and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hetpure_lab.common import names, stats
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.evidence import compare
from hetpure_lab.evidence.compare import Judged, Pair, Records, known

PLAIN = "cifar10-small"
TRAINED = {
    "cifar10-small-at": "an adversarially trained classifier",
    "cifar10-small-addt": "a denoiser trained on attacks (ADDT)",
}
PURIFIERS = ("uniform:t=0.05", "uniform:t=0.1", "hetpure")


@dataclass(frozen=True)
class Row:
    """A purifier with a trained network: its records, and those of what it is compared with."""

    purifier: str
    network: str
    than: str
    records: Records
    others: Records


def rows(attack: str = "pgd", results: Path = RESULTS) -> list[Row]:
    """Every purifier that met the attack with a trained network, against itself with plain networks
    and against the bare classifier where that has met the attack."""
    plain = known(PLAIN, results).met(attack)
    found = []
    for bench, network in TRAINED.items():
        met = known(bench, results).met(attack)
        for purifier in PURIFIERS:
            if purifier not in met:
                continue
            for than, others in (
                ("the same with plain networks", plain.get(purifier)),
                ("that classifier without a purifier", met.get("none")),
            ):
                if others and met[purifier].keys() & others.keys():
                    found.append(Row(purifier, network, than, met[purifier], others))
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
        line |= {"clean, %": str(clean), "attacked, %": str(attacked), "against": r.than}
        lines.append(line | {k: v for k, v in j.cells.items() if k != "p"})
    return pd.DataFrame(lines)


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
