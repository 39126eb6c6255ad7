"""Rotation and translation: rendering, its gradient, what a search finds, and records that prove
what was done.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from hetpure_core import Purified, Uniform
from hetpure_lab import data, evidence
from hetpure_lab.attacks import Undefended
from hetpure_lab.attacks.spatial import Spatial, transformed
from hetpure_lab.evidence import Experiment, pixels, verify


def moved(images: Tensor, *parameters: float) -> Tensor:
    return transformed(images, torch.tensor([parameters] * len(images), dtype=images.dtype))


def test_whole_pixels_and_right_angles_only_move_pixels(images):
    torch.testing.assert_close(moved(images, 0, 0, 0), images)
    right = torch.zeros_like(images)
    right[..., 2:] = images[..., :-2]
    torch.testing.assert_close(moved(images, 0, 2, 0), right)
    down = torch.zeros_like(images)
    down[..., 1:, :] = images[..., :-1, :]
    torch.testing.assert_close(moved(images, 0, 0, 1), down)
    torch.testing.assert_close(moved(images, 90, 0, 0), images.rot90(-1, (2, 3)))


def test_the_gradient_in_the_parameters_is_that_of_finite_differences(classifier, denoiser, images):
    defence, attack = Purified(classifier, denoiser, Uniform(0.1, 2)), Spatial(search="gradient")
    place = torch.tensor([[0.31, 0.17, -0.43]] * 4, dtype=images.dtype)
    rest = images, torch.tensor([0, 3, 1, 2]), list("abcd"), range(2)
    _, slope = attack.slope(defence, place, *rest)
    for k in range(3):
        h = torch.zeros_like(place)
        h[:, k] = 1e-6
        up, down = (attack.slope(defence, place + s * h, *rest)[0] for s in (1, -1))
        torch.testing.assert_close(slope[:, k], (up - down) / 2e-6, rtol=1e-4, atol=1e-7)


class Dot(nn.Module):
    """Class 1 as far as the middle 2 x 2 pixels are bright, class 0 as far as they are dark."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[..., 7:9, 7:9].mean((1, 2, 3))
        return torch.stack([torch.full_like(bright, 0.5), bright], 1)


@pytest.mark.parametrize("search, iterations", [("grid", 1), ("random", 40), ("gradient", 20)])
@pytest.mark.parametrize("reach, falls", [(0.9, False), (3.0, True)])
def test_a_dot_is_moved_away_as_soon_as_the_range_allows_it(search, iterations, reach, falls):
    """A dot of two pixels is half inside its window until it moves by one pixel along an axis (by
    less along both); three pixels along either take it out.
    """
    x, y = torch.zeros(3, 3, 16, 16, dtype=torch.float64), torch.ones(3, dtype=torch.long)
    x[..., 6:10, 6:10] = 1  # one pixel of room on every side
    attack = Spatial(
        degrees=0, pixels=reach, search=search, iterations=iterations, eot=1, grid=(1, 5, 5)
    )
    found, spent, told = attack.find(Undefended(Dot()), x, y, list("abc"))
    assert ((Dot()(found).argmax(1) == 0) == falls).all()
    assert (spent == attack.steps).all() and all(abs(t["transform"][1]) <= reach for t in told)


def test_differences_of_any_length_are_stored_and_applied():
    attack, x = Spatial(), torch.zeros(1, 3, 1, 256)
    x_adv = (torch.arange(256) / 255).expand(1, 3, 1, 256)
    for before, after in ((x, x_adv), (x_adv, x), (x_adv, x_adv.flip(3))):
        stored = attack.stored(after, before)
        as_pixels = lambda image: (255 * image).round().to(torch.uint8)
        assert stored.dtype == torch.int8
        assert torch.equal(attack.applied(as_pixels(before), stored), as_pixels(after).short())


def test_the_null_control_is_a_random_transformation_of_the_range(images):
    attack, still = Spatial(degrees=0, pixels=2), Spatial(eps=0.0)
    torch.testing.assert_close(still.null(images, "abcd", "null"), images)
    null = attack.null(images, "abcd", "null")
    assert not torch.allclose(null, images)
    torch.testing.assert_close(attack.null(images[1:2], "b", "null"), null[1:2])


# ---- records -------------------------------------------------------------------------------------

EXPERIMENT = Experiment("uniform:steps=1", "spatial:grid=3+1+3,eot=1", K=3)


@pytest.fixture(scope="module")
def photos():
    return data.embedded_sample(data.DATASETS["cifar10"])[torch.arange(2)].named("test")


@pytest.fixture
def recorded(photos, tmp_path):
    evidence.run(EXPERIMENT, photos, progress=False, results=tmp_path)
    return EXPERIMENT.path(tmp_path)


def test_a_record_proves_its_transformation_and_is_scored_again(recorded, photos):
    verdict, _ = verify.file(recorded, photos, None)
    assert verdict.faults == [] and verdict.scored == 2
    found = evidence.read(recorded)
    images = pixels.adversarial_images(photos, found)
    kept = torch.tensor([found[key]["transform"] for key in photos.ids], dtype=torch.float64)
    again = (255 * transformed(photos.floats, kept)).round().to(torch.uint8)
    assert torch.equal(images, again)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"transform": [31.0, 0.0, 0.0]}, "transform: 31.0 is outside of 30 either way"),
        ({"transform": [10.0, 0.0, 1.0]}, "delta: it is not what the transformation"),
        ({"transform": None}, "transform: it is None, not degrees"),
    ],
)
def test_a_record_that_says_another_transformation_is_named(change, says, recorded, photos):
    rows = list(evidence.read(recorded).values())
    rows[1] = rows[1] | change
    recorded.write_text("".join(json.dumps(row) + "\n" for row in rows))
    verdict, _ = verify.file(recorded, photos, ())
    assert any(says in fault.says for fault in verdict.faults)
    assert {fault.image for fault in verdict.faults} == {rows[1]["image"]}
