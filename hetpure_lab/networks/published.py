"""Networks at the paper's scale, each under the parameter names of its published file, so that the
file loads unchanged.

Classifiers take images in [0, 1] and own their normalisation; denoisers take (x_t, t) with t in
1..T and predict the noise, as `hetpure_core` asks. Implemented from the papers' descriptions;
parity with the public implementations: ``tests/networks/test_published.py``.

| network | role | published as |
|---|---|---|
| `wrn_28_10` | classifier | RobustBench ``Standard`` |
| `wrn_70_16`, `dm_wrn_70_16` | classifier | DiffPure: dropout form; DeepMind form with Swish |
| `svhn_wrn_28_10`, `svhn_ddpm` | both | Lee & Kim: functional parameters; DDPM U-Net |
| `edm_ddpmpp`, `edm_ncsnpp` | denoiser | EDM CIFAR-10, vp and ve (Karras et al. 2022) |
| `score_sde_ddpmpp` | denoiser | score_sde DDPM++ deep, VP, ``checkpoint_8`` (Song et al. 2021) |
| `adm_256` | denoiser | guided-diffusion 256x256 unconditional (Dhariwal & Nichol 2021) |
| `resnet_50` | classifier | torchvision ResNet-50 (He et al. 2016, stride in the 3x3 convolution) |

**Times.** Networks trained on indices (score_sde, DDPM, guided-diffusion) count them from 0, so
time t is label t - 1. score_sde's network was trained on continuous times; like the released code
we give it the label t - 1 in 0..999, where its own schedule differs from the discrete one by about
1.5e-3 in abar at t = 200. EDM has no time: it is asked at its noise level, see `EDM`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Noise, Purified, Schedule, linear_schedule
from hetpure_lab.networks.deepmind import CIFAR10_MEAN, CIFAR10_STD, DeepMindWideResNet, normalised
from hetpure_lab.networks.small import WideResNet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LINEAR = linear_schedule()


# ---- shared formulas -----------------------------------------------------------------------------


def sinusoids(t: Tensor, width: int, last: int) -> Tensor:
    """sin and cos of t / 10000^(i / last), i < width / 2: (n,) to two tensors side by side, (n,
    width).
    """
    frequencies = torch.exp(
        -math.log(10000) / last * torch.arange(width // 2, device=t.device, dtype=t.dtype)
    )
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention over pixels; all (n, heads, channels, pixels)."""
    q, k, v = (x.transpose(-2, -1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(-2, -1)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


def residual(
    h: Tensor,
    x: Tensor,
    shift: Tensor,
    first: nn.Module,
    norm: nn.Module,
    second: nn.Module,
    scale: float,
) -> Tensor:
    """The DDPM block after its first norm: scale * (x + second(silu(norm(first(h) + shift)))), x
    being the skipped input.
    """
    return scale * (x + second(F.silu(norm(first(h) + shift[:, :, None, None]))))


def same(x: Tensor) -> Tensor:
    return x


# ---- classifiers ---------------------------------------------------------------------------------


class NormalisedWideResNet(WideResNet):
    """DiffPure's WRN-70-16 with dropout (inactive in eval mode): RobustBench's names, CIFAR-10's
    mean and deviation per channel.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(normalised(x, CIFAR10_MEAN, CIFAR10_STD))


class PlainBatchNorm(nn.Module):
    """Batch normalisation in eval mode without a counter of batches, as functional parameters store
    it.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def kernel(n_in: int, n_out: int, size: int) -> nn.Parameter:
    return nn.Parameter(nn.init.kaiming_normal_(torch.empty(n_out, n_in, size, size)))


class FunctionalBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.stride, self.relu = stride, nn.ReLU()
        self.conv0, self.conv1 = kernel(n_in, n_out, 3), kernel(n_out, n_out, 3)
        self.bn0, self.bn1 = PlainBatchNorm(n_in), PlainBatchNorm(n_out)
        self.convdim = None if n_in == n_out else kernel(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn0(x))
        skip = x if self.convdim is None else F.conv2d(h, self.convdim, stride=self.stride)
        return skip + F.conv2d(
            self.relu(self.bn1(F.conv2d(h, self.conv0, stride=self.stride, padding=1))),
            self.conv1,
            padding=1,
        )


class FunctionalWideResNet(nn.Module):
    """WRN-`depth`-`width` under the functional parameter names of Zagoruyko & Komodakis, as Lee &
    Kim's SVHN classifier has them.
    """

    def __init__(self, depth: int = 28, width: int = 10, n_classes: int = 10):
        super().__init__()
        n, widths = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.conv0 = kernel(3, 16, 3)
        for g, stride in enumerate((1, 2, 2)):
            blocks = {
                f"block{i}": FunctionalBlock(
                    widths[g + (i > 0)], widths[g + 1], stride if i == 0 else 1
                )
                for i in range(n)
            }
            setattr(self, f"group{g}", nn.ModuleDict(blocks))
        self.bn, self.relu = PlainBatchNorm(widths[3]), nn.ReLU()
        self.fc = nn.Linear(widths[3], n_classes)

    @property
    def groups(self) -> list[nn.ModuleDict]:
        return [cast(nn.ModuleDict, getattr(self, f"group{g}")) for g in range(3)]

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv2d(x, self.conv0, padding=1)
        for group in self.groups:
            for block in group.values():
                h = block(h)
        return self.fc(self.relu(self.bn(h)).mean((2, 3)))

    def taps(self) -> list[nn.Module]:
        """As `WideResNet.taps`: the last ReLU inside each group, then the head's."""
        last = (cast(FunctionalBlock, list(group.values())[-1]) for group in self.groups)
        return [*(block.relu for block in last), self.relu]


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 (with the stride), 1x1 to four times the width."""

    def __init__(self, n_in: int, width: int, stride: int):
        super().__init__()
        n_out = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(n_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = (
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.conv3, self.bn3 = nn.Conv2d(width, n_out, 1, bias=False), nn.BatchNorm2d(n_out)
        narrow = n_in == n_out
        self.downsample = (
            None
            if narrow
            else nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(h)))))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """ResNet-50 under torchvision's names: images (n, 3, h, w) in [0, 1] to 1000 logits.

    It sees `size` pixels: other sizes (the denoiser's 256) are scaled bilinearly first, as Lee &
    Kim do.
    """

    def __init__(self, n_classes: int = 1000, size: int = 224):
        super().__init__()
        self.size = size
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.layer1, self.layer2 = self._stage(64, 64, 3, 1), self._stage(256, 128, 4, 2)
        self.layer3, self.layer4 = self._stage(512, 256, 6, 2), self._stage(1024, 512, 3, 2)
        self.fc = nn.Linear(2048, n_classes)

    @staticmethod
    def _stage(n_in: int, width: int, n: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            *(
                Bottleneck(n_in if i == 0 else 4 * width, width, stride if i == 0 else 1)
                for i in range(n)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        h = normalised(scaled(x, self.size), IMAGENET_MEAN, IMAGENET_STD)
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(h))), 3, 2, 1)
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return self.fc(h.mean((2, 3)))

    def taps(self) -> list[nn.Module]:
        """The outputs of the four stages, as the released code hooks them."""
        return [self.layer1[-1], self.layer2[-1], self.layer3[-1], self.layer4[-1]]


# ---- denoisers: EDM ------------------------------------------------------------------------------


class FilteredConv(nn.Conv2d):
    """A convolution after down- or upsampling by 2 with a separable low-pass filter; `after`
    filters behind the convolution.
    """

    def __init__(self, n_in: int, n_out: int, size: int, taps: Sequence[int], resample: str):
        super().__init__(n_in, n_out, size, padding=size // 2)
        row = torch.tensor(taps, dtype=torch.float32)
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", (row.outer(row) / row.sum() ** 2)[None, None])
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        low_pass, pad = self.resample_filter, (self.resample_filter.shape[-1] - 1) // 2
        if self.resample == "after":
            x = F.conv2d(x, self.weight, padding=self.kernel_size[0] // 2 + pad)
            x = F.conv2d(x, low_pass.expand(x.shape[1], -1, -1, -1), stride=2, groups=x.shape[1])
            return x + cast(Tensor, self.bias)[:, None, None]
        each = {
            "weight": low_pass.expand(x.shape[1], -1, -1, -1),
            "stride": 2,
            "padding": pad,
            "groups": x.shape[1],
        }
        if self.resample == "up":
            return super().forward(F.conv_transpose2d(x, **(each | {"weight": 4 * each["weight"]})))
        return super().forward(F.conv2d(x, **each))


class EDMBlock(nn.Module):
    """Residual block of EDM's networks, its sum scaled by 1 / sqrt(2), with optional resampling and
    attention.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        attention: bool = False,
        taps: Sequence[int] = (),
        resample: str = "",
    ):
        super().__init__()
        self.n_in = n_in
        conv = (
            (lambda a, b, size: FilteredConv(a, b, size, taps, resample))
            if resample
            else lambda a, b, size: nn.Conv2d(a, b, size, 1, size // 2)
        )
        self.norm0, self.conv0 = group_norm(n_in), conv(n_in, n_out, 3)
        self.affine = nn.Linear(512, n_out)
        self.norm1, self.conv1 = group_norm(n_out), nn.Conv2d(n_out, n_out, 3, 1, 1)
        self.skip = conv(n_in, n_out, 1) if resample or n_in != n_out else None
        self.norm2 = group_norm(n_out) if attention else None
        if attention:
            self.qkv, self.proj = nn.Conv2d(n_out, 3 * n_out, 1), nn.Conv2d(n_out, n_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        skip = x if self.skip is None else self.skip(x)
        x = residual(
            F.silu(self.norm0(x)),
            skip,
            self.affine(emb),
            self.conv0,
            self.norm1,
            self.conv1,
            math.sqrt(0.5),
        )
        if self.norm2 is None:
            return x
        q, k, v = self.qkv(self.norm2(x)).reshape(len(x), 1, x.shape[1], 3, -1).unbind(3)
        return math.sqrt(0.5) * (x + self.proj(attend(q, k, v).reshape(x.shape)))


class Fourier(nn.Module):
    """Random frequencies, fixed in training."""

    def __init__(self, n: int):
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(n))


class SongUNet(nn.Module):
    """DDPM++ (`ncsn` False) or NCSN++ (True) as EDM trains them on 32x32 images: four blocks per
    resolution, attention at 16x16.
    """

    def __init__(
        self,
        ncsn: bool,
        width: int = 128,
        n: int = 256,
        blocks: int = 4,
        sizes: Sequence[int] = (32, 16, 8),
    ):
        super().__init__()
        taps, n_noise = ((1, 3, 3, 1), 2 * width) if ncsn else ((1, 1), width)
        if ncsn:
            self.map_noise = Fourier(width)
        self.map_augment = nn.Linear(9, n_noise, bias=False)
        self.map_layer0, self.map_layer1 = nn.Linear(n_noise, 512), nn.Linear(512, 512)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{sizes[0]}x{sizes[0]}_conv"] = nn.Conv2d(3, width, 3, 1, 1)
        skips, channels, aux = [width], width, 3
        for size in sizes:
            if size != sizes[0]:
                self.enc[f"{size}x{size}_down"] = EDMBlock(n, n, taps=taps, resample="down")
                if ncsn:
                    self.enc[f"{size}x{size}_aux_residual"], aux = (
                        FilteredConv(aux, n, 3, taps, "after"),
                        n,
                    )
                skips.append(n)
            for i in range(blocks):
                self.enc[f"{size}x{size}_block{i}"], channels = (
                    EDMBlock(channels, n, attention=size == 16),
                    n,
                )
                skips.append(n)
        for size in reversed(sizes):
            if size == sizes[-1]:
                self.dec[f"{size}x{size}_in0"], self.dec[f"{size}x{size}_in1"] = (
                    EDMBlock(n, n, attention=True),
                    EDMBlock(n, n),
                )
            else:
                self.dec[f"{size}x{size}_up"] = EDMBlock(n, n, taps=taps, resample="up")
            for i in range(blocks + 1):
                self.dec[f"{size}x{size}_block{i}"] = EDMBlock(
                    n + skips.pop(), n, attention=size == 16 and i == blocks
                )
        self.dec[f"{size}x{size}_aux_norm"], self.dec[f"{size}x{size}_aux_conv"] = (
            group_norm(n),
            nn.Conv2d(n, 3, 3, 1, 1),
        )

    def embed(self, noise: Tensor) -> Tensor:
        """Features of the noise label ln(sigma) / 4; the augmentation label is 0 outside
        training.
        """
        width = self.map_layer0.in_features
        if hasattr(self, "map_noise"):
            angles = noise[:, None] * (2 * math.pi * cast(Tensor, self.map_noise.freqs))
            features = torch.cat([angles.sin(), angles.cos()], dim=1)
        else:
            features = sinusoids(noise, width, width // 2 - 1)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(features))))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        emb, aux, skips = self.embed(noise), x, []
        for name, block in self.enc.items():
            if name.endswith("aux_residual"):
                x = skips[-1] = aux = math.sqrt(0.5) * (x + block(aux))
                continue
            x = block(x, emb) if isinstance(block, EDMBlock) else block(x)
            skips.append(x)
        for block in self.dec.values():
            if isinstance(block, nn.GroupNorm):
                x = F.silu(block(x))
            elif isinstance(block, nn.Conv2d):
                x = block(x)
            else:
                x = block(
                    x if x.shape[1] == block.n_in else torch.cat([x, skips.pop()], dim=1), emb
                )
        return x


class EDM(nn.Module):
    r"""EDM's denoiser D(x; sigma) as a noise predictor (Karras et al. 2022, Table 1; data deviation
    1/2).

    :math:`\epsilon = (\tilde x - D(\tilde x; \sigma)) / \sigma` with :math:`\tilde x = x_t /
    \sqrt{\bar\alpha_t}`, :math:`\sigma = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}`.
    """

    def __init__(self, ncsn: bool, schedule: Schedule = LINEAR):
        super().__init__()
        self.model, self.schedule = SongUNet(ncsn), schedule

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D(x; sigma): (n, 3, h, w) and (n,) to (n, 3, h, w)."""
        s = sigma.to(x.dtype)[:, None, None, None]
        total = (s**2 + 0.25).sqrt()
        network = self.model(x / total, sigma.to(x.dtype).log() / 4)
        return 0.25 / total**2 * x + 0.5 * s / total * network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        abar = self.schedule.abar.to(t.device)[t]
        sigma = ((1 - abar) / abar).sqrt()
        clean = x / abar.sqrt().to(x.dtype)[:, None, None, None]
        return (clean - self.denoised(clean, sigma)) / sigma.to(x.dtype)[:, None, None, None]


# ---- denoisers: score_sde ------------------------------------------------------------------------


class ScoreBlock(nn.Module):
    """BigGAN-style residual block, averaged pooling or nearest upsampling inside, its sum scaled by
    1 / sqrt(2).
    """

    def __init__(self, n_in: int, n_out: int, resample: Callable[[Tensor], Tensor] = same):
        super().__init__()
        self.resample = resample
        self.GroupNorm_0, self.Conv_0 = group_norm(n_in), nn.Conv2d(n_in, n_out, 3, 1, 1)
        self.Dense_0 = nn.Linear(512, n_out)
        self.GroupNorm_1, self.Conv_1 = group_norm(n_out), nn.Conv2d(n_out, n_out, 3, 1, 1)
        self.Conv_2 = nn.Conv2d(n_in, n_out, 1) if n_in != n_out or resample is not same else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h, x = self.resample(F.silu(self.GroupNorm_0(x))), self.resample(x)
        skip = x if self.Conv_2 is None else self.Conv_2(x)
        return residual(
            h,
            skip,
            self.Dense_0(F.silu(emb)),
            self.Conv_0,
            self.GroupNorm_1,
            self.Conv_1,
            math.sqrt(0.5),
        )


class PixelLinear(nn.Module):
    """A linear map of the channels, its matrix stored as (in, out)."""

    def __init__(self, n: int):
        super().__init__()
        self.W, self.b = (
            nn.Parameter(torch.empty(n, n).normal_(0, n**-0.5)),
            nn.Parameter(torch.zeros(n)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.T[:, :, None, None], self.b)


class ScoreAttention(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        self.GroupNorm_0 = group_norm(n)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (PixelLinear(n) for _ in range(4))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (f(h).flatten(2)[:, None] for f in (self.NIN_0, self.NIN_1, self.NIN_2))
        return math.sqrt(0.5) * (x + self.NIN_3(attend(q, k, v).reshape(x.shape)))


def halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class ScoreSDE(nn.Module):
    """DDPM++ deep, VP, continuous: `blocks` residual blocks per resolution, attention at 16x16;
    predicts the noise at label t - 1.

    `plan` says which of `all_modules` run together: down (each result kept), middle, up (each fed
    the last kept result or not).
    """

    def __init__(
        self,
        width: int = 128,
        widths: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 8,
        attention: int = 1,
    ):
        super().__init__()
        self.register_buffer(
            "sigmas", torch.linspace(math.log(50), math.log(0.01), 1000, dtype=torch.float64).exp()
        )
        self.all_modules = nn.ModuleList(
            [nn.Linear(width, 512), nn.Linear(512, 512), nn.Conv2d(3, width, 3, 1, 1)]
        )
        skips, channels, self.plan = [width], width, {"down": [], "middle": [], "up": []}
        for level, factor in enumerate(widths):
            for _ in range(blocks):
                n, channels = channels, factor * width
                self._add(
                    "down",
                    ScoreBlock(n, channels),
                    *([ScoreAttention(channels)] if level == attention else []),
                )
                skips.append(channels)
            if level < len(widths) - 1:
                self._add("down", ScoreBlock(channels, channels, halved))
                skips.append(channels)
        self._add(
            "middle",
            ScoreBlock(channels, channels),
            ScoreAttention(channels),
            ScoreBlock(channels, channels),
        )
        for level, factor in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                n, channels = channels + skips.pop(), factor * width
                self._add("up", ScoreBlock(n, channels))
            if level == attention:
                self._add("up", ScoreAttention(channels))
            if level:
                self._add("up", ScoreBlock(channels, channels, doubled))
        self.all_modules.extend([group_norm(channels), nn.Conv2d(channels, 3, 3, 1, 1)])

    def _add(self, where: str, *modules: nn.Module) -> None:
        self.plan[where].append(range(len(self.all_modules), len(self.all_modules) + len(modules)))
        self.all_modules.extend(modules)

    def labelled(self, x: Tensor, label: Tensor) -> Tensor:
        """The raw network at labels in 0..999, (n,)."""
        first, second, stem, *_, norm, head = cast(Iterable[Any], self.all_modules)
        emb = second(
            F.silu(
                first(sinusoids(label.to(x.dtype), first.in_features, first.in_features // 2 - 1))
            )
        )
        skips = [stem(x)]
        for stage in self.plan["down"]:
            skips.append(self._run(stage, skips[-1], emb))
        h = self._run(self.plan["middle"][0], skips[-1], emb)
        for stage in self.plan["up"]:
            block = self.all_modules[stage[0]]
            if isinstance(block, ScoreBlock) and block.resample is same:
                h = torch.cat([h, skips.pop()], dim=1)
            h = self._run(stage, h, emb)
        return head(F.silu(norm(h)))

    def _run(self, stage: range, h: Tensor, emb: Tensor) -> Tensor:
        for i in stage:
            h = self.all_modules[i](h, emb)
        return h

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.labelled(x, t - 1)


# ---- denoisers: the DDPM of Lee & Kim for SVHN ---------------------------------------------------


class DDPMBlock(nn.Module):
    """Residual block of Ho et al. 2020."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.norm1, self.conv1 = group_norm(n_in), nn.Conv2d(n_in, n_out, 3, 1, 1)
        self.temb_proj = nn.Linear(512, n_out)
        self.norm2, self.conv2 = group_norm(n_out), nn.Conv2d(n_out, n_out, 3, 1, 1)
        self.nin_shortcut = None if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        skip = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return residual(
            F.silu(self.norm1(x)),
            skip,
            self.temb_proj(F.silu(emb)),
            self.conv1,
            self.norm2,
            self.conv2,
            1.0,
        )


class DDPMAttention(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        self.norm = group_norm(n)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(n, n, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2)[:, None] for f in (self.q, self.k, self.v))
        return x + self.proj_out(attend(q, k, v).reshape(x.shape))


class Resampled(nn.Module):
    """A strided convolution padded below and to the right, or one after nearest upsampling."""

    def __init__(self, n: int, up: bool):
        super().__init__()
        self.up, self.conv = up, nn.Conv2d(n, n, 3, 1, 1) if up else nn.Conv2d(n, n, 3, 2, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(doubled(x) if self.up else F.pad(x, (0, 1, 0, 1)))


class DDPMLevel(nn.Module):
    """One resolution: blocks, each followed by attention if the level has any, then resampling."""

    def __init__(self, channels: Sequence[tuple[int, int]], attention: bool, **resample: Resampled):
        super().__init__()
        self.block = nn.ModuleList(DDPMBlock(a, b) for a, b in channels)
        self.attn = nn.ModuleList(DDPMAttention(b) for _, b in channels if attention)
        for name, module in resample.items():
            setattr(self, name, module)

    def run(self, i: int, x: Tensor, emb: Tensor) -> Tensor:
        x = self.block[i](x, emb)
        return self.attn[i](x) if self.attn else x


class DDPM(nn.Module):
    """The U-Net of Ho et al. 2020 for 32x32 images: attention at 16x16; predicts the noise at label
    t - 1.
    """

    def __init__(
        self,
        width: int = 128,
        widths: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: int = 1,
    ):
        super().__init__()
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(width, 512), nn.Linear(512, 512)])
        self.conv_in = nn.Conv2d(3, width, 3, 1, 1)
        self.down, self.mid, self.up = nn.ModuleList(), nn.Module(), nn.ModuleList()
        skips, channels, last = [width], width, len(widths) - 1
        for level, factor in enumerate(widths):
            pairs = [
                (channels if i == 0 else factor * width, factor * width) for i in range(blocks)
            ]
            channels = factor * width
            resample = {"downsample": Resampled(channels, up=False)} if level < last else {}
            self.down.append(DDPMLevel(pairs, level == attention, **resample))
            skips += [channels] * (blocks + (level < last))
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = (
            DDPMBlock(channels, channels),
            DDPMAttention(channels),
            DDPMBlock(channels, channels),
        )
        for level, factor in reversed(list(enumerate(widths))):
            pairs = [
                ((channels if i == 0 else factor * width) + skips.pop(), factor * width)
                for i in range(blocks + 1)
            ]
            channels = factor * width
            resample = {"upsample": Resampled(channels, up=True)} if level else {}
            self.up.insert(0, DDPMLevel(pairs, level == attention, **resample))
        self.norm_out, self.conv_out = group_norm(channels), nn.Conv2d(channels, 3, 3, 1, 1)

    def labelled(self, x: Tensor, label: Tensor) -> Tensor:
        """The raw network at labels in 0..999, (n,)."""
        first, second = cast(Iterable[nn.Linear], self.temb.dense)
        emb = second(
            F.silu(
                first(sinusoids(label.to(x.dtype), first.in_features, first.in_features // 2 - 1))
            )
        )
        skips = [self.conv_in(x)]
        for level in cast(Iterable[Any], self.down):
            for i in range(len(level.block)):
                skips.append(level.run(i, skips[-1], emb))
            if hasattr(level, "downsample"):
                skips.append(level.downsample(skips[-1]))
        mid: Any = self.mid
        h = mid.block_2(mid.attn_1(mid.block_1(skips[-1], emb)), emb)
        for level in reversed([*cast(Iterable[Any], self.up)]):
            for i in range(len(level.block)):
                h = level.run(i, torch.cat([h, skips.pop()], dim=1), emb)
            h = level.upsample(h) if hasattr(level, "upsample") else h
        return self.conv_out(F.silu(self.norm_out(h)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.labelled(x, t - 1)


# ---- denoisers: guided-diffusion -----------------------------------------------------------------


class ADMBlock(nn.Module):
    """Residual block with a second norm scaled and shifted by the time (Dhariwal & Nichol 2021)."""

    def __init__(
        self, n_in: int, n_out: int, n_time: int, resample: Callable[[Tensor], Tensor] = same
    ):
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, 1, 1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(n_time, 2 * n_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, n_out), nn.SiLU(), nn.Identity(), nn.Conv2d(n_out, n_out, 3, 1, 1)
        )
        self.skip_connection = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.resample(self.in_layers[1](self.in_layers[0](x))))
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return self.skip_connection(self.resample(x)) + h


class ADMAttention(nn.Module):
    def __init__(self, n: int, n_head: int):
        super().__init__()
        self.heads = n // n_head
        self.norm, self.qkv, self.proj_out = (
            nn.GroupNorm(32, n),
            nn.Conv1d(n, 3 * n, 1),
            nn.Conv1d(n, n, 1),
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = x.flatten(2)
        q, k, v = self.qkv(self.norm(h)).unflatten(1, (self.heads, -1)).chunk(3, dim=2)
        return (h + self.proj_out(attend(q, k, v).flatten(1, 2))).reshape(x.shape)


class ADM(nn.Module):
    """The U-Net of guided-diffusion without classes; predicts the noise at label t - 1, its learned
    variance is dropped.

    `widths` are multiples of `width` per resolution, `attention` the levels (0 is the image's size)
    with attention, `n_head` the channels per head. It purifies at `size` pixels, see `OnCanvas`.
    """

    def __init__(
        self,
        width: int = 256,
        widths: Sequence[int] = (1, 1, 2, 2, 4, 4),
        attention: Sequence[int] = (3, 4, 5),
        n_head: int = 64,
        blocks: int = 2,
        size: int = 256,
    ):
        super().__init__()
        self.width, self.size, n_time = width, size, 4 * width
        self.time_embed = nn.Sequential(
            nn.Linear(width, n_time), nn.SiLU(), nn.Linear(n_time, n_time)
        )
        stages, skips, channels, last = (
            [nn.ModuleList([nn.Conv2d(3, width, 3, 1, 1)])],
            [width],
            width,
            len(widths) - 1,
        )
        block = lambda n_in, n_out, level: (
            [ADMBlock(n_in, n_out, n_time)]
            + ([ADMAttention(n_out, n_head)] if level in attention else [])
        )
        for level, factor in enumerate(widths):
            for _ in range(blocks):
                stages.append(nn.ModuleList(block(channels, factor * width, level)))
                channels = factor * width
                skips.append(channels)
            if level < last:
                stages.append(nn.ModuleList([ADMBlock(channels, channels, n_time, halved)]))
                skips.append(channels)
        self.input_blocks = nn.ModuleList(stages)
        self.middle_block = nn.ModuleList(
            [
                ADMBlock(channels, channels, n_time),
                ADMAttention(channels, n_head),
                ADMBlock(channels, channels, n_time),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level, factor in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                stage = block(channels + skips.pop(), factor * width, level)
                channels = factor * width
                if level and i == blocks:
                    stage.append(ADMBlock(channels, channels, n_time, doubled))
                self.output_blocks.append(nn.ModuleList(stage))
        self.out = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, 6, 3, 1, 1)
        )

    def labelled(self, x: Tensor, label: Tensor) -> Tensor:
        """The raw network at labels in 0..999, (n,): noise and variance, (n, 6, h, w)."""
        sin, cos = sinusoids(label.to(x.dtype), self.width, self.width // 2).chunk(2, dim=1)
        emb = self.time_embed(torch.cat([cos, sin], dim=1))
        first, *stages = cast(Iterable[nn.ModuleList], self.input_blocks)
        skips = [first[0](x)]
        for stage in stages:
            skips.append(_through(stage, skips[-1], emb))
        h = _through(self.middle_block, skips[-1], emb)
        for stage in cast(Iterable[nn.ModuleList], self.output_blocks):
            h = _through(stage, torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(
                f"this denoiser was trained at {self.size} pixels, not {tuple(x.shape[-2:])}:"
                " purify with the bench's `defended`"
            )
        return self.labelled(x, t - 1)[:, :3]


def _through(stage: nn.ModuleList, h: Tensor, emb: Tensor) -> Tensor:
    for module in stage:
        h = module(h, emb)
    return h


# ---- another size inside the purifier ------------------------------------------------------------


def scaled(images: Tensor, size: int | Sequence[int]) -> Tensor:
    """Images at another size, bilinearly; unchanged if they have it."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    return (
        images
        if images.shape[-2:] == size
        else F.interpolate(images, size, mode="bilinear", align_corners=False)
    )


class OnCanvas(Purified):
    """`Purified` at the denoiser's own size: images are scaled to it before purification and back
    after, inside the gradient.

    This is the ImageNet protocol of DiffPure and Lee & Kim: images of 224 pixels, a denoiser at
    256. A mask given at the images' size is scaled without interpolation. Every purification finds
    its own mask (copies share none, which next to the denoiser costs nothing), and its noise cannot
    be frozen.
    """

    def purify(self, images: Tensor, noise: Noise, mask: Tensor | None = None) -> Tensor:
        size = cast(Any, self.denoiser).size
        mask = None if mask is None else F.interpolate(mask, (size, size), mode="nearest")
        return scaled(super().purify(scaled(images, size), noise, mask), images.shape[-2:])


# ---- by name -------------------------------------------------------------------------------------

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "wrn_28_10": lambda: WideResNet(28, 10),
    "wrn_70_16": lambda: NormalisedWideResNet(70, 16),
    "dm_wrn_70_16": DeepMindWideResNet,
    "svhn_wrn_28_10": FunctionalWideResNet,
    "resnet_50": ResNet50,
    "edm_ddpmpp": lambda: EDM(ncsn=False),
    "edm_ncsnpp": lambda: EDM(ncsn=True),
    "score_sde_ddpmpp": ScoreSDE,
    "svhn_ddpm": DDPM,
    "adm_256": ADM,
}


def on_meta(name: str) -> nn.Module:
    """The network without memory for its weights: for counting, and for loading by assignment."""
    if name not in NETWORKS:
        raise ValueError(f"unknown published network {name!r}; known: {', '.join(NETWORKS)}")
    with torch.device("meta"):
        return NETWORKS[name]().eval().requires_grad_(False)
