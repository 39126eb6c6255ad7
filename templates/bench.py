"""A template for a bench: networks and data under one name. Here the small CIFAR-10 networks, with
your own in their places.
"""

from __future__ import annotations

import torch
from torch import nn

from hetpure_core import HetPure
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import BENCHES, Own


def networks(device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Classifier of images in [0, 1], denoiser eps(x_t, t) of images in [-1, 1]: see
    `networks.adapters` for those of others.
    """
    return tuple(benches.load_network(f"cifar10-small-{part}", device) for part in benches.PARTS)


BENCHES.add("template-bench", Own("cifar10", networks, benches.CIFAR10_CLASSES, HetPure(tau=0.5)))
