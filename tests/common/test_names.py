"""Names: every spec of the records has a name of its own, and its text is kept beside it."""

from __future__ import annotations

import html
import re
from dataclasses import fields

import pytest

from hetpure_lab import evidence
from hetpure_lab.attacks import ATTACKS
from hetpure_lab.common import names, specs
from hetpure_lab.defences import DEFENCES
from hetpure_lab.evidence import records
from hetpure_lab.networks import benches


@pytest.fixture(scope="module")
def recorded() -> dict[str, set[str]]:
    configs = [next(iter(records.read(path).values()))["config"] for path in evidence.files()]
    return {
        "defence": {specs.write(c["defence"], DEFENCES) for c in configs},
        "attack": {specs.write(c["attack"], ATTACKS) for c in configs},
    }


@pytest.mark.parametrize("kind", ["defence", "attack"])
def test_no_two_specs_of_the_records_share_a_name(recorded, kind):
    said = {spec: getattr(names, kind)(spec) for spec in recorded[kind]}
    assert len(said) > 10 and len(set(said.values())) == len(said)
    assert not any(re.search(r"[=:]\S|_", name) for name in said.values())


def test_no_two_defences_share_a_name():
    assert len({names.defence(slug) for slug in DEFENCES}) == len(DEFENCES)


def test_the_unsaid_budget_of_an_attack_is_its_classes_default():
    for slug, budget in names.BUDGETS.items():
        defaults = {f.name: f.default for f in fields(ATTACKS[slug])}
        assert (defaults["iterations"], defaults["eot"]) == budget
    assert set(names.ATTACKS) == set(ATTACKS)


def test_a_name_keeps_what_was_set():
    assert names.defence("uniform:t=0.2,steps=1") == "uniform noise, t = 0.2, 1 step"
    assert names.defence("uniform") == names.defence("uniform:t=0.1")
    assert names.attack("pgd") == "PGD through every step, 20 × 8"
    assert names.attack(f"pgd:eps={4 / 255}") == "PGD through every step, 20 × 8, radius 4/255"
    assert "40 × 16" in names.attack("pgd:iterations=40,eot=16")
    assert names.bench("imagenet-small-10") == "ImageNet photographs, small networks, 10 classes"


def test_every_bench_has_a_name_of_its_own():
    said = [names.bench(name) for name in benches.SMALL]
    assert len(set(said)) == len(said) and not any(name in said for name in benches.SMALL)


def test_what_is_not_known_here_is_still_named():
    assert names.defence("my-own:strength=2,rounds=3") == "my-own, strength = 2, rounds = 3"
    assert names.attack("my-own-attack:eps=4/255") == "my-own-attack, radius 4/255"


@pytest.mark.parametrize("spec", ["hetpure:tau=0.5", "gradual", f"pgd:eps={4 / 255}"])
def test_markup_carries_a_spec_that_can_be_pasted(spec):
    title = html.unescape(re.search('title="([^"]*)"', names.markup(spec))[1])
    known = ATTACKS if spec.startswith("pgd") else DEFENCES
    assert specs.parse(title, known)[0] == specs.parse(spec, known)[0]
    assert specs.normal(title, known) == specs.normal(spec, known)
