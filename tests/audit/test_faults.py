"""The bug zoo: every fault is caught by the flag that is named for it, and the sound evaluation
beside it raises none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hetpure_core import Uniform
from hetpure_lab.audit import faults, flags, reported, world
from hetpure_lab.audit.faults import FAULTS, Zoo
from hetpure_lab.audit.reported import Report, report
from hetpure_lab.evidence import read
from hetpure_lab.networks import benches

WORLD = world.two_parts()


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    """All faults in the world whose truth is known."""
    return Zoo(faults.setting("world", 24))


def test_the_zoo_is_as_large_as_it_says():
    assert len(FAULTS) >= 14 and {fault.caught for fault in FAULTS.values()} <= set(flags.MEANING)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_and_its_sound_twin_is_not(name, zoo):
    found = zoo.find(FAULTS[name])
    assert FAULTS[name].caught in {f.name for f in found.flags}
    assert found.sound_flags == ()
    assert found.caught and len(found.sound) == 24


ADDS = (
    "detached purifier",
    "missing normalisation",
    "rounding in the defence",
    "known labels in guidance",
    "wrong radius",
)
COUNTS = ("one-draw acceptance", "clean images returned", "best of K", "selection on test images")


@pytest.mark.parametrize("name", ADDS + COUNTS)
def test_faults_add_robustness_where_the_truth_is_known(name, zoo):
    assert stats_above(zoo.find(FAULTS[name]).added)


def stats_above(d) -> bool:
    return d.low > 0


def test_what_an_attack_fault_adds_is_what_the_truth_says(zoo):
    """Half a radius leaves what the best attack of half the radius leaves."""
    found, images = zoo.find(FAULTS["wrong radius"]), zoo.setting.images
    truth = world.Truth(WORLD, zoo.setting.uniform)
    left = [
        truth.right(truth.best_attack(images.floats, images.labels, "Linf", r), images.labels)
        for r in (4 / 255, 8 / 255)
    ]
    tries = zoo.setting.K * len(images)
    for rates, chance in zip((found.faulty, found.sound), left):
        error = np.sqrt((chance * (1 - chance)).mean() / tries)
        assert (
            abs(np.mean(list(rates.values())) - chance.mean()) < 4 * error + 0.02
        )  # 8-bit rounding shifts half of 4/255 by little


# ---- the checks of a report, one by one ----------------------------------------------------------


@pytest.fixture(scope="module")
def sound(zoo) -> Report:
    return report(zoo.run(faults.SOUND).evidence)


def names(r: Report) -> set[str]:
    return {flag.name for flag in reported.examine(r)}


def test_a_report_that_follows_from_its_records_is_not_flagged(sound):
    assert names(sound) == set()
    assert (
        names(
            report(
                sound.evidence,
                "majority",
                against=report(sound.evidence, "majority"),
                undefended=1.0,
                chance=0.5,
            )
        )
        == set()
    )


@pytest.mark.parametrize(
    "change, flag",
    [
        (lambda r: {"rates": r.rates + 0.1}, "not-the-outcomes"),
        (lambda r: {"rates": r.rates[1:], "images": r.images[1:]}, "dropped-images"),
        (lambda r: {"against": report(r.evidence, "majority")}, "unequal-votes"),
        (lambda r: {"undefended": 1.0, "chance": 0.8}, "floor"),
        (lambda r: {"tried": 2}, "chosen-on-test"),
        (lambda r: {"shown": torch.full((2, 3, 8, 8), 0.5)}, "not-8-bit"),
    ],
)
def test_each_sign_in_a_report_is_seen(change, flag, sound):
    assert names(replace(sound, **change(sound))) == {flag}


def test_bad_reports_are_explained(sound):
    with pytest.raises(ValueError, match="unknown rule 'any'"):
        replace(sound, rule="any")
    with pytest.raises(ValueError, match="1 rates but 24 images"):
        replace(sound, rates=sound.rates[:1])


def test_a_blend_tells_leaks_from_opinions():
    """A classifier that always says one class, or that follows the image, knows no labels."""
    images = WORLD.sample(4)
    for weights in (WORLD.bayes, 0 * WORLD.bayes):
        defence = WORLD.defended(Uniform(0.1, 1), weights)
        assert flags._labels(defence, images.floats, images.labels, images.ids) == []


# ---- what was added ------------------------------------------------------------------------------


def test_points_are_paired_over_the_images_that_both_count():
    sound = {f"{i}": i % 2 for i in range(40)}
    d = faults.added({key: rate + 0.1 for key, rate in sound.items()}, sound)
    assert d.value == pytest.approx(0.1) and d.high - d.low < 1e-9
    fewer = faults.added({key: rate for key, rate in sound.items() if rate}, sound)
    assert fewer.value == pytest.approx(0.5) and 0.3 < fewer.low < 0.5 < fewer.high < 0.7


# ---- records and command -------------------------------------------------------------------------


def test_faults_are_measured_once_and_kept(tmp_path, capsys):
    setting = faults.setting("world", 4)
    for _ in range(2):
        faults.measure(setting, ["best of K"], tmp_path)
    lines = read(tmp_path / faults.ZOO)
    assert (
        list(lines) == ["world/best of K/4"]
        and len((tmp_path / faults.ZOO).read_text().splitlines()) == 1
    )
    (line,) = faults.recorded("world", tmp_path).values()
    assert (
        set(line["faulty"]) == set(line["sound"]) == set(setting.images.ids)
        and "not-the-outcomes" in line["faulty_flags"]
    )
    assert "points" not in capsys.readouterr().out


def test_more_images_replace_fewer(tmp_path):
    for n in (4, 6):
        faults.measure(faults.setting("world", n), ["best of K"], tmp_path)
    assert faults.recorded("world", tmp_path)["best of K"]["n"] == 6


@pytest.mark.parametrize(
    "argv, message",
    [
        (["no such"], "unknown fault 'no such'"),
        (["--n-images", "2"], "at least 4 images, not 2"),
        (["--bench", "x", "--n-images", "4"], "unknown bench 'x'"),
    ],
)
def test_bad_input_is_one_sentence(argv, message):
    with pytest.raises(ValueError, match=message):
        faults.main(argv)


def test_committed_records_are_of_the_faults_that_there_are():
    found = read(faults.RESULTS / faults.ZOO)
    if not found:
        pytest.skip("nothing is measured yet")
    assert {record["fault"] for record in found.values()} <= set(FAULTS)
    for record in found.values():
        assert FAULTS[record["fault"]].caught in record["faulty_flags"], record["fault"]
        for name, digest in record["weights"].items():
            assert benches.card(name)["sha256"].startswith(digest)
