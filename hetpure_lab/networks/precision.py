"""Faster arithmetic for a denoiser, as options of a bench's name, so that records made with it
never mix with others.

An option changes the denoiser only: the sampler, the classifier and the attack stay in float32.
`cost.arithmetic` measures the effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn


class Bfloat16(nn.Module):
    """A denoiser with convolutions and matrix products in bfloat16 (autocast); weights and output
    stay as they are.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        if hasattr(network, "size"):
            self.size = network.size

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x, t).to(x.dtype)


OPTIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bf16": Bfloat16,
    "compile": lambda network: cast(nn.Module, torch.compile(network, dynamic=False)),
}


def wrap(denoiser: nn.Module, options: Sequence[str]) -> nn.Module:
    """The denoiser with `options` applied in their order."""
    for option in options:
        if option not in OPTIONS:
            raise ValueError(f"unknown option {option!r}; known: {', '.join(OPTIONS)}")
        denoiser = OPTIONS[option](denoiser)
    return denoiser
