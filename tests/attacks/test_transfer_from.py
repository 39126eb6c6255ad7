"""Transfer between networks: what is adversarial for the source is scored on the target."""

from __future__ import annotations

import pytest
import torch

from hetpure_core import Uniform
from hetpure_lab.attacks import PGD, Undefended, transfer_from
from hetpure_lab.attacks.transfer_from import TransferFrom
from hetpure_lab.audit import world
from hetpure_lab.audit.world import Truth, World
from hetpure_lab.evidence import Experiment

PARTS = world.two_parts()
ELSEWHERE = World(PARTS.pattern.flip(2) * -1 + 0)  # signs that agree and disagree with ours
SAME = {"iterations": 8, "eot": 2, "loss": "margin", "confirm": 0}


@pytest.fixture
def sample():
    images = PARTS.sample(8, seed=1)
    return images.floats, images.labels, images.ids


@pytest.fixture
def source(monkeypatch):
    """Names of source benches, and which world each is."""
    known = {"twin": PARTS, "other": ELSEWHERE}
    monkeypatch.setattr(transfer_from.benches, "load", lambda name, device: known[name].bench())


@pytest.mark.parametrize("gradient", ["exact", "undefended"])
def test_from_a_twin_it_is_the_best_attack_and_from_other_networks_as_good_as_they_agree(
    gradient, source, sample
):
    """Pixels of a linear classifier are all moved by the whole radius, against the signs of the
    source.
    """
    (x, y, ids), purifier = sample, Uniform(0.2, 2)
    truth, defence = Truth(PARTS, purifier), PARTS.defended(purifier)
    share = {}
    for name in ("twin", "other"):
        found, _ = TransferFrom(bench=name, gradient=gradient, **SAME).run(defence, x, y, ids)
        share[name] = truth.share(x, y, found)
    agreement = float((PARTS.pattern.sign() == ELSEWHERE.pattern.sign()).double().mean())
    assert 0.97 < share["twin"] < 1.005 and share["other"] < 0.6 * share["twin"]
    assert 0 < agreement < 1


def test_it_never_asks_the_target(source, sample, monkeypatch):
    (x, y, ids), defence = sample, PARTS.defended(Uniform(0.2, 2))
    asked = []
    defence.classifier.register_forward_pre_hook(lambda *_: asked.append(1))
    TransferFrom(bench="twin", iterations=1, eot=1).run(defence, x, y, ids)
    assert asked == []


def test_a_defence_without_a_purifier_is_attacked_through_the_bare_source(source, sample):
    (x, y, ids), bare = sample, Undefended(PARTS.bench().classifier)
    mine, _ = TransferFrom(bench="twin", **SAME).run(bare, x, y, ids)
    plain, _ = PGD(**SAME).run(bare, x, y, ids)
    assert torch.equal(mine, plain)


def test_a_record_names_the_weights_of_both_benches():
    named = lambda attack: set(Experiment("uniform", attack).config["weights"])
    mine = {"cifar10-small-classifier", "cifar10-small-denoiser"}
    other = "transfer-from:bench=cifar10-small-map"
    assert named(other) == mine | {"cifar10-small-map-denoiser"}
    assert named(f"{other},gradient=undefended") == mine


@pytest.mark.parametrize(
    "bench, says",
    [("svhn-small", "take a bench of cifar10"), ("cifar11", "unknown bench 'cifar11'")],
)
def test_a_bench_of_other_images_or_none_is_one_sentence(bench, says):
    with pytest.raises(ValueError, match=says) as error:
        Experiment("uniform", f"transfer-from:bench={bench}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("gradient", ["exact", "undefended"])
def test_an_image_does_not_feel_its_neighbours(gradient, source, sample):
    """Alone and among others an image has the same adversarial image, whatever the batch."""
    (x, y, ids), defence = sample, PARTS.defended(Uniform(0.2, 2))
    attack = TransferFrom(bench="other", gradient=gradient, **SAME)
    together, _ = attack.run(defence, x, y, ids)
    for i in (0, 3):
        alone, _ = attack.run(defence, x[i : i + 1], y[i : i + 1], ids[i : i + 1])
        torch.testing.assert_close(alone[0], together[i])
    moved = x.flip(0)
    other, _ = attack.run(defence, torch.cat([x[:1], moved[1:]]), y, ids)
    torch.testing.assert_close(other[0], together[0])
