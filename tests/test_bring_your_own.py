"""The page "Bring your own", block by block, and its adapters against closed forms and real
libraries.
"""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import client
from torch import nn

from hetpure_core import HetPure, Purified, linear_schedule
from hetpure_lab.data import DataError, own
from hetpure_lab.networks.adapters import Classifier, Denoiser, KarrasDenoiser, as_maps, schedule

T = linear_schedule()


def test_every_block_of_the_page_runs_in_its_order(root, tmp_path):
    page = (root / "book" / "bring-your-own.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 7
    (tmp_path / "page.py").write_text("\n".join(blocks))
    code = "import sys; sys.path.insert(0, sys.argv[1]); import runpy; runpy.run_path('page.py')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr


class Known(nn.Module):
    """A network that knows the clean image and the noise, and says what it is asked for."""

    def __init__(self, x0, eps, what):
        super().__init__()
        self.x0, self.eps, self.what, self.asked = x0, eps, what, []

    def forward(self, x, t, **options):
        self.asked.append((t, options))
        if self.what == "D":
            return self.x0
        signal, sigma = T.signal_and_noise(t + 1, x)
        answers = {"noise": self.eps, "x0": self.x0, "v": signal * self.eps - sigma * self.x0}
        return answers.get(self.what, torch.cat([self.eps, self.x0], 1))


@pytest.mark.parametrize("what", ["noise", "v", "x0", "learned variance", "D"])
def test_every_kind_of_network_says_the_same_noise(what):
    x0, eps = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 3, 8, 8).double()
    t = torch.tensor([1, 700])
    signal, sigma = T.signal_and_noise(t, x0)
    network = Known(x0, eps, what)
    if what == "D":
        denoiser = KarrasDenoiser(network, T)
    else:
        denoiser = Denoiser(network, T, what if what in ("v", "x0") else "noise", label=4)
    torch.testing.assert_close(denoiser(signal * x0 + sigma * eps, t), eps, rtol=1e-6, atol=1e-6)
    asked, options = network.asked[0]
    if what == "D":
        torch.testing.assert_close(asked, (sigma / signal).flatten())
    else:
        assert asked.tolist() == [0, 699] and options["class_labels"].tolist() == [4, 4]


def test_a_schedule_is_made_from_what_others_keep():
    torch.testing.assert_close(schedule(T.abar[1:].float()).abar, T.abar, rtol=1e-6, atol=1e-7)
    for bad in ([], [1.0, 0.5], [0.5, 0.6], [float("nan")]):
        with pytest.raises(ValueError, match=r"falls? strictly"):
            schedule(bad)


class Tokens(nn.Module):
    """A transformer's outline: 16 patches, a class token, a mean, logits."""

    def __init__(self):
        super().__init__()
        self.patch, self.block = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.block(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))
        return (self.head(tokens.mean(1)),)


@pytest.mark.parametrize("tap", ["block", "patch"])
def test_a_transformer_serves_the_method(tap):
    network = Tokens()
    classifier = Classifier(network, mean=(0.5,) * 3, std=(0.2,) * 3, size=32, taps=[tap])
    defended = Purified(classifier, lambda x, t: 0.1 * x, HetPure(steps=2, tau=0.5))
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    mask = defended.mask(images.detach(), defended.noise(2, range(2)))
    assert mask.shape == (2, 1, 32, 32) and 0 < mask.mean() < 1
    logits = defended(images, range(2))
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert logits.shape == (2, 5) and gradient.isfinite().all()
    with pytest.raises(ValueError, match="has no module 'blocks'; it has: patch, block, head"):
        Classifier(network, taps=["blocks"])
    with pytest.raises(ValueError, match="name the taps of this classifier, such as: patch, block"):
        Classifier(network).taps()


def test_tokens_become_maps_in_their_order():
    maps = torch.arange(32.0).reshape(1, 2, 4, 4)
    tokens = torch.cat([torch.zeros(1, 1, 2), maps.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(as_maps(tokens), maps)
    with pytest.raises(ValueError, match="neither maps nor tokens"):
        as_maps(torch.zeros(2, 3))


def test_a_real_diffusers_network_denoises():
    diffusers = client("diffusers")
    kinds = ("DownBlock2D",) * 2, ("UpBlock2D",) * 2
    network = diffusers.UNet2DModel(
        8,
        3,
        3,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=kinds[0],
        up_block_types=kinds[1],
    )
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([1, 900])
    torch.testing.assert_close(Denoiser(network)(x, t), network(x, t - 1).sample)
    kept = schedule(diffusers.DDPMScheduler().alphas_cumprod)
    torch.testing.assert_close(kept.abar, T.abar, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "taps"),
    [("resnet10t", ["layer2", "layer3"]), ("vit_tiny_patch16_224", ["blocks.3", "blocks.11"])],
)
def test_real_timm_networks_serve_the_method(name, taps):
    timm = client("timm")
    network = timm.create_model(name, num_classes=5)
    about = network.default_cfg
    classifier = Classifier(network, about["mean"], about["std"], 224, taps)
    defended = Purified(classifier, Denoiser(nn.Identity()), HetPure(tau=0.5))
    images = torch.rand(1, 3, 32, 32)
    assert defended.mask(images, defended.noise(1, [0])).shape == (1, 1, 32, 32)


def serves(classifier) -> None:
    """A real network behind the method: a mask, finite logits, a gradient of the image."""
    defended = Purified(classifier, lambda x, t: 0.1 * x, HetPure(steps=2, tau=0.5))
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    assert defended.mask(images.detach(), defended.noise(2, [0, 1])).shape == (2, 1, 32, 32)
    logits = defended(images, [0, 1])
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), images)
    assert logits.shape == (2, 5) and gradient.isfinite().all() and gradient.abs().max() > 0


def test_a_real_torchvision_network_serves_the_method():
    models = client("torchvision").models
    network = models.resnet18(num_classes=5).eval()
    serves(Classifier(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 32, ["layer2"]))


def test_a_real_transformer_of_hugging_face_serves_the_method():
    """Its logits stand in an output, its activations are tokens with a class token before them."""
    transformers = client("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 5}
    config = transformers.ViTConfig(intermediate_size=32, image_size=32, patch_size=8, **small)
    network = transformers.ViTForImageClassification(config).eval()
    tap = next(name for name, m in network.named_modules() if name.endswith("layernorm_after"))
    serves(Classifier(network, (0.5,) * 3, (0.5,) * 3, 32, [tap]))


# ---- data ----------------------------------------------------------------------------------------


def png(value: int) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_parquet_file_with_any_columns_is_read(tmp_path):
    import pandas as pd

    file = tmp_path / "some.parquet"
    rows = {"img": [{"bytes": png(v), "path": ""} for v in (1, 2)], "fine": [0, 99]}
    pd.DataFrame(rows).to_parquet(file)
    found = own.parquet(file, 100, 8, image="img", label="fine")
    assert found.labels.tolist() == [0, 99] and found.pixels[1, 0, 0, 0] == 2
    with pytest.raises(DataError, match="has no column 'image'; it has: img, fine"):
        own.parquet(file, 100, 8)
    with pytest.raises(DataError, match=r"label 99 is out of range 0\.\.9"):
        own.parquet(file, 10, 8, image="img", label="fine")


@pytest.mark.parametrize(("coarse", "labels"), [(False, [7, 93]), (True, [3, 19])])
def test_cifar_100_is_read_as_its_authors_pack_it(coarse, labels, tmp_path):
    data = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    (tmp_path / "cifar-100-python").mkdir()
    content = {b"data": data, b"fine_labels": [7, 93], b"coarse_labels": [3, 19]}
    (tmp_path / "cifar-100-python" / "test").write_bytes(pickle.dumps(content))
    found = own.cifar100(tmp_path, coarse=coarse)
    assert found.labels.tolist() == labels
    assert np.array_equal(found.pixels.numpy().reshape(2, -1), data)
    with pytest.raises(DataError, match="no file cifar-100-python/train"):
        own.cifar100(tmp_path, "train")


def test_a_folder_without_pictures_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="has no pictures"):
        own.pictures(tmp_path, 8)
    with pytest.raises(DataError, match="is no folder"):
        own.pictures(Path("nowhere"), 8)
    (tmp_path / "a.png").write_bytes(png(3)[:40])
    with pytest.raises(DataError, match=r"a\.png: the image cannot be decoded"):
        own.pictures(tmp_path, 8)
