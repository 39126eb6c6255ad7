"""The verdict on the candidate follows from records of all its attacks; certificates and sizes are
shown as far as they are measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from hetpure_lab.common.paths import RESULTS
from hetpure_lab.common.stats import Accuracy
from hetpure_lab.evidence import certify, frontier
from hetpure_lab.evidence.certify import Smoothing
from hetpure_lab.evidence.frontier import Distance, Point
from hetpure_lab.report import candidate, certified, regenerate, sizes
from hetpure_lab.report.candidate import Candidate, Trial
from hetpure_lab.report.sizes import Place


def trial(value: float, holm: float = 0.001, waits: str = "") -> Trial:
    d = Accuracy(value, value - 0.02, value + 0.02, 128)
    found = None if waits else Distance("c", d, holm, 0.7, 0.2, 0.2 - value, 0.0)
    return Trial("PGD", "pgd", found, holm, waits)


def test_it_survives_only_above_the_curve_under_every_attack():
    assert candidate.verdict([trial(0.1), trial(0.05)]) == "survives"
    assert candidate.verdict([trial(0.1), trial(0.05, holm=0.2)]) == "does not survive"
    assert candidate.verdict([trial(0.1), trial(-0.05)]) == "does not survive"
    assert candidate.verdict([trial(0.1), trial(0, waits="3 of 128 images")]) == "not measured yet"


def test_what_was_frozen_is_measurable_and_decided_on_images_it_was_not_chosen_on():
    chosen = Candidate.load()
    text = json.loads((RESULTS / candidate.FILE).read_text())
    assert text["chosen on"]["split"] != chosen.split and chosen.images >= 128
    norms = {"L2" in attack for attack in chosen.attacks.values()}
    assert norms == {True, False} and any("growing" in a for a in chosen.attacks.values())
    for attack in chosen.attacks.values():
        experiment = chosen.setting(attack).experiment(chosen.defence)
        assert experiment.split == chosen.split and experiment.key


def test_what_adversarial_training_leaves_is_said_beside_it_on_the_same_images():
    """With the accuracies of the table, whose rows have these images alone."""
    chosen = Candidate.load()
    said = candidate.beside_training(chosen)
    rows = candidate.table(chosen)
    number = lambda kind, name, side: float(rows.loc[(kind, name), f"{side}, %"].split()[0])
    met = {kind for kind, name in rows.index if name == candidate.TRAINED}
    assert met, "no attack has met adversarial training on these images"
    for kind in met:
        of = said.partition(f"{kind}, ")[2].partition(" images")[0]
        signed = [
            float(v) * (1 if word == "more" else -1)
            for v, word in re.findall(r"([\d.]+) \[[^\]]*\] points (more|less)", of)
        ]
        for value, side in zip(signed, ("attacked", "clean"), strict=True):
            ours, theirs = (number(kind, x, side) for x in ("the candidate", candidate.TRAINED))
            assert value == pytest.approx(theirs - ours, abs=0.11)


def test_without_records_nothing_is_said_to_be_found(tmp_path):
    (tmp_path / candidate.FILE).write_text((RESULTS / candidate.FILE).read_text())
    chosen = Candidate.load(tmp_path)
    found = candidate.trials(chosen, tmp_path)
    assert len(found) == len(chosen.attacks) and all(t.holm == 1 for t in found)
    assert candidate.verdict(found) in candidate.sentence(chosen, found)
    assert candidate.beside_training(chosen, tmp_path) == ""
    assert (candidate.table(chosen, tmp_path).index.get_level_values(1) == "not measured yet").all()
    own = Smoothing("uniform:t=0.1,steps=1")
    assert "not measured yet" in certified.sentences([own], tmp_path)[0]
    assert regenerate.or_nothing(certified.table([own], tmp_path)).data == "Not measured yet."
    assert certified.draw([own], tmp_path).data == "Not measured yet."
    assert "0 of them" in sizes.sentence("the method", results=tmp_path)
    trained = [b for b in sizes.BENCHES if sizes.error_of(b) is not None]
    assert len(sizes.table(tmp_path)) == 2 * len(trained)


def test_without_a_candidate_the_chapter_says_so(tmp_path):
    assert candidate.about(tmp_path) == candidate.outcome(tmp_path) == candidate.NONE
    assert candidate.frozen_table(tmp_path).empty


def points(shift: float, n: int = 60) -> tuple[Point, list[Point]]:
    """A curve on the diagonal from (0.5, 0.3) to (0.9, 0.1), and a point `shift` above it."""
    images, rng = tuple(f"i{k}" for k in range(n)), np.random.default_rng(0)
    noise = rng.uniform(-0.05, 0.05, n)
    noise -= noise.mean()
    make = lambda name, c, a: Point(name, images, c + noise, a + noise)
    return make("p", 0.7, 0.2 + shift), [make("strong", 0.5, 0.3), make("weak", 0.9, 0.1)]


def test_the_trend_is_the_slope_of_distances():
    pairs = [points(shift) for shift in (0.0, 0.04, 0.08)]
    found = frontier.trend(pairs, [1.0, 2.0, 3.0])
    assert found.value == pytest.approx(0.04) and found.low <= 0.04 + 1e-9
    with pytest.raises(ValueError, match="two different numbers"):
        frontier.trend(pairs[:2], [1.0, 1.0])
    with pytest.raises(ValueError, match="two different numbers"):
        frontier.trend(pairs[:1], [1.0])


@pytest.mark.parametrize("shifts", [(0.02,), (0.02, 0.06), (0.02, 0.06, 0.1)])
def test_a_trend_needs_three_sizes_and_two_have_a_difference(shifts, monkeypatch):
    errors = (0.1, 0.09, 0.08)
    found = [
        Place(bench, error, *points(shift))
        for bench, error, shift in zip(sizes.BENCHES, errors, shifts)
    ]
    monkeypatch.setattr(sizes, "places", lambda *_: found)
    said = sizes.sentence("the method")
    assert len(sizes.measured(found)) == len(shifts)
    assert ("nothing can be said" in said) == (len(shifts) == 1)
    assert ("no trend" in said) == (len(shifts) == 2)
    assert ("per 0.01 less error" in said) == (len(shifts) == 3)
    if len(shifts) > 1:
        assert re.search(r"\b4\.0 \[", said), "both are 4 points from one size to the next"


def test_a_point_that_the_curve_does_not_reach_has_no_part_in_a_trend():
    point, curve = points(0.02)
    far = Place(sizes.BENCHES[0], 0.1, replace(point, clean=np.ones(60)), curve)
    assert sizes.measured([far]) == [] and "does not reach" in far.found


def test_the_picture_names_its_records():
    shown = certify.on_record()
    if not shown:
        pytest.skip("no certificates on record")
    figure = certified.draw(shown)
    assert figure.records and all((RESULTS.parent / name).exists() for name in figure.records)
    lines = certified.sentences(shown)
    assert len(lines) == len(shown)
