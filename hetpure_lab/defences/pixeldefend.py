"""PixelDefend (Song et al. 2018), and the mixture of discretised logistics that its likelihood
model predicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Noise, Schedule
from hetpure_lab.defences.behind import Behind
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench
from hetpure_lab.networks.small import PixelCNN


@dataclass(frozen=True)
class Mixture:
    """A mixture of K discretised logistics for the three channels of a pixel (Salimans et al.
    2017), red first.

    `weights` (n, K, ...) are logs; `means`, `log_scales` and `slopes` (n, 3, K, ...): green's mean
    moves with red by slope 0, blue's with red and green by slopes 1 and 2. Levels are 0..255.
    """

    weights: Tensor
    means: Tensor
    log_scales: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> Mixture:
        """From a network's output (n, 10 K, ...)."""
        p = parameters.unflatten(1, (10, -1))
        return cls(p[:, 0].log_softmax(1), p[:, 1:4], p[:, 4:7].clamp(-7, 3), p[:, 7:10].tanh())

    def mean(self, c: int, levels: Tensor) -> Tensor:
        """Channel c's means (n, K, ...) given the levels (n, 3, ...) of the channels before it."""
        before = (levels / 127.5 - 1)[:, :, None]
        if c == 0:
            return self.means[:, 0]
        if c == 1:
            return self.means[:, 1] + self.slopes[:, 0] * before[:, 0]
        return (
            self.means[:, 2] + self.slopes[:, 1] * before[:, 0] + self.slopes[:, 2] * before[:, 1]
        )

    def log_likelihood(self, levels: Tensor) -> Tensor:
        """log p of whole pixels, (n, 3, ...) to (n, ...)."""
        terms = [
            log_mass(levels[:, c, None], self.mean(c, levels), self.log_scales[:, c])
            for c in range(3)
        ]
        return (self.weights + sum(terms)).logsumexp(1)


def log_mass(level: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    r"""log of :math:`\sigma(\tfrac{v + h - \mu}{s}) - \sigma(\tfrac{v - h - \mu}{s})`, v the level
    on [-1, 1], h half a level.

    The tails belong to levels 0 and 255. Stable: the difference is :math:`\sigma(b) \sigma(-a) (1 -
    e^{a - b})`.
    """
    v, inverse = level / 127.5 - 1, (-log_scale).exp()
    b, a = (v + 1 / 255 - mean) * inverse, (v - 1 / 255 - mean) * inverse
    inside = F.logsigmoid(b) + F.logsigmoid(-a) + (-torch.expm1(-2 / 255 * inverse)).log()
    return torch.where(
        level <= 0, F.logsigmoid(b), torch.where(level >= 255, F.logsigmoid(-a), inside)
    )


def bits_per_dimension(parameters: Tensor, levels: Tensor) -> Tensor:
    """The mean code length of a channel value of images of levels 0..255, given the network's
    output for them.
    """
    return -Mixture.of(parameters).log_likelihood(levels).mean() / (3 * math.log(2))


def likeliest_pixel(mixture: Mixture, pixel: Tensor, eps: int) -> Tensor:
    """For every image the likeliest levels (n, 3) of one pixel within `eps` of `pixel`, channel
    after channel.
    """
    chosen, weights, n = pixel.clone(), mixture.weights, len(pixel)
    offsets = torch.arange(-eps, eps + 1, device=pixel.device)
    for c in range(3):
        candidates = (pixel[:, c, None] + offsets).clamp(0, 255)
        mass = log_mass(
            candidates[:, None],
            mixture.mean(c, chosen)[..., None],
            mixture.log_scales[:, c, :, None],
        )
        best = (weights[..., None] + mass).logsumexp(1).argmax(1)
        chosen[:, c] = candidates[torch.arange(n), best]
        weights = weights + mass[torch.arange(n), :, best]
    return chosen


@torch.no_grad()
def purify_greedily(model: PixelCNN, levels: Tensor, eps: int) -> Tensor:
    """Every value becomes, in raster order, the likeliest within `eps` levels given the purified
    ones before it.
    """
    padded, r = model.pad(levels), model.radius
    out = levels.clone()
    for i in range(levels.shape[2]):
        for j in range(levels.shape[3]):
            mixture = Mixture.of(
                model.look(padded[:, :, i : i + r + 1, j : j + 2 * r + 1])[..., 0, 0]
            )
            out[:, :, i, j] = likeliest_pixel(mixture, levels[:, :, i, j], eps)
            padded[:, :3, i + r, j + r] = out[:, :, i, j] / 127.5 - 1
    return out


@register(
    "pixeldefend",
    Capabilities(
        family="trained",
        own_networks=True,
        randomised=False,
        unpriced="its network, which looks at one pixel after another",
    ),
)
@dataclass(frozen=True)
class PixelDefend:
    r"""PixelDefend (Song et al. 2018): move the image to where a likelihood model finds it more
    probable, within a ball.

    Adversarial images have a low likelihood under an autoregressive model of clean ones. In raster
    order, channel after channel, each value becomes :math:`\arg\max_{|z - x_i| \le \epsilon_d} p(z
    \mid x'_{<i})`, so that each conditional is at least that of the input's value (the product need
    not rise: what follows is conditioned on other values). `eps` is in levels of 255; 16 is the
    original's for CIFAR-10. Deterministic: copies of an image are purified once. The argmax has no
    gradient: straight-through (BPDA), which is also what the literature attacks it with.
    Adaptation: a small local PixelCNN (one causal convolution, then 1x1 layers) with the mixture of
    logistics of PixelCNN++; cost: one network evaluation per pixel, in sequence, on a patch only.
    """

    eps: int = 16

    def __post_init__(self):
        if self.eps < 0:
            raise ValueError(f"eps is a number of levels, not {self.eps}")

    def purify(self, images: Tensor, noise: Noise, network: PixelCNN) -> Tensor:
        # no noise: copies of an image end alike
        levels, which = (images.detach() * 255).round().unique(dim=0, return_inverse=True)
        return images + (purify_greedily(network, levels, self.eps)[which] / 255 - images).detach()

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per answer; its own network sees a patch once per pixel."""
        return 0

    def weights(self, bench: str) -> list[str]:
        return [f"{bench}-classifier", f"{bench}-pixelcnn"]

    def defend(self, bench: Bench) -> Behind:
        return Behind(
            bench.classifier, self, benches.load_network(self.weights(bench.name)[1], bench.device)
        )

    def rehearse(self, classifier: nn.Module, denoiser: nn.Module) -> nn.Module:
        """The same with other networks in the places of its own."""
        return Behind(
            classifier, self, PixelCNN(8).to(next(classifier.parameters(), torch.zeros(())))
        )
