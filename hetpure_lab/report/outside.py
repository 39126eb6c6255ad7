"""Attacks of another kind than the headline's: table and sentences of the chapter on the audit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import names, specs
from hetpure_lab.common.paths import RESULTS
from hetpure_lab.evidence.compare import Cell, Known, known
from hetpure_lab.evidence.outcomes import Outcomes
from hetpure_lab.report import tables

HEADLINE = "pgd"
KINDS = {
    HEADLINE: "every pixel by 8/255, one loss at the end",
    "per-step": "the same ball, a loss at every step",
    "low-frequency:eps=16/255": "a larger ball, low frequencies alone",
    "spatial": "no ball: rotation by 30 degrees, translation by 3 pixels",
    "transfer-from:iterations=50,eot=1,gradient=undefended": (
        "the same ball, aimed at a network that nobody here trained"
    ),
}
DEFENCES = ("hetpure", "uniform:t=0.1", "at")
COLUMNS = {
    "clean, %": "clean",
    "random change of that kind, %": "null",
    "attacked, %": "adversarial",
}


def _cells(bench: str, results: Path) -> Iterator[tuple[str, Cell]]:
    """Every attack's kind with the cells of its defences that have records."""
    found = known(bench, results).cells
    for attack, kind in KINDS.items():
        text = specs.normal(attack, ATTACKS)
        yield from ((kind, (d, text, 0)) for d in DEFENCES if (d, text, 0) in found)


def table(bench: str, results: Path = RESULTS) -> pd.DataFrame:
    """One line per attack and defence: accuracies with 95 % intervals, and images."""
    found, lines, files = known(bench, results), [], []
    for kind, cell in _cells(bench, results):
        o = Outcomes.of(found.cells[cell])
        files.append(found.files[cell])
        line = {"what may change": kind, "attack": names.attack(cell[1])}
        line |= {"defence": names.defence(cell[0])}
        line |= {title: str(o.single(column)) for title, column in COLUMNS.items()}
        lines.append(line | {"images": len(found.cells[cell])})
    keys = ["what may change", "attack", "defence"]
    frame = pd.DataFrame(lines, columns=[*keys, *COLUMNS, "images"]).set_index(keys)
    return tables.behind(frame, files)


def conclusions(bench: str, results: Path = RESULTS) -> list[str]:
    """The method against each other defence, one sentence per attack that both have met."""
    records = known(bench, results)
    return [
        sentence
        for attack in KINDS
        if (sentence := _sentence(records, specs.normal(attack, ATTACKS)))
    ]


def _sentence(records: Known, attack: str) -> str:
    method, *others = DEFENCES
    said = []
    for other in others:
        judged = records.between((method, attack, 0), (other, attack, 0))
        if judged is None:
            continue
        word = {
            "higher": "leaves more than",
            "lower": "leaves less than",
            "inconclusive": "is not told apart from",
        }[judged.word]
        d = judged.difference
        said.append(f"{word} {names.defence(other)} ({d} points, n = {d.n}, {judged.of})")
    return f"*{names.attack(attack)}*: the method {'; it '.join(said)}." if said else ""


def missing(bench: str, results: Path = RESULTS) -> list[str]:
    """The commands that measure what the table lacks."""
    has = {cell for _, cell in _cells(bench, results)}
    return [
        f"hetpure run --bench {bench} --defence {d} --attack {attack} --n-images 64"
        for attack in KINDS
        for d in DEFENCES
        if (d, specs.normal(attack, ATTACKS), 0) not in has
    ]
