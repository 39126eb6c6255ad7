"""Ablations: grids vary what they say, resume where they stopped, and paired tests see differences
that unpaired ones miss.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hetpure_core import HetPure, Noise, Purified, linear_schedule
from hetpure_lab import data, evidence
from hetpure_lab.common import specs, stats
from hetpure_lab.defences import DEFENCES
from hetpure_lab.defences.equal_energy import EqualEnergy
from hetpure_lab.evidence import ablations, command, compare, engine

FAST = "pgd:iterations=1,eot=1,confirm=0"


def fake(rates: np.ndarray, K: int = 10) -> dict[str, dict]:
    """Records in which image i is right in ``rates[i]`` of K purifications, spread over them."""
    right = [[0 if (k * 7) % K < round(rate * K) else 1 for k in range(K)] for rate in rates]
    return {
        str(i): {"label": 0} | {c: {"labels": row, "soft": 0} for c in evidence.COLUMNS}
        for i, row in enumerate(right)
    }


@pytest.mark.parametrize("name", ablations.GRIDS)
def test_a_grid_changes_only_what_it_names(name):
    default, changed = asdict(HetPure()), set()
    for experiment, settings in zip(
        ablations.experiments(name).values(), ablations.GRIDS[name].points.values()
    ):
        _, purifier = specs.parse(experiment.defence, DEFENCES)
        differing = {k for k, v in asdict(purifier).items() if v != default[k]}
        assert differing <= set(settings)
        changed |= differing
    assert changed, "a grid whose points are all the same"


@pytest.mark.parametrize("name", ablations.GRIDS)
def test_every_grid_contains_the_method_itself(name):
    assert "hetpure" in {e.defence for e in ablations.experiments(name).values()}


@pytest.mark.parametrize("name", ablations.GRIDS)
def test_the_reference_of_every_grid_is_the_method(name):
    assert ablations.experiments(name)[ablations.GRIDS[name].reference].defence == "hetpure"


def test_the_masks_controls_have_the_methods_settings(classifier, denoiser, images):
    base = HetPure(t_l=0.4, t_s=0.2, steps=6, tau=0.5)
    points = ablations.purifiers("mask", base)
    assert {(p.t_l, p.t_s, p.steps, p.tau) for p in points.values()} == {(0.4, 0.2, 6, 0.5)}
    masks = {
        k: Purified(classifier, denoiser, p).mask(images, Noise(0, range(4), [0] * 4))
        for k, p in points.items()
    }
    area = {label: mask.sum((1, 2, 3)) for label, mask in masks.items()}
    assert torch.equal(area["image gradient, equal area"], area["attention"]) and torch.equal(
        area["random, equal area"], area["attention"]
    )
    assert not torch.equal(masks["image gradient, equal area"], masks["attention"])
    assert isinstance(points["uniform, equal energy"], EqualEnergy)


def test_points_that_grids_share_are_one_experiment():
    shared = [
        next(e for e in ablations.experiments(name).values() if e.defence == "hetpure")
        for name in ablations.GRIDS
    ]
    assert len({e.path() for e in shared}) == 1


def test_table_7_leaves_out_one_block_each():
    used = [p.get("blocks", (0, 1, 2, 3)) for p in ablations.GRIDS["blocks"].points.values()]
    assert [sorted({0, 1, 2, 3} - set(b)) for b in used] == [[], [0], [1], [2], [3]]


def test_unknown_grids_are_explained():
    with pytest.raises(ValueError, match="unknown grid 'tua'; known: tau"):
        ablations.experiments("tua")


def test_a_grid_that_was_stopped_goes_on(classifier, denoiser, monkeypatch, tmp_path):
    images = data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(2)]
    grid, seen = ablations.experiments("order", attack=FAST, K=2), []
    outcome = {"label": 0} | {c: {"labels": [0, 0], "soft": 0} for c in evidence.COLUMNS}

    def each(experiment, rows, *_):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(experiment.defence)
        yield [{"image": key} | outcome for key in rows.ids]

    networks = {
        "classifier": classifier.float(),
        "denoiser": denoiser.float(),
        "schedule": linear_schedule(),
    }
    bench = SimpleNamespace(**networks, device=torch.device("cpu"), defended=Purified)
    monkeypatch.setattr(engine, "each", each)
    with pytest.raises(KeyboardInterrupt):
        ablations.run(grid, images, bench, progress=False, results=tmp_path)
    assert list(ablations.records(grid, tmp_path)) == list(grid)[:2]
    seen.clear()
    ablations.run(grid, images, bench, progress=False, results=tmp_path)
    assert seen == [list(grid.values())[2].defence]


def test_pairing_sees_a_difference_that_is_small_beside_the_images():
    images = np.random.default_rng(0).choice([0.0, 0.5, 0.9], 40)
    a, b = fake(images), fake(images + 0.1)
    assert stats.sign_flip(*ablations.rates(a, b)) < 0.001
    assert ablations.against({"a": a, "b": b}, "a").loc["b", "accuracy is"] == "higher"


def test_the_paired_test_keeps_its_level_when_nothing_differs():
    rng = np.random.default_rng(1)
    p = [stats.sign_flip(*rng.binomial(10, 0.5, (2, 16)) / 10, seed=i) for i in range(60)]
    assert np.mean(np.array(p) < 0.2) < 0.4 and stats.sign_flip(np.ones(4), np.ones(4)) == 1


def test_holm_corrects_for_the_number_of_points():
    images = np.linspace(0, 0.9, 12)
    nudged = images + np.where(np.arange(12) < 7, 0.1, 0)
    one = ablations.against({"a": fake(images), "b": fake(nudged)}, "a")
    many = ablations.against({"a": fake(images)} | {f"b{i}": fake(nudged) for i in range(8)}, "a")
    assert one.loc["b", "accuracy is"] == "higher" and set(many["accuracy is"]) == {"inconclusive"}


def test_over_all_grids_and_both_sides_the_correction_is_stricter_than_within_one():
    images = np.linspace(0, 0.9, 12)
    nudged = fake(images + np.where(np.arange(12) < 8, 0.1, 0))
    grid = {"p = 2": fake(images), "p = 1": nudged}
    one = ablations.against(grid, "p = 2")
    many = ablations.established(
        {"p": grid, "sampler": {}, "U": {"U = 10": fake(images), "U = 5": nudged}}
    )
    assert list(many) == ["p = 1", "U = 5"] and {tuple(tests) for tests in many.values()} == {
        tuple(ablations.SIDES)
    }
    assert many["p = 1"]["under attack"].holm == pytest.approx(
        4 * one.loc["p = 1", "p (Holm)"], rel=0.1
    )
    assert not ablations.established({"p": {}}) and ablations.side_by_side({}).empty


def traded(attacked: float, clean: float, n: int = 20) -> dict[str, dict]:
    """Records whose attacked and clean rates differ."""
    return {
        i: a | {"clean": c["clean"]}
        for (i, a), c in zip(fake(np.full(n, attacked)).items(), fake(np.full(n, clean)).values())
    }


def test_what_a_setting_gains_under_attack_stands_beside_what_it_pays_without():
    found = ablations.established(
        {"p": {"p = 2": traded(0.2, 0.8), "p = 1": traded(0.5, 0.4), "p = 3": traded(0.2, 0.8)}}
    )
    (line,) = ablations.in_words(found)
    assert (
        line.startswith("p = 1: **higher** under attack by 30.0 [")
        and ", **lower** without attack by 40.0 [" in line
    )
    table = ablations.side_by_side(found)
    assert list(table["under attack"]["accuracy is"]) == [
        "higher",
        "inconclusive",
    ] and table.shape == (2, 10)
    one_sided = ablations.established({"p": {"p = 2": traded(0.2, 0.8), "p = 1": traded(0.5, 0.8)}})
    assert ", inconclusive without attack (0.0 [" in ablations.in_words(one_sided)[0]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (
            {"tau = 0.5": 0.6, "tau = 0.9": 0.1},
            f"**{compare.NOT_HERE}**: more is left by tau = 0.5 (+30.0 points, Holm p 0.0",
        ),
        (
            {"tau = 0.5": 0.3, "tau = 0.9": 0.1},
            "**verified**: no point leaves more, and 1 of 2 leave less",
        ),
        ({"tau = 0.5": 0.3}, "**inconclusive**"),
        ({}, "**not tested**"),
    ],
)
def test_a_choice_is_contradicted_by_a_point_that_leaves_more_under_attack(others, said):
    points = {"tau = 0.8": 0.3} | others
    assert ablations.choice(
        {label: fake(np.full(20, rate)) for label, rate in points.items()}, "tau = 0.8"
    ).startswith(said)


def test_only_shared_images_are_compared():
    a, b = fake(np.array([0.1, 0.2, 0.3])), fake(np.array([0.1, 0.2]))
    assert [len(x) for x in ablations.rates(a, b)] == [2, 2]
    assert ablations.against({"a": a, "c": {}}, "a").empty


def test_votes_lie_between_single_shot_and_everything():
    rows = fake(np.array([0.7, 0.7, 0.3, 1.0]))
    assert ablations.votes(rows, "clean", 1).value == pytest.approx(
        evidence.Outcomes.of(rows).single("clean").value
    )
    assert (
        ablations.votes(rows, "clean", 10).value
        == evidence.Outcomes.of(rows).majority("clean").value
        == 0.75
    )
    with pytest.raises(
        ValueError, match="a vote of 11 needs 11 purifications per image; the records keep 10"
    ):
        ablations.votes(rows, "clean", 11)


def test_the_queue_holds_each_experiment_once(capsys):
    ablations.main(["--queue", "--grid", "tau", "--grid", "p", "--n-images", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) == 7 + 4 - 1
    parsed = [command._parser().parse_args(["run", *line.split()]) for line in lines]
    assert {e.n_images for e in parsed} == {8} and {e.attack for e in parsed} == {ablations.ATTACK}


def test_a_queue_line_is_the_experiment_that_would_run(capsys):
    for seed, K in ((0, 20), (3, 20), (1, 8)):
        ablations.main(["--queue", "--grid", "p", "--seed", str(seed), "--K", str(K)])
        parsed = [
            command._parser().parse_args(["run", *line.split()])
            for line in capsys.readouterr().out.splitlines()
        ]
        keys = {
            evidence.Experiment(e.defence, e.attack, e.bench, K=e.K, seed=e.seed).key
            for e in parsed
        }
        assert keys == {e.key for e in ablations.experiments("p", K=K, seed=seed).values()}


def test_progress_is_listed(capsys):
    ablations.main(["--json"])
    assert set(json.loads(capsys.readouterr().out)) == set(ablations.GRIDS)
