"""The published networks: names and shapes of every file, and outputs under the weights that anyone can rebuild."""

from __future__ import annotations

import pytest
import torch
from test_parity import FOLDER, fixture, input_images, normal, weight
from torch import nn

from hetpure_core import HetPure, Noise, Purified, Uniform, linear_schedule, tapped
from hetpure_lab.published import ADM, EDM, NETWORKS, OnCanvas, ResNet50, on_meta

SMALL_ADM = {"width": 64, "widths": (1, 2, 3, 4), "attention": (2, 3), "n_head": 16, "size": 64}
WITH_FIXTURE = [name for name in NETWORKS if name != "resnet_50"]
needs_fixtures = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the parity fixtures are not here: no folder {FOLDER}")


def listed(network: nn.Module) -> list[list]:
    return [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in network.state_dict().items()]


def meta_adm() -> nn.Module:
    with torch.device("meta"):
        return ADM(**SMALL_ADM)


@needs_fixtures
@pytest.mark.parametrize("name", [*WITH_FIXTURE, "adm_small"])
def test_every_name_and_shape_is_the_published_one(name):
    spec = fixture(name)[0]
    network = meta_adm() if name == "adm_small" else on_meta(name)
    ours = listed(network)
    # Functional parameters have no order of their own; in all other files it is the order in which an average of the weights is stored.
    arranged = sorted if name == "svhn_wrn_28_10" else list
    assert arranged(ours) == arranged(spec["state_dict"])


def test_resnet_50_has_torchvisions_parameters():
    assert sum(p.numel() for p in on_meta("resnet_50").parameters()) == 25_557_032


@pytest.mark.parametrize("name", ["wrn_28_10", "wrn_70_16", "dm_wrn_70_16", "svhn_wrn_28_10", "resnet_50"])
def test_attention_points_run_in_the_forward_pass_from_fine_to_coarse(name):
    network, size = on_meta(name), 224 if name == "resnet_50" else 32
    with tapped(network.taps()) as activations:
        network(torch.empty(1, 3, size, size, device="meta"))
    widths = [a.shape[-1] for a in activations]
    assert len(widths) == 4 and widths == sorted(widths, reverse=True)


def filled(name: str) -> nn.Module:
    """The network under the weight-filling rule, which leaves a network's own constants alone."""
    spec, network = fixture(name)[0], ADM(**SMALL_ADM) if name == "adm_small" else NETWORKS[name]()
    state = {k: weight(k, v) for k, v in network.state_dict().items() if k not in spec["not_filled"]}
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
@pytest.mark.parametrize("name", ["svhn_wrn_28_10", "adm_small"])
def test_outputs_are_the_public_implementations(name):
    (check_denoiser if name.startswith("adm") else check_classifier)(name)


@pytest.mark.slow
@needs_fixtures
@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in WITH_FIXTURE if name != "svhn_wrn_28_10"])
def test_outputs_of_the_large_networks_are_the_public_implementations(name):
    (check_classifier if "wrn" in name else check_denoiser)(name)
