"""Rivals that are trained: adversarially trained classifiers, ME-Net, PixelDefend and AToP, at the scale of the small bench.

Each is a frozen dataclass of settings with `weights`, the names of the weights it uses on a bench (recipes: `hetpure_lab.train`), and
`defend`, the module ``(images, ids, copies) -> logits`` that attacks and scoring see. Randomness is keyed by `hetpure_core.Noise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Noise, Purified, Schedule, check_images, frozen, linear_schedule, q_xt_x0, x0_xt
from hetpure_lab.defences.interface import Undefended
from hetpure_lab.networks import benches, robustbench
from hetpure_lab.networks.benches import Bench
from hetpure_lab.networks.small import PixelCNN


class Behind(nn.Module):
    """A classifier behind one of the trained purifiers below, with the calls of `hetpure_core.Purified`.

    Its ``purify`` takes images (n, 3, h, w) in [0, 1], their noise and its `network` to purified images.
    """

    def __init__(
        self,
        classifier: nn.Module,
        purifier: MENet | PixelDefend | AToP,
        network: nn.Module | None = None,
        seed: int | str | None = None,
    ):
        super().__init__()
        self.classifier, self.network, self.purifier, self.training = classifier, network, purifier, False
        self.seed, self.calls_without_ids = 0 if seed is None else seed, None if seed is None else [0]

    noise = Purified.noise

    def purify(self, images: Tensor, noise: Noise) -> Tensor:
        return self.purifier.purify(images, noise, frozen(self.network))

    def forward(self, images: Tensor, ids: Sequence | None = None, copies: Sequence | None = None) -> Tensor:
        check_images(images)
        return frozen(self.classifier)(self.purify(images, self.noise(len(images), ids, copies)))


def bernoulli(probability: Tensor, noise: Noise, draw: str, like: Tensor) -> Tensor:
    """0 or 1 in the shape of `like`, each 1 with its probability (broadcasting)."""
    return (torch.special.ndtr(noise(draw, like)) < probability).to(like.dtype)


# ---- adversarial training --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdversarialTraining:
    r"""Adversarial training: no purifier, but a classifier trained on the attack it will meet,
    :math:`\min_\theta \mathbb E \max_{\|\delta\| \le \epsilon} \ell(F_\theta(x + \delta), y)`.

    `model` names it: ``pgd-at-linf`` and ``pgd-at-l2`` (Madry et al. 2018; few inner steps) or ``fast-at-linf`` (Wong et al. 2020, one
    FGSM step from a random start). The ball is the one it will be attacked in: 8/255 or 0.5. Adaptation: the bench's Wide ResNet,
    fine-tuned from the bench's own classifier (Jeddi et al. 2020), the checkpoint of the highest PGD-10 accuracy on held-out images kept.
    A published network is named as RobustBench names it, ``Linf/Gowal2021Improving_28_10_ddpm_100m``: see `zoo`.
    """

    randomised: ClassVar[bool] = False

    model: str = "pgd-at-linf"

    def weights(self, bench: str) -> list[str]:
        """The bench's own network, or a published one for the bench's images."""
        if "/" not in self.model:
            return [f"{bench}-{self.model}"]
        return [robustbench.weights_name(self.model, benches.dataset(bench))]

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per answer."""
        return 0

    def defend(self, bench: Bench) -> Undefended:
        return Undefended(benches.load_network(*self.weights(bench.name), bench.device))


# ---- ME-Net ----------------------------------------------------------------------------------------------------------------


class SpectralFunction(torch.autograd.Function):
    r"""Apply f to singular values: :math:`A = U S V^\top` to :math:`U f(S) V^\top` for wide matrices (..., h, w), h <= w.

    The exact derivative, with :math:`P = U^\top dA\, V`, is
    :math:`U [\Gamma \odot \mathrm{sym} P + \Delta \odot \mathrm{skew} P] V^\top + U \tfrac{f(S)}{S} U^\top dA (I - V V^\top)`, where
    :math:`\Gamma_{ij} = \tfrac{f(s_i) - f(s_j)}{s_i - s_j}` (the derivative of f where they meet) and
    :math:`\Delta_{ij} = \tfrac{f(s_i) + f(s_j)}{s_i + s_j}`. Unlike that of the decomposition itself it stays finite when values that f
    treats alike coincide. `f` maps singular values, in falling order, to f and its derivative.
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
        gamma = torch.where(meet, (rows(slope) + columns(slope)) / 2, (rows(value) - columns(value)) / torch.where(meet, 1, gap))
        delta = (rows(value) + columns(value)) / total.clamp(min=tiny)
        core = gamma * (P + P.mT) / 2 + delta * (P - P.mT) / 2
        outside = rows(value / s.clamp(min=tiny[..., 0])) * (left - P @ Vh)
        return U @ (core @ Vh + outside), None


def keep_largest(count: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """f of the best approximation of rank `count`: the largest singular values stay, the others become 0."""

    def f(s: Tensor) -> tuple[Tensor, Tensor]:
        kept = (torch.arange(s.shape[-1], device=s.device) < count).to(s.dtype).expand_as(s)
        return s * kept, kept

    return f


def shrink(threshold: float) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """f of the nuclear norm's proximal step: soft thresholding."""
    return lambda s: ((s - threshold).clamp(min=0), (s > threshold).to(s.dtype))


def usvt(observed: Tensor, seen: Tensor, kept: float) -> Tensor:
    """Universal singular value thresholding (Chatterjee 2015) as ME-Net uses it: zero-filled, the largest `kept` share of the singular
    values, divided by the share of entries seen."""
    rate = seen.mean((-2, -1), keepdim=True).clamp(min=1e-6)
    return SpectralFunction.apply(observed, keep_largest(int(kept * observed.shape[-2]))) / rate


def soft_impute(observed: Tensor, seen: Tensor, iterations: int, high: float = 0.2, low: float = 1e-3) -> Tensor:
    r"""Soft-Impute (Mazumder et al. 2010): :math:`Z \leftarrow S_\lambda(P_\Omega(X) + P_{\bar\Omega}(Z))` from Z = 0.

    :math:`\lambda` falls geometrically from `high` to `low`, in units of the largest singular value that entries in [-1, 1] allow.
    """
    scale, Z = math.sqrt(observed.shape[-2] * observed.shape[-1]), torch.zeros_like(observed)
    for k in range(iterations):
        threshold = scale * high * (low / high) ** (k / max(1, iterations - 1))
        Z = SpectralFunction.apply(observed + (1 - seen) * Z, shrink(threshold))
    return Z


@dataclass(frozen=True)
class MENet:
    r"""ME-Net (Yang et al. 2019): drop most entries of the image at random and estimate the matrix from the rest.

    Images are close to low rank and adversarial noise is not, so that what is dropped and re-estimated keeps the image and loses the
    noise's structure. The channels side by side, in [-1, 1], are one matrix (h, 3w); entries survive with probability `rate`;
    ``usvt`` keeps the largest `kept` share of the singular values and divides by the rate seen, ``soft-impute`` minimises
    :math:`\tfrac12 \|P_\Omega(X - Z)\|^2 + \lambda \|Z\|_*` in `iterations` steps. The classifier is trained on such images, with rates
    uniform within `spread` of `rate`. Defaults: the release's (rates 0.4 to 0.6 in training and 0.5 in tests, 0.8 of the values).
    Adaptation: the bench's Wide ResNet, fine-tuned from its classifier with fresh masks in every batch instead of ten fixed ones;
    gradients are exact, through the decomposition and the final clip, where the original knew BPDA only (``gradient=bpda``).
    """

    rate: float = 0.5
    method: str = "usvt"
    kept: float = 0.8
    iterations: int = 20
    spread: float = 0.1

    def __post_init__(self):
        if self.method not in ("usvt", "soft-impute"):
            raise ValueError(f"unknown method {self.method!r}; known: usvt, soft-impute")
        if not 0 <= self.spread < self.rate <= 1 - self.spread or not 0 < self.kept <= 1 or self.iterations < 1:
            raise ValueError(f"rate +- spread and kept are shares in (0, 1], iterations at least 1: {self}")

    def purify(self, images: Tensor, noise: Noise, network: None = None, rates: Tensor | None = None) -> Tensor:
        """Images in [0, 1] again; `rates` (n, 1, 1) replaces the one rate for all."""
        n, c, h, w = images.shape
        X = (2 * images - 1).transpose(1, 2).reshape(n, h, c * w)
        seen = bernoulli(torch.as_tensor(self.rate if rates is None else rates).to(X), noise, "seen", X)
        Z = usvt(seen * X, seen, self.kept) if self.method == "usvt" else soft_impute(seen * X, seen, self.iterations)
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
        return Behind(benches.load_network(*self.weights(bench.name), bench.device), self)


# ---- PixelDefend -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    """A mixture of K discretised logistics for the three channels of a pixel (Salimans et al. 2017), red first.

    `weights` (n, K, ...) are logs; `means`, `log_scales` and `slopes` (n, 3, K, ...): green's mean moves with red by slope 0, blue's with
    red and green by slopes 1 and 2. Levels are 0..255.
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
        return self.means[:, 2] + self.slopes[:, 1] * before[:, 0] + self.slopes[:, 2] * before[:, 1]

    def log_likelihood(self, levels: Tensor) -> Tensor:
        """log p of whole pixels, (n, 3, ...) to (n, ...)."""
        terms = [log_mass(levels[:, c, None], self.mean(c, levels), self.log_scales[:, c]) for c in range(3)]
        return (self.weights + sum(terms)).logsumexp(1)


def log_mass(level: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    r"""log of :math:`\sigma(\tfrac{v + h - \mu}{s}) - \sigma(\tfrac{v - h - \mu}{s})`, v the level on [-1, 1], h half a level.

    The tails belong to levels 0 and 255. Stable: the difference is :math:`\sigma(b) \sigma(-a) (1 - e^{a - b})`.
    """
    v, inverse = level / 127.5 - 1, (-log_scale).exp()
    b, a = (v + 1 / 255 - mean) * inverse, (v - 1 / 255 - mean) * inverse
    inside = F.logsigmoid(b) + F.logsigmoid(-a) + (-torch.expm1(-2 / 255 * inverse)).log()
    return torch.where(level <= 0, F.logsigmoid(b), torch.where(level >= 255, F.logsigmoid(-a), inside))


def bits_per_dimension(parameters: Tensor, levels: Tensor) -> Tensor:
    """The mean code length of a channel value of images of levels 0..255, given the network's output for them."""
    return -Mixture.of(parameters).log_likelihood(levels).mean() / (3 * math.log(2))


def likeliest_pixel(mixture: Mixture, pixel: Tensor, eps: int) -> Tensor:
    """For every image the likeliest levels (n, 3) of one pixel within `eps` of `pixel`, channel after channel."""
    chosen, weights, n = pixel.clone(), mixture.weights, len(pixel)
    offsets = torch.arange(-eps, eps + 1, device=pixel.device)
    for c in range(3):
        candidates = (pixel[:, c, None] + offsets).clamp(0, 255)
        mass = log_mass(candidates[:, None], mixture.mean(c, chosen)[..., None], mixture.log_scales[:, c, :, None])
        best = (weights[..., None] + mass).logsumexp(1).argmax(1)
        chosen[:, c] = candidates[torch.arange(n), best]
        weights = weights + mass[torch.arange(n), :, best]
    return chosen


@torch.no_grad()
def purify_greedily(model: PixelCNN, levels: Tensor, eps: int) -> Tensor:
    """Every value becomes, in raster order, the likeliest within `eps` levels given the purified ones before it."""
    padded, r = model.pad(levels), model.radius
    out = levels.clone()
    for i in range(levels.shape[2]):
        for j in range(levels.shape[3]):
            mixture = Mixture.of(model.look(padded[:, :, i : i + r + 1, j : j + 2 * r + 1])[..., 0, 0])
            out[:, :, i, j] = likeliest_pixel(mixture, levels[:, :, i, j], eps)
            padded[:, :3, i + r, j + r] = out[:, :, i, j] / 127.5 - 1
    return out


@dataclass(frozen=True)
class PixelDefend:
    r"""PixelDefend (Song et al. 2018): move the image to where a likelihood model finds it more probable, within a ball.

    Adversarial images have a low likelihood under an autoregressive model of clean ones. In raster order, channel after channel, each
    value becomes :math:`\arg\max_{|z - x_i| \le \epsilon_d} p(z \mid x'_{<i})`, so that each conditional is at least that of the
    input's value (the product need not rise: what follows is conditioned on other values).
    `eps` is in levels of 255; 16 is the original's for CIFAR-10. Deterministic: copies of an image are purified once.
    The argmax has no gradient: straight-through (BPDA), which is also what the literature attacks it with.
    Adaptation: a small local PixelCNN (one causal convolution, then 1x1 layers) with the mixture of logistics of PixelCNN++; cost: one
    network evaluation per pixel, in sequence, on a patch only.
    """

    randomised: ClassVar[bool] = False

    eps: int = 16

    def __post_init__(self):
        if self.eps < 0:
            raise ValueError(f"eps is a number of levels, not {self.eps}")

    def purify(self, images: Tensor, noise: Noise, network: PixelCNN) -> Tensor:
        levels, which = (images.detach() * 255).round().unique(dim=0, return_inverse=True)  # no noise: copies of an image end alike
        return images + (purify_greedily(network, levels, self.eps)[which] / 255 - images).detach()

    def calls(self, schedule: Schedule) -> int:
        """Denoiser calls per answer; its own network sees a patch once per pixel."""
        return 0

    def weights(self, bench: str) -> list[str]:
        return [f"{bench}-classifier", f"{bench}-pixelcnn"]

    def defend(self, bench: Bench) -> Behind:
        return Behind(bench.classifier, self, benches.load_network(self.weights(bench.name)[1], bench.device))


# ---- AToP ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AToP:
    r"""AToP (Lin et al. 2024): destroy the perturbation with a random transform, repair with a purifier that is trained adversarially.

    The transform adds Gaussian noise and blanks a `missing` share of `patch` x `patch` blocks, :math:`x_t = (1 - B) \odot
    (\sqrt{\bar\alpha_t}\, x + \sqrt{1 - \bar\alpha_t}\, \epsilon)`; the purifier g repairs it in one call. g is trained on
    :math:`\|g(x_t^{adv}) - x\|_1 + s\, \ell(F(g(x_t^{adv})), y)` with FGSM examples of the fixed classifier F. Defaults: the release's
    combined transform for CIFAR-10 (noise of 0.25, which is about t = 0.15, a quarter of the 4 x 4 blocks missing). Adaptations: g is the
    bench's denoiser, started from its weights, read as :math:`\hat x_0`; no GAN term; s is 1 and not 0.05, so that a small network repairs
    what the classifier looks at; in the release the l1 term repairs the transformed clean image, and the classification term alone sees the
    adversarial one; the released g is also told which blocks are missing, by a channel of its own. As in the release the FGSM examples
    (here from a random start) fool F alone. With nothing missing and the denoiser's own weights it is one-shot denoising. Gradients are
    exact.
    """

    t: float = 0.15
    missing: float = 0.25
    patch: int = 4

    def __post_init__(self):
        if not 0 < self.t <= 1 or not 0 <= self.missing < 1 or self.patch < 1:
            raise ValueError(f"t is in (0, 1], missing in [0, 1), patch at least 1: {self}")

    def transform(self, x: Tensor, noise: Noise, schedule: Schedule) -> Tensor:
        """Images in [-1, 1] to noised ones with blanks."""
        h, w = -(-x.shape[2] // self.patch), -(-x.shape[3] // self.patch)
        rank = noise("missing", x.new_zeros(len(x), h * w)).argsort(1).argsort(1)
        seen = (rank >= int(self.missing * h * w)).to(x.dtype).reshape(-1, 1, h, w)
        seen = seen.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)[..., : x.shape[2], : x.shape[3]]
        return seen * q_xt_x0(x, schedule.index(self.t), noise("start", x), schedule)

    def purify(self, images: Tensor, noise: Noise, network: nn.Module) -> Tensor:
        schedule = linear_schedule()
        t, x = schedule.index(self.t), self.transform(2 * images - 1, noise, schedule)
        return (x0_xt(x, t, network(x, torch.full((len(x),), t, device=x.device)), schedule) + 1) / 2

    def calls(self, schedule: Schedule) -> int:
        """Calls of the network that began as the denoiser, per answer."""
        return 1

    def weights(self, bench: str) -> list[str]:
        return [f"{bench}-classifier", f"{bench}-atop"]

    def defend(self, bench: Bench) -> Behind:
        return Behind(bench.classifier, self, benches.load_network(self.weights(bench.name)[1], bench.device))


CLASSIFICATION_SHARE = 1.0  # s in AToP's loss

Trained = AdversarialTraining | MENet | PixelDefend | AToP
