"""ME-Net (Yang et al. 2019): matrix estimation, with the exact derivative of a function of singular
values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hetpure_core import Noise, Schedule
from hetpure_lab.defences.behind import Behind, bernoulli
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench


class SpectralFunction(torch.autograd.Function):
    r"""Apply f to singular values: :math:`A = U S V^\top` to :math:`U f(S) V^\top` for wide
    matrices (..., h, w), h <= w.

    The exact derivative, with :math:`P = U^\top dA\, V`, is :math:`U [\Gamma \odot \mathrm{sym} P +
    \Delta \odot \mathrm{skew} P] V^\top + U \tfrac{f(S)}{S} U^\top dA (I - V V^\top)`, where
    :math:`\Gamma_{ij} = \tfrac{f(s_i) - f(s_j)}{s_i - s_j}` (the derivative of f where they meet)
    and :math:`\Delta_{ij} = \tfrac{f(s_i) + f(s_j)}{s_i + s_j}`. Unlike that of the decomposition
    itself it stays finite when values that f treats alike coincide. `f` maps singular values, in
    falling order, to f and its derivative.
    """

    @staticmethod
    def forward(ctx, A: Tensor, f: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        U, s, Vh = torch.linalg.svd(A, full_matrices=False)
        value, slope = f(s)
        ctx.save_for_backward(U, s, Vh, value, slope)
        return U @ (value[..., :, None] * Vh)

    @staticmethod
    def backward(ctx, G: Tensor) -> tuple[Tensor, None]:
        U, s, Vh, value, slope = ctx.saved_tensors
        left = U.mT @ G
        P = left @ Vh.mT
        rows, columns = (lambda v: v[..., :, None]), (lambda v: v[..., None, :])
        tiny = s.amax(-1)[..., None, None].clamp(min=1e-30) * torch.finfo(s.dtype).eps
        gap, total = rows(s) - columns(s), rows(s) + columns(s)
        meet = gap.abs() <= tiny
        gamma = torch.where(
            meet,
            (rows(slope) + columns(slope)) / 2,
            (rows(value) - columns(value)) / torch.where(meet, 1, gap),
        )
        delta = (rows(value) + columns(value)) / total.clamp(min=tiny)
        core = gamma * (P + P.mT) / 2 + delta * (P - P.mT) / 2
        outside = rows(value / s.clamp(min=tiny[..., 0])) * (left - P @ Vh)
        return U @ (core @ Vh + outside), None


def keep_largest(count: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """f of the best approximation of rank `count`: the largest singular values stay, the others
    become 0.
    """

    def f(s: Tensor) -> tuple[Tensor, Tensor]:
        kept = (torch.arange(s.shape[-1], device=s.device) < count).to(s.dtype).expand_as(s)
        return s * kept, kept

    return f


def shrink(threshold: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """f of the nuclear norm's proximal step: soft thresholding."""
    return lambda s: ((s - threshold).clamp(min=0), (s > threshold).to(s.dtype))


def usvt(observed: Tensor, seen: Tensor, kept: float) -> Tensor:
    """Universal singular value thresholding (Chatterjee 2015) as ME-Net uses it: zero-filled, the
    largest `kept` share of the singular values, divided by the share of entries seen.
    """
    rate = seen.mean((-2, -1), keepdim=True).clamp(min=1e-6)
    return SpectralFunction.apply(observed, keep_largest(int(kept * observed.shape[-2]))) / rate


def soft_impute(
    observed: Tensor, seen: Tensor, iterations: int, high: float = 0.2, low: float = 1e-3
) -> Tensor:
    r"""Soft-Impute (Mazumder et al. 2010): :math:`Z \leftarrow S_\lambda(P_\Omega(X) +
    P_{\bar\Omega}(Z))` from Z = 0.

    :math:`\lambda` falls geometrically from `high` to `low`, in units of the largest singular value
    that entries in [-1, 1] allow.
    """
    scale, Z = math.sqrt(observed.shape[-2] * observed.shape[-1]), torch.zeros_like(observed)
    for k in range(iterations):
        threshold = scale * high * (low / high) ** (k / max(1, iterations - 1))
        Z = SpectralFunction.apply(observed + (1 - seen) * Z, shrink(threshold))
    return Z


@register(
    "me-net",
    Capabilities(family="trained", own_networks=True, unpriced="its singular value decompositions"),
)
@dataclass(frozen=True)
class MENet:
    r"""ME-Net (Yang et al. 2019): drop most entries of the image at random and estimate the matrix
    from the rest.

    Images are close to low rank and adversarial noise is not, so that what is dropped and
    re-estimated keeps the image and loses the noise's structure. The channels side by side, in [-1,
    1], are one matrix (h, 3w); entries survive with probability `rate`; ``usvt`` keeps the largest
    `kept` share of the singular values and divides by the rate seen, ``soft-impute`` minimises
    :math:`\tfrac12 \|P_\Omega(X - Z)\|^2 + \lambda \|Z\|_*` in `iterations` steps. The classifier
    is trained on such images, with rates uniform within `spread` of `rate`. Defaults: the release's
    (rates 0.4 to 0.6 in training and 0.5 in tests, 0.8 of the values). Adaptation: the bench's Wide
    ResNet, fine-tuned from its classifier with fresh masks in every batch instead of ten fixed
    ones; gradients are exact, through the decomposition and the final clip, where the original knew
    BPDA only (``gradient=bpda``).
    """

    rate: float = 0.5
    method: str = "usvt"
    kept: float = 0.8
    iterations: int = 20
    spread: float = 0.1

    def __post_init__(self):
        if self.method not in ("usvt", "soft-impute"):
            raise ValueError(f"unknown method {self.method!r}; known: usvt, soft-impute")
        if (
            not 0 <= self.spread < self.rate <= 1 - self.spread
            or not 0 < self.kept <= 1
            or self.iterations < 1
        ):
            raise ValueError(
                f"rate +- spread and kept are shares in (0, 1], iterations at least 1: {self}"
            )

    def purify(
        self, images: Tensor, noise: Noise, network: None = None, rates: Tensor | None = None
    ) -> Tensor:
        """Images in [0, 1] again; `rates` (n, 1, 1) replaces the one rate for all."""
        n, c, h, w = images.shape
        X = (2 * images - 1).transpose(1, 2).reshape(n, h, c * w)
        seen = bernoulli(
            torch.as_tensor(self.rate if rates is None else rates).to(X), noise, "seen", X
        )
        Z = (
            usvt(seen * X, seen, self.kept)
            if self.method == "usvt"
            else soft_impute(seen * X, seen, self.iterations)
        )
        return (Z.clamp(-1, 1).reshape(n, h, c, w).transpose(1, 2) + 1) / 2

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per answer."""
        return 0

    def training_images(self, images: Tensor, noise: Noise) -> Tensor:
        """What the classifier is trained on: every image with a rate of its own."""
        uniform = torch.special.ndtr(noise("rate", images[:, 0, :1, :1]))
        return self.purify(images, noise, rates=self.rate + self.spread * (2 * uniform - 1))

    def weights(self, bench: str) -> list[str]:
        return [f"{bench}-me-net"]

    def defend(self, bench: Bench) -> Behind:
        (name,) = self.weights(bench.name)
        return Behind(benches.load_network(name, bench.device), self)

    def rehearse(self, classifier: nn.Module, denoiser: nn.Module) -> nn.Module:
        """The same with other networks in the places of its own."""
        return Behind(classifier, self)
