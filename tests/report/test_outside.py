"""Attacks of another kind: every measured cell is in the table, every other one has its command."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from conftest import records_of

from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import names
from hetpure_lab.evidence import Experiment, append
from hetpure_lab.report import outside

BENCH = "cifar10-small"
LEFT = {"hetpure": 0.3, "uniform:t=0.1": 0.5, "at": 0.3}


@pytest.fixture
def written(tmp_path):
    """Spatial attacks on the three defences, whose accuracies differ by the same on all images."""
    apart = np.linspace(-0.1, 0.1, 40)
    for defence, left in LEFT.items():
        rates = [(c + apart).clip(0, 1).tolist() for c in (left, 0.8, 0.7)]
        rows = records_of(defence, "spatial", *rates, K=100).records
        append(Experiment(defence, "spatial", BENCH).path(tmp_path), list(rows.values()))
    return tmp_path


def test_the_table_has_what_is_measured_with_its_null_control(written):
    shown = outside.table(BENCH, written).xs("rotation and translation", level="attack")
    shown.index = shown.index.droplevel(0)
    assert list(shown.index) == [names.defence(d) for d in LEFT]
    starts = {
        column: cells.str.split(" ").str[0].tolist()
        for column, cells in shown.items()
        if column != "images"
    }
    assert starts["attacked, %"] == [f"{100 * left:.1f}" for left in LEFT.values()]
    assert set(starts["clean, %"]) == {"80.0"}
    assert set(starts["random change of that kind, %"]) == {"70.0"}


def test_the_words_follow_the_records(written):
    (said,) = outside.conclusions(BENCH, written)
    first, second = said.split("; ")
    assert "leaves less than" in first and "not told apart" in second


def test_what_is_not_measured_has_a_command(tmp_path, written):
    every = len(outside.KINDS) * len(outside.DEFENCES)
    commands = outside.missing(BENCH, written)
    assert len(commands) == every - len(LEFT) and not any("spatial" in c for c in commands)
    for command in commands:
        words = shlex.split(command)
        attack = words[words.index("--attack") + 1]
        assert attack.partition(":")[0] in ATTACKS
    assert len(outside.missing(BENCH, tmp_path / "nothing")) == every


def test_without_records_the_table_is_empty(tmp_path):
    assert outside.table(BENCH, tmp_path).empty and outside.conclusions(BENCH, tmp_path) == []
