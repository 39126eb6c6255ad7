"""The gradient of the defended classifier is exact, complete, the same with and without
checkpoints, and flat in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import FLAT_UP_TO, READINGS, SAMPLERS, HetPure, Purified, Uniform, linear_schedule
from hetpure_lab.common.measure import LiveBytes
from hetpure_lab.networks.small import build

ID, TARGET = "an image", 2
# at most FLAT_UP_TO denoiser calls, with at least two steps in stage 1
STEPS = {"paper": 8, "released": 20, "multi-step": 8}
PURIFIERS = {
    f"{r}-{s}": HetPure(0.2, 0.1, tau=0.5, U=3, steps=STEPS[r], reading=r, sampler=s)
    for r in READINGS
    for s in SAMPLERS
}
PURIFIERS |= {f"uniform-{s}": Uniform(0.1, 6, sampler=s) for s in SAMPLERS}
every_purifier = pytest.mark.parametrize("purifier", PURIFIERS.values(), ids=PURIFIERS)


def loss(defended: Purified, images: Tensor, mask: Tensor | None = None) -> Tensor:
    """The cross-entropy of each of (n, 3, h, w) versions of one image, all under the same noise:
    (n,).
    """
    logits = defended(images, [ID] * len(images), mask=mask)
    return F.cross_entropy(logits, torch.full((len(images),), TARGET), reduction="none")


def gradient(defended: Purified, image: Tensor, mask: Tensor | None = None) -> Tensor:
    image = image.clone().requires_grad_()
    return torch.autograd.grad(loss(defended, image, mask).sum(), image)[0]


@torch.no_grad()
def difference_quotients(
    defended: Purified,
    image: Tensor,
    directions: Tensor,
    mask: Tensor | None = None,
    h: float = 1e-4,
) -> Tensor:
    """Central differences of the loss along each of (n, 3, h, w) directions: (n,)."""
    forward, back = (
        loss(defended, image + h * directions, mask),
        loss(defended, image - h * directions, mask),
    )
    return (forward - back) / (2 * h)


def error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


@pytest.fixture
def image(images) -> Tensor:
    return images[:1, :, :6, :6]


@pytest.fixture
def half() -> Tensor:
    """A mask with both values in it."""
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    mask[..., 1:5, 2:] = 1
    return mask


@every_purifier
def test_gradient_is_that_of_finite_differences(purifier, classifier, denoiser, image, half):
    """Every one of the partial derivatives, through all denoiser calls, with the mask held
    fixed.
    """
    defended, mask = (
        Purified(classifier, denoiser, purifier),
        half if isinstance(purifier, HetPure) else None,
    )
    partial = torch.eye(image.numel(), dtype=image.dtype).reshape(-1, *image.shape[1:])
    numeric = difference_quotients(defended, image, partial, mask).reshape(image.shape)
    assert error(gradient(defended, image, mask), numeric) < 1e-6


@every_purifier
def test_gradient_predicts_random_directions(purifier, classifier, denoiser, image):
    """Also with the mask computed from each perturbed image: it is piecewise constant, so that
    holding it fixed loses nothing.
    """
    defended = Purified(classifier, denoiser, purifier)
    directions = torch.randn(
        8, *image.shape[1:], dtype=image.dtype, generator=torch.Generator().manual_seed(0)
    )
    predicted = (gradient(defended, image) * directions).sum((1, 2, 3))
    assert error(predicted, difference_quotients(defended, image, directions, h=1e-5)) < 1e-6


def test_gradient_of_voting_is_that_of_finite_differences(classifier, denoiser, image):
    defended = Purified(classifier, denoiser, HetPure(tau=0.5, steps=5), votes=3)
    directions = torch.randn(
        8, *image.shape[1:], dtype=image.dtype, generator=torch.Generator().manual_seed(1)
    )
    predicted = (gradient(defended, image) * directions).sum((1, 2, 3))
    assert error(predicted, difference_quotients(defended, image, directions, h=1e-5)) < 1e-6


class Nothing(nn.Module):
    """A denoiser that predicts no noise."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


@every_purifier
@pytest.mark.parametrize("mask_kind", ["half", "all", "none"])
def test_every_use_of_the_input_carries_gradient(purifier, mask_kind, classifier, image, half):
    """If no noise is removed, the input comes back with its signal intact, whichever mixture of
    start and known region it came
    through: the Jacobian of the purified image is the identity (times the signal left at the end,
        index 1 of `released`)."""
    mask = {"half": half, "all": torch.ones_like(half), "none": torch.zeros_like(half)}[mask_kind]
    defended = Purified(classifier, Nothing(), purifier)
    image = image.clone().requires_grad_()
    weights = torch.randn(
        image.shape, dtype=image.dtype, generator=torch.Generator().manual_seed(4)
    )
    purified = defended.purify(image, defended.noise(1, [ID]), mask)
    end = defended.plan(image, defended.noise(1, [ID]), mask)[-1][0]
    expected = weights * defended.schedule.abar[end].sqrt()
    torch.testing.assert_close(
        torch.autograd.grad((weights * purified).sum(), image)[0], expected, rtol=1e-12, atol=1e-12
    )


@every_purifier
@pytest.mark.parametrize("long", [False, True], ids=["flat", "segments"])
def test_checkpoints_change_no_bit_of_the_gradient(
    long, purifier, classifier, denoiser, image, half
):
    """Short chains are kept flat, long ones are cut into segments; both equal plain autograd
    exactly.
    """
    while long and purifier.calls(linear_schedule()) <= FLAT_UP_TO:
        purifier = replace(purifier, steps=2 * purifier.steps)
    assert (purifier.calls(linear_schedule()) > FLAT_UP_TO) == long
    mask = half if isinstance(purifier, HetPure) else None
    kept, recomputed = (
        Purified(classifier, denoiser, purifier, checkpointing=c) for c in (False, True)
    )
    assert torch.equal(gradient(kept, image, mask), gradient(recomputed, image, mask))


@pytest.mark.parametrize(
    ("steps", "checkpointing", "passes"), [(10, False, 1), (10, True, 2), (40, True, 3)]
)
def test_price_of_a_gradient_in_denoiser_passes(
    steps, checkpointing, passes, classifier, denoiser, image
):
    """One forward pass per call; once more with checkpoints; and a third time in chains long enough
    to be cut into segments, but for
    the last call of each, whose result nothing in the segment needs."""
    purifier, calls = Uniform(0.1, steps), []
    assert (purifier.steps > FLAT_UP_TO) == (passes == 3)
    denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    gradient(Purified(classifier, denoiser, purifier, checkpointing=checkpointing), image)
    last = (
        math.ceil(
            len(plan := Uniform(0.1, steps).grid(linear_schedule())[1])
            / math.ceil(math.sqrt(len(plan)))
        )
        if passes == 3
        else 0
    )
    assert len(calls) == passes * steps - last


def test_live_bytes_counts_what_is_alive():
    """1000 floats that stay, and twice in turn 1000 that go, with a view and a sum."""
    with LiveBytes() as meter:
        kept = torch.zeros(1000)
        for _ in range(2):
            kept[:500].add(kept.add(1).sum())
    assert 8000 <= meter.peak < 8100
    assert sum(meter.live.values()) == 4000


@pytest.fixture
def peak_bytes(classifier) -> Callable[[int, bool], int]:
    """The peak of one gradient of the paper's method with the small benches' U-Net, for 4 images
    and a classifier that needs little.
    """

    def peak(steps: int, checkpointing: bool) -> int:
        images = torch.rand(
            4, 3, 32, 32, generator=torch.Generator().manual_seed(5)
        ).requires_grad_()
        defended = Purified(
            classifier.float(),
            build("unet_64_64"),
            HetPure(steps=steps),
            checkpointing=checkpointing,
        )
        with LiveBytes() as meter:
            defended(images, range(4)).sum().backward()
        return meter.peak

    return peak


def test_memory_is_flat_in_the_number_of_steps(peak_bytes):
    assert peak_bytes(40, checkpointing=True) <= 1.1 * peak_bytes(10, checkpointing=True)


def test_memory_without_checkpoints_grows(peak_bytes):
    """The meter can tell: states and activations of every call are kept."""
    assert peak_bytes(40, checkpointing=False) > 2 * peak_bytes(10, checkpointing=False)
