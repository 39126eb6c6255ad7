"""Networks small enough for a laptop: Wide ResNet classifiers, a U-Net noise predictor and a local
PixelCNN.

`WideResNet` uses the parameter names of RobustBench's ``Standard`` CIFAR-10 network, so the
published WRN-28-10 file loads into ``WideResNet(28, 10)`` unchanged (parity:
``tests/core/test_parity.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_lab.common import extras
from hetpure_lab.common.registry import Registry
from hetpure_lab.networks import independent
from hetpure_lab.networks.deepmind import DeepMindWideResNet
from hetpure_lab.networks.independent import checked_times

# ---- classifier ----------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """Pre-activation residual block BN-ReLU-conv-BN-ReLU-conv (Zagoruyko & Komodakis 2016, Fig
    1).
    """

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.convShortcut = None if n_in == n_out else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(x))
        skip = x if self.convShortcut is None else self.convShortcut(h)
        return skip + self.conv2(self.relu2(self.bn2(self.conv1(h))))


class Group(nn.Module):
    """A stage of `n` residual blocks; the first one changes width and stride."""

    def __init__(self, n: int, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.layer = nn.Sequential(
            *(
                BasicBlock(n_in if i == 0 else n_out, n_out, stride if i == 0 else 1)
                for i in range(n)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-`depth`-`width`: images (n, 3, h, w) in [0, 1] to logits (n, `n_classes`).

    `mean` and `std` are the network's own input normalisation (RobustBench's file was trained on
    plain [0, 1]: 0 and 1).
    """

    def __init__(
        self,
        depth: int = 16,
        width: int = 2,
        n_classes: int = 10,
        mean: float = 0.0,
        std: float = 1.0,
    ):
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"a Wide ResNet has depth 6n + 4, not {depth}")
        n, widths = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.mean, self.std = mean, std
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.block1 = Group(n, widths[0], widths[1], 1)
        self.block2 = Group(n, widths[1], widths[2], 2)
        self.block3 = Group(n, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()
        self.fc = nn.Linear(widths[3], n_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block3(self.block2(self.block1(self.conv1((x - self.mean) / self.std))))
        h = self.relu(self.bn1(h))
        return self.fc(h.mean((2, 3)))

    def taps(self) -> list[nn.Module]:
        """The modules with outputs A_1 .. A_4 of Eq 2: the last ReLU inside each group, then the
        head's.
        """
        return [
            *(cast(BasicBlock, b.layer[-1]).relu2 for b in (self.block1, self.block2, self.block3)),
            self.relu,
        ]


# the ten classes of Imagenette among ImageNet's thousand
IMAGENETTE = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)


class ReducedWideResNet(WideResNet):
    """A Wide ResNet of photographs: images (n, 3, h, w) in [0, 1] to logits (n, 1000) of ImageNet's
    numbering, all but `classes` closed.

    It averages images down to `size`: noise within an l-infinity ball stays within a ball of that
    radius. Raises `ValueError` for images that are not square or whose side is no multiple of
    `size`.
    """

    def __init__(
        self, size: int = 32, classes: tuple[int, ...] = IMAGENETTE, depth: int = 16, width: int = 2
    ):
        super().__init__(depth, width, len(classes), mean=0.5, std=0.25)
        self.size, self.classes = size, list(classes)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        if h != w or w % self.size:
            raise ValueError(
                f"images must be square with a side that is a multiple of {self.size}, not {h}"
                f" x {w}"
            )
        logits = super().forward(F.avg_pool2d(x, w // self.size))
        closed = logits.new_full((len(x), 1000), -1e4)
        closed[:, self.classes] = logits
        return closed


# ---- denoiser ------------------------------------------------------------------------------------


class ResBlock(nn.Module):
    """GroupNorm-SiLU-conv twice, the time embedding scaling and shifting between them.

    The embedding is one vector per image (n, n_time), or a map of them (n, n_time, h, w), which is
    averaged down to the block's size.
    """

    def __init__(self, n_in: int, n_out: int, n_time: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, 1, 1)
        self.time = nn.Linear(n_time, 2 * n_out)
        self.norm2 = nn.GroupNorm(8, n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1)
        self.skip = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(cast(Tensor, self.conv2.bias))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(emb, h).chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))

    def modulation(self, emb: Tensor, like: Tensor) -> Tensor:
        """Scale and shift (n, 2 n_out, 1 or h, 1 or w)."""
        if emb.ndim == 2:
            return self.time(emb)[:, :, None, None]
        return self.time(
            F.adaptive_avg_pool2d(emb, (like.shape[-2], like.shape[-1])).movedim(1, -1)
        ).movedim(-1, 1)


class UNet(nn.Module):
    """Noise predictor eps(x_t, t) on 2x2 pixel-unshuffled images: (n, 3, h, w) in [-1, 1] scale and
    t in 0..T to (n, 3, h, w).

    `widths` are the channels per resolution (h/2, h/4, ...), `blocks` the residual blocks per
    resolution on the way down and, for all but the lowest, on the way up.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (64, 64),
        blocks: tuple[int, ...] = (1, 2),
        n_time: int = 64,
        patch: int = 2,
    ):
        super().__init__()
        self.patch, self.n_time = patch, n_time
        pixels = 3 * patch**2
        self.time = nn.Sequential(
            nn.Linear(n_time, 2 * n_time), nn.SiLU(), nn.Linear(2 * n_time, n_time), nn.SiLU()
        )
        self.stem = nn.Conv2d(pixels, widths[0], 3, 1, 1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, w in enumerate(widths):
            if i:
                self.shrink.append(nn.Conv2d(widths[i - 1], w, 2, 2))
                self.grow.append(nn.ConvTranspose2d(w, widths[i - 1], 2, 2))
            self.down.append(nn.ModuleList(ResBlock(w, w, n_time) for _ in range(blocks[i])))
            if i < len(widths) - 1:
                self.up.append(nn.ModuleList(ResBlock(w, w, n_time) for _ in range(blocks[i])))
        self.norm = nn.GroupNorm(8, widths[0])
        self.head = nn.Conv2d(widths[0], pixels, 3, 1, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(cast(Tensor, self.head.bias))

    def embed(self, t: Tensor) -> Tensor:
        """Sinusoidal features of the time index, (...) to (..., `n_time`)."""
        freq = torch.exp(
            -math.log(1000.0)
            * torch.arange(self.n_time // 2, device=t.device, dtype=t.dtype)
            / (self.n_time // 2)
        )
        angle = t[..., None] * freq
        return self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.through(self.stem(F.pixel_unshuffle(x, self.patch)), self.embed(t.to(x.dtype)))

    def through(self, h: Tensor, emb: Tensor) -> Tensor:
        """From the stem's output to the predicted noise."""
        skips = []
        for i, level in enumerate(self.down):
            if i:
                skips.append(h)
                h = self.shrink[i - 1](h)
            for block in cast(Iterable[ResBlock], level):
                h = block(h, emb)
        for i in reversed(range(len(self.up))):
            h = self.grow[i](h) + skips[i]
            for block in cast(Iterable[ResBlock], self.up[i]):
                h = block(h, emb)
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch)


class MapUNet(UNet):
    """The U-Net with a time per pixel: t is one per image (n,), or a map (n, 1, h, w).

    Every patch is modulated by the mean time of its pixels; how far each pixel's time is from that
    mean enters as further channels. At one time per image it is the `UNet` with the same weights.
    Raises `ValueError` for a map of another shape.
    """

    takes_maps = True
    block = 1

    def __init__(
        self,
        widths: tuple[int, ...] = (64, 64),
        blocks: tuple[int, ...] = (1, 2),
        n_time: int = 64,
        patch: int = 2,
    ):
        super().__init__(widths, blocks, n_time, patch)
        self.apart = nn.Conv2d(patch**2, widths[0], 3, 1, 1, bias=False)
        nn.init.zeros_(self.apart.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        times = checked_times(x, t)
        if t.ndim == 1:
            return super().forward(x, t)
        times = F.pixel_unshuffle(times.to(x.dtype), self.patch)
        mean = times.mean(1, keepdim=True)
        h = self.stem(F.pixel_unshuffle(x, self.patch)) + self.apart((times - mean) / 100)
        return self.through(h, self.embed(mean[:, 0]).movedim(-1, 1))


# ---- likelihood ----------------------------------------------------------------------------------


class PixelCNN(nn.Module):
    """The distribution of each pixel given those above it and to its left, within `radius`: one
    causal convolution, then 1x1 layers.

    Images of levels 0..255 (n, 3, h, w) to the parameters of `mixtures` discretised logistics (n,
    10 `mixtures`, h, w) per pixel (van den Oord et al. 2016; Salimans et al. 2017). A fourth
    channel of ones tells the image from the padding.
    """

    def __init__(self, width: int = 96, radius: int = 5, layers: int = 3, mixtures: int = 5):
        super().__init__()
        self.radius = radius
        self.conv = nn.Conv2d(4, width, (radius + 1, 2 * radius + 1))
        causal = torch.ones(radius + 1, 2 * radius + 1)
        causal[-1, radius:] = 0
        self.register_buffer("causal", causal, persistent=False)
        point = lambda n_in, n_out: nn.Conv2d(n_in, n_out, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.SiLU(), point(width, width), nn.SiLU(), point(width, width))
            for _ in range(layers)
        )
        self.head = point(width, 10 * mixtures)
        for layer in cast(Iterable[nn.Sequential], self.layers):
            nn.init.zeros_(cast(nn.Conv2d, layer[-1]).weight)

    def pad(self, levels: Tensor) -> Tensor:
        """The input of `look`: levels on [-1, 1] and the channel of ones, with `radius` pixels of
        zeros above, left and right.
        """
        x = levels / 127.5 - 1
        return F.pad(
            torch.cat([x, torch.ones_like(x[:, :1])], 1), (self.radius, self.radius, self.radius, 0)
        )

    def look(self, padded: Tensor) -> Tensor:
        """Parameters of the pixels whose whole neighbourhood is in `padded`; one pixel needs (n, 4,
        radius + 1, 2 radius + 1).
        """
        h = F.conv2d(padded, self.conv.weight * cast(Tensor, self.causal), self.conv.bias)
        for layer in self.layers:
            h = h + layer(h)
        return self.head(F.silu(h))

    def forward(self, levels: Tensor) -> Tensor:
        return self.look(self.pad(levels))


def _efficientnet(classes: tuple[int, ...] | None = None) -> nn.Module:
    """Of a package that only the photographs need."""
    with extras.wanted():
        from hetpure_lab.networks.efficientnet import EfficientNetLite0
    return EfficientNetLite0(classes)


# By the name on a card; a plug-in adds its own: ``NETWORKS.add("mine", build)``.
NETWORKS: Registry[Callable[[], nn.Module]] = Registry(
    "network",
    {
        "wrn_16_2": lambda: WideResNet(16, 2, mean=0.5, std=0.25),
        "wrn_28_10": lambda: WideResNet(28, 10),
        "swish_wrn_10_4": lambda: DeepMindWideResNet(10, 4),
        "efficientnet_lite0": _efficientnet,
        "efficientnet_lite0_imagenette": lambda: _efficientnet(IMAGENETTE),
        "wrn_16_2_imagenette_32": ReducedWideResNet,
        "unet_32_32": lambda: UNet((32, 32), (1, 2)),
        "unet_64_64": lambda: UNet((64, 64), (1, 2)),
        "unet_128_128": lambda: UNet((128, 128), (1, 2)),
        "unet_64_64_map": lambda: MapUNet((64, 64), (1, 2)),
        "unet_64_96_128": lambda: UNet((64, 96, 128), (1, 1, 2), patch=4),
        "pixelcnn_96": lambda: PixelCNN(96),
        **independent.NETWORKS,
    },
)


def build(name: str) -> nn.Module:
    """The network called `name`, freshly initialised. Raises `ValueError` for an unknown name."""
    return NETWORKS[name]()
