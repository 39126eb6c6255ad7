"""Networks nobody here trained, with weights inside packages on the index; each is written from its
formula.

`FFDNet` is a denoiser of photographs that takes a noise level per 2x2 block, `ResNet18` a
classifier of CIFAR-10, `DigitNet` one of SVHN. Parameter names are taken from the files, so that
they load as they are; the packages themselves are never imported.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import linear_schedule


class FFDNet(nn.Module):
    r"""FFDNet for colour images as a noise predictor (Zhang, Zuo & Zhang 2018): 12 convolutions on
    2x2 pixel-unshuffled images and one map of noise levels.

    Noisy images (n, 3, h, w) in the [-1, 1] scale and times in 1..T, one per image (n,) or one per
    pixel (n, 1, h, w) and constant in 2x2 blocks, to the predicted noise (n, 3, h, w). With
    :math:`y = (x_t / \sqrt{\bar\alpha_t} + 1) / 2` and :math:`\sigma = \tfrac12 \sqrt{(1 -
    \bar\alpha_t) / \bar\alpha_t}` the network's D(y, sigma) is the clean image in [0, 1], and
    :math:`\epsilon = (x_t - \sqrt{\bar\alpha_t} (2 D - 1)) / \sqrt{1 - \bar\alpha_t}`.

    It was trained for sigma up to 75/255, which t = 0.168 has, and extrapolates above (chapter 14
    has its errors). Times up to `LIMIT` are accepted, `trained_for` says which of them it was
    trained for, and `ValueError` refuses the others.
    """

    takes_maps = True
    block = 2  # pixels on a side that share a level
    TRAINED = 75 / 255
    LIMIT = 0.3
    abar: Tensor

    def __init__(self, width: int = 96, convolutions: int = 12):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(13, width, 3, 1, 1), nn.ReLU()]
        for _ in range(convolutions - 2):
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 12, 3, 1, 1))
        self.register_buffer("abar", linear_schedule().abar, persistent=False)

    def levels(self, t: Tensor) -> Tensor:
        """Noise levels beside images in [0, 1] at times of any shape."""
        abar = self.abar[t.to(self.abar.device)]
        return 0.5 * ((1 - abar) / abar).sqrt()

    def trained_for(self, t: Tensor) -> Tensor:
        """Which times the published network was trained for."""
        return self.levels(t) <= self.TRAINED

    def denoise(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Denoised images from noisy ones (n, 3, h, w) in [0, 1] units and their levels (n or 1, 1,
        h / 2, w / 2); odd sides are padded."""
        h, w = images.shape[-2:]
        x = F.pixel_unshuffle(
            F.pad(images, (0, w % 2, 0, h % 2), mode="replicate") if h % 2 or w % 2 else images, 2
        )
        x = torch.cat([x, sigma.to(x).expand(len(x), 1, *x.shape[-2:])], dim=1)
        return F.pixel_shuffle(self.model(x), 2)[..., :h, :w]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        times = checked_times(x, t)
        if times.max() > (last := round(self.LIMIT * (len(self.abar) - 1))):
            t_asked, most = (
                int(times.max()) / (len(self.abar) - 1),
                float(self.levels(torch.tensor(last))),
            )
            raise ValueError(
                f"FFDNet was trained for noise up to 75/255 and is used up to t = {self.LIMIT:g} "
                f"({255 * most:.0f}/255), not t = {t_asked:g}"
            )
        abar = self.abar[times.to(self.abar.device)]
        signal, noise = abar.sqrt().to(x), (1 - abar).sqrt().to(x)
        clean = (
            2 * self.denoise((x / signal + 1) / 2, one_per_block(self.levels(times), self.block))
            - 1
        )
        return (x - signal * clean) / noise


def checked_times(x: Tensor, t: Tensor) -> Tensor:
    """Times as (n, 1, 1, 1) or as a map (n, 1, h, w), from one per image or a map; anything else is
    a `ValueError`."""
    if t.ndim == 1 and len(t) == len(x):
        return t.reshape(-1, 1, 1, 1)
    if t.shape != (len(x), 1, *x.shape[-2:]):
        raise ValueError(
            f"times must be one per image or a map {(len(x), 1, *x.shape[-2:])}, not"
            f" {tuple(t.shape)}"
        )
    return t


def one_per_block(values: Tensor, block: int) -> Tensor:
    """The values (n, 1, h / block, w / block) of a map that is constant in blocks; (n, 1, 1, 1)
    stays. `ValueError` if it is not."""
    if values.shape[-2:] == (1, 1):
        return values
    values = F.pad(
        values, (0, -values.shape[-1] % block, 0, -values.shape[-2] % block), mode="replicate"
    )
    if not torch.equal(-F.max_pool2d(-values, block), kept := F.max_pool2d(values, block)):
        raise ValueError(
            f"this denoiser takes one noise level per {block} x {block} block: "
            f"use a mask in blocks of {block} or its multiples"
        )
    return kept


class PlainBlock(nn.Module):
    """Residual block conv-BN-ReLU-conv-BN, added to its input and rectified (He et al. 2016a)."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = (
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
        )
        self.conv2, self.bn2, self.relu2 = (
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
        )
        widened = nn.Sequential(
            nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
        )
        self.shortcut = nn.Identity() if stride == 1 and n_in == n_out else widened

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(h + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for 32-pixel images: images (n, 3, 32, 32) in [0, 1], not normalised, to logits (n,
    `n_classes`)."""

    def __init__(self, n_classes: int = 10):
        super().__init__()
        self.conv1, self.bn1, self.relu = (
            nn.Conv2d(3, 64, 3, 1, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        )
        pair = lambda n_in, n_out, stride: nn.Sequential(
            PlainBlock(n_in, n_out, stride), PlainBlock(n_out, n_out, 1)
        )
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            pair(64, 64, 1),
            pair(64, 128, 2),
            pair(128, 256, 2),
            pair(256, 512, 2),
        )
        self.linear = nn.Linear(512, n_classes)

    def stages(self) -> tuple[nn.Module, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        for stage in self.stages():
            h = stage(h)
        return self.linear(h.mean((2, 3)))

    def taps(self) -> list[nn.Module]:
        """The last ReLU of every stage."""
        return [cast(Any, stage)[-1].relu2 for stage in self.stages()]


class DigitNet(nn.Module):
    """Six convolutions with batch norm, halved after every second, and two dense layers: images (n,
    3, 32, 32) in [0, 1] to 10 logits."""

    MEAN, STD = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)

    def __init__(self):
        super().__init__()
        pair = lambda n_in, n: [nn.Conv2d(n_in, n, 3, 1, 1), nn.BatchNorm2d(n), nn.ReLU()]
        block = lambda n_in, n: nn.Sequential(*pair(n_in, n), *pair(n, n), nn.MaxPool2d(2))
        self.features = nn.Sequential(block(3, 32), block(32, 64), block(64, 128))
        self.classifier = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(2048, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (32, 32):
            raise ValueError(
                f"this classifier takes images of 32 x 32 pixels, not {x.shape[-2]} x {x.shape[-1]}"
            )
        mean, std = (x.new_tensor(v)[:, None, None] for v in (self.MEAN, self.STD))
        return self.classifier(self.features((x - mean) / std).flatten(1))

    def taps(self) -> list[nn.Module]:
        """The last ReLU before every halving."""
        return [cast(nn.Sequential, block)[5] for block in self.features]


NETWORKS = {"ffdnet_color": FFDNet, "resnet_18": ResNet18, "digit_net": DigitNet}
