"""Studies: kept by image and resumed, the same in any batch, and what follows from their rows is
what the rows say.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from hetpure_core import HetPure, Purified, linear_schedule
from hetpure_lab import data, evidence
from hetpure_lab.evidence import inputs, pixels, studies
from hetpure_lab.evidence.records import append, read
from hetpure_lab.networks.benches import Bench
from hetpure_lab.networks.efficientnet import EfficientNetLite0


@pytest.fixture
def bench(classifier, denoiser):
    method = HetPure(t_l=0.2, t_s=0.1, steps=4, tau=0.5)
    networks = {
        "classifier": classifier.float(),
        "denoiser": denoiser.float(),
        "schedule": linear_schedule(),
    }
    return Bench(
        "cifar10-small",
        "cifar10",
        tuple("abcde"),
        **networks,
        method=method,
        weights={},
        device=torch.device("cpu"),
    )


@pytest.fixture
def images():
    pixels = torch.randint(
        0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return data.Images(pixels, torch.arange(4), torch.ones(4, dtype=torch.bool), "random pixels")


def lab(bench, tmp_path):
    return studies.Lab(bench, 0, 1.0, tmp_path)


def test_a_study_goes_on_where_it_stopped(bench, images, tmp_path):
    where = studies.path("consistency", bench.name, results=tmp_path)
    studies.run("consistency", bench, images, 2, results=tmp_path)
    before = where.read_bytes()
    studies.run("consistency", bench, images, 3, results=tmp_path)
    assert where.read_bytes().startswith(before) and list(read(where)) == images.take(3).ids
    record = read(where)[images.take(1).ids[0]]
    assert (
        record["commit"] == evidence.provenance()["commit"]
        and record["host"]["threads"] == 1
        and record["unit"] > 0
    )


@pytest.mark.parametrize("name", ["consistency", "distance", "paths"])
def test_an_images_rows_do_not_depend_on_its_neighbours(name, bench, images, tmp_path):
    together = studies.STUDIES[name].rows(lab(bench, tmp_path), images)
    alone = studies.STUDIES[name].rows(lab(bench, tmp_path), images[torch.tensor([2])])[0]
    assert [
        {
            k: v if isinstance(v, str) else pytest.approx(v, abs=2e-4)
            for k, v in row.items()
            if v is not None
        }
        for row in alone
    ] == [{k: v for k, v in row.items() if v is not None} for row in together[2]]


def test_what_is_not_purified_has_no_distance_and_transferred_images_have(bench, images, tmp_path):
    rows = pd.DataFrame(
        [row for rows in studies.distance(lab(bench, tmp_path), images) for row in rows]
    )
    by = rows.groupby(["kind", "defence"]).distance
    assert by.max()["natural", "none"] == 0 < by.min()["transferred", "none"]
    assert set(rows.defence) == set(studies.purifiers(bench.method)) and set(rows.kind) == {
        "natural",
        "transferred",
    }


@pytest.mark.parametrize("place", [-1, -3])
def test_adaptive_images_are_those_of_the_records(place, bench, images, tmp_path):
    method = studies.purifiers(bench.method)[place]
    delta = torch.zeros(3, 8, 8, dtype=torch.int8)
    file = evidence.Experiment(method, "pgd", bench.name).path(tmp_path)
    append(file, [{"image": images.ids[1], "delta": pixels.pack(delta)}])
    rows = [pd.DataFrame(r) for r in studies.distance(lab(bench, tmp_path), images)]
    assert ["adaptive" in set(r.kind) for r in rows] == [False, True, False, False]
    mine = rows[1][rows[1].defence == method].set_index("kind").distance
    assert (
        mine["adaptive"] == pytest.approx(mine["natural"], abs=1e-4)
        and mine["adaptive"] != mine["transferred"]
    )


def test_a_gradient_costs_what_the_purifier_and_the_meter_say(bench, images, tmp_path):
    x, y = images.floats[:1], images.labels[:1]
    row = {
        how: studies.gradient(lab(bench, tmp_path), "multi-step", 2, 4, how, x, y, ["a"], repeats=1)
        for how in (False, True)
    }  # checkpointing
    calls = HetPure(t_l=0.2, t_s=0.1, steps=4, U=2, reading="multi-step").calls(linear_schedule())
    assert [(r["calls"], r["passes"]) for r in row.values()] == [(calls, calls), (calls, 2 * calls)]
    assert row[True]["held"] < row[False]["held"] and [r["activations"] for r in row.values()] == [
        "kept",
        "recomputed",
    ]


def test_the_cost_study_sweeps_u_and_steps_for_every_order(bench, tmp_path):
    points = studies.points(lab(bench, tmp_path))
    assert len(points) == len(set(points))
    for reading in studies.READINGS:
        for kept in (False, True):
            mine = [(U, T) for r, U, T, how in points if (r, how) == (reading, kept)]
            assert {U for U, T in mine if T == 4} >= set(studies.LENGTHS) and {
                T for U, T in mine if U == 10
            } >= set(studies.STEPS)


def test_other_settings_or_another_machine_are_another_file():
    paths = {
        studies.path("cost", "cifar10-small", seed, device)
        for seed in (0, 1)
        for device in ("cpu", "cuda")
    }
    assert len(paths) == 4
    assert studies.path("distance", "cifar10-small", device="cuda") == studies.path(
        "distance", "cifar10-small"
    )
    known = ", ".join(studies.STUDIES)
    with pytest.raises(ValueError, match=f"unknown study 'costs'; known: {known}"):
        studies.path("costs", "cifar10-small")


def rows_of(defence, distances, kind="natural"):
    return [
        {"image": str(i), "kind": kind, "defence": defence, "distance": d}
        for i, d in enumerate(distances)
    ]


def test_the_nearer_purifier_is_told_from_pairs():
    far = {
        "hetpure": [0.1, 0.5, 0.9, 0.3] * 2,
        "sde": [0.2, 0.6, 1.0, 0.4] * 2,
        "ode": [0.1, 0.6, 0.8, 0.3] * 2,
        "none": [0.0] * 8,
    }
    rows = pd.DataFrame(
        [row for name, distances in far.items() for row in rows_of(name, distances)]
    )
    said = studies.nearer(rows).set_index("against")["the method's distance is"]
    assert said.to_dict() == {"sde": "smaller", "ode": "inconclusive"}, "nothing is not a purifier"
    assert studies.nearer(rows[rows.defence != "hetpure"]).empty


def test_single_and_repeated_resampling_are_compared_on_images_with_a_border():
    row = lambda image, reading, U, seam: {
        "image": image,
        "reading": reading,
        "U": U,
        "seam": seam,
        "distance": 0.5,
        "right": 1,
    }
    seams = (1.0, 1.1, 1.0, 1.1, 1.0, 1.1, 1.0, 1.1, None)
    rows = [row(i, "paper", 10, 0.9) for i in range(9)] + [
        row(i, "multi-step", 20, s) for i, s in enumerate(seams)
    ]
    said = studies.resampled(pd.DataFrame(rows))
    assert said.loc["jump at the mask's border"].tolist()[::2] == [8, "smaller"]
    assert said.loc["accuracy"].tolist()[::2] == [9, "inconclusive"]


def test_savings_are_of_the_mean_at_the_same_u():
    rows = [
        {"reading": r, "U": 20, "T": 10, "activations": "kept", "seconds": s}
        for r, s in (("multi-step", 7), ("multi-step", 9), ("paper", 2))
    ]
    assert studies.saved(pd.DataFrame(rows), "seconds", "kept") == {20: 0.75}


def test_a_lab_is_the_benchs_method_with_its_own_noise(bench, tmp_path):
    defended = lab(bench, tmp_path).behind(U=3)
    assert (
        isinstance(defended, Purified)
        and defended.purifier.U == 3
        and defended.seed != Purified(bench.classifier, bench.denoiser).seed
    )


def test_a_gpu_is_named_as_the_host(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert (
        studies.host("cuda")["processor"] == "a GPU" and studies.host("cpu")["processor"] != "a GPU"
    )


def test_the_list_names_files_and_errors_are_explained(capsys):
    studies.main([])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(
        studies.STUDIES
    )
    with pytest.raises(ValueError, match="unknown study 'time'"):
        studies.main(["time"])


class Photographer(EfficientNetLite0):
    """Sees the mean of what it is fed, and that it is fed at 224 pixels or not."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.register_buffer("closed", torch.zeros(2), persistent=False)

    def taps(self):
        return []

    def logits(self, x):
        return torch.stack(
            [torch.full((len(x),), float(x.shape[-1] != 224)), torch.full((len(x),), 0.5)], 1
        )


def test_feeding_compares_what_the_classifier_is_shown_image_by_image(bench, denoiser, tmp_path):
    images = data.Images(
        torch.zeros(3, 3, 128, 128, dtype=torch.uint8),
        torch.tensor([0, 0, 1]),
        torch.ones(3, dtype=torch.bool),
        "black",
    )
    of_photographs = replace(bench, classifier=Photographer(), denoiser=denoiser.float())
    rows = studies.feeding(lab(of_photographs, tmp_path), images)
    frame = pd.DataFrame([{"image": i} | row for i, image in enumerate(rows) for row in image])
    hits = inputs.recorded(frame)
    assert list(hits) == list(inputs.variants(Photographer())) and all(
        set(kinds) == {"clean", "purified"} for kinds in hits.values()
    )
    other_size = {"C3: a weaker classifier (128 pixels)", "C4: not normalised, 256 pixels"}
    for name, kinds in hits.items():
        expected = [True, True, False] if name in other_size else [False, False, True]
        assert kinds["clean"].tolist() == kinds["purified"].tolist() == expected


def test_feeding_is_for_photographs(bench, images, tmp_path):
    with pytest.raises(ValueError, match="not cifar10-small's"):
        studies.feeding(lab(bench, tmp_path), images)


def test_committed_studies_are_of_the_committed_weights(root):
    for path in (root / "results").glob("*/studies/*.jsonl"):
        for record in read(path).values():
            about = {k: record["config"][k] for k in ("study", "bench", "seed")}
            device = record["config"].get("device", "cpu")
            assert (
                studies.path(about["study"], about["bench"], about["seed"], device).name
                == path.name
            )
            assert json.dumps(record)
