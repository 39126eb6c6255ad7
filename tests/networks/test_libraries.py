"""Our networks against the libraries that publish them, under equal random weights: ``make
test-paper``. Skipped without the libraries.
"""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from conftest import client
from torch import nn

from hetpure_lab import defences
from hetpure_lab.networks import robustbench
from hetpure_lab.networks.published import DeepMindWideResNet, ResNet50, normalised
from hetpure_lab.networks.small import WideResNet
from hetpure_lab.paper import printed


def fill(network: nn.Module) -> nn.Module:
    """Random weights, and running statistics that are not those of a new network."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(
                0, max(1, value[0].numel() if value.ndim > 1 else 100) ** -0.5, generator=generator
            )
    return network.eval()


@torch.no_grad()
def assert_same(
    ours: nn.Module, theirs: nn.Module, images: torch.Tensor, seen: torch.Tensor | None = None
) -> None:
    fill(theirs)
    ours.eval().load_state_dict(theirs.state_dict())
    expected = theirs(images if seen is None else seen)
    torch.testing.assert_close(
        ours(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
    )


def images(size: int) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_resnet_50_is_torchvisions():
    models = client("torchvision").models
    from hetpure_lab.networks.published import IMAGENET_MEAN, IMAGENET_STD

    x = images(224)
    assert_same(ResNet50(), models.resnet50(), x, normalised(x, IMAGENET_MEAN, IMAGENET_STD))


def test_resize_and_centre_crop_are_torchvisions():
    transforms = client("torchvision").transforms
    import numpy as np
    from PIL import Image

    from hetpure_lab.data.layouts import photograph

    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for width, height in ((500, 375), (333, 500), (1024, 257), (224, 224)):
        image = Image.fromarray(
            (255 * images(512)[0, :, :height, :width].permute(1, 2, 0).numpy()).astype("uint8")
        ).resize((width, height))
        assert np.array_equal(photograph(image), np.asarray(theirs(image)))


def library(module: str) -> ModuleType:
    """A module of RobustBench; where it is installed it must load."""
    if find_spec("robustbench") is None:
        pytest.skip("RobustBench is not installed")
    return robustbench.library(module)


def test_the_tables_networks_are_in_robustbenchs_zoo():
    """By name, data set and threat model, each with a file of its own; and the loader takes the
    arguments that `zoo` gives it.
    """
    model_zoo, enums, utils = (
        library(module) for module in ("model_zoo", "model_zoo.enums", "utils")
    )
    specs = {
        (t.bench, spec)
        for t in printed.TABLES.values()
        for row in t.rows
        for spec in row.specs
        if spec.startswith("at:model=L")
    }
    assert len(specs) >= 15
    for bench, spec in specs:
        bench = "imagenet-paper" if bench.startswith("imagenet") else bench
        ((dataset, threat, model),) = (
            robustbench.parts(name) for name in defences.networks(spec, bench)
        )
        known = model_zoo.model_dicts[enums.BenchmarkDataset(dataset)][enums.ThreatModel(threat)]
        assert isinstance(known[model]["gdrive_id"], str), model
    inspect.signature(utils.load_model).bind(
        "name", model_dir="folder", dataset="cifar10", threat_model="L2"
    )


def test_wide_resnets_are_robustbenchs():
    deepmind, theirs = (
        library(f"model_zoo.architectures.{name}") for name in ("dm_wide_resnet", "wide_resnet")
    )
    assert_same(WideResNet(16, 2), theirs.WideResNet(depth=16, widen_factor=2), images(32))
    other = deepmind.DMWideResNet(num_classes=10, depth=16, width=2, activation_fn=deepmind.Swish)
    assert_same(DeepMindWideResNet(16, 2), other, images(32))
