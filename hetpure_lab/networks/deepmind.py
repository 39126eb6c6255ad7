"""Wide ResNets in the form of Gowal et al. 2020: Swish instead of ReLU, their own normalisation.

`DeepMindWideResNet(70, 16)` has the parameter names of the published network; a small one stands
for the paper's second classifier (Tables 2 and 4) on a laptop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel."""
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


class DeepMindBlock(nn.Module):
    """Pre-activation residual block with Swish; a stride of 2 pads below and to the right only."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(n_in)
        self.relu_0 = nn.SiLU()
        self.conv_0 = nn.Conv2d(n_in, n_out, 3, stride, padding=int(stride == 1), bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(n_out)
        self.relu_1 = nn.SiLU()
        self.conv_1 = nn.Conv2d(n_out, n_out, 3, 1, padding=1, bias=False)
        self.shortcut = None if n_in == n_out else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu_0(self.batchnorm_0(x))
        skip = x if self.shortcut is None else self.shortcut(h)
        h = self.conv_0(h if self.conv_0.padding[0] else F.pad(h, (0, 1, 0, 1)))
        return skip + self.conv_1(self.relu_1(self.batchnorm_1(h)))


class DeepMindGroup(nn.Module):
    def __init__(self, n: int, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.block = nn.Sequential(
            *(
                DeepMindBlock(n_in if i == 0 else n_out, n_out, stride if i == 0 else 1)
                for i in range(n)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DeepMindWideResNet(nn.Module):
    """WRN-`depth`-`width` in the form of Gowal et al. 2020, Swish instead of ReLU."""

    def __init__(self, depth: int = 70, width: int = 16, n_classes: int = 10):
        super().__init__()
        n, widths = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
        self.init_conv = nn.Conv2d(3, 16, 3, 1, padding=1, bias=False)
        self.layer = nn.Sequential(
            *(DeepMindGroup(n, widths[i], widths[i + 1], (1, 2, 2)[i]) for i in range(3))
        )
        self.batchnorm = nn.BatchNorm2d(widths[3])
        self.relu = nn.SiLU()
        self.logits = nn.Linear(widths[3], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(self.init_conv(normalised(x, CIFAR10_MEAN, CIFAR10_STD)))
        return self.logits(self.relu(self.batchnorm(h)).mean((2, 3)))

    def taps(self) -> list[nn.Module]:
        """As the released code hooks it: the last activation inside each group, then the head's."""
        groups = cast(Iterable[DeepMindGroup], self.layer)
        return [*(cast(Any, group.block[-1]).relu_1 for group in groups), self.relu]
