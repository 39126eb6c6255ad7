"""The compression rate beside accuracies: from a study and records to table, figure and words."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import records_of

from hetpure_lab.evidence import Experiment, append, studies
from hetpure_lab.report import predicted

BENCH = "cifar10-small"
LEFT = {"uniform:t=0.05": 0.8, "uniform:t=0.1": 0.6, "uniform:t=0.2": 0.4, "hetpure": 0.2}


@pytest.fixture
def written(tmp_path):
    """A study whose rates fall as accuracies under fresh noise rise; one record of known noise."""
    rows = [{"defence": name, "rate": rate} for name, rate in LEFT.items()]
    file = studies.path("compression", BENCH, results=tmp_path)
    lines = [{"image": f"{i:04}", "rows": rows, "unit": 1.0} for i in range(3)]
    append(file, lines, tmp_path)
    for name, rate in LEFT.items():
        attacks = ["pgd"] + ["pgd:frozen=all"] * (name == "hetpure")
        for attack in attacks:
            right = np.full(40, 1 - rate).tolist()
            records = records_of(name, attack, right, right, right).records
            append(Experiment(name, attack, BENCH).path(tmp_path), list(records.values()))
    return tmp_path


def test_the_table_begins_with_the_strongest_compression(written):
    shown = predicted.table(BENCH, written)
    assert shown["left of a difference, %"].str.split(" ").str[0].tolist() == [
        f"{100 * rate:.1f}" for rate in sorted(LEFT.values())
    ]
    fresh = shown["right, fresh noise, %"]
    assert fresh.str.split(" ").str[0].tolist() == [
        f"{100 * (1 - rate):.1f}" for rate in sorted(LEFT.values())
    ]
    assert fresh.str.contains("[", regex=False).all() and fresh.str.endswith("(40)").all()
    assert len(shown.attrs["records"]) == 2 + len(LEFT), "a table names all files behind it"
    assert (shown["right, known noise, %"] != "").tolist() == [True, False, False, False]


def test_words_follow_the_rank_correlation(written):
    known, fresh = predicted.conclusions(BENCH, written)
    assert "needs four" in known and "goes with more accuracy" in fresh and "+1.00" in fresh
    figure = predicted.draw(BENCH, written)
    assert len(figure.axes[0].lines) == len(LEFT)
    plt.close(figure)


def test_without_a_study_nothing_is_claimed(tmp_path):
    assert predicted.table(BENCH, tmp_path).empty and predicted.draw(BENCH, tmp_path) is None
    assert all("not 0" in line for line in predicted.conclusions(BENCH, tmp_path))
