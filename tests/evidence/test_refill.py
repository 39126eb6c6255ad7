"""Decided images make room for waiting ones: the networks stay full, and no record changes."""

from __future__ import annotations

import pytest
import torch

from hetpure_lab import data, evidence
from hetpure_lab.attacks import PGD, Undefended, confirmed
from hetpure_lab.attacks.threat import once
from hetpure_lab.common import microbatch
from hetpure_lab.evidence import Experiment, engine
from hetpure_lab.networks import benches

FATE = ("label", "iterations", "delta", "adversarial", "clean", "null", "config")
STOPPING = "confirm=1,confirm_every=2"


@pytest.fixture(scope="module")
def images():
    return data.embedded_sample(data.DATASETS["cifar10"]).take(6)


@pytest.mark.parametrize(
    "defence, attack",
    [
        ("none", f"pgd:iterations=7,eot=1,step=0.002,{STOPPING}"),
        ("none", f"bpda:iterations=5,eot=1,step=0.002,keep=best,{STOPPING}"),
        ("none", f"pgd:iterations=4,eot=1,step=0.002,random_start=1,restarts=2,{STOPPING}"),
        ("uniform:t=0.05,steps=1", f"pgd:iterations=6,eot=2,step=0.002,{STOPPING}"),
        ("hetpure:steps=2,U=2", f"pgd-mask:iterations=3,eot=2,step=0.01,{STOPPING}"),
    ],
)
def test_records_do_not_depend_on_the_batch_or_on_who_waits(images, defence, attack, tmp_path):
    """One image at a time, two with others waiting, all at once by the engine, and by `run`."""
    experiment = Experiment(defence, attack, split="sample", K=2)
    alone, refilled, auto = (
        evidence.run(experiment, images, batch=batch, progress=False, results=tmp_path / f"{batch}")
        for batch in (1, 2, None)
    )
    together = {r["image"]: r for r in evidence.shard(experiment, images)}
    for key in images.ids:
        kinds = [[r[key][field] for field in FATE] for r in (alone, refilled, auto, together)]
        assert all(kind == kinds[0] for kind in kinds)
    if "restarts" not in attack and defence == "none":
        assert len({record["iterations"] for record in alone.values()}) > 1  # some stopped early


def test_the_batch_stays_full_while_images_wait(monkeypatch):
    """Every iteration but those between two looks has as many images as asked for."""
    images = data.embedded_sample(data.DATASETS["cifar10"])
    attack = PGD(iterations=12, eot=2, step=0.002, confirm=1, confirm_every=2)
    defence = Undefended(benches.load("cifar10-small").classifier)
    waiting, active, left = once(images.floats, images.labels, images.ids), [], [len(images)]

    def counted(most):
        found = waiting(most)
        left.append(left[-1] - len(found[0]))
        return found

    advance = PGD.advance
    monkeypatch.setattr(
        PGD, "advance", lambda *a: active.append((len(a[2]), left[-1])) or advance(*a)
    )
    found = list(attack.each(defence, counted, 0, lambda k: None, 4))
    assert sorted(torch.cat([f.places for f in found]).tolist()) == list(range(len(images)))
    full = [n for n, waits in active[::2] if waits]
    assert len(full) > 3 and set(full) == {4}
    spent = sum(int(f.spent.sum()) for f in found)
    assert len(active) < 1.5 * spent / 4 + attack.iterations


def test_confirmation_looks_at_all_together_and_each_at_its_own_draws(monkeypatch):
    """Images at different iterations are one batch; their draws are those of the image alone."""
    images = data.embedded_sample(data.DATASETS["cifar10"]).take(4)
    from hetpure_lab import defences

    defence = defences.build("uniform:t=0.1,steps=1", benches.load("cifar10-small"))
    copies = [range(0, 3), range(6, 9), range(3, 6), range(0, 3)]
    together = confirmed(defence, images.floats, images.labels, images.ids, copies)
    each = [
        confirmed(defence, images.floats[i : i + 1], images.labels[i : i + 1], [key], copies[i])
        for i, key in enumerate(images.ids)
    ]
    assert together.tolist() == torch.cat(each).tolist()


def test_what_is_undecided_when_memory_runs_out_begins_again(images, tmp_path, monkeypatch):
    experiment = Experiment("none", f"pgd:iterations=6,eot=1,step=0.002,{STOPPING}", split="sample")
    before = {r["image"]: r for r in evidence.shard(experiment, images)}
    monkeypatch.setattr(microbatch, "_rows", {})
    monkeypatch.setattr(microbatch, "_ceiling", {})
    advance, calls = PGD.advance, []

    def full(*args):
        calls.append(len(args[2]))
        if len(calls) == 4:
            raise torch.OutOfMemoryError
        return advance(*args)

    monkeypatch.setattr(PGD, "advance", full)
    rows = microbatch.rows(torch.device("cpu"))
    found = evidence.run(experiment, images, batch=3, progress=False, results=tmp_path)
    assert microbatch.rows(torch.device("cpu")) <= rows // 2 and len(calls) > 4
    assert all([found[k][f] for f in FATE] == [before[k][f] for f in FATE] for k in images.ids)
    lines = experiment.path(tmp_path).read_text().splitlines()
    assert sum('"image"' in line for line in lines) == len(images)  # nothing twice


def test_scoring_waits_until_it_fills_the_networks(images, monkeypatch):
    """No record is scored alone while others are on their way: as many as are attacked at once."""
    experiment = Experiment("none", f"pgd:iterations=8,eot=1,step=0.002,{STOPPING}", split="sample")
    sizes, inner = [], engine.recorded
    monkeypatch.setattr(
        engine,
        "recorded",
        lambda e, d, a, rows, *r: sizes.append(len(rows)) or inner(e, d, a, rows, *r),
    )
    none = lambda most: images[torch.arange(0)]
    list(engine.each(experiment, images, none, 3))
    assert sum(sizes) == 6 and all(n >= 3 for n in sizes[:-1])
