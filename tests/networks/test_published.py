"""The published networks: names and shapes of every file, and outputs under the weights that anyone
can rebuild.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from conftest import FOLDER, fixture, input_images, normal, weight
from torch import nn

from hetpure_core import HetPure, Noise, Purified, Uniform, linear_schedule, tapped
from hetpure_lab.attacks import PGD, reseeded
from hetpure_lab.networks import benches
from hetpure_lab.networks.published import ADM, NETWORKS, OnCanvas, on_meta, scaled

SMALL_ADM = {"width": 64, "widths": (1, 2, 3, 4), "attention": (2, 3), "n_head": 16, "size": 64}
WITH_FIXTURE = [name for name in NETWORKS if name != "resnet_50"]
needs_fixtures = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"the parity fixtures are not here: no folder {FOLDER}"
)


def listed(network: nn.Module) -> list[list]:
    return [
        [k, list(v.shape), str(v.dtype).removeprefix("torch.")]
        for k, v in network.state_dict().items()
    ]


def meta_adm() -> nn.Module:
    with torch.device("meta"):
        return ADM(**SMALL_ADM)


@needs_fixtures
@pytest.mark.parametrize("name", [*WITH_FIXTURE, "adm_small"])
def test_every_name_and_shape_is_the_published_one(name):
    spec = fixture(name)[0]
    network = meta_adm() if name == "adm_small" else on_meta(name)
    ours = listed(network)
    # Functional parameters have no order of their own; in all other files it is the order in which
    # an average of the weights is stored.
    arranged = sorted if name == "svhn_wrn_28_10" else list
    assert arranged(ours) == arranged(spec["state_dict"])


def test_resnet_50_has_torchvisions_parameters():
    assert sum(p.numel() for p in on_meta("resnet_50").parameters()) == 25_557_032


@pytest.mark.parametrize(
    "name", ["wrn_28_10", "wrn_70_16", "dm_wrn_70_16", "svhn_wrn_28_10", "resnet_50"]
)
def test_attention_points_run_in_the_forward_pass_from_fine_to_coarse(name):
    network, size = on_meta(name), 224 if name == "resnet_50" else 32
    with tapped(network.taps()) as activations:
        network(torch.empty(1, 3, size, size, device="meta"))
    widths = [a.shape[-1] for a in activations]
    assert len(widths) == 4 and widths == sorted(widths, reverse=True)


def filled(name: str) -> nn.Module:
    """The network under the weight-filling rule, which leaves a network's own constants alone."""
    spec, network = fixture(name)[0], ADM(**SMALL_ADM) if name == "adm_small" else NETWORKS[name]()
    state = {
        k: weight(k, v) for k, v in network.state_dict().items() if k not in spec["not_filled"]
    }
    if "model.map_noise.freqs" in spec["not_filled"]:
        state["model.map_noise.freqs"] = 16 * normal("model.map_noise.freqs", (128,))
    network.load_state_dict(state, strict=False, assign=True)
    return network.eval().requires_grad_(False)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


def check_classifier(name: str) -> None:
    arrays, network = fixture(name)[1], filled(name)
    points = network.taps() if "sumsq_block1" in arrays else []
    with tapped(points) as activations:
        close(network(input_images(name, (len(arrays["logits"]), 3, 32, 32))), arrays["logits"])
    for i, a in enumerate(activations, 1):
        close(a.square().sum(1), arrays[f"sumsq_block{i}"])


def check_denoiser(name: str) -> None:
    spec, arrays = fixture(name)
    network = filled(name)
    if name.startswith("edm"):
        x = normal(f"input:{name}", tuple(arrays["denoised"].shape))
        close(network.denoised(x, torch.tensor(spec["sigmas"])), arrays["denoised"])
    elif name.startswith("adm"):
        size, t = spec["config"]["image_size"], torch.tensor(spec["timesteps"])
        out = network.labelled(normal(f"input:{name}", (len(t), 3, size, size)), t)
        edge = (size - 32) // 2
        close(out[:, :, edge : edge + 32, edge : edge + 32], arrays["output_centre"])
        close(out.mean((2, 3)), arrays["mean"])
        close(out.std((2, 3)), arrays["std"])
    else:
        x = normal(f"input:{name}", tuple(arrays["eps"].shape))
        close(network.labelled(x, torch.tensor(spec["timesteps"])), arrays["eps"])


@needs_fixtures
@torch.no_grad()
def test_outputs_are_the_public_implementations():
    """A reduced guided-diffusion; the networks at their real sizes are slow."""
    check_denoiser("adm_small")


@torch.no_grad()
def peak_of_check(name: str) -> int:
    """Check a large network's outputs, and return the most bytes that were resident in this
    process.
    """
    (check_classifier if "wrn" in name else check_denoiser)(name)
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return 1024 * int(line.split()[1])


@pytest.mark.slow
@needs_fixtures
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="only Linux says how much memory a process has taken",
)
@pytest.mark.parametrize("name", WITH_FIXTURE)
def test_outputs_of_the_large_networks_are_the_public_implementations_in_less_than_8_gb(name):
    """Each in a process of its own, whose peak is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        peak = alone.submit(peak_of_check, name).result()
    print(f"{name}: {peak / 1e9:.2f} GB")
    assert peak < 8e9


# ---- conventions ---------------------------------------------------------------------------------


def test_edm_predicts_the_noise_that_its_denoiser_implies(monkeypatch):
    """For data N(0, s^2) the best denoiser and the best noise prediction are known in closed
    form.
    """
    network, schedule, variance = on_meta("edm_ddpmpp"), linear_schedule(), 0.3
    monkeypatch.setattr(
        network,
        "denoised",
        lambda x, sigma: x * (variance / (variance + sigma**2))[:, None, None, None],
    )
    x, t = torch.randn(3, 3, 4, 4, dtype=torch.float64), torch.tensor([1, 200, 1000])
    abar = schedule.abar[t][:, None, None, None]
    torch.testing.assert_close(
        network(x, t), x * (1 - abar).sqrt() / (abar * variance + 1 - abar), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("name", ["score_sde_ddpmpp", "svhn_ddpm"])
def test_networks_trained_on_indices_are_asked_at_the_index_from_zero(name, monkeypatch):
    network, asked = on_meta(name), []
    monkeypatch.setattr(network, "labelled", lambda x, label: asked.extend(label.tolist()))
    network(torch.empty(2, 3, 32, 32), torch.tensor([1, 1000]))
    assert asked == [0, 999]


def test_score_sdes_own_schedule_is_close_to_the_discrete_one():
    index = torch.arange(1000, dtype=torch.float64)
    tau = index / 999
    continuous = torch.exp(-0.5 * tau**2 * (20 - 0.1) - 0.1 * tau)
    difference = (continuous - linear_schedule().abar[1:]).abs()
    assert 1e-3 < difference[199] < 2e-3 and difference.max() < 3e-3


def test_guided_diffusion_drops_its_variance_and_refuses_another_size():
    network = meta_adm()
    assert network(
        torch.empty(1, 3, 64, 64, device="meta"), torch.full((1,), 200, device="meta")
    ).shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="trained at 64 pixels"):
        network(torch.empty(1, 3, 32, 32, device="meta"), torch.full((1,), 200, device="meta"))


# ---- another size, another device ----------------------------------------------------------------


@pytest.mark.parametrize("purifier", [Uniform(0.1, 2), HetPure(steps=3, mask_kind="top-fraction")])
def test_purification_on_a_canvas_is_purification_of_the_scaled_image(
    classifier, denoiser, images, purifier
):
    denoiser.size = 16
    plain, canvas = (kind(classifier, denoiser, purifier) for kind in (Purified, OnCanvas))
    noise = Noise(0, range(4), [0] * 4)
    expected = scaled(plain.purify(scaled(images, 16), noise), 8)
    assert torch.equal(canvas.purify(images, noise), expected) and expected.shape == images.shape
    assert isinstance(reseeded(canvas, 1), OnCanvas)
    x = images.clone().requires_grad_()
    assert (torch.autograd.grad(canvas(x, range(4)).sum(), x)[0].abs() > 0).any((1, 2, 3)).all()


def test_a_mask_of_the_images_size_fits_the_canvas(classifier, denoiser, images):
    denoiser.size = 16
    canvas, noise = OnCanvas(classifier, denoiser, HetPure(steps=3)), Noise(0, range(4), [0] * 4)
    everywhere = canvas.purify(images, noise, torch.ones(4, 1, 8, 8, dtype=images.dtype))
    torch.testing.assert_close(
        everywhere,
        OnCanvas(classifier, denoiser, HetPure(steps=3, mask_kind="all")).purify(images, noise),
    )


def test_the_noise_of_a_canvas_cannot_be_frozen_and_the_attack_says_so(classifier, denoiser):
    with pytest.raises(
        ValueError, match="only the noise of a plain Purified can be frozen, not that of OnCanvas"
    ):
        PGD(frozen="all").faces(OnCanvas(classifier, denoiser))


@pytest.mark.parametrize(
    "purifier",
    [
        Uniform(),
        HetPure(),
        HetPure(reading="released"),
        HetPure(reading="multi-step", U=2, sampler="ddpm"),
    ],
)
def test_the_gradient_mixes_no_devices(classifier, denoiser, purifier):
    """On the meta device an operation between devices raises, as it would on a GPU."""
    defended = Purified(classifier.to("meta"), denoiser.to("meta"), purifier)
    x = torch.empty(2, 3, 8, 8, dtype=torch.float64, device="meta", requires_grad=True)
    logits = defended.classifier(defended.purify(x, Noise(0, range(2), [0] * 2)))
    assert torch.autograd.grad(logits.sum(), x)[0].device.type == "meta"


@pytest.mark.parametrize(
    "name", [name for name in NETWORKS if "wrn" not in name and name != "resnet_50"]
)
def test_published_denoisers_mix_no_devices_and_keep_shape_and_type(name):
    network = on_meta(name)
    size = getattr(network, "size", 32)
    x = torch.empty(2, 3, size, size, device="meta", requires_grad=True)
    out = network(x, torch.full((2,), 100, device="meta"))
    assert out.shape == x.shape and out.dtype == x.dtype
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape


def test_a_gpu_is_used_by_name_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert benches.resolve_device("cuda:1") == torch.device("cuda", 1)


def test_an_apple_gpu_is_used_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert benches.resolve_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(benches.BenchError, match="sees no Apple GPU here"):
        benches.resolve_device("mps")
