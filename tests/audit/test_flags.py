"""Flags: a sound evaluation raises none, and every planted fault raises its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import records_of
from torch import Tensor, nn

from hetpure_core import HetPure, Purified, Uniform
from hetpure_lab import attacks, data, evidence
from hetpure_lab.attacks import PGD, Undefended, pgd
from hetpure_lab.audit import flags
from hetpure_lab.audit.flags import Evidence
from hetpure_lab.common.paths import ROOT
from hetpure_lab.data import Images
from hetpure_lab.evidence import Experiment, pixels
from hetpure_lab.networks import benches

LITTLE = PGD(iterations=4, eot=2, step=4 / 255, confirm=0)
HALF = HetPure(t_l=0.2, t_s=0.05, tau=0.5, steps=4)


@pytest.fixture
def defended(classifier, denoiser):
    """Puts the tiny networks behind a purifier."""
    return lambda purifier, kind=Purified: kind(classifier.float(), denoiser.float(), purifier)


def names(found: list[flags.Flag]) -> set[str]:
    return {flag.name for flag in found}


def live(
    defence: Purified | Undefended, images: Images, attack: PGD = LITTLE, K: int = 3
) -> set[str]:
    purifier = defence.purifier if isinstance(defence, Purified) else None
    known = purifier if type(purifier) in (HetPure, Uniform, type(None)) else HALF
    return names(flags.live(Experiment(known, attack, K=K), defence, attack, images))


SOUND = {"attacked": [0.5, 0.0] * 10, "clean": [0.9, 1.0] * 10, "null": [0.9, 0.95] * 10}


# ---- nothing wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "purifier", [HALF, replace(HALF, reading="released", steps=20), Uniform(0.1, 3), None], ids=str
)
def test_a_sound_defence_raises_no_flag(purifier, defended, little):
    defence = defended(purifier) if purifier else Undefended(defended(HALF).classifier)
    assert live(defence, little) == set()


def test_sound_records_raise_no_flag():
    exact = records_of("uniform:t=0.1", "pgd", **SOUND)
    assert flags.examine(exact, reference=0.95) == []
    more = records_of("uniform:t=0.1", "pgd:iterations=40,eot=16", **SOUND)
    assert flags.compare([exact, more, records_of("uniform:t=0.1", "bpda", **SOUND)]) == []


# ---- planted faults ------------------------------------------------------------------------------


class Detached(Purified):
    """The fault of wrapping the purifier in no_grad."""

    def purify(self, images: Tensor, noise, mask=None) -> Tensor:
        return super().purify(images.detach(), noise, mask)


@dataclass(frozen=True)
class KnownRegionDetached(HetPure):
    """The fault of losing one of the paths by which the input enters: the known region of Eq 8."""

    def plan(self, x_adv, mask, eps, noise, schedule):
        return super().plan(x_adv.detach(), mask, eps, noise, schedule)


def test_a_detached_purifier_is_caught(defended, little):
    assert live(defended(HALF, Detached), little) == {"zero-gradient"}


def test_a_purifier_that_is_detached_in_part_is_caught(defended, little):
    assert live(defended(KnownRegionDetached(**vars(HALF))), little) == {"inexact-gradient"}


def test_scoring_with_the_noise_of_the_attack_is_caught(defended, little, monkeypatch):
    for module in (attacks, pgd):
        monkeypatch.setattr(module, "reseeded", lambda defence, seed: defence)
    assert live(defended(HALF), little) == {"reused-noise"}


def test_scoring_all_k_with_the_same_noise_is_caught(defended, little, monkeypatch):
    inner = attacks.logits_of
    monkeypatch.setattr(
        attacks, "logits_of", lambda d, x, ids, copies: inner(d, x, ids, [0] * len(copies))
    )
    assert live(defended(HALF), little) == {"reused-noise"}
    constant = records_of("uniform:t=0.1", "pgd", **{c: [1.0, 0.0] * 10 for c in SOUND})
    assert names(flags.examine(constant)) == {"deterministic"}


@pytest.mark.parametrize(("used", "caught"), [(0.5, True), (0.8, True), (2, True), (1, False)])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 8 / 255), ("L2", 0.5)])
def test_an_attack_at_another_radius_than_stated_is_caught(
    norm, eps, used, caught, defended, little
):
    attack = replace(LITTLE, norm=norm, eps=eps, step=eps)
    stated = Experiment(Uniform(0.1, 2), attack, K=2)
    rows = evidence.evaluate(
        stated,
        defended(Uniform(0.1, 2)),
        replace(attack, eps=used * eps),
        little,
        torch.device("cpu"),
    )
    found = names(flags.examine(Evidence("", {r["image"]: r for r in rows})))
    assert ("wrong-epsilon" in found) is caught


class Bright(nn.Module):
    """Class 1 where the mean over pixels is above a half: under noise a biased coin."""

    def taps(self) -> list[nn.Module]:
        return []

    def forward(self, x: Tensor) -> Tensor:
        margin = 40 * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-margin, margin], 1)


def test_one_shot_acceptance_is_caught():
    """By its settings, and by what it leads to: images are set aside that a vote gets right."""
    attack = PGD(eps=2 / 255, iterations=20, eot=1, step=0.1 / 255, confirm=1, confirm_every=1)
    greys = (
        torch.arange(132, 138, dtype=torch.uint8)
        .reshape(-1, 1, 1, 1)
        .expand(-1, 3, 8, 8)
        .contiguous()
    )
    images = Images(
        greys, torch.ones(6, dtype=torch.long), torch.ones(6, dtype=torch.bool), "greys"
    )
    purifier = Uniform(0.15, 1)
    rows = evidence.evaluate(
        Experiment(purifier, attack),
        Purified(Bright(), flags.Blind(), purifier),
        attack,
        images,
        torch.device("cpu"),
    )
    found = names(flags.examine(Evidence("", {r["image"]: r for r in rows})))
    assert {"single-acceptance", "early-acceptance"} <= found


def test_a_classifier_without_its_normalisation_is_caught():
    bench, images = benches.load("cifar10-small"), data.embedded_sample(data.DATASETS["cifar10"])
    for mean, std, caught in ((0.5, 0.25, False), (0.0, 1.0, True)):
        bench.classifier.mean, bench.classifier.std = mean, std
        right = (bench.classifier(images.floats).argmax(1) == images.labels).double().tolist()
        e = records_of("none", "pgd", right, right, right)
        assert (
            names(flags.examine(e, flags.reference_accuracy(e))) == {"clean-accuracy"}
        ) is caught


@dataclass(frozen=True)
class Swapped(HetPure):
    """The fault of giving the strong noise to the unattended pixels, as Eq 8 prints it."""

    def plan(self, x_adv, mask, eps, noise, schedule):
        return super().plan(x_adv, 1 - mask, eps, noise, schedule)


@dataclass(frozen=True)
class TooLittle(Uniform):
    """The fault of taking a time for another: a tenth of the noise."""

    def plan(self, x_adv, mask, eps, noise, schedule):
        return Uniform(self.t / 10, self.steps).plan(x_adv, mask, eps, noise, schedule)


def test_swapped_noise_levels_are_caught(defended, little):
    assert live(defended(Swapped(**vars(HALF))), little) == {"noise-level"}


def test_too_little_noise_is_caught(defended, little):
    assert live(defended(TooLittle(0.2, 2)), little) == {"noise-level"}


class Unkeyed(Purified):
    """The fault of drawing noise from a global generator."""

    def purify(self, images: Tensor, noise, mask=None) -> Tensor:
        return super().purify(images, noise, mask) + 0.1 * torch.randn_like(images)


def test_noise_without_a_key_is_caught(defended, little):
    assert "irreproducible" in live(defended(HALF, Unkeyed), little)


class Probabilities(nn.Module):
    """The fault of a softmax at the end."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).softmax(-1)


class Dropout(Probabilities):
    """A bare network that was left in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + torch.rand(len(x), 5)


def test_outputs_that_are_not_logits_or_not_reproducible_are_caught(classifier, little):
    assert live(Undefended(Probabilities(classifier.float())), little) == {"probabilities"}
    assert "random" in live(Undefended(Dropout(classifier.float())), little)


# ---- signs in records ----------------------------------------------------------------------------


def test_an_attack_that_does_not_move_is_flagged():
    e = records_of("uniform:t=0.1", "pgd", **SOUND)
    e.records["0003"]["delta"] = pixels.pack(torch.zeros(3, 8, 8, dtype=torch.int8))
    (flag,) = flags.examine(e)
    assert flag.name == "zero-gradient" and "1 of 20 images never moved, such as 0003" in flag.seen


def test_an_attack_weaker_than_noise_is_flagged_on_the_image_where_it_is():
    null = [0.9, 0.95] * 10
    null[4] = 0.0
    found = flags.examine(
        records_of("uniform:t=0.1", "pgd", SOUND["attacked"], SOUND["clean"], null)
    )
    assert names(found) == {"weaker-than-noise"} and found[0].seen.endswith("0004")


def test_attacked_images_above_their_controls_are_flagged():
    found = flags.examine(
        records_of("uniform:t=0.1", "pgd", SOUND["clean"], SOUND["attacked"], SOUND["attacked"])
    )
    assert {"above-control", "weaker-than-noise"} == names(found)


def test_a_stronger_attack_that_breaks_less_is_flagged():
    exact = records_of("uniform:t=0.1", "pgd", **SOUND)
    approximate = records_of("uniform:t=0.1", "bpda", **(SOUND | {"attacked": [0.0, 0.0] * 10}))
    found = flags.compare([approximate, exact])
    assert names(found) == {"weaker-than-other"} and "10 of 20" in found[0].seen
    # another defence
    assert (
        flags.compare(
            [records_of("uniform:t=0.2", "bpda", **(SOUND | {"attacked": [0.0] * 20})), exact]
        )
        == []
    )


def test_an_attack_that_has_not_converged_is_flagged():
    short = records_of("uniform:t=0.1", "pgd", **SOUND)
    longer = records_of(
        "uniform:t=0.1", "pgd:iterations=40", **(SOUND | {"attacked": [0.25, 0.0] * 10})
    )
    assert names(flags.compare([short, longer])) == {"not-converged"}
    # not twice as many
    assert flags.compare([longer, records_of("uniform:t=0.1", "pgd:iterations=60", **SOUND)]) == []


def test_accuracy_that_grows_with_the_radius_is_flagged():
    near = records_of("uniform:t=0.1", "pgd:eps=2/255", **(SOUND | {"attacked": [0.1, 0.0] * 10}))
    far = records_of("uniform:t=0.1", "pgd:eps=8/255", **SOUND)
    assert names(flags.compare([near, far])) == {"not-monotone"}


def test_the_price_in_clean_accuracy_and_mixed_code_are_flagged():
    e = records_of("uniform:t=0.2", "pgd", [0.3] * 20, [0.5] * 20, [0.5] * 20)
    e.records["0001"]["code"] = {"x": "2"}
    assert names(flags.examine(e, reference=0.95)) == {"costly-defence", "mixed-code"}


def test_frozen_noise_is_a_setting_of_its_own():
    """All of it frozen leaves a deterministic defence, that no other attack is compared with."""
    constant = {c: [1.0, 0.0] * 10 for c in SOUND}
    frozen = records_of("uniform:t=0.1", "pgd:frozen=all", **constant)
    assert flags.examine(frozen) == []
    assert (
        flags.compare(
            [frozen, records_of("uniform:t=0.1", "transfer", **(SOUND | {"attacked": [0.0] * 20}))]
        )
        == []
    )
    assert names(flags.examine(records_of("uniform:t=0.1", "pgd:frozen=start", **constant))) == {
        "deterministic"
    }


def test_clean_images_handed_back_by_the_packaged_library_are_no_lack_of_direction():
    e = records_of("uniform:t=0.1", "autoattack", **SOUND)
    e.records["0003"]["delta"] = pixels.pack(torch.zeros(3, 8, 8, dtype=torch.int8))
    assert names(flags.examine(e)) == {"single-acceptance"}


def test_another_classifier_is_not_held_against_the_benchs_card():
    bare, trained = (
        records_of("none", "pgd", **SOUND, weights={f"cifar10-small-{name}": "0"})
        for name in ("classifier", "pgd-at-linf")
    )
    assert flags.reference_accuracy(bare) > 0.5 and flags.reference_accuracy(trained) is None


def test_outcomes_that_vary_without_a_purifier_are_flagged():
    e = records_of("none", "pgd", **SOUND)
    assert flags.examine(e) == []
    for record in e.records.values():
        record |= {column: {"labels": [3, 5], "soft": 5} for column in evidence.COLUMNS}
    assert names(flags.examine(Evidence(e.about, e.records))) == {"random"}


# ---- the page and the command --------------------------------------------------------------------


def test_every_flag_is_explained_in_the_book():
    page = (ROOT / "book/flags.md").read_text()
    assert [line[4:].strip("`") for line in page.splitlines() if line.startswith("### ")] == list(
        flags.MEANING
    )


def test_the_command_prints_the_flags_of_committed_records(capsys):
    flags.main(["--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in printed] == [f.name for f in flags.committed()]
    assert all(np.all([f["about"], f["seen"], f["meaning"]]) for f in printed)


def test_the_price_of_a_defence_is_named_once_however_many_attacks_met_it():
    paths = {path.stem: path for path in evidence.files()}
    costly = [
        flags._defence(Evidence(f.about, evidence.read(paths[f.about])))
        for f in flags.committed()
        if f.name == "costly-defence"
    ]
    assert len(costly) == len(set(costly)) > 1
