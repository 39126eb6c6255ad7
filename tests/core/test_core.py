"""Properties and closed forms of `hetpure_core`, in the order of its sections."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import hetpure_core
from hetpure_core import (
    MASKS,
    READINGS,
    SAMPLERS,
    HetPure,
    Noise,
    Purified,
    Schedule,
    Uniform,
    activation_map,
    attention_maps,
    check_images,
    linear_schedule,
    mean_log_probability,
    merge,
    min_max,
    p_xs_xt,
    purify,
    q_xt_x0,
    q_xt_xs,
    random_mask,
    released_grid,
    released_maps,
    run,
    soft_mask,
    spatial_softmax,
    tapped,
    threshold_mask,
    time_grid,
    top_fraction_mask,
    trajectory,
    vote,
    x0_xt,
)

SCHEDULE = linear_schedule()
ABAR = SCHEDULE.abar
ONE, ZERO = (
    torch.ones(1, 1, 1, 1, dtype=torch.float64),
    torch.zeros(1, 1, 1, 1, dtype=torch.float64),
)
IDS = ["ship", 7, 40, "frog"]

# stage 1 visits 200, 150, 100 (`released`: one later), stage 2 continues 50, 0
PURIFIERS = {
    f"{r}-{s}": HetPure(0.2, 0.1, tau=0.5, U=3, steps=4, reading=r, sampler=s)
    for r in READINGS
    for s in SAMPLERS
}
PURIFIERS |= {k: replace(p, steps=20) for k, p in PURIFIERS.items() if p.reading == "released"}
PURIFIERS |= {f"uniform-{s}": Uniform(0.1, 3, sampler=s) for s in SAMPLERS}
every_purifier = pytest.mark.parametrize("purifier", PURIFIERS.values(), ids=PURIFIERS)
METHODS = {k: p for k, p in PURIFIERS.items() if isinstance(p, HetPure)}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


times = st.integers(1, 1000)
seeds = st.integers(0, 2**31)


def close(ours: Tensor, reference: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(ours, reference, rtol=0, atol=atol)


def hooks(*networks: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for n in networks for m in n.modules()
    )


# ---- 1. diffusion --------------------------------------------------------------------------------


@given(st.floats(1e-5, 0.1), times)
def test_abar_of_a_constant_beta_is_a_power(beta, t):
    assert math.isclose(linear_schedule(1000, beta, beta).abar[t], (1 - beta) ** t, rel_tol=1e-10)


def test_linear_schedule_ends():
    """First step by hand; the whole product by its logarithm."""
    beta = np.linspace(1e-4, 2e-2, 1000)
    assert (SCHEDULE.T, ABAR[0].item(), ABAR[1].item()) == (1000, 1, 1 - 1e-4)
    assert math.isclose(ABAR[-1].item(), math.exp(np.log1p(-beta).sum()), rel_tol=1e-10)


@pytest.mark.parametrize(
    "abar",
    [[0.9, 0.5], [1, 0.5, 0.5], [1, 0.5, 0.6], [1, 0.5, 0.0]],
    ids=["start", "flat", "rise", "zero"],
)
def test_schedule_rejects_what_is_not_a_falling_signal(abar):
    with pytest.raises(ValueError, match="fall strictly"):
        Schedule(torch.tensor(abar))


@given(st.floats(1e-4, 1))
def test_index_is_the_nearest_time(fraction):
    t = SCHEDULE.index(fraction)
    assert 1 <= t <= 1000 and abs(t - 1000 * fraction) <= max(0.5, 1 - 1000 * fraction) + 1e-9


@pytest.mark.parametrize("fraction", [0, -0.1, 1.001, math.nan])
def test_index_rejects_what_is_not_a_fraction(fraction):
    with pytest.raises(ValueError, match=r"fraction of T in \(0, 1\]"):
        SCHEDULE.index(fraction)


def draw(
    seed: int = 0,
    image: int = 0,
    copy: int = 0,
    name: str = "start",
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """About 200,000 numbers of `Noise`."""
    return Noise(seed, [image], [copy])(name, torch.empty(1, 3, 256, 256, dtype=dtype))


@pytest.mark.parametrize("t", [1, 50, 200, 999])
def test_moments_of_the_forward_process(t):
    """Mean sqrt(abar) x0, variance 1 - abar, within 5 standard errors."""
    eps = draw()
    xt, n, sigma = (
        q_xt_x0(torch.full_like(eps, 0.3), t, eps, SCHEDULE),
        eps.numel(),
        math.sqrt(1 - ABAR[t]),
    )
    assert abs(xt.mean() - 0.3 * math.sqrt(ABAR[t])) < 5 * sigma / math.sqrt(n)
    assert abs(xt.var() / sigma**2 - 1) < 5 * math.sqrt(2 / n)


def test_one_time_per_image():
    x, eps, t = torch.rand(3, 3, 2, 2), torch.randn(3, 3, 2, 2), torch.tensor([1, 50, 900])
    rows = [q_xt_x0(x[i : i + 1], int(t[i]), eps[i : i + 1], SCHEDULE) for i in range(3)]
    assert torch.equal(q_xt_x0(x, t, eps, SCHEDULE), torch.cat(rows))


def signal_and_noise(step) -> tuple[float, float]:
    """The two coefficients of a map (x, eps) -> a x + b eps."""
    return step(ONE, ZERO).item(), step(ZERO, ONE).item()


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=3, unique=True).map(sorted))
def test_diffusing_in_two_steps_is_diffusing_in_one(sut):
    """s -> u -> t: signals multiply, and variances add up to those of s -> t. With s = 0 this is Eq
    1.
    """
    s, u, t = sut
    (a, b), (c, d), (e, f) = (
        signal_and_noise(lambda x, eps, i=i, j=j: q_xt_xs(x, i, j, eps, SCHEDULE))
        for i, j in ((s, u), (u, t), (s, t))
    )
    assert math.isclose(a * c, e, rel_tol=1e-12)
    assert math.isclose(c**2 * b**2 + d**2, f**2, rel_tol=1e-9)


@given(st.integers(0, 990), st.integers(1, 10))
def test_unit_steps_of_eq_10_compose_to_one_diffusion(s, U):
    signal, variance = 1.0, 0.0
    for i in range(s, s + U):
        a, b = signal_and_noise(lambda x, eps, i=i: q_xt_xs(x, i, i + 1, eps, SCHEDULE))
        signal, variance = a * signal, a**2 * variance + b**2
    expected = signal_and_noise(lambda x, eps: q_xt_xs(x, s, s + U, eps, SCHEDULE))
    assert math.isclose(signal, expected[0], rel_tol=1e-12) and math.isclose(
        variance, expected[1] ** 2, rel_tol=1e-9
    )


@given(times, times)
def test_diffusing_on_leaves_the_marginal_of_eq_1(s, t):
    """q(x_t | x_s) after q(x_s | x_0): signal sqrt(abar_t), variance 1 - abar_t."""
    assume(s < t)
    a, b = signal_and_noise(lambda x, eps: q_xt_x0(x, s, eps, SCHEDULE))
    c, d = signal_and_noise(lambda x, eps: q_xt_xs(x, s, t, eps, SCHEDULE))
    assert math.isclose((a * c) ** 2, ABAR[t], rel_tol=1e-12)
    assert math.isclose(c**2 * b**2 + d**2, 1 - ABAR[t], rel_tol=1e-9)


@given(times, seeds)
def test_x0_estimate_inverts_the_forward_process(t, seed):
    x0, eps = torch.randn(
        2, 1, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    close(x0_xt(q_xt_x0(x0, t, eps, SCHEDULE), t, eps, SCHEDULE), x0, atol=1e-9)


@given(times, seeds)
def test_ancestral_step_is_the_textbook_posterior(t, seed):
    """Eq 7 and 9: mean (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t), variance beta_t (1 -
    abar_{t-1}) / (1 - abar_t).
    """
    xt, eps, z = torch.randn(
        3, 1, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    alpha = (ABAR[t] / ABAR[t - 1]).item()
    mean = (xt - (1 - alpha) / math.sqrt(1 - ABAR[t]) * eps) / math.sqrt(alpha)
    sigma = math.sqrt((1 - alpha) * (1 - ABAR[t - 1]) / (1 - ABAR[t]))
    close(p_xs_xt(xt, t, t - 1, eps, SCHEDULE, eta=1.0, z=z), mean + sigma * z, atol=1e-9)


def ideal_ddim(x: Tensor, grid: list[int], mean: float, sd: float) -> Tensor:
    """DDIM along `grid` with the exact noise prediction for x0 ~ N(mean, sd^2)."""
    for t, s in pairwise(grid):
        signal, noise = math.sqrt(ABAR[t]), math.sqrt(1 - ABAR[t])
        eps = noise * (x - signal * mean) / (ABAR[t].item() * sd**2 + noise**2)
        x = p_xs_xt(x, t, s, eps, SCHEDULE)
    return x


def moments(t: int, mean: float, sd: float) -> tuple[float, float]:
    """Mean and standard deviation of q(x_t) for x0 ~ N(mean, sd^2)."""
    return math.sqrt(ABAR[t]) * mean, math.sqrt(ABAR[t] * sd**2 + 1 - ABAR[t])


def mapped_moments(grid: list[int], mean: float, sd: float) -> tuple[float, float]:
    """Those of the image of q(x_t) under ideal DDIM, which is affine: it is enough to map the mean
    and one deviation.
    """
    m, d = moments(grid[0], mean, sd)
    low, high = (
        ideal_ddim(m * ONE, grid, mean, sd).item(),
        ideal_ddim((m + d) * ONE, grid, mean, sd).item(),
    )
    return low, high - low


@given(times, st.integers(0, 1000), st.floats(-1, 1), st.floats(0, 1))
def test_ideal_ddim_maps_means_in_one_jump(t, s, mean, sd):
    """The mean for any Gaussian, and for a point (sd = 0) the whole distribution."""
    assume(s < t)
    assert math.isclose(mapped_moments([t, s], mean, sd)[0], moments(s, mean, sd)[0], abs_tol=1e-9)
    assert math.isclose(
        mapped_moments([t, s], mean, 0.0)[1], moments(s, mean, 0.0)[1], abs_tol=1e-9
    )


@pytest.mark.parametrize("sd", [0.25, 0.5, 1.0])
def test_ideal_ddim_maps_variances_in_the_limit(sd):
    """One index at a time, the deviation of q(x_400) becomes that of q(x_0) up to first-order
    errors, 10 times those of 10-fold jumps.
    """
    errors = [
        abs(mapped_moments(list(range(400, -1, -stride)), 0.2, sd)[1] - sd) for stride in (1, 10)
    ]
    assert errors[0] < 0.01 and 5 < errors[1] / errors[0] < 15


@given(times, times, st.integers(1, 1200))
def test_time_grid_contains_both_times(t_l, t_s, steps):
    """Strictly falling from t_l to 0, changing stage at t_s, `steps` intervals (as far as there are
    indices), shared in proportion:
    stage 2 has its share, rounded up, but leaves one for stage 1."""
    assume(t_s <= t_l and steps >= 1 + (t_s < t_l))
    stage_1, stage_2 = time_grid(t_l, t_s, steps)
    visited = stage_1 + stage_2[1:]
    assert (visited[0], stage_1[-1], stage_2[0], visited[-1]) == (t_l, t_s, t_s, 0)
    assert all(s < t for t, s in pairwise(visited))
    assert len(visited) - 1 == min(steps, t_l)
    if steps <= t_l:
        assert len(stage_2) - 1 == min(-(-steps * t_s // t_l), steps - (t_s < t_l))


@pytest.mark.parametrize(
    ("t_l", "t_s", "steps", "message"),
    [
        (200, 50, 1, "too few"),
        (200, 0, 9, "1 <= t_s"),
        (50, 51, 9, "1 <= t_s"),
        (50, 50, 0, "too few"),
    ],
)
def test_time_grid_rejects(t_l, t_s, steps, message):
    with pytest.raises(ValueError, match=message):
        time_grid(t_l, t_s, steps)


def test_released_grid_examples():
    """Multiples of T // steps, counted from one; stage 2 starts at the lowest of them that is not
    below t_s.
    """
    assert released_grid(0.2, 0.1, 10, 1000) == ([201, 101], [101, 1])
    assert released_grid(0.2, 0.05, 10, 1000) == ([201, 101], [101, 1])
    assert released_grid(0.2, 0.05, 50, 1000) == (
        [201, 181, 161, 141, 121, 101, 81, 61],
        [61, 41, 21, 1],
    )
    assert released_grid(0.15, 0.1, 10, 1000) == ([101], [101, 1])
    with pytest.raises(ValueError, match="too few"):
        released_grid(0.05, 0.01, 10, 1000)


def released_times(t_l: float, t_s: float, steps: int) -> tuple[list[int], list[int]]:
    """The released code's times, zero-based: its truncations and comparisons taken literally,
    without tolerances.
    """
    times = [t for t in range(0, 999, 1000 // steps)][: int(steps * t_l) + 1][::-1]
    n_1 = sum(s >= t_s * 1000 for s in times[1:])
    return times[: n_1 + 1], times[n_1:]


@pytest.mark.parametrize("steps", [10, 20, 50, 100, 500])
def test_released_grid_is_that_of_the_released_code(steps):
    """For all levels in hundredths."""
    for t_l, t_s in ((i / 100, j / 100) for i in range(200 // steps + 1, 101) for j in range(1, i)):
        assert [[t - 1 for t in ts] for ts in released_grid(t_l, t_s, steps, 1000)] == list(
            released_times(t_l, t_s, steps)
        )


def test_released_grid_rejects_more_steps_than_indices():
    with pytest.raises(ValueError, match="steps"):
        released_grid(0.2, 0.1, 1001, 1000)


# ---- noise ---------------------------------------------------------------------------------------


def test_noise_depends_on_its_key_only():
    """Any batch, order and shard gives the same rows, bit for bit."""
    like = torch.empty(4, 3, 8, 8)
    whole = Noise(5, IDS, [0, 1, 2, 0])("start", like)
    for rows in ([0], [3], [2, 0], [3, 1, 0, 2]):
        part = Noise(5, [IDS[r] for r in rows], [[0, 1, 2, 0][r] for r in rows])
        assert torch.equal(part("start", like[rows]), whole[rows])


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"image": 1}, {"copy": 1}, {"name": "known 50 "}],
    ids=lambda o: next(iter(o)),
)
def test_noise_of_another_key_is_independent(other):
    """Correlation 0 within 5 standard errors."""
    eps, z = draw(), draw(**other)
    assert abs((eps * z).mean()) < 5 / math.sqrt(eps.numel())


def test_noise_is_the_same_in_every_precision():
    assert torch.equal(draw(dtype=torch.float32), draw(dtype=torch.float64).float())


def test_noise_keys_cannot_be_confused():
    like = torch.empty(1, 3, 4, 4)
    assert not torch.equal(
        Noise("a/b", ["c"], [0])("start", like), Noise("a", ["b/c"], [0])("start", like)
    )


def test_noise_needs_a_key_per_image():
    with pytest.raises(ValueError, match="images"):
        Noise(0, [1], [0])("start", torch.empty(2, 3, 4, 4))


def test_noise_needs_a_copy_per_image():
    with pytest.raises(ValueError, match="2 images but 1 copies"):
        Noise(0, [1, 2], [0])


# ---- 2. attention mask ---------------------------------------------------------------------------


def some_maps(seed: int, blocks: int = 3, levels: int = 12) -> Tensor:
    """(2, blocks, 6, 6) maps in [0, 1] with many ties."""
    return torch.randint(
        0, levels, (2, blocks, 6, 6), generator=torch.Generator().manual_seed(seed)
    ).double() / (levels - 1)


@given(seeds, st.integers(1, 5))
def test_activation_map_is_the_p_norm(seed, p):
    a = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    power = sum(a[:, i].abs() ** p for i in range(5)).unsqueeze(1)
    close(activation_map(a, p), power ** (1 / p), atol=1e-10)
    close(activation_map(a, p, root=False), power, atol=1e-10)


def test_activation_map_needs_a_natural_p():
    with pytest.raises(ValueError, match="whole number"):
        activation_map(torch.zeros(1, 1, 1, 1), p=0)


@given(seeds, st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_min_max_fills_the_unit_interval(seed, scale, shift):
    """The extremes become exactly 0 and 1, whatever the scale, per image and block; a constant map
    becomes 0.
    """
    scaled = min_max(
        scale * torch.cat([some_maps(seed, levels=1000), torch.zeros(2, 1, 6, 6)], 1) + shift
    )
    assert (scaled.amin((2, 3)) == 0).all() and (scaled[:, :3].amax((2, 3)) == 1).all()
    assert (scaled[:, 3] == 0).all()


@given(seeds, st.floats(0, 1))
def test_threshold_mask_is_the_union_over_blocks(seed, tau):
    """Eq 4: of 0 and 1, the union of the blocks' own masks, and the same as the maximum, then
    threshold.
    """
    maps = some_maps(seed)
    mask = threshold_mask(maps, tau)
    assert mask.shape == (2, 1, 6, 6) and set(mask.unique().tolist()) <= {0, 1}
    assert torch.equal(
        mask[:, 0] == 1, (maps[:, 0] > tau) | (maps[:, 1] > tau) | (maps[:, 2] > tau)
    )
    assert torch.equal(mask, (maps.amax(1, keepdim=True) > tau).double())


@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_threshold_mask_shrinks_with_tau(seed, a, b):
    maps = some_maps(seed)
    assert (threshold_mask(maps, max(a, b)) <= threshold_mask(maps, min(a, b))).all()


def test_threshold_mask_at_the_ends_of_tau():
    """Strictly greater: nothing exceeds 1, and only a map's zeros do not exceed 0."""
    maps = some_maps(0, blocks=1)
    assert threshold_mask(maps, 1.0).sum() == 0
    assert torch.equal(threshold_mask(maps, 0.0), (maps != 0).double())


@given(seeds, st.floats(0, 100))
def test_softmax_maps_exceed_a_half_in_one_pixel_at_most(seed, scale):
    """Erratum E2: with tau >= 1/2 Eq 3 and 4 select at most one pixel per block."""
    maps = spatial_softmax(scale * some_maps(seed, levels=1000))
    close(maps.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))
    assert ((maps > 0.5).sum((2, 3)) <= 1).all()


@given(seeds, st.floats(0.05, 0.95))
def test_soft_mask_tends_to_the_threshold(seed, tau):
    maps = some_maps(seed)
    assume((maps - tau).abs().min() > 1e-3)
    close(soft_mask(maps, tau, temperature=1e-5), threshold_mask(maps, tau))
    assert ((soft_mask(maps, tau) > 0.5) == (threshold_mask(maps, tau) == 1)).all()


@given(seeds, st.floats(0, 1))
def test_top_fraction_has_exactly_its_area(seed, fraction):
    """Also with ties; and no pixel outside has a higher score than one inside."""
    maps = some_maps(seed)
    mask, score = top_fraction_mask(maps, fraction), maps.amax(1, keepdim=True)
    assert (mask.sum((1, 2, 3)) == int(fraction * 36)).all() and set(mask.unique().tolist()) <= {
        0,
        1,
    }
    lowest_inside = torch.where(mask == 1, score, 2).amin((1, 2, 3))
    highest_outside = torch.where(mask == 0, score, -1).amax((1, 2, 3))
    assert (lowest_inside >= highest_outside).all()


@given(seeds, st.floats(0, 0.9))
def test_random_mask_has_the_area_of_its_model(seed, tau):
    mask = threshold_mask(some_maps(seed), tau)
    control = random_mask(mask, Noise(seed, [0, 1], [0, 0]))
    assert torch.equal(control.sum((1, 2, 3)), mask.sum((1, 2, 3))) and set(
        control.unique().tolist()
    ) <= {0, 1}


def test_random_mask_differs_between_images_and_copies():
    mask = torch.zeros(3, 1, 16, 16)
    mask[..., :8] = 1
    control = random_mask(mask, Noise(0, [1, 2, 1], [0, 0, 1]))
    overlap = [
        (control[a] * other).sum().item()
        for a, other in ((0, mask[0]), (0, control[1]), (0, control[2]))
    ]
    # 64 expected of 128, standard deviation 5.7 for independent masks
    assert all(30 < o < 98 for o in overlap)
    assert torch.equal(control[:1], random_mask(mask[:1], Noise(0, [1], [0])))


def test_tapped_keeps_the_order_given_and_leaves_no_hooks(classifier, images):
    a, b = classifier.taps()
    with tapped([b, a]) as outputs:
        classifier(images)
    assert [o.shape[1] for o in outputs] == [8, 6]
    assert torch.equal(outputs[1], a(images)) and hooks(classifier) == 0


def test_tapped_leaves_no_hooks_after_an_exception(classifier):
    with pytest.raises(RuntimeError, match="on purpose"), tapped(classifier.taps()):
        raise RuntimeError("on purpose")
    assert hooks(classifier) == 0


@pytest.mark.parametrize("p", [1, 2, 3])
def test_attention_map_of_the_image_itself(p, images):
    """With an identity as network and tap, the map is the image's own norm over colours, scaled to
    [0, 1].
    """
    network = nn.Identity()
    norm = sum(images[:, c] ** p for c in range(3)) ** (1 / p)
    low, high = norm.amin((1, 2), keepdim=True), norm.amax((1, 2), keepdim=True)
    close(attention_maps(images, network, [network], p), ((norm - low) / (high - low)).unsqueeze(1))


def test_attention_maps_are_one_per_tap_at_image_size(classifier, images):
    """Both taps, the second at half size, are in [0, 1] and attain both ends; each is the map of
    its tap alone.
    """
    maps = attention_maps(images, classifier, classifier.taps())
    assert (
        maps.shape == (4, 2, 8, 8)
        and (maps.amin((2, 3)) == 0).all()
        and (maps.amax((2, 3)) == 1).all()
    )
    for i, tap in enumerate(classifier.taps()):
        assert torch.equal(maps[:, i : i + 1], attention_maps(images, classifier, [tap]))


def test_attention_needs_a_tap(classifier, images):
    with pytest.raises(ValueError, match="at least one tap"):
        attention_maps(images, classifier, [])


def mask_of(kind: str, classifier: nn.Module, images: Tensor, **settings) -> Tensor:
    method = HetPure(tau=0.6, fraction=0.25, mask_kind=kind, **settings)
    return method.mask(images, classifier, classifier.taps(), Noise(0, IDS, [0] * 4))


def test_mask_kinds(classifier, images):
    """The six kinds are what their names say."""
    masks = {kind: mask_of(kind, classifier, images) for kind in MASKS}
    attention, area = masks["attention"], masks["attention"].sum((1, 2, 3))
    assert torch.equal(
        attention, threshold_mask(attention_maps(images, classifier, classifier.taps()), 0.6)
    )
    assert torch.equal(masks["inverted"], 1 - attention)
    assert torch.equal(masks["random"].sum((1, 2, 3)), area) and not torch.equal(
        masks["random"], attention
    )
    assert (masks["top-fraction"].sum((1, 2, 3)) == 16).all()
    assert (masks["all"] == 1).all() and (masks["none"] == 0).all()


@pytest.mark.parametrize("reading", READINGS)
def test_mask_builds_no_graph(reading, images, classifier):
    """Not even inside the classifier, for images that ask for gradients."""
    graphs = []
    classifier.register_forward_hook(lambda _m, _i, logits: graphs.append(logits.requires_grad))
    mask = mask_of("attention", classifier, images.requires_grad_(), reading=reading)
    assert graphs == [False] and not mask.requires_grad


def test_released_mask_is_never_empty(classifier, images):
    """It compares with >=, so that at tau = 1 the highest pixel of each of the two blocks is left,
    where Eq 4 leaves none.
    """
    released, paper = (
        HetPure(tau=1.0, reading=r).mask(images, classifier, classifier.taps(), noise_of(images))
        for r in READINGS[1::-1]
    )
    assert set(released.sum((1, 2, 3)).tolist()) <= {1, 2} and paper.sum() == 0


def test_released_mask_by_area(classifier, images):
    """The `released` reading ranks the pixels of its own maps."""
    mask, maps = (
        mask_of("top-fraction", classifier, images, reading="released"),
        released_maps(images, classifier, classifier.taps()),
    )
    assert torch.equal(mask, top_fraction_mask(maps, 0.25)) and (mask.sum((1, 2, 3)) == 16).all()


def test_mask_of_chosen_blocks(classifier, images):
    one, other, both = (
        mask_of("attention", classifier, images, blocks=b) for b in ((0,), (1,), (0, 1))
    )
    assert not torch.equal(one, other)
    assert torch.equal(torch.maximum(one, other), both)
    assert torch.equal(both, mask_of("attention", classifier, images))


# ---- 3. heterogeneous purification ---------------------------------------------------------------


@pytest.fixture
def half(images) -> Tensor:
    """A mask with both values in it, another one for each image."""
    mask = torch.zeros(1, 1, 8, 8, dtype=images.dtype)
    mask[..., 2:6, 1:5] = 1
    return torch.cat([mask.roll(i, -1) for i in range(len(images))])


class Recorded:
    """Noise that notes the names of its draws."""

    def __init__(self, noise: Noise):
        self.noise, self.names = noise, []

    def __call__(self, draw: str, like: Tensor) -> Tensor:
        self.names.append(draw)
        return self.noise(draw, like)


class Renamed:
    """Noise whose draws are called differently."""

    def __init__(self, noise: Noise, names: dict[str, str]):
        self.noise, self.names = noise, names

    def __call__(self, draw: str, like: Tensor) -> Tensor:
        return self.noise(self.names.get(draw, draw), like)


class Given:
    """One noise for whatever is asked."""

    def __init__(self, eps: Tensor):
        self.eps = eps

    def __call__(self, draw: str, like: Tensor) -> Tensor:
        return self.eps


def noise_of(images: Tensor) -> Noise:
    return Noise(0, IDS[: len(images)], [0] * len(images))


def purified(
    purifier, images: Tensor, denoiser: nn.Module, noise, mask: Tensor | None = None
) -> Tensor:
    """The end of a purification in the [-1, 1] scale."""
    x_adv = 2 * images - 1
    return run(x_adv, purifier.plan(x_adv, mask, denoiser, noise, SCHEDULE))


def at(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t)


def known_draw(reading: str, t: int) -> str:
    return f"known {t} 0" if reading == "multi-step" else f"known {t} "


@every_method
def test_merge_keeps_the_inside_and_renews_the_outside(method, images, denoiser, half, monkeypatch):
    """Right after every merge: inside the mask the state that came in, outside the forward process
    of the input, bit for bit,
    whatever the network did before. (With U = 1 every reading merges once per step.)"""
    x_adv, noise, merges = 2 * images - 1, noise_of(images), []

    def spy(mask, state, outside):
        merges.append((state, merge(mask, state, outside)))
        return merges[-1][1]

    monkeypatch.setattr(hetpure_core, "merge", spy)
    purified(replace(method, U=1), images, denoiser, noise, half)
    stage_1 = method.grid(SCHEDULE)[0]
    known = stage_1[:-1] if method.reading == "released" else stage_1[1:]
    inside, outside = half.expand_as(images) == 1, half.expand_as(images) == 0
    for t, (state, merged) in zip(known, merges[-len(known) :], strict=True):
        assert torch.equal(merged[inside], state[inside])
        fresh = q_xt_x0(x_adv, t, noise(known_draw(method.reading, t), images), SCHEDULE)
        assert torch.equal(merged[outside], fresh[outside])


@pytest.mark.parametrize("reading", ["paper", "multi-step"])
def test_start_is_heterogeneous(reading, images, denoiser, half):
    """Eq 5 and 6: inside, the input diffused to t_l; outside, the input diffused to t_s and from
    there on to t_l.
    """
    x_adv, noise = 2 * images - 1, noise_of(images)
    plan = HetPure(0.2, 0.05, steps=4, reading=reading).plan(x_adv, half, denoiser, noise, SCHEDULE)
    time, start = next(trajectory(x_adv, plan))
    weak = q_xt_x0(x_adv, 50, noise("start weak", x_adv), SCHEDULE)
    outside = q_xt_xs(weak, 50, 200, noise("start rest", x_adv), SCHEDULE)
    inside = q_xt_x0(x_adv, 200, noise("start", x_adv), SCHEDULE)
    assert time == 200 and torch.equal(start, torch.where(half == 1, inside, outside))


def algorithm_1(x0: Tensor, mask: Tensor, eps, noise: Noise, U: int, eta: float) -> Tensor:
    """Algorithm 1 as printed, errata applied, at the times 200, 150, 100, 50, 0 with t_s = 100; Eq
    11 is deterministic.
    """
    weak = q_xt_x0(x0, 100, noise("start weak", x0), SCHEDULE)
    strong = q_xt_x0(x0, 200, noise("start", x0), SCHEDULE)
    x = mask * strong + (1 - mask) * q_xt_xs(weak, 100, 200, noise("start rest", x0), SCHEDULE)
    for t, s in ((200, 150), (150, 100), (100, 50), (50, 0)):
        x = p_xs_xt(x, t, s, eps(x, at(t, x)), SCHEDULE, eta, noise(f"reverse {t} {s} ", x))
        if s >= 100:
            x = mask * x + (1 - mask) * q_xt_x0(x0, s, noise(f"known {s} ", x), SCHEDULE)
            x = q_xt_xs(x, s, s + U, noise(f"renoise {s}", x), SCHEDULE)
            x = p_xs_xt(x, s + U, s, eps(x, at(s + U, x)), SCHEDULE)
    return x


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddpm", 1.0)])
@pytest.mark.parametrize("U", [1, 10])
def test_paper_reading_is_algorithm_1(U, sampler, eta, images, denoiser, half):
    method = HetPure(0.2, 0.1, U=U, steps=4, reading="paper", sampler=sampler)
    ours = purified(method, images, denoiser, noise_of(images), half)
    close(ours, algorithm_1(2 * images - 1, half, denoiser, noise_of(images), U, eta))


def repaint(x: Tensor, x0: Tensor, mask: Tensor, eps, noise: Noise, U: int, eta: float) -> Tensor:
    """RePaint's stage 1 at the times 200, 150, 100: the known region anew after each of U denoising
    steps, and U - 1 ways back up.
    """
    for t, s in ((200, 150), (150, 100)):
        for u in range(U):
            x = p_xs_xt(x, t, s, eps(x, at(t, x)), SCHEDULE, eta, noise(f"reverse {t} {s} {u}", x))
            x = mask * x + (1 - mask) * q_xt_x0(x0, s, noise(f"known {s} {u}", x), SCHEDULE)
            if u < U - 1:
                x = q_xt_xs(x, s, t, noise(f"renoise {s} {u + 1}", x), SCHEDULE)
    return x


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddpm", 1.0)])
def test_multi_step_reading_is_repaint(sampler, eta, images, denoiser, half):
    x_adv, noise = 2 * images - 1, noise_of(images)
    plan = HetPure(0.2, 0.1, U=3, steps=4, reading="multi-step", sampler=sampler).plan(
        x_adv, half, denoiser, noise, SCHEDULE
    )
    states = dict(trajectory(x_adv, plan))
    close(states[100], repaint(states[200], x_adv, half, denoiser, noise, 3, eta))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_empty_mask_is_uniform_purification_from_t_s(sampler, images, classifier, denoiser):
    """`multi-step`, U = 1: the last known region is all that stage 2 sees. Exactly so, with that
    draw as the start. An empty mask
    comes from `none` and from tau = 1."""
    noise, uniform = noise_of(images), Uniform(0.05, 3, sampler)
    expected = purified(uniform, images, denoiser, Renamed(noise, {"start": "known 50 0"}))
    for settings in ({"mask_kind": "none"}, {"tau": 1.0}):
        method = HetPure(
            0.2, 0.05, U=1, steps=12, reading="multi-step", sampler=sampler, **settings
        )
        assert method.grid(SCHEDULE)[1] == uniform.grid(SCHEDULE)[1]
        mask = method.mask(images, classifier, classifier.taps(), noise)
        assert torch.equal(purified(method, images, denoiser, noise, mask), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_full_mask_is_uniform_purification_from_t_l(sampler, images, classifier, denoiser):
    """`multi-step`, U = 1, `all`: no known region is ever used. Exactly so, with the same start and
    the same grid.
    """
    noise, uniform = noise_of(images), Uniform(0.2, 8, sampler)
    method = HetPure(
        0.2, 0.05, U=1, steps=8, reading="multi-step", sampler=sampler, mask_kind="all"
    )
    stage_1, stage_2 = method.grid(SCHEDULE)
    assert stage_1 + stage_2[1:] == uniform.grid(SCHEDULE)[1]
    names = {f"reverse {t} {s} ": f"reverse {t} {s} 0" for t, s in pairwise(stage_1)}
    mask = method.mask(images, classifier, classifier.taps(), noise)
    expected = purified(uniform, images, denoiser, Renamed(noise, names))
    assert torch.equal(purified(method, images, denoiser, noise, mask), expected)


def test_paper_reading_without_mask_is_uniform_purification_from_above_t_s(
    images, classifier, denoiser
):
    """What enters stage 2 is the input diffused to t_s and on to t_s + U, then denoised: uniform
    purification from t_s + U, whose
    start noise is the sum of the two draws."""
    noise, method = noise_of(images), HetPure(0.2, 0.05, U=10, steps=20, mask_kind="none")
    assert method.grid(SCHEDULE)[1] == [50, 40, 30, 20, 10, 0]
    variance = 1 - ABAR[60] / ABAR[50]
    both = ((1 - variance) * (1 - ABAR[50])).sqrt() * noise(
        "known 50 ", images
    ) + variance.sqrt() * noise("renoise 50", images)
    expected = purified(Uniform(0.06, 6), images, denoiser, Given(both / (1 - ABAR[60]).sqrt()))
    mask = method.mask(images, classifier, classifier.taps(), noise)
    close(purified(method, images, denoiser, noise, mask), expected)


@every_purifier
def test_no_draw_of_noise_is_used_twice(purifier, images, denoiser, half):
    noise = Recorded(noise_of(images))
    purified(purifier, images, denoiser, noise, half)
    assert len(set(noise.names)) == len(noise.names) >= 1


@every_purifier
def test_ancestral_steps_are_noisy_and_ddim_steps_are_not(purifier, images, denoiser, half):
    """With the ddpm sampler every denoiser call but those of Eq 11 draws noise; with ddim none
    does.
    """
    noise = Recorded(noise_of(images))
    purified(purifier, images, denoiser, noise, half)
    eq_11 = (
        len(purifier.grid(SCHEDULE)[0]) - 1 if getattr(purifier, "reading", None) == "paper" else 0
    )
    expected = purifier.calls(SCHEDULE) - eq_11 if purifier.sampler == "ddpm" else 0
    assert sum(name.startswith("reverse") for name in noise.names) == expected


@every_method
def test_renoising_stops_at_the_last_index(method, images, denoiser, half):
    """With t_l next to T and a large U no time beyond T is asked for."""
    asked, method = (
        [],
        replace(method, t_l=0.95, t_s=0.9, U=2 if method.reading == "multi-step" else 200),
    )
    denoiser.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1].max().item()))
    assert purified(method, images, denoiser, noise_of(images), half).isfinite().all()
    assert max(asked) == (950 if method.reading == "multi-step" else SCHEDULE.T)


@every_purifier
def test_calls_counts_the_denoiser(purifier, images, classifier, denoiser):
    calls = []
    denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    purify(images, classifier, denoiser, purifier)
    assert len(calls) == purifier.calls(SCHEDULE) > 0


@every_purifier
def test_trajectory_ends_in_the_purified_image(purifier, images, classifier, denoiser):
    """Its times are those of the grid, its last state is what `run` returns, with and without
    segments.
    """
    defended, x_adv = Purified(classifier, denoiser, purifier), 2 * images - 1
    plan = defended.plan(images, defended.noise(4, IDS))
    visited, states = zip(*trajectory(x_adv, plan))
    stage_1, stage_2 = purifier.grid(SCHEDULE)
    assert list(visited) == stage_1 + stage_2[1:]
    assert torch.equal(states[-1], run(x_adv, plan)) and torch.equal(
        states[-1], run(x_adv, plan, segment=2)
    )


# ---- 4. the defended classifier ------------------------------------------------------------------


@every_purifier
def test_an_image_does_not_depend_on_its_neighbours(purifier, images, classifier, denoiser):
    """A batch of one, a part and a permutation give each image the logits it has in the whole
    batch.
    """
    defended = Purified(classifier, denoiser, purifier, seed=3)
    whole = defended(images, IDS)
    for rows in ([0], [3], [2, 0], [3, 1, 0, 2]):
        close(defended(images[rows], [IDS[r] for r in rows]), whole[rows])


@every_purifier
def test_copies_and_seeds_differ(purifier, images, classifier, denoiser):
    defended, other = (
        Purified(classifier, denoiser, purifier),
        Purified(classifier, denoiser, purifier, seed=1),
    )
    first = defended(images, IDS)
    assert torch.equal(first, defended(images, IDS, [0] * 4))
    for logits in (defended(images, IDS, [1] * 4), other(images, IDS)):
        assert ((logits - first).abs().amax(1) > 1e-6).all()


@every_purifier
@pytest.mark.parametrize("copy", [0, 2])
def test_votes_are_the_mean_over_separate_copies(copy, purifier, images, classifier, denoiser):
    """Alg 3: three votes of copy c are the copies 3c, 3c + 1, 3c + 2, and the output is the log of
    their mean probability.
    """
    voting = Purified(classifier, denoiser, purifier, votes=3)(images, IDS, [copy] * 4)
    single = Purified(classifier, denoiser, purifier)
    probabilities = [single(images, IDS, [3 * copy + s] * 4).softmax(-1) for s in range(3)]
    close(voting, (sum(probabilities) / 3).log())


def test_votes_share_a_given_mask(images, classifier, denoiser, half):
    method = HetPure(tau=0.5, steps=4)
    voting = Purified(classifier, denoiser, method, votes=2)(images, IDS, mask=half)
    single = Purified(classifier, denoiser, method)
    close(
        voting,
        mean_log_probability(torch.stack([single(images, IDS, [s] * 4, half) for s in range(2)])),
    )


@pytest.mark.parametrize("votes", [1, 2])
def test_anonymous_calls_are_fresh(votes, images, classifier, denoiser):
    """Images without ids get new noise in every call; a new module given the same seed repeats the
    series.
    """
    defended, again = (
        Purified(classifier, denoiser, Uniform(steps=2), votes=votes, seed=0) for _ in range(2)
    )
    series = [defended(images) for _ in range(3)]
    assert all(
        ((a - b).abs().amax(1) > 1e-6).all()
        for a, b in ((series[0], series[1]), (series[1], series[2]), (series[0], series[2]))
    )
    assert all(torch.equal(s, again(images)) for s in series)


def test_anonymous_noise_is_not_drawn_again(images, classifier, denoiser):
    """Not by any mixture of `forward`, which numbers its votes, and `noise`."""
    defended, drawn = Purified(classifier, denoiser, Uniform(steps=2), votes=3), []
    denoiser.register_forward_pre_hook(
        lambda _, inputs: drawn.extend(inputs[0]) if inputs[1][0] == 100 else None
    )
    defended(images[:1])
    for _ in range(3):
        defended.purify(images[:1], defended.noise(1))
    assert len(torch.stack(drawn).unique(dim=0)) == len(drawn) == 6


def test_equal_images_without_ids_get_different_noise(images, classifier, denoiser):
    logits = Purified(classifier, denoiser, Uniform(steps=2))(images[:1].repeat(3, 1, 1, 1))
    assert len(logits.round(decimals=6).unique(dim=0)) == 3


@every_purifier
def test_no_hook_is_left_behind(purifier, images, classifier, denoiser):
    """Not after many calls, not after backward, not after an error in the network."""
    defended = Purified(classifier, denoiser, purifier, votes=2)
    for _ in range(5):
        defended(images.clone().requires_grad_()).sum().backward()
    with pytest.raises(
        ValueError,
        match="images are torch.float32 on cpu, but the weights of the .* are torch.float64",
    ):
        defended(images.float())
    assert hooks(classifier, denoiser) == 0


def test_taps_may_be_given(images, classifier, denoiser):
    tap = classifier.taps()[1]
    defended = Purified(classifier, denoiser, HetPure(tau=0.5), taps=[tap])
    mask = defended.mask(images, defended.noise(4, IDS))
    assert torch.equal(mask, threshold_mask(attention_maps(images, classifier, [tap]), 0.5))


@every_purifier
def test_purify_returns_images(purifier, images, classifier, denoiser):
    """In [0, 1], without gradient: what `Purified.purify` returns, clamped; the inputs are left
    alone.
    """
    before, defended = images.clone(), Purified(classifier, denoiser, purifier, seed=2)
    ours = purify(images, classifier, denoiser, purifier, ids=IDS, seed=2)
    free = defended.purify(images, defended.noise(4, IDS)).detach()
    assert free.min() < 0 and free.max() > 1  # the tiny denoiser leaves most of the noise
    assert not ours.requires_grad and torch.equal(ours, free.clamp(0, 1))
    assert torch.equal(images, before)


def test_purify_numbers_images_without_ids(images, classifier, denoiser):
    """So that a script repeats itself."""
    assert torch.equal(
        purify(images, classifier, denoiser), purify(images, classifier, denoiser, ids=range(4))
    )


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["tensor", "array"])
def test_purify_takes_ids_as_loaders_give_them(make, images, classifier, denoiser):
    ours = purify(images, classifier, denoiser, Uniform(steps=2), ids=make([5, 6, 7, 8]))
    assert torch.equal(
        ours, purify(images, classifier, denoiser, Uniform(steps=2), ids=[5, 6, 7, 8])
    )


def runs(*probabilities: list[float], offsets: list[float] | None = None) -> Tensor:
    """(S, 1, classes) logits with these probabilities; logits are free up to a constant, which
    `offsets` adds.
    """
    return torch.tensor(probabilities).log().unsqueeze(1) + torch.tensor(
        offsets or [0.0] * len(probabilities)
    ).reshape(-1, 1, 1)


def test_mean_log_probability_by_hand():
    close(
        mean_log_probability(runs([0.9, 0.1], [0.3, 0.7], offsets=[5, -5])).exp(),
        torch.tensor([[0.6, 0.4]]),
        atol=1e-6,
    )


def test_soft_and_hard_votes_can_differ():
    """Two runs barely for class 1 outvote, by count, one that is sure of class 0."""
    logits = runs([0.98, 0.02], [0.45, 0.55], [0.45, 0.55])
    assert (vote(logits).item(), vote(logits, "hard").item()) == (0, 1)


@pytest.mark.parametrize("offsets", [[0, 0], [0, 50], [50, 0]])
def test_equal_counts_go_to_the_larger_mean_probability(offsets):
    """Not to the lower label, nor to the larger logit."""
    assert vote(runs([0.6, 0.3, 0.1], [0.04, 0.06, 0.9], offsets=offsets), "hard").item() == 2
    assert vote(runs([0.9, 0.06, 0.04], [0.1, 0.3, 0.6], offsets=offsets), "hard").item() == 0


def test_a_class_no_run_chose_cannot_win_a_hard_vote():
    """Class 0 has the largest mean probability and no vote."""
    logits = runs([0.49, 0.51, 0.0, 0.0], [0.49, 0.0, 0.51, 0.0], [0.48, 0.0, 0.0, 0.52])
    assert (vote(logits).item(), vote(logits, "hard").item()) == (0, 3)


@given(seeds, st.integers(1, 7))
def test_votes_do_not_depend_on_the_order_of_runs(seed, n):
    logits = torch.randn(
        n, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    for how in ("soft", "hard"):
        assert torch.equal(vote(logits, how), vote(logits.flip(0), how))


# ---- 5. checks -----------------------------------------------------------------------------------

GOOD = torch.full((2, 3, 4, 4), 0.5)
BAD_IMAGES = {
    "above 1": (GOOD + 0.6, r"must be in \[0, 1\], but range from 1.1 to 1.1"),
    "below 0": (GOOD - 0.6, r"must be in \[0, 1\]"),
    "infinite": (GOOD / 0, r"must be in \[0, 1\]"),
    "NaN": (GOOD.masked_fill(torch.eye(4) == 1, math.nan), "NaN"),
    "uint8": ((255 * GOOD).byte(), "divide 8-bit pixels by 255"),
    "array": (GOOD.numpy(), r"must be a float tensor, not ndarray \(torch.as_tensor makes one\)"),
    "list": (GOOD.tolist(), "must be a float tensor, not list"),
    "one image": (GOOD[0], r"shape \(n, c, h, w\) with n >= 1, not \(3, 4, 4\)"),
    "none": (GOOD[:0], "n >= 1"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images_are_rejected(bad, message, classifier, denoiser):
    """By the defended classifier and by `purify`, before any network runs."""
    for reject in (
        check_images,
        Purified(classifier, denoiser),
        lambda x: purify(x, classifier, denoiser),
    ):
        with pytest.raises(ValueError, match=message):
            reject(bad)


def test_the_ends_of_the_interval_are_images():
    check_images(torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]))


BAD_SETTINGS = [
    (HetPure, {"t_l": 0.1, "t_s": 0.1}, "t_s = 0.1 must be below the strong noise t_l = 0.1"),
    (HetPure, {"t_l": 0.1, "t_s": 0.2}, "must be below"),
    (HetPure, {"t_l": 1.1}, r"t_l is a fraction of T in \(0, 1\], not 1.1"),
    (HetPure, {"t_l": math.nan}, "t_l is a fraction"),
    (HetPure, {"t_s": 0}, "t_s is a fraction"),
    (HetPure, {"t_s": -0.1}, "t_s is a fraction"),
    (HetPure, {"tau": 1.1}, r"tau is a threshold on maps in \[0, 1\], not 1.1"),
    (HetPure, {"tau": -0.1}, "tau is a threshold"),
    (HetPure, {"tau": math.nan}, "tau is a threshold"),
    (HetPure, {"fraction": 1.1}, "fraction is a share"),
    (HetPure, {"U": 0}, "U must be a whole number from 1 to 10000, not 0"),
    (HetPure, {"steps": 0}, "steps must be a whole number from 1 to 10000, not 0"),
    (HetPure, {"U": 10**9}, "U must be a whole number from 1 to 10000, not 1000000000"),
    (HetPure, {"U": 1e9}, "U must be a whole number"),
    (HetPure, {"steps": True}, "steps must be a whole number from 1 to 10000, not True"),
    (HetPure, {"steps": torch.tensor(3)}, "steps must be a whole number"),
    (HetPure, {"t_l": "0.2"}, "t_l is a fraction of T"),
    (HetPure, {"tau": None}, "tau is a threshold"),
    pytest.param(HetPure, {"U": 2.5}, "U"),
    pytest.param(HetPure, {"p": 0}, "p must be a whole number"),
    (HetPure, {"reading": "Paper"}, "unknown reading 'Paper'; known: paper, released, multi-step"),
    (HetPure, {"sampler": "sde"}, "unknown sampler 'sde'; known: ddim, ddpm"),
    (HetPure, {"mask_kind": "full"}, "unknown mask_kind 'full'; known: attention"),
    (Uniform, {"t": 0}, r"t is a fraction of T in \(0, 1\], not 0"),
    (Uniform, {"t": 1.5}, "t is a fraction"),
    (Uniform, {"steps": 0}, "steps must be a whole number"),
    (Uniform, {"sampler": "DDIM"}, "unknown sampler"),
]


@pytest.mark.parametrize(("purifier", "settings", "message"), BAD_SETTINGS)
def test_bad_settings_are_rejected(purifier, settings, message):
    with pytest.raises(ValueError, match=message):
        purifier(**settings)


@pytest.mark.parametrize("reading", READINGS)
def test_too_few_steps_are_rejected(reading, images, classifier, denoiser):
    """One step cannot visit two levels."""
    method = HetPure(steps=1, reading=reading)
    for reject in (
        lambda: method.calls(SCHEDULE),
        lambda: purify(images, classifier, denoiser, method),
    ):
        with pytest.raises(ValueError, match="steps are too few"):
            reject()


def test_levels_that_share_an_index_are_rejected():
    with pytest.raises(ValueError, match="t_s"):
        HetPure(t_l=0.2004, t_s=0.2).grid(SCHEDULE)


def test_blocks_that_do_not_exist_are_rejected(images, classifier):
    with pytest.raises(ValueError, match="blocks"):
        mask_of("attention", classifier, images, blocks=(2,))


def test_votes_are_checked(classifier, denoiser):
    with pytest.raises(ValueError, match="votes must be a whole number from 1 to 10000, not 0"):
        Purified(classifier, denoiser, votes=0)
    with pytest.raises(ValueError, match="unknown how 'majority'; known: soft, hard"):
        vote(torch.zeros(1, 1, 2), "majority")
