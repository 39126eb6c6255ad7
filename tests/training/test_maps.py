"""Training with a time per pixel: the maps' law, per-pixel diffusion, a start from other weights,
and a run that resumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hetpure_core import linear_schedule, q_xt_x0
from hetpure_lab.networks import small
from hetpure_lab.training import train
from hetpure_lab.training.train import RECIPES


def test_maps_have_two_levels_in_blocks_and_one_in_five_has_a_single_one():
    recipe = RECIPES["cifar10-small-map-denoiser"]
    maps = train.times_map(recipe, np.random.default_rng(0), 400, (32, 32))
    assert maps.shape == (400, 1, 32, 32) and maps.min() >= 1 and maps.max() <= recipe.t_max
    levels = [len(m.unique()) for m in maps]
    assert set(levels) == {1, 2} and 0.14 < np.mean(np.array(levels) == 1) < 0.3
    two = maps[[i for i, k in enumerate(levels) if k == 2]]
    shares = torch.stack([(m == m.max()).double().mean() for m in two])
    assert 0.4 < shares.mean() < 0.6 and shares.min() < 0.1 and shares.max() > 0.9
    sides = [next(b for b in (8, 4, 2, 1) if torch.equal(m, blocks(m, b))) for m in two]
    assert set(sides) >= {1, 2, 4, 8}


def blocks(m: torch.Tensor, side: int) -> torch.Tensor:
    small = m[..., ::side, ::side]
    return small.repeat_interleave(side, -1).repeat_interleave(side, -2)


def test_maps_are_drawn_for_any_size():
    recipe = RECIPES["cifar10-small-map-denoiser"]
    assert train.times_map(recipe, np.random.default_rng(0), 5, (6, 10)).shape == (5, 1, 6, 10)


def test_each_pixel_is_diffused_to_its_own_time():
    x, z = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    t = torch.where(torch.rand(2, 1, 4, 4) < 0.5, 200, 50)
    expected = torch.where(
        t == 200, *(q_xt_x0(x, level, z, linear_schedule()) for level in (200, 50))
    )
    assert torch.allclose(train.diffuse_map(x, t, z), expected, atol=1e-12)


@pytest.fixture
def short(monkeypatch, tmp_path, little):
    """A short run on six images from the weights of a plain network, in a folder of its own."""
    import dataclasses

    monkeypatch.setitem(small.NETWORKS, "tiny", lambda: small.UNet((8, 8), (1, 1), n_time=8))
    monkeypatch.setitem(small.NETWORKS, "tiny_map", lambda: small.MapUNet((8, 8), (1, 1), n_time=8))
    torch.manual_seed(5)
    plain = small.build("tiny")
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.1)
    monkeypatch.setattr(train.benches, "load_network", lambda name, folder=None: plain)
    monkeypatch.setattr(train, "sources", lambda recipe, folder: ({"a/all": little}, little))
    recipe = dataclasses.replace(
        RECIPES["cifar10-small-map-denoiser"],
        network="tiny_map",
        shares={"a/all": 1.0},
        cycles=(16,),
        batch=4,
        bf16=False,
    )
    return plain, recipe, tmp_path


def test_a_run_starts_from_the_plain_network_and_resumes_as_if_never_stopped(short, monkeypatch):
    plain, recipe, folder = short
    begun = []

    def watched(net, *args, of=train.denoise_map_loss):
        begun.append({k: v.clone() for k, v in net.state_dict().items()})
        return of(net, *args)

    monkeypatch.setitem(train.TASKS, "denoise-map", (watched, train.denoise_map_metrics))
    net, log = train.train(recipe, every=2, progress=False, runs=folder / "a", weights=folder)
    own = {k: v for k, v in begun[0].items() if k.startswith("apart")}
    assert all(torch.equal(begun[0][k], v) for k, v in plain.state_dict().items())
    assert own and all((v == 0).all() for v in own.values())
    assert net.state_dict()["apart.weight"].abs().max() > 0

    def killed(*args):
        if len(begun) == 7:
            raise KeyboardInterrupt
        return watched(*args)

    monkeypatch.setitem(train.TASKS, "denoise-map", (killed, train.denoise_map_metrics))
    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, every=2, progress=False, runs=folder / "b", weights=folder)
    monkeypatch.setitem(train.TASKS, "denoise-map", (watched, train.denoise_map_metrics))
    again, _ = train.train(recipe, every=2, progress=False, runs=folder / "b", weights=folder)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters()))
    assert {"mse_0.2", "mse_mixed", "mse_mixed_blind"} <= set(log[-1])
