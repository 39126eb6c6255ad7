"""Evidence: what was acknowledged is there, nothing counts twice, and a killed run continues where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch

from hetpure_lab import data, evidence, specs, stats, tables
from hetpure_lab.attacks import ATTACKS
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import Experiment, Outcomes

FAST = "pgd:iterations=1,eot=1,confirm=0"


@pytest.fixture(scope="module")
def images():
    return data.embedded_sample(data.DATASETS["cifar10"])


def test_specs_round_trip_and_refuse_nonsense():
    assert specs.parse("hetpure:tau=0.5,U=3,blocks=0+2", DEFENCES)[1].blocks == (0, 2)
    assert specs.parse("pgd:eps=4/255", ATTACKS)[1].eps == 4 / 255
    assert specs.parse("none", DEFENCES) == ("none", None)
    for bad in ("nothing", "uniform:tau=0.5", "hetpure:t_l=0.1,t_s=0.2", "none:t=1"):
        with pytest.raises(ValueError):
            specs.parse(bad, DEFENCES)


def test_an_experiment_is_its_settings_not_its_wording():
    assert Experiment("hetpure", FAST).key == Experiment("hetpure:tau=0.8,U=10", FAST).key
    assert len({Experiment(d, FAST).key for d in ("hetpure", "hetpure:tau=0.7", "uniform", "none")}) == 4


def test_records_are_complete_and_reproducible(images, tmp_path):
    experiment = Experiment("uniform:steps=2", FAST, K=3)
    first = evidence.run(experiment, images[torch.arange(5)], progress=False, batch=2, results=tmp_path / "a")
    again = evidence.run(experiment, images[torch.tensor([4, 2, 0, 1, 3])], progress=False, batch=5, results=tmp_path / "b")
    for key, record in first.items():
        assert {k: record[k] for k in ("adversarial", "clean", "null")} == {k: again[key][k] for k in ("adversarial", "clean", "null")}
        assert {"config", "source", "code", "torch", "device", "seconds"} <= set(record)
    row = evidence.summary(experiment.path(tmp_path / "a"))
    assert (row["n"], row["K"], row["norm"], row["defence"]) == (5, 3, "Linf", "uniform:t=0.1,steps=2")


def test_only_missing_images_run(images, tmp_path, monkeypatch):
    experiment, seen = Experiment("none", FAST), []
    inner = evidence.evaluate
    monkeypatch.setattr(evidence, "evaluate", lambda e, d, a, rows, *rest: seen.extend(rows.ids) or inner(e, d, a, rows, *rest))
    evidence.run(experiment, images.take(3), progress=False, results=tmp_path)
    evidence.run(experiment, images.take(5), progress=False, results=tmp_path)
    assert seen == images.take(5).ids


def test_adversarial_images_can_be_rebuilt(images, tmp_path):
    records = evidence.run(Experiment("none", "pgd:iterations=3,eot=1"), images, progress=False, results=tmp_path)
    rebuilt = evidence.adversarial_images(images, records)
    difference = rebuilt.short() - images.pixels.short()
    assert rebuilt.dtype == torch.uint8 and 0 < difference.abs().max() <= 8


def test_torn_line_is_dropped_and_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "r.jsonl"
    evidence.append(path, [{"image": "a", "v": 1}])
    with path.open("ab") as file:
        file.write(b'{"image": "b", "v"')
    evidence.append(path, [{"image": "c", "v": 3}, {"image": "a", "v": 9}])
    with pytest.warns(UserWarning, match="line 2: not a whole record"):
        records = evidence.read(path)
    assert {k: r["v"] for k, r in records.items()} == {"a": 1, "c": 3}


RUNNER = """
import sys, torch
from pathlib import Path
from hetpure_lab import data, evidence
torch.set_num_threads(1)
images = data.embedded_sample(data.DATASETS["cifar10"])
print("ready", flush=True)
evidence.run(evidence.Experiment("none", "pgd:iterations=12,eot=1,confirm=0"), images, batch=1, progress=False, results=Path(sys.argv[1]))
"""


def test_killed_runs_lose_at_most_the_batch_in_flight(images, tmp_path):
    experiment, rng = Experiment("none", "pgd:iterations=12,eot=1,confirm=0"), np.random.default_rng(0)
    path, before = experiment.path(tmp_path), 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)], stdout=subprocess.PIPE, env=os.environ)
        process.stdout.readline()
        time.sleep(0.15 + 0.5 * rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(evidence.read(path)) >= before
            before = len(evidence.read(path))
    evidence.run(experiment, images, progress=False, results=tmp_path)
    lines = [json.loads(line)["image"] for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(images.ids)  # every image once: nothing lost, nothing twice


def test_two_writers_at_once(images, tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)], env=os.environ) for _ in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    records = evidence.read(Experiment("none", "pgd:iterations=12,eot=1,confirm=0").path(tmp_path))
    assert set(records) == set(images.ids)


def outcomes(correct: np.ndarray) -> Outcomes:
    labels = np.full(len(correct), 3)
    return Outcomes(labels, {"adversarial": np.where(correct, 3, 5)})


def test_scores_follow_from_outcomes():
    o = outcomes(np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=bool))
    assert o.single("adversarial").value == pytest.approx(0.5)
    assert o.majority("adversarial").value == 0.5 and o.every("adversarial").value == 0.25


def test_intervals_are_the_textbooks():
    a = stats.wilson(np.array([1] * 304 + [0] * 208))
    assert (round(a.value, 4), round(a.low, 4), round(a.high, 4)) == (0.5938, 0.5507, 0.6354)
    assert stats.mcnemar(np.array([1] * 15 + [0] * 5, dtype=bool), np.array([0] * 15 + [1] * 5, dtype=bool)) == pytest.approx(
        0.0414, abs=1e-4
    )
    assert stats.mcnemar(np.ones(9, bool), np.ones(9, bool)) == 1.0


def test_bootstrap_interval_covers():
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        a = stats.mean_rate(rng.beta(2, 3, 60), seed=i, resamples=400)
        hits += a.low <= 0.4 <= a.high
    assert 180 <= hits <= 199


def test_an_interval_never_vanishes_because_all_images_agree():
    a = stats.mean_rate(np.zeros(8))
    assert (a.value, a.low) == (0, 0) and a.high == stats.wilson(np.zeros(8)).high > 0.2


def test_verdict_needs_an_interval_clear_of_zero():
    words = [tables.verdict(stats.Accuracy(v, v - 0.05, v + 0.05, 10)) for v in (0.1, 0.0, -0.1)]
    assert words == ["higher", "no difference established", "lower"]


def test_committed_records_are_readable_and_what_they_claim():
    for path in sorted(evidence.RESULTS.glob("*/*.jsonl")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            records = evidence.read(path)
        config = next(iter(records.values()))["config"]
        assert all(r["config"] == config for r in records.values()), path
        assert all(len(r[c]["labels"]) == config["K"] for r in records.values() for c in evidence.COLUMNS), path
        bound = round(config["attack"]["eps"] * 255) if config["attack"]["norm"] == "Linf" else 127
        assert all(evidence.unpack(r["delta"], (3, 32, 32)).abs().max() <= bound for r in records.values()), path


def test_the_queue_is_made_of_valid_experiments():
    for words in evidence.queue():
        options = dict(zip(words[::2], words[1::2]))
        Experiment(options["--defence"], options["--attack"])
