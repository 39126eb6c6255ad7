"""Listing: one bad file hides no other, and what was read before is not read again."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import warnings

import pytest
import torch

from hetpure_lab import data, evidence
from hetpure_lab.evidence import Experiment, engine, listing, records

EXPERIMENT = Experiment("none", "noise")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    images = data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(4)]
    evidence.run(EXPERIMENT, images, progress=False, results=results)
    return EXPERIMENT.path(results)


@pytest.fixture
def results(made, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "CACHE", tmp_path / "cache")
    shutil.copytree(made.parent, tmp_path / "results" / made.parent.name)
    return tmp_path / "results"


def test_a_bad_line_an_unknown_network_and_a_stray_file_hide_no_other(results):
    path = EXPERIMENT.path(results)
    good, (record, *_) = path.read_bytes(), evidence.read(path).values()
    path.write_bytes(good + b'{"image": "x"}\n{"torn')
    gone = record | {"config": record["config"] | {"weights": {"no-such-network": "0123"}}}
    records.append(path.with_name("gone.jsonl"), [gone])
    path.with_name("stray.jsonl").write_text('{"image": "a", "note": 1}\n')
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning) as heard:
            rows = listing.rows(results)
        said = "\n".join(str(warning.message) for warning in heard)
        assert len(rows) == 1 and rows[0]["n"] == 4
        assert (
            f"{path}, line 6: no record of an experiment" in said
            and f"{path}, line 7: not a whole record" in said
        )
        assert (
            "gone.jsonl" in said
            and "no-such-network" in said
            and "stray.jsonl: no file of an experiment" in said
        )


def test_a_row_follows_its_file(results):
    path = EXPERIMENT.path(results)
    (before,) = listing.rows(results)
    assert before == json.loads(json.dumps(evidence.summary(path))) and listing.rows(results) == [
        before
    ]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert listing.rows(results)[0]["n"] == 3
    for store in (results.parent / "cache" / "rows").iterdir():
        store.write_text("{damaged")
    assert listing.rows(results)[0]["n"] == 3


def test_ten_times_the_experiments_take_at_most_three_times_the_time(results):
    path = EXPERIMENT.path(results)

    def seconds(n):
        for k in range(n):
            shutil.copy(path, path.with_name(f"copy {k}.jsonl"))
        env = os.environ | {
            "HETPURE_RESULTS": str(results),
            "XDG_CACHE_HOME": str(results.parent / f"cache {n}"),
        }
        command = [sys.executable, "-m", "hetpure_lab", "experiments", "--json"]
        spent = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            assert (
                len(
                    json.loads(
                        subprocess.run(command, env=env, capture_output=True, check=True).stdout
                    )
                )
                == n + 1
            )
            spent.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        return min(spent[1:])  # the first reads them

    few, many = seconds(24), seconds(240)
    assert many <= 3 * few and many < 1.5


def test_radii_that_8_bits_cannot_hold_and_folders_that_cannot_be_are_found_before_any_work(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "each", lambda *_: pytest.fail("work was begun"))
    images = data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(1)]
    for eps in ("0.9", "1/510"):
        with pytest.raises(ValueError, match="from 1/255 to 127/255"):
            evidence.run(
                Experiment("none", f"pgd:eps={eps}"), images, progress=False, results=tmp_path
            )
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="no records can be written there"), warnings.catch_warnings():
        evidence.run(EXPERIMENT, images, progress=False, results=tmp_path / "file")


def test_images_of_another_split_or_source_join_no_file(results):
    path, sample = EXPERIMENT.path(results), data.embedded_sample(data.DATASETS["cifar10"])
    with pytest.raises(
        ValueError, match="about the split 'test'; these images are of the split 'sample'"
    ):
        evidence.run(
            EXPERIMENT, data.load("cifar10", "sample", quiet=True), progress=False, results=results
        )
    before = path.read_bytes()
    other = data.embedded_sample(data.DATASETS["imagenet"])
    with pytest.raises(
        ValueError, match="holds records about images of the CIFAR-10 sample.*they would be mixed"
    ):
        engine.check_origin(EXPERIMENT, other, evidence.read(path), path)
    part, whole = sample[torch.arange(3)].named("test"), sample.named("test")
    found = {"a": {"source": sample.source, "data": whole.digest}}
    engine.check_origin(EXPERIMENT, whole, found, path)
    with pytest.raises(ValueError, match="they would be mixed"):
        engine.check_origin(EXPERIMENT, part, found, path)
    assert path.read_bytes() == before
