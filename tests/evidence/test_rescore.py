"""Rescoring: stored adversarial images are judged again, and versions of the code that agree count
as one.
"""

from __future__ import annotations

import json

import pytest
import torch

from hetpure_lab import data, evidence
from hetpure_lab.audit.cases import BARE, HEADLINE
from hetpure_lab.evidence import Experiment, pixels, rescore, verify
from hetpure_lab.evidence.rescore import Note

EXPERIMENT = Experiment("uniform:steps=2", "pgd:iterations=1,eot=1,confirm=0", K=4)


@pytest.fixture(scope="module")
def images():
    return data.embedded_sample(data.DATASETS["cifar10"]).take(4)


@pytest.fixture(scope="module")
def made(images, tmp_path_factory):
    """A file of four records, the last two as if another version of the code had made them."""
    results = tmp_path_factory.mktemp("results")
    evidence.run(EXPERIMENT, images, progress=False, results=results)
    path = EXPERIMENT.path(results)
    rows = list(evidence.read(path).values())
    for row in rows[2:]:
        row |= {"code": row["code"] | {"hetpure_core.py": "another"}}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_stored_images_score_as_recorded_in_any_company(made, images):
    records = list(evidence.read(made).values())
    assert rescore.differing(records, images) == [0] * 4
    assert rescore.differing(records[::-1][:1], images) == [0]


def test_a_label_or_an_image_that_was_changed_comes_out(made, images):
    records = list(evidence.read(made).values())
    other = 1 - int(records[0]["clean"]["labels"][0] == 1)
    changed = records[0] | {
        "clean": records[0]["clean"] | {"labels": [other, *records[0]["clean"]["labels"][1:]]}
    }
    assert rescore.differing([changed, records[1]], images)[0] == 1
    grey = (
        (128 - pixels.with_records(images, {records[0]["image"]: {}}).pixels[0].short())
        .clamp(-127, 127)
        .to(torch.int8)
    )
    ruined = records[0] | {"delta": pixels.pack(grey)}
    assert rescore.differing([ruined], images)[0] > 0


def test_versions_that_score_alike_count_as_one(made, images, tmp_path):
    records, target = evidence.read(made), tmp_path / "rescored.jsonl"
    assert not rescore.same_code(records, [])
    verdict = rescore.rescore(made, images, rescore.sample(made, 1), target)
    found = rescore.notes(target)
    assert not verdict.faults and verdict.looked_at == 4 and verdict.scored == 2
    assert len(found) == 2 and {n.differing for n in found} == {0} and {n.of for n in found} == {12}
    assert rescore.same_code(records, found) and not rescore.same_code(
        records, [n for n in found if n.code == n.by]
    )
    assert not rescore.same_code(records, [Note(**vars(n) | {"differing": 1}) for n in found])
    apart = [Note(**vars(n) | {"by": f"version {i}"}) for i, n in enumerate(found)]
    assert not rescore.same_code(records, apart)
    assert rescore.same_code(dict(list(records.items())[:2]), [])  # one version needs no proof
    assert (
        rescore.summary(found)
        == "Scored again: 2 stored adversarial images, of whose 24 labels 0 came out differently."
    )


def test_other_records_are_scored_at_every_run(made):
    drawn = {tuple(rescore.sample(made, 1)) for _ in range(40)}
    assert len(drawn) > 1 and all(len(images) == 2 for images in drawn)


def test_records_of_other_weights_are_refused(made, images):
    record = next(iter(evidence.read(made).values()))
    config = record["config"] | {
        "weights": {name: "0" * 16 for name in record["config"]["weights"]}
    }
    with pytest.raises(ValueError, match="weights are not those"):
        verify.rescored([record | {"config": config}], images)


@pytest.mark.parametrize("defence", ["none", "uniform:t=0.2", "hetpure"])
def test_committed_records_score_as_recorded(defence):
    try:
        images = data.load("cifar10", "test", quiet=True)
    except data.NoData:
        pytest.skip("needs the CIFAR-10 test images that the records are about")
    path = Experiment(defence, BARE if defence == "none" else HEADLINE).path()
    records = list(evidence.read(path).values())[:2]
    if not {r["image"] for r in records} <= set(images.ids):
        pytest.skip("the CIFAR-10 images on this machine are not those of the records")
    # of 60: a processor that rounds in another order may decide a tie otherwise
    assert max(rescore.differing(records, images)) <= 1
