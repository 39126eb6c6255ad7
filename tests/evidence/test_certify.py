"""Certificates: closed forms, coverage, abstention, a world whose truth is known, and the files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import binom
from torch import nn

from hetpure_core import HetPure, Noise, Purified, Uniform, linear_schedule
from hetpure_lab.audit import world
from hetpure_lab.audit.world import Truth
from hetpure_lab.cli import main
from hetpure_lab.data import Shipped
from hetpure_lab.defences.densepure import DensePure
from hetpure_lab.defences.noise_map import NoiseMap
from hetpure_lab.defences.spread import NoCertificate, sigma_of, spread
from hetpure_lab.evidence import certify, entering, pixels, records
from hetpure_lab.evidence.certify import Certificate, Smoothing

SCHEDULE = linear_schedule()
SIZE = (4, 4)


class Silent(nn.Module):
    """A denoiser that predicts no noise: what is purified is the image with its noise."""

    takes_maps = True

    def forward(self, x, t):
        return 0 * x


class Plane(nn.Module):
    """Class 1 on one side of a plane, class 0 on the other."""

    def __init__(self, weights: torch.Tensor, offset: float):
        super().__init__()
        self.weights, self.offset = weights, offset

    def forward(self, images):
        u = (images * self.weights).flatten(1).sum(1) - self.offset
        return torch.stack([-u, u], 1)


def images(n: int = 1) -> Shipped:
    pixels_ = torch.full((n, 3, *SIZE), 128, dtype=torch.uint8)
    pixels_[:, 0, 0, 0] += torch.arange(n, dtype=torch.uint8)
    return Shipped(
        pixels_, torch.ones(n, dtype=torch.long), torch.ones(n, dtype=torch.bool), "grey"
    )


def plane(distance: torch.Tensor | float) -> Plane:
    """A plane at this distance from the first of `images`, in a direction that favours no pixel."""
    direction = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))
    direction /= direction.norm()
    return Plane(direction, float((images().floats * direction).sum()) - distance)


def certificate(counts, label: int = 1, alpha: float = 0.001, selection=(0, 1)) -> Certificate:
    config = {"n": sum(counts), "alpha": alpha}
    parts = {"selection": list(selection), "estimation": list(counts), "config": config}
    return Certificate.of({"image": "a", "label": label} | parts)


# ---- closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.05, 0.1, 0.2])
def test_the_noise_beside_an_image_is_half_of_what_it_is_on_minus_one_to_one(t):
    """Measured: the standard deviation of x_t / sqrt(abar), brought back to [0, 1]."""
    x, index = torch.full((64, 3, 32, 32), 0.3), SCHEDULE.index(t)
    defended = Purified(plane(0), Silent(), Uniform(t, 1), schedule=SCHEDULE)
    noise = Noise(0, range(64), [0] * 64)
    found = float((defended.purify(x, noise) - x).std())
    assert found == pytest.approx(float(sigma_of(index, SCHEDULE)), rel=0.01)


@pytest.mark.parametrize(
    "purifier",
    [Uniform(0.1, 1), NoiseMap(mask_kind="fixed"), NoiseMap(), HetPure(mask_kind="none")],
)
def test_of_a_plane_the_radius_is_the_distance(purifier):
    """With n large the bound approaches the distance that the noise allows; it is never beyond."""
    noise = spread(purifier, SCHEDULE, SIZE)
    classifier = plane(0.0)
    direction = classifier.weights
    classifier = plane(1.2 * noise.inner)
    defended = Purified(classifier, Silent(), purifier, schedule=SCHEDULE)
    device = torch.device("cpu")
    mask = torch.zeros(1, 1, *SIZE) if isinstance(purifier, HetPure) else None
    counts = certify.counted(defended, images(), 4000, "closed form", 2, mask, device)[0]
    found = certificate(counts, alpha=0.001)
    truth = counts[1] / counts.sum()
    if not noise.drawn and not isinstance(purifier, HetPure):
        # the signed distance in the metric of the noise: Phi of it is the probability
        spread_out = float((direction * noise.sigma).norm())
        truth = float(ndtr(1.2 * noise.inner / spread_out))
    assert found.margin <= ndtri(truth) + 1e-9
    assert found.margin == pytest.approx(ndtri(truth), abs=0.15)
    assert found.margin * noise.inner <= 1.2 * noise.inner + 1e-9  # never beyond the plane


def test_a_fixed_map_certifies_an_ellipsoid():
    """What the ellipsoid covers keeps its class: on its border, in the worst direction, the chance
    of the winner is one half."""
    noise = spread(NoiseMap(mask_kind="fixed"), SCHEDULE, SIZE)
    assert len(noise.sigma.unique()) == 2
    classifier = plane(0.3)
    variance = noise.sigma.square()
    std = float((classifier.weights * noise.sigma).norm())
    margin = 0.3 / std  # Phi^-1 of the chance, exactly
    worst = -margin * variance * classifier.weights / std
    assert float(noise.length(worst[None])) == pytest.approx(margin, rel=1e-5)
    assert float((worst * classifier.weights).sum()) == pytest.approx(-0.3, rel=1e-5)
    assert noise.inner < noise.equal_volume < float(noise.sigma.max())
    inner = noise.inner * torch.nn.functional.normalize(torch.randn(50, 48), dim=1)
    assert (noise.length(inner.reshape(50, 3, *SIZE)) <= 1 + 1e-6).all()


def test_where_levels_are_drawn_the_smallest_counts():
    """Against every mixture of two noises: the bound of the smaller one is below it, because the
    curve is convex in p."""
    noise = spread(NoiseMap(), SCHEDULE, SIZE)
    assert noise.drawn and noise.equal_volume == noise.inner
    low, high = sorted(noise.sigma.flatten().tolist())
    for p, q in np.random.default_rng(0).uniform(0.01, 0.99, (200, 2)):
        for delta in (0.05, 0.2, 0.5):
            after = np.mean([ndtr(ndtri(p) - delta / low), ndtr(ndtri(q) - delta / high)])
            assert after >= ndtr(ndtri((p + q) / 2) - delta / low) - 1e-12


def test_the_method_shows_its_known_pixels_more_than_once():
    """Outside the mask every draw brings the image in again: the noise is smaller than at t_s, by
    the sum of precisions; inside it is that of t_l."""
    method = HetPure()
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., :2] = 1
    noise = spread(method, SCHEDULE, SIZE, mask)
    stage_1, _ = method.grid(SCHEDULE)
    seen = [stage_1[-1], *stage_1[1:]]
    outside = sum(float(sigma_of(t, SCHEDULE)) ** -2 for t in seen) ** -0.5
    assert float(noise.sigma[0, 0, 0]) == pytest.approx(float(sigma_of(stage_1[0], SCHEDULE)))
    assert float(noise.sigma[0, 0, 3]) == pytest.approx(outside)
    assert outside < float(sigma_of(SCHEDULE.index(method.t_s), SCHEDULE))
    repeated = spread(HetPure(reading="multi-step", U=3), SCHEDULE, SIZE, mask)
    assert repeated.inner < noise.inner


@pytest.mark.parametrize(
    "purifier",
    [
        HetPure(),
        HetPure(mask_kind="random"),
        NoiseMap(mask_kind="attention"),
        NoiseMap(mask_kind="random-attended"),
    ],
)
def test_masks_that_look_at_the_image_have_no_certificate(purifier):
    with pytest.raises(NoCertificate, match="depends on the image"):
        spread(purifier, SCHEDULE, SIZE)


def test_why_a_mask_that_looks_at_the_image_cannot_be_certified():
    """A purifier whose mask a perturbation of one step moves: the theorem would promise that the
    winner stays, and it does not. The classifier only measures how rough a pixel is."""
    low, high = (float(sigma_of(SCHEDULE.index(t), SCHEDULE)) for t in (0.05, 0.2))
    rough = lambda sigma, bound: 2 * float(ndtr(-bound / sigma))  # |noise| beyond a bound
    bound = (low * high) ** 0.5
    calm, changed = 1 - rough(low, bound), 1 - rough(high, bound)
    promised = low * float(ndtri(calm))
    assert calm > 0.85 and promised > 0.1 and changed < 0.5  # 1/255 is far inside the promise


# ---- the bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n, p", [(50, 0.6), (50, 0.97), (400, 0.9), (1000, 0.999)])
def test_the_bound_covers_as_often_as_it_says(n, p):
    """Exactly: the chance that a count has a bound above p is at most alpha."""
    alpha, k = 0.01, np.arange(n + 1)
    wrong = np.array([certify.at_least(int(i), n, alpha) > p for i in k])
    assert binom.pmf(k, n, p)[wrong].sum() <= alpha
    assert certify.at_least(n, n, alpha) == pytest.approx(alpha ** (1 / n))


def test_a_vote_that_is_not_won_abstains():
    tie = certificate((500, 500))
    close = certificate((470, 530))
    won = certificate((300, 700))
    assert tie.voted is close.voted is None and tie.margin == close.margin == 0
    assert won.voted == 1 and 0 < won.margin < ndtri(0.7)
    assert not tie.right and won.right and not certificate((300, 700), label=0).right


def test_the_class_is_chosen_by_other_draws_than_count_it():
    """The counts' own winner would be chosen after the fact."""
    found = certificate((300, 700), selection=(60, 40))
    assert found.voted is None


def test_a_world_keeps_its_class_within_the_certificate():
    """Ground truth: at the certified radius the true chance of the class is still one half, in the
    worst direction of the world; and at twice the true distance it is lost."""
    here = world.two_parts(size=4)
    sample, purifier = here.sample(6, seed=3), Uniform(0.2, 1)
    defended, truth = here.defended(purifier), Truth(here, purifier)
    noise = spread(purifier, here.schedule, (4, 4))
    counts = certify.counted(defended, sample, 300, "world", 2, None, torch.device("cpu"))
    right = truth.right(sample.floats, sample.labels)
    assert np.abs(counts[range(6), sample.labels] / 300 - right).max() < 0.12
    sure = 0
    for i, row in enumerate(counts):
        found = certificate(row, int(sample.labels[i]), alpha=0.01, selection=row)
        if not found.right:
            continue
        sure += 1
        sign = 2 * sample.labels[i] - 1
        worst = -sign * here.bayes / here.bayes.norm() * found.margin * noise.inner
        x = (sample.floats[i : i + 1].double() + worst).clamp(0, 1)
        assert truth.right(x, sample.labels[i : i + 1]).item() > 0.5
        far = (sample.floats[i : i + 1].double() + 40 * worst).clamp(0, 1)
        assert truth.right(far, sample.labels[i : i + 1]).item() < 0.5
    assert sure


def test_densepure_counts_whole_votes():
    """Its chains share one noisy image, so its ten votes are one run of the base classifier."""
    assert spread(DensePure(), SCHEDULE, SIZE) == spread(Uniform(0.14, 1), SCHEDULE, SIZE)


# ---- beside attacks ------------------------------------------------------------------------------


def attacked(image: str, length: float, labels, clean=(1,) * 3) -> dict:
    delta = torch.zeros(3, 32, 32, dtype=torch.int8)
    delta[0, 0, 0] = round(255 * length)
    columns = {"adversarial": list(labels), "clean": list(clean), "null": list(clean)}
    config = {"bench": "cifar10-small", "K": 3}
    made = {
        c: {"labels": found, "hard": {"3": max(found, key=found.count)}, "soft": {}}
        for c, found in columns.items()
    }
    return {"image": image, "label": 1, "delta": pixels.pack(delta), "config": config} | made


def test_the_shortest_perturbation_on_record_counts():
    near = {k: attacked(k, 0.1, [0, 0, 1]) for k in "ab"} | {"c": attacked("c", 0.1, [1, 1, 0])}
    far = {k: attacked(k, 0.4, [0, 0, 0]) for k in "abcd"}
    near["b"] = attacked("b", 0.1, [1, 1, 1], clean=(0, 0, 1))
    lengths = certify.broken([near, far])
    assert lengths == pytest.approx({"a": 26 / 255, "b": 0, "c": 102 / 255})
    assert certify.left(lengths, 0.2).value == pytest.approx(1 / 3)
    held = [Certificate(k, 1, 1, 1.0) for k in "abc"]
    assert certify.contradicted(held, 0.2, lengths) == ["a"]
    assert (
        certify.certified(held, 0.2, 0.2).value == 1
        and certify.certified(held, 0.2, 0.3).value == 0
    )


# ---- files and the command -----------------------------------------------------------------------


def test_counts_are_kept_resumed_and_counted_again(tmp_path, monkeypatch, capsys):
    """On the images that a package ships."""
    own = Smoothing("uniform:t=0.1,steps=1", split="sample", n0=6, n=12)
    everything = certify.data.load("cifar10", "sample", quiet=True)
    path = certify.measure(own, everything, 1, results=tmp_path)
    first = path.read_bytes()
    certify.measure(own, everything, 2, results=tmp_path)
    assert path.read_bytes().startswith(first) and len(certify.read(own, tmp_path)) == 2
    assert not certify.counted_again(path, 2) and not entering.verified(path, 1)
    assert certify.on_record(tmp_path) == [own]
    assert not certify.certified(certify.read(own, tmp_path), 0.1, 0).value < 0
    wrong = path.read_text().replace('"estimation":[', '"estimation":[1,', 1)
    path.write_text(wrong)
    assert any("does not add up" in fault for fault in certify.faults(path))
    assert any("comes out as" in fault for fault in certify.counted_again(path, 1))


def test_a_common_mask_is_one_for_all_and_stored_as_text():
    bench = certify.benches.load("cifar10-small")
    everything = certify.data.load("cifar10", "sample", quiet=True)
    mask = certify.common_mask(bench, everything)
    assert mask.shape == (1, 1, 32, 32) and set(mask.unique().tolist()) == {0, 1}
    assert torch.equal(certify.unpacked(certify.packed(mask)), mask)
    own = Smoothing("hetpure", fixed_mask=True)
    assert own.spread(mask).inner == own.spread().inner


@pytest.mark.parametrize(
    "words, says",
    [
        (["--defence", "hetpure"], "depends on the image"),
        (["--defence", "gdmp"], "through its noise alone"),
        (["--defence", "uniform", "--fixed-mask"], "none to fix"),
        (["--defence", "uniform", "--alpha", "0.7"], "chance of error"),
        (["--defence", "uniform", "--n", "0"], "at least 1"),
        (["--verify", "nowhere.jsonl"], "no file"),
    ],
)
def test_bad_input_is_one_sentence(words, says, capsys):
    assert main(["certify", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said and "\n" not in said


def test_counts_are_whole_numbers_that_add_up(tmp_path):
    path = tmp_path / "x.jsonl"
    config = {"n0": 2, "n": 3}
    line = {"image": "a", "label": 0, "config": config, "selection": [1, 1], "estimation": [3, 1]}
    records.append(path, [line])
    assert [*certify.faults(path)] == ["line 2: estimation does not add up to n"]
    path.write_text(path.read_text().replace("[3,1]", "[2,1]"))
    assert not [*certify.faults(path)]
    assert json.loads(path.read_text().splitlines()[1])["estimation"] == [2, 1]
