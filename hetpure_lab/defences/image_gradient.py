"""A control of the method: a mask of as many pixels that the classifier has no part in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import HetPure, Noise
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.method import shorter_method


@register("image-gradient", Capabilities(family="method", has_mask=True, shorter=shorter_method))
@dataclass(frozen=True)
class ImageGradient(HetPure):
    """Control: the method with a mask that the classifier has no part in: as many pixels as the
    attention mask, where the image's own gradient magnitude (central differences, 3 x 3 mean) is
    largest.
    """

    def mask(
        self, images: Tensor, classifier: nn.Module, taps: Sequence[nn.Module], noise: Noise
    ) -> Tensor:
        area = super().mask(images, classifier, taps, noise).flatten(1).sum(1, keepdim=True)
        rank = (
            edges(images.detach())
            .flatten(1)
            .argsort(dim=1, descending=True, stable=True)
            .argsort(dim=1)
        )
        return (rank < area).to(images.dtype).reshape(len(images), 1, *images.shape[2:])


def edges(images: Tensor) -> Tensor:
    """The gradient magnitude of images (n, 3, h, w), summed over channels and smoothed: (n, 1, h,
    w).
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across, down = (
        padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2],
        padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1],
    )
    size = (across.square() + down.square()).sum(1, keepdim=True).sqrt()
    return F.avg_pool2d(F.pad(size, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
