"""Looking inside: states, features, projections and seams are what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn

from hetpure_core import (
    HetPure,
    Purified,
    Uniform,
    linear_schedule,
    merge,
    q_xt_x0,
    trajectory,
    x0_xt,
)
from hetpure_lab.common import measure
from hetpure_lab.defences.equal_energy import EqualEnergy
from hetpure_lab.evidence import inside

METHOD = HetPure(t_l=0.2, t_s=0.1, steps=4, tau=0.5)


@pytest.fixture
def defended(classifier, denoiser):
    return Purified(classifier, denoiser, METHOD)


def test_the_ends_of_a_path_are_the_image_of_eq_5_and_the_purified_image(defended, images):
    start, end = inside.ends(defended, images, range(4))
    noise = defended.noise(4, range(4))
    assert torch.equal(end, defended.purify(images, noise))
    x, schedule, mask = 2 * images - 1, defended.schedule, defended.mask(images, noise)
    strong, weak = (
        q_xt_x0(x, schedule.index(t), noise(draw, x), schedule)
        for t, draw in ((0.2, "start"), (0.1, "start weak"))
    )
    assert torch.allclose(2 * start - 1, merge(mask, strong, weak))


@pytest.mark.parametrize(
    "purifier",
    [Uniform(t=0.2, steps=3), HetPure(reading="released", steps=20), EqualEnergy(steps=4)],
)
def test_a_start_on_one_level_is_the_first_state(classifier, denoiser, images, purifier):
    defended = Purified(classifier, denoiser, purifier)
    (_, first), *_ = trajectory(2 * images - 1, defended.plan(images, defended.noise(4, range(4))))
    assert torch.equal(
        2 * inside.ends(defended, images, range(4))[0] - 1, 2 * ((first + 1) / 2) - 1
    )


def test_a_path_believes_what_the_denoiser_says_and_ends_in_the_purified_image(defended, images):
    steps = inside.path(defended, images, range(4))
    assert [t for t, _ in steps] == [200, 150, 100, 50, 0]
    assert torch.equal(steps[-1][1], inside.ends(defended, images, range(4))[1].clamp(0, 1))
    x, t = torch.randn(2, 3, 8, 8, dtype=torch.float64), 100
    expected = x0_xt(x, t, defended.denoiser(x, torch.full((2,), t)), linear_schedule())
    assert torch.equal(inside.belief(defended, x, t), expected)


def test_features_are_what_the_last_linear_layer_multiplies(classifier, images):
    seen = inside.features(classifier, images)
    assert torch.allclose(3 * classifier.head(seen), classifier(images))
    assert not classifier.head._forward_pre_hooks
    with pytest.raises(ValueError, match="Identity has no linear layer"):
        inside.features(nn.Identity(), images)


def test_distance_is_a_metric_between_features(classifier, images):
    a, b = images[:2], images[2:]
    assert torch.equal(inside.distance(classifier, a, a), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(inside.distance(classifier, a, b), inside.distance(classifier, b, a))
    assert inside.spread(torch.tensor([[0.0], [1.0], [3.0]])) == 2


def test_similarities_are_the_librarys_for_any_weights_of_the_images():
    rng = torch.Generator().manual_seed(0)
    a = (255 * torch.rand(6, 3, 8, 8, generator=rng)).round() / 255
    b = (0.9 * a + 0.1 * torch.rand(6, 3, 8, 8, generator=rng)).clamp(0, 1)
    counts = np.array([2, 0, 1, 1, 1, 1])
    pooled = [np.repeat(v.numpy().reshape(6, -1), counts, 0).ravel() for v in (a, b)]
    assert inside.correlation(a, b)(counts / 6) == pytest.approx(np.corrcoef(*pooled)[0, 1])
    assert inside.wasserstein(a, b)(counts / 6) == pytest.approx(
        wasserstein_distance(*pooled), abs=1e-4
    )
    many = np.stack([counts / 6, np.full(6, 1 / 6)])
    for statistic in (
        inside.correlation(a, b),
        inside.wasserstein(a, b),
        inside.less(inside.wasserstein(a, b), inside.correlation(a, b)),
    ):
        assert np.allclose(statistic(many), [statistic(w) for w in many])


def test_pca_is_fitted_to_the_background_alone():
    rng = torch.Generator().manual_seed(0)
    background, paths = torch.randn(30, 5, generator=rng), torch.randn(2, 4, 5, generator=rng)
    ground, moved = inside.project(background, paths, "pca")
    again, far = inside.project(background, 100 * paths, "pca")
    assert np.allclose(ground, again) and moved.shape == (2, 4, 2) and not np.allclose(moved, far)
    same, _ = inside.project(background, background.reshape(3, 10, 5), "pca")
    assert np.allclose(
        inside.project(background, background.reshape(3, 10, 5), "pca")[1].reshape(30, 2),
        same,
        atol=1e-5,
    )


def test_t_sne_keeps_neighbours_together_and_repeats():
    rng = torch.Generator().manual_seed(0)
    background = torch.cat(
        [torch.randn(15, 5, generator=rng), 20 + torch.randn(15, 5, generator=rng)]
    )
    paths = background[:2, None] + torch.linspace(0, 0.01, 3)[None, :, None]
    ground, moved = inside.project(background, paths, "t-sne")
    centres = ground[:15].mean(0), ground[15:].mean(0)
    own, other = (np.linalg.norm(moved - c, axis=-1) for c in centres)
    assert (own < other).all()
    assert np.array_equal(inside.project(background, paths, "t-sne")[1], moved)
    with pytest.raises(ValueError, match="unknown projection 'umap'"):
        inside.project(background, paths, "umap")


def test_a_seam_is_one_for_the_image_itself_and_vanishes_for_a_flat_one(images):
    mask = torch.zeros(4, 1, 8, 8, dtype=torch.float64)
    mask[..., 2:6, 3:6] = 1
    assert torch.allclose(inside.seam(images, images, mask), torch.ones(4, dtype=torch.float64))
    assert torch.equal(inside.seam(images * 0, images, mask), torch.zeros(4, dtype=torch.float64))
    assert (inside.seam(images + 5 * mask, images, mask) > 5).all()


@pytest.mark.parametrize(("checkpointing", "passes"), [(False, 1), (True, 2)])
def test_cost_counts_every_denoiser_pass(classifier, denoiser, images, checkpointing, passes):
    defended = Purified(classifier, denoiser, Uniform(steps=3), checkpointing=checkpointing)
    found = measure.measure(defended, images[:1], torch.tensor([0]), [0])
    assert (found.calls, found.passes) == (3, 3 * passes)
    assert (
        0 < found.held <= found.peak
        and found.seconds > 0
        and (found.process is None or found.process >= 0)
    )


def test_bytes_held_for_the_backward_pass_are_linear_in_calls_and_repeat(
    classifier, denoiser, images
):
    def held(steps):
        defended = Purified(classifier, denoiser, Uniform(steps=steps), checkpointing=False)
        return measure.measure(defended, images[:1], torch.tensor([0]), [0]).held

    a, b, c = held(2), held(4), held(6)
    assert b - a == c - b > 0 and held(4) == b


def test_live_bytes_are_of_what_is_made_not_of_views_of_what_was_there():
    weight, x = torch.zeros(64, 32), torch.zeros(8, 32)
    with measure.LiveBytes() as meter:
        a = x @ weight.t()
        b = a.reshape(-1)
    assert meter.now == meter.peak == a.nbytes == b.nbytes == 8 * 64 * 4


@pytest.mark.skipif(
    not measure.RESET.exists(), reason="only Linux says how much memory a process has"
)
def test_a_process_grows_by_what_is_made_however_often():
    for _ in range(3):
        with measure._ProcessBytes(torch.device("cpu")) as process:
            # small enough for the allocator to keep them when they are freed
            parts = [torch.ones(2**16) for _ in range(128)]
        assert 0.8 * 2**25 < process.grown < 2**26
        del parts


def test_checkpoints_hold_one_state_per_call_instead_of_activations(classifier, denoiser, images):
    def held(steps, checkpointing):
        defended = Purified(classifier, denoiser, Uniform(steps=steps), checkpointing=checkpointing)
        return measure.measure(defended, images[:1], torch.tensor([0]), [0]).held

    per_call = {how: held(5, how) - held(4, how) for how in (False, True)}
    state = images[:1].nbytes
    assert state <= per_call[True] < 1.1 * state and per_call[False] > 3 * per_call[True]


def test_on_a_gpu_events_and_the_cuda_allocator_are_asked(monkeypatch):
    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            pass

        def elapsed_time(self, end):
            return 250.0

    calls = []
    fakes = {
        "Event": Event,
        "synchronize": lambda _: calls.append("wait"),
        "reset_peak_memory_stats": lambda _: calls.append("reset"),
    }
    for name, fake in (
        fakes | {"memory_allocated": lambda _: 100, "max_memory_allocated": lambda _: 164}
    ).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    gpu = torch.device("cuda")
    with measure._ProcessBytes(gpu) as process:
        assert measure._seconds(lambda: calls.append("run"), gpu) == 0.25
    assert process.grown == 64 and calls == ["reset", "run", "wait"]
