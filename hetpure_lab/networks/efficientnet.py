"""The classifier of photographs, EfficientNet-Lite0, from a package of the extra ``lab``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import get_model_params
from torch import Tensor, nn


class EfficientNetLite0(EfficientNet):
    """EfficientNet-Lite0 for ImageNet: images (n, 3, h, w) in [0, 1] of any size to logits (n,
    1000).

    It scales images to the size it was trained at. With `classes`, the logits of all others are
    lowered beyond reach: a classifier of a few classes that keeps ImageNet's numbering.
    Architecture and parameter names follow the package ``efficientnet_lite_pytorch`` (Tan & Le
    2019), without its random dropping in training.
    """

    size = 224
    of_photographs = True

    def __init__(self, classes: tuple[int, ...] | None = None):
        super().__init__(
            *get_model_params("efficientnet-lite0", {"dropout_rate": 0.0, "drop_connect_rate": 0.0})
        )
        closed = torch.ones(1000) if classes else torch.zeros(1000)
        closed[list(classes or ())] = 0
        self.register_buffer("closed", 1e4 * closed, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        return self.logits((255 * x - 127) / 128)

    def logits(self, x: Tensor) -> Tensor:
        """Of an input that is scaled and normalised already."""
        return super().forward(x) - self.closed

    def taps(self) -> list[nn.Module]:
        """The last ReLU before each halving from a quarter of the resolution on, and the head's."""
        return [self._blocks[i]._swish for i in (2, 4, 10)] + [self._swish]
