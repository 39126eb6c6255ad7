"""Rows beside the curve of uniform noise: from records of known outcomes to distances, words and
figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import records_of

from hetpure_lab.evidence import Experiment, append, read
from hetpure_lab.report import premise, regenerate

BENCH = "cifar10-small-ffdnet"


@pytest.fixture
def written(tmp_path):
    """Record files of given shares: images differ in both accuracies, by the same amounts
    everywhere."""
    apart = np.linspace(-0.1, 0.1, 40)

    def write(defence: str, clean: float, attacked: float, attack: str = "pgd") -> None:
        rates = [(c + apart).clip(0, 1).tolist() for c in (attacked, clean, clean)]
        rows = records_of(defence, attack, *rates, K=100, bench=BENCH).records
        append(Experiment(defence, attack, BENCH).path(tmp_path), list(rows.values()))

    write("uniform:t=0.05,steps=1", 0.8, 0.2)
    write("uniform:t=0.1,steps=1", 0.6, 0.4)
    write("noise-map", 0.7, 0.5)
    write("noise-map:mask_kind=fixed", 0.7, 0.2)
    write("noise-map:mask_kind=attention", 0.7, 0.3)
    write("noise-map:mask_kind=none", 0.9, 0.3)
    write("noise-map", 0.7, 0.25, attack=premise.KNOWN)
    write("noise-map", 0.7, 0.45, attack=premise.EFFORTS["20 x 32"])
    return tmp_path


NAMES = {
    "random": "noise-map",
    "fixed": "noise-map:mask_kind=fixed",
    "attention": "noise-map:mask_kind=attention",
    "clean": "noise-map:mask_kind=none",
    "known": "noise-map",
    "unmeasured": "per-pixel",
}


def test_rows_are_the_distances_of_the_records(written):
    found = premise.rows(premise.Setting(BENCH), NAMES, known={"known"}, results=written)
    assert [r.name for r in found] == ["random", "fixed", "attention", "clean", "known"]
    values = [r.distance and round(r.distance.difference.value, 6) for r in found]
    assert values == [0.2, -0.1, 0.0, None, -0.05]
    assert "60.0 to 80.0 %" in found[3].reason and "90.0 %" in found[3].reason


def test_words_follow_the_corrected_test(written):
    found = premise.rows(premise.Setting(BENCH), NAMES, known={"known"}, results=written)
    said = premise.conclusions(found)
    places = [
        next(w for w in ("above", "below", "not told apart", "no distance") if w in line)
        for line in said
    ]
    assert places == ["above", "below", "not told apart", "no distance", "below"]
    shown = premise.table(found)
    assert shown.loc["random", "images"] == 40 and shown.loc["clean", "p (Holm)"] == ""
    assert "..." not in shown.to_html(), "pandas cuts a long cell off"
    assert regenerate.or_nothing(premise.table([])).data == "Not measured yet."


def test_what_a_stronger_attack_takes_is_paired(written):
    weakened = premise.weakened(BENCH, "noise-map", "20 x 32", written)
    assert weakened.value == pytest.approx(-0.05) and weakened.n == 40
    assert premise.weakened(BENCH, "noise-map", "BPDA", written) is None
    shown = premise.efforts(BENCH, {"random": "noise-map"}, written)
    assert shown.loc["random", "BPDA"] == "not measured" and shown.loc[
        "random", "20 x 8"
    ].startswith("50.0")


def test_questions_are_answered_in_one_word_or_not_at_all(written):
    names = {
        "attention": "noise-map:mask_kind=attention",
        "random half": "noise-map",
        "one mask for all images": "noise-map:mask_kind=fixed",
    }
    said = premise.answers(
        premise.rows(premise.Setting(BENCH), names, results=written), BENCH, written
    )
    asked = dict(zip(premise.QUESTIONS, said))
    assert "**Not established**" in asked["attention"] and "**Yes**" in asked["random half"]
    assert "**No, it is below the curve**" in asked["one mask for all images"]
    assert asked["random half, denoiser not told"].endswith("Not measured.")
    assert len(said) == len(premise.QUESTIONS) + 1 and "20 x 32" in said[-1]


def test_other_networks_are_listed_with_what_is_on_record(written):
    shown = premise.elsewhere(["hetpure"], written)
    assert [place for place, _ in shown.index] == list(premise.ELSEWHERE)
    assert {what for _, what in shown.index} == {"not measured yet"}


def test_a_level_that_is_still_being_measured_takes_no_images_from_the_others(written):
    setting = premise.Setting(BENCH)
    path = setting.experiment("uniform:t=0.2,steps=1").path(written)
    first = dict(list(read(setting.experiment("noise-map").path(written)).items())[:10])
    append(path, list(first.values()))
    found = premise.rows(setting, {"random": "noise-map"}, results=written)
    assert found[0].distance.difference.n == 40
    assert found[0].distance.difference.value == pytest.approx(0.2)


def test_the_figure_shows_every_row_and_names_its_records(written):
    setting = premise.Setting(BENCH)
    found = premise.rows(setting, NAMES, results=written)
    figure = premise.draw(setting.curve(written), found, setting)
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["uniform noise", *(r.name for r in found)]
    assert all(read(written / BENCH / name.rpartition("/")[2]) for name in figure.records)
    plt.close(figure)
