"""Purifiers with a level per pixel: at one level they are uniform purification, masks obey their
law, gradients are exact."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Noise, Purified, Uniform, linear_schedule
from hetpure_lab.attacks.gradients import Frozen
from hetpure_lab.defences.noise_map import KINDS, NoiseMap, OneLevel, PerPixel

SCHEDULE = linear_schedule()


class MapDenoiser(nn.Module):
    """A smooth function of x_t and a time per image or pixel that mixes neighbours."""

    takes_maps = True

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, 1, 1, 1) if t.ndim == 1 else t
        times = (t.to(x.dtype) / 1000).expand(len(x), 1, *x.shape[-2:])
        return self.conv2(torch.tanh(self.conv1(torch.cat([x, times], 1))))


@pytest.fixture
def denoiser() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return MapDenoiser().double()


def noise_of(n: int, seed: int = 0, copies: list[int] | None = None) -> Noise:
    return Noise(seed, [f"image {i}" for i in range(n)], copies or [0] * n)


SETTINGS = [NoiseMap(mask_kind=kind) for kind in KINDS] + [
    PerPixel(steps=3),
    PerPixel(loops=2, steps=2),
    NoiseMap(block=4, loops=3),
    OneLevel(),
]


@pytest.mark.parametrize("kind, level", [("all", 0.2), ("none", 0.05)])
@pytest.mark.parametrize("steps", [1, 5])
def test_at_one_level_it_is_uniform_purification(classifier, denoiser, images, kind, level, steps):
    ours = NoiseMap(mask_kind=kind) if steps == 1 else PerPixel(mask_kind=kind, steps=steps)
    a, b = (
        Purified(classifier, denoiser, p).purify(images, noise_of(4))
        for p in (ours, Uniform(level, steps))
    )
    assert torch.allclose(a, b, atol=1e-12)


def test_one_call_is_the_denoised_image_of_the_formula(classifier, denoiser, images):
    """x + sigma(p) z in, D = x_t - sigma(p) eps out, with the levels of each pixel."""
    defended, noise = Purified(classifier, denoiser, NoiseMap()), noise_of(4)
    mask = defended.mask(images, noise)
    t = torch.where(mask > 0, 200, 50)
    sigma = (1 / SCHEDULE.abar[t] - 1).sqrt()
    noisy = (2 * images - 1) + sigma * noise("start", images)
    clean = noisy - sigma * denoiser(noisy * SCHEDULE.abar[t].sqrt(), t)
    assert torch.allclose(defended.purify(images, noise), (clean + 1) / 2, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 4])
def test_each_pixel_goes_down_its_own_schedule_and_no_pixel_asks_for_time_zero(
    classifier, images, steps
):
    seen: list[Tensor] = []

    class Spy(MapDenoiser):
        def forward(self, x, t):
            seen.append(t)
            return super().forward(x, t)

    purifier = PerPixel(t_l=0.2, t_s=0.05, steps=steps)
    defended = Purified(classifier, Spy().double(), purifier)
    mask = defended.mask(images, noise_of(4))
    with torch.no_grad():
        defended.purify(images, noise_of(4), mask)
    assert len(seen) == purifier.calls(SCHEDULE) == steps
    for k, t in enumerate(seen):
        share = (steps - k) / steps
        assert (
            torch.equal(t, torch.where(mask > 0, round(200 * share), round(50 * share)))
            and t.min() >= 1
        )


def test_perfect_denoiser_returns_the_image(classifier, images):
    """eps = the noise that was added, pixel by pixel: any number of steps undoes the diffusion."""
    x, noise = 2 * images - 1, noise_of(4)

    def perfect(x_t: Tensor, t: Tensor) -> Tensor:
        signal, sigma = SCHEDULE.abar[t].sqrt(), (1 - SCHEDULE.abar[t]).sqrt()
        return (x_t - signal * x) / sigma

    for purifier in (NoiseMap(), PerPixel(steps=4)):
        mask = purifier.mask(images, classifier, classifier.taps(), noise)
        state = x
        for _, move in purifier.plan(x, mask, perfect, noise, SCHEDULE):
            state = move(state)
        assert torch.allclose(state, x, atol=1e-10)


def test_untold_has_the_noise_of_the_map_and_a_denoiser_that_knows_one_level(
    classifier, denoiser, images
):
    defended, noise = Purified(classifier, denoiser, OneLevel(t=0.1)), noise_of(4)
    mask, signal, sigma = (
        defended.mask(images, noise),
        float(SCHEDULE.abar[100]) ** 0.5,
        float(1 / SCHEDULE.abar[100] - 1) ** 0.5,
    )
    own = (1 / SCHEDULE.abar[torch.where(mask > 0, 200, 50)] - 1).sqrt()
    noisy = (2 * images - 1) + own * noise("start", images)
    clean = noisy - sigma * denoiser(signal * noisy, torch.full((4,), 100))
    assert torch.allclose(defended.purify(images, noise), (clean + 1) / 2, atol=1e-12)
    alike = Purified(classifier, denoiser, OneLevel(t=0.2, mask_kind="all"))
    uniform = Purified(classifier, denoiser, Uniform(0.2, 1))
    assert torch.allclose(alike.purify(images, noise), uniform.purify(images, noise), atol=1e-12)


# ---- masks


def mask_of(purifier: NoiseMap, classifier, images, noise=None) -> Tensor:
    return purifier.mask(images, classifier, classifier.taps(), noise or noise_of(len(images)))


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_zero_or_one_and_constant_in_blocks(classifier, images, kind, block):
    mask = mask_of(NoiseMap(mask_kind=kind, block=block, tau=0.5), classifier, images)
    assert mask.shape == (4, 1, 8, 8) and set(mask.unique().tolist()) <= {0.0, 1.0}
    small = mask[..., ::block, ::block]
    assert torch.equal(mask, small.repeat_interleave(block, -1).repeat_interleave(block, -2))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["random", "fixed"])
def test_a_share_of_the_blocks_is_in_the_mask(classifier, images, kind, share):
    assert (
        mask_of(NoiseMap(mask_kind=kind, share=share), classifier, images).mean((1, 2, 3)) == share
    ).all()


def test_inverted_is_the_rest_of_attention_and_random_attended_has_its_area(classifier, images):
    masks = {
        kind: mask_of(NoiseMap(mask_kind=kind, tau=0.5), classifier, images)
        for kind in ("attention", "inverted", "random-attended")
    }
    assert (
        torch.equal(masks["attention"], 1 - masks["inverted"]) and 0 < masks["attention"].mean() < 1
    )
    assert torch.equal(masks["attention"].sum((1, 2, 3)), masks["random-attended"].sum((1, 2, 3)))
    assert not torch.equal(masks["attention"], masks["random-attended"])


def test_random_masks_are_drawn_anew_for_every_purification_and_the_fixed_one_never(
    classifier, images
):
    one = images[:1].expand(3, -1, -1, -1)
    noise = Noise(0, ["same image"] * 3, [0, 1, 2])
    a, b, c = mask_of(NoiseMap(), classifier, one, noise)
    assert not torch.equal(a, b) and not torch.equal(b, c)
    fixed = mask_of(NoiseMap(mask_kind="fixed"), classifier, images, noise_of(4, seed=7))
    assert (fixed == fixed[:1]).all() and torch.equal(
        fixed, mask_of(NoiseMap(mask_kind="fixed"), classifier, images)
    )


def test_every_loop_draws_a_mask_of_its_own(classifier, denoiser, images):
    purifier, seen = NoiseMap(loops=3), []
    mask = mask_of(purifier, classifier, images)
    spy = lambda x, t: seen.append(t) or denoiser(x, t)
    state = 2 * images - 1
    for _, move in purifier.plan(state, mask, spy, noise_of(4), SCHEDULE):
        state = move(state)
    assert len(seen) == 3 and not any(
        torch.equal(seen[i], seen[j]) for i, j in ((0, 1), (1, 2), (0, 2))
    )
    assert all((t == 200).double().mean() == 0.5 for t in seen)


def test_a_known_mask_is_the_same_in_every_copy_and_its_noise_is_not(classifier, denoiser, images):
    known = Frozen(Purified(classifier, denoiser, NoiseMap()), "mask")
    one, noise = images[:1].expand(2, -1, -1, -1), Noise(0, ["same image"] * 2, [0, 1])
    a, b = known.mask(one, noise)
    assert torch.equal(a, b)
    with torch.no_grad():
        x, y = known.purify(one, noise)
    assert not torch.allclose(x, y)
    with torch.no_grad():
        x, y = Frozen(Purified(classifier, denoiser, NoiseMap(loops=2)), "all").purify(one, noise)
    assert torch.equal(x, y)


# ---- what every purifier owes


@pytest.mark.parametrize("purifier", SETTINGS, ids=str)
def test_gradient_is_that_of_finite_differences(classifier, denoiser, images, purifier):
    """The mask is held fixed, as the exact gradient does."""
    defended = Purified(classifier, denoiser, purifier)
    noise, labels = noise_of(2), torch.tensor([1, 2])
    x, mask = images[:2].clone().requires_grad_(), defended.mask(images[:2], noise_of(2)).clone()
    loss = lambda z: F.cross_entropy(
        classifier(defended.purify(z, noise, mask)), labels, reduction="sum"
    )
    gradient = torch.autograd.grad(loss(x), x)[0]
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(4))
    h = 1e-5
    with torch.no_grad():
        numeric = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
    assert torch.allclose((gradient * direction).sum(), numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("purifier", SETTINGS, ids=str)
def test_an_image_is_purified_the_same_in_any_company(classifier, denoiser, images, purifier):
    defended = Purified(classifier, denoiser, purifier)
    ids = [f"image {i}" for i in range(4)]
    with torch.no_grad():
        together = defended(images, ids, [3] * 4)
        alone = torch.cat([defended(images[i : i + 1], [ids[i]], [3]) for i in (2, 0)])
    assert torch.allclose(together[[2, 0]], alone, atol=1e-12)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"t_l": 0.05, "t_s": 0.2}, "t_s = 0.2 must be below"),
        ({"t_s": 0.0}, r"fraction of T in \(0, 1\]"),
        ({"mask_kind": "spiral"}, "unknown mask_kind 'spiral'"),
        ({"share": 1.5}, r"share must be in \[0, 1\], not 1.5"),
        ({"block": 0}, "block must be at least 1"),
        ({"loops": 0}, "loops must be at least 1"),
    ],
)
def test_settings_outside_their_range_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        NoiseMap(**settings)


def test_images_that_blocks_do_not_tile_are_refused(classifier, images):
    with pytest.raises(ValueError, match="8 x 8 pixels cannot be cut into blocks of 3"):
        mask_of(NoiseMap(block=3), classifier, images)
