"""A classifier behind a purifier that is no diffusion chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hetpure_core import Noise, Purified, check_images, frozen


class Transform(Protocol):
    """A purifier that takes images in [0, 1], their noise and a network (or None) to purified
    images.
    """

    def purify(self, images: Tensor, noise: Noise, network: Any) -> Tensor: ...


class Behind(nn.Module):
    """A classifier behind a `Transform`, with the calls of `hetpure_core.Purified`.

    Its ``purify`` takes images (n, 3, h, w) in [0, 1], their noise and its `network` to purified
    images.
    """

    def __init__(
        self,
        classifier: nn.Module,
        purifier: Transform,
        network: nn.Module | None = None,
        seed: int | str | None = None,
    ):
        super().__init__()
        self.classifier, self.network, self.purifier, self.training = (
            classifier,
            network,
            purifier,
            False,
        )
        self.seed, self.calls_without_ids = (
            0 if seed is None else seed,
            None if seed is None else [0],
        )

    noise = Purified.noise

    def purify(self, images: Tensor, noise: Noise) -> Tensor:
        return self.purifier.purify(images, noise, frozen(self.network))

    def forward(
        self, images: Tensor, ids: Sequence | None = None, copies: Sequence | None = None
    ) -> Tensor:
        check_images(images)
        return frozen(self.classifier)(self.purify(images, self.noise(len(images), ids, copies)))


def bernoulli(probability: Tensor, noise: Noise, draw: str, like: Tensor) -> Tensor:
    """0 or 1 in the shape of `like`, each 1 with its probability (broadcasting)."""
    return (torch.special.ndtr(noise(draw, like)) < probability).to(like.dtype)
