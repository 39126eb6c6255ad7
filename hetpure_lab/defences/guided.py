"""Rival purifiers that follow a gradient inside the purification: towards the input, the classifier's features or a smaller residual.

Guidance is the gradient of a sum over the pixels of *one* image, so an image's fate does not depend on its batch; the public code of GDMP,
MimicDiffusion and contrastive guidance takes means over the batch. While an attack records a gradient, guidance is itself differentiated
(second derivatives), from a graph that the backward pass builds anew: none is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Denoiser, Noise, Plan, Schedule, frozen, p_xs_xt, q_xt_x0, x0_xt
from hetpure_lab.defences.rivals import ReverseSDE, Rival, Scene, chained, not_negative


class Guidance(torch.autograd.Function):
    """The gradient in x of a loss per image, itself differentiable once.

    The graph of the loss is never kept: the backward pass builds it again. Kept inside a recomputed segment of a long chain, it would have
    that segment recomputed for every gradient taken in it.
    """

    @staticmethod
    def forward(ctx, loss: Callable[..., Tensor], x: Tensor, *seen: Tensor) -> Tensor:
        ctx.loss = loss
        ctx.save_for_backward(x, *seen)
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda saved: saved):
            return _slope(loss, x.detach().requires_grad_(), *seen)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, direction: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [saved.detach().requires_grad_() for saved in ctx.saved_tensors]
        with torch.enable_grad():
            slope = _slope(ctx.loss, *inputs, create_graph=True)
        return None, *torch.autograd.grad(slope, inputs, direction, allow_unused=True)


def _slope(loss: Callable[..., Tensor], x: Tensor, *seen: Tensor, create_graph: bool = False) -> Tensor:
    return torch.autograd.grad(loss(x, *seen).sum(), x, create_graph=create_graph)[0]


def guidance(loss: Callable[..., Tensor], x: Tensor, *seen: Tensor) -> Tensor:
    """The gradient in x of ``loss(x, *seen)`` (n,); where gradients are recorded it is differentiable in x and in all that is `seen`.

    What `loss` captures otherwise is taken as constant.
    """
    return Guidance.apply(loss, x, *seen)


@dataclass(frozen=True)
class GDMP(Rival):
    r"""GDMP: DDPM purification whose every step is pulled towards the input at the same noise level, and the whole repeated.

    :math:`x_s \leftarrow x_s - \sigma^2 g_t \nabla_{x_t} \mathrm{MSE}(x_t, x_t^{ref})`, :math:`x_t^{ref} \sim q(x_t | x)`, :math:`\sigma^2`
    the variance of the step, :math:`g_t = 3 \cdot 255\, \mathrm{scale}\, \sigma_t / (2\, \mathrm{ptb})`. Wang et al. 2022, CIFAR-10: t =
    0.036 index by index, 4 loops (144 calls: ``steps=36``), scale 6e4, ptb 8; here 9 steps per loop. Adaptations: the published MSE is a
    mean over the batch, here over one image; the released network has "fixedlarge" variance, beta_t for guidance and noise, here it is the
    posterior's, 0 on the last step; the release clips the estimate of the clean image. Its configuration against BPDA is another: 2 loops
    from t = 0.06, and SSIM times 1e3 for the MSE. ``scale=0`` is unguided DDPM in loops.
    """

    published: ClassVar[dict] = {"steps": 36}

    t: float = 0.036
    steps: int = 9
    loops: int = 4
    scale: float = 6e4
    ptb: float = 8.0

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "scale")
        if self.loops < 1 or self.ptb <= 0:
            raise ValueError(f"loops must be at least 1 and ptb positive, not {self.loops} and {self.ptb}")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        if self.loops > 1:
            return chained([replace(self, loops=1)] * self.loops, Scene(x_adv, eps, noise, schedule))
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        return [(times[0], partial(scene.start, times[0]))] + [(s, partial(self.step, scene, t, s)) for t, s in pairwise(times)]

    def step(self, scene: Scene, t: int, s: int, x: Tensor) -> Tensor:
        abar_t, abar_s = float(scene.schedule.abar[t]), float(scene.schedule.abar[s])
        variance = (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
        strength = 3 * 255 * self.scale * scene.sigma(t) / (2 * self.ptb)
        reference = q_xt_x0(scene.x_adv, t, scene.noise(f"reference {t}", x), scene.schedule)
        pull = 2 * (x - reference) / x[0].numel()  # the gradient of the MSE in closed form
        z = scene.reverse_noise(t, s, x)
        return p_xs_xt(x, t, s, scene.predict(x, t), scene.schedule, eta=1.0, z=z) - variance * strength * pull

    def calls(self, schedule: Schedule) -> int:
        return self.loops * super().calls(schedule)


@dataclass(frozen=True)
class MimicDiffusion(Rival):
    r"""MimicDiffusion: start from pure noise and let only guidance lead back to the input, so that its perturbation is never diffused.

    :math:`x_s \leftarrow x_s - \rho \nabla_{\hat x_0} [\ell(\hat x_0 - x) + \ell(\mathrm{up}_4(\hat x_0 - x)) / 16]` in the middle of the
    chain (20 % to 90 %), the network outside the graph as published. Song et al. 2024: 100 DDPM steps from T, :math:`\ell = \|\cdot\|_1`,
    3000 times its mean over a batch of 16 and 32 x 32 pixels, which is `rho` = 3000 / (16 * 32 * 32) = 0.183 per pixel. Adaptations: the
    small denoiser knows no time above 0.42 T, so pure noise enters at `t`; `rho` does not depend on the batch, and ours is 0.1, since a
    sign overshoots by its own length and fewer steps follow the guided ones to smooth that; up_4 is bilinear, theirs copies the nearest
    pixel; `smooth` rounds the kink, :math:`\ell = \sum \sqrt{d^2 + \mathrm{smooth}^2}`. With ``smooth=0``, as published, the guidance is a
    sign: the exact gradient of the whole defence is zero almost everywhere and no gradient attack can start, which is masking and not
    robustness.
    """

    published: ClassVar[dict] = {"steps": 100}

    t: float = 0.4
    steps: int = 30
    rho: float = 0.1
    smooth: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "rho", "smooth")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        scene, times = Scene(x_adv, eps, noise, schedule), self.times(schedule)
        guided = range(round(0.2 * (len(times) - 1)), round(0.9 * (len(times) - 1)))
        steps = [(s, partial(self.step, scene, t, s, k in guided)) for k, (t, s) in enumerate(pairwise(times))]
        return [(times[0], lambda x: noise("start", x))] + steps

    def step(self, scene: Scene, t: int, s: int, guided: bool, x: Tensor) -> Tensor:
        x0 = x0_xt(x, t, scene.predict(x, t), scene.schedule)
        x = scene.ancestral(x, t, s, x0)
        return x - self.rho * guidance(lambda y, x_adv: self.distance(y - x_adv), x0, scene.x_adv) if guided else x

    def distance(self, d: Tensor) -> Tensor:
        """The rounded l1 norm of d and of its fourfold enlargement (n,)."""
        size = lambda v: (v.square() + self.smooth**2).sqrt() if self.smooth else v.abs()
        large = F.interpolate(d, scale_factor=4, mode="bilinear", align_corners=False)
        return size(d).sum((1, 2, 3)) + size(large).sum((1, 2, 3)) / 16


@dataclass(frozen=True)
class Contrastive(ReverseSDE):
    r"""Contrastive guidance (Bai et al.): the reverse SDE, steered so that the classifier's view of a step agrees with that of the last.

    :math:`x_s \leftarrow x_s - \lambda \tfrac{B}{\sqrt{1 - \bar\alpha_t}} \nabla_{x_s} L`, :math:`L = -\ln \frac{e^{p}}{e^{p} + \sum_k
    e^{n_k}}`, p the cosine of the logits of x_s and x_t. Bai et al. 2024: t = 0.1 for l-infinity 8/255 and 0.075 for l2 0.5, as DiffPure,
    steps of 1/1000 (100 calls: ``steps=100``), lambda = 500. Adaptations: their n_k are the other images of the batch, and hard ones count
    more (tau+ = 0.1, beta = 1), here the directions of the other classes, all alike; their features pass through a small network that is
    trained anew on every image, here they are the logits themselves, on which 500 destroys an image, so `scale` is 1; they add the term to
    the next predicted noise, here it is applied on arrival, so that a step needs no memory. A step consults the classifier twice and
    differentiates it, so there are 10 steps by default. ``scale=0`` is the `ReverseSDE`.
    """

    steps: int = 10
    scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "scale")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        raise ValueError("Contrastive consults the classifier, which a plan does not see; build it with defences.assemble")

    def seeing(self, classifier: nn.Module) -> Seeing:
        """This purifier with the classifier that it consults."""
        return Seeing(self, classifier)

    def guided(self, scene: Scene, classifier: nn.Module) -> Plan:
        times = self.times(scene.schedule)
        steps = [(s, partial(self.guided_step, scene, classifier, t, s)) for t, s in pairwise(times)]
        return [(times[0], partial(scene.start, times[0]))] + steps

    def guided_step(self, scene: Scene, classifier: nn.Module, t: int, s: int, x: Tensor) -> Tensor:
        after = self.step(scene, t, s, x)
        features = lambda y: F.normalize(classifier((y + 1) / 2), dim=1)
        anchor = features(x)
        gradient = guidance(lambda y, anchor: contrast(features(y), anchor), after, anchor)
        abar_t, abar_s = float(scene.schedule.abar[t]), float(scene.schedule.abar[s])
        return after - self.scale * math.log(abar_s / abar_t) / math.sqrt(1 - abar_t) * gradient


def contrast(view: Tensor, anchor: Tensor) -> Tensor:
    """InfoNCE (n,) of unit features (n, k): the anchor is the positive, the axes other than its largest are the negatives."""
    positive = (view * anchor).sum(1, keepdim=True)
    negatives = view.scatter(1, anchor.argmax(1, keepdim=True), -torch.inf)
    return torch.cat([positive, negatives], 1).logsumexp(1) - positive[:, 0]


@dataclass(frozen=True)
class Seeing(Rival):
    """A purifier that consults the classifier, and the classifier."""

    purifier: Contrastive
    classifier: nn.Module

    def __post_init__(self):
        """The purifier has checked itself."""

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        return self.purifier.guided(Scene(x_adv, eps, noise, schedule), frozen(self.classifier))

    def calls(self, schedule: Schedule) -> int:
        return self.purifier.calls(schedule)


# ---- descent on the residual of the denoiser --------------------------------------------------------------------------------------


def residual(scene: Scene, t: int, x: Tensor, z: Tensor | float = 0.0) -> Tensor:
    r"""How far the denoiser moves an image, :math:`\tfrac12 \|D(x + \sigma_t z; \sigma_t) - x\|^2` (n,): one call."""
    noisy = x + scene.sigma(t) * z
    denoised = noisy - scene.sigma(t) * scene.unscaled_noise(noisy, t)
    return (denoised - x).square().sum((1, 2, 3)) / 2


@dataclass(frozen=True)
class ScoreOpt(Rival):
    r"""ScoreOpt: instead of sampling, optimise the image itself until the denoiser has nothing to change, on fresh noise each time.

    `steps` steps of Adam with rate `rate` on :math:`\|D(x + \sigma z; \sigma) - x\|^2`. Zhang et al. 2023, released settings against
    BPDA+EOT: 5 steps, rate 0.1, sigma about 0.5 in [-1, 1] (about t = 0.14); they draw sigma in a band of 0.1 around it, here it is fixed;
    they clip the result. The gradient of the defence passes through the whole optimisation, Adam's moments included; their PGD
    differentiates one-shot denoising instead, which is another defence and no `surrogate` here.
    """

    t: float = 0.14
    steps: int = 5
    rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "rate")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        return [(0, partial(self.optimise, Scene(x_adv, eps, noise, schedule), schedule.index(self.t)))]

    def optimise(self, scene: Scene, t: int, x: Tensor) -> Tensor:
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for k in range(1, self.steps + 1):
            gradient = guidance(partial(residual, scene, t, z=scene.noise(f"optimise {k}", x)), x)
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
            x = x - self.rate * first / (1 - 0.9**k) / ((second / (1 - 0.999**k) + 1e-16).sqrt())
        return x

    def calls(self, schedule: Schedule) -> int:
        return self.steps


@dataclass(frozen=True)
class SharpnessAware(Rival):
    r"""A deterministic purifier after PurSAMERE: descend the residual of the denoiser at the worst point nearby, without any noise.

    :math:`x \leftarrow x - \gamma g(x + \rho\, g(x) / \|g(x)\|)`, :math:`g = \nabla_x \tfrac12 \|D(x; \sigma_t) - x\|^2`. Only the
    abstract of Hoang et al. 2026 (arXiv 2602.06269) was available to us: the idea is theirs; `t`, `rate`, `radius` (an l2 norm) and `steps`
    are ours. Adaptation: they minimise the *expected* error under noise, here it is the error at the noise's centre, one call instead of
    many. No noise is drawn, so a failure of this purifier is a failure every time. Two calls per step; ``radius=0`` is plain descent.
    """

    randomised: ClassVar[bool] = False

    t: float = 0.05
    steps: int = 8
    rate: float = 0.5
    radius: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "rate", "radius")

    def plan(self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule) -> Plan:
        scene, t = Scene(x_adv, eps, noise, schedule), schedule.index(self.t)
        return [(0, partial(self.step, scene, t))] * self.steps

    def step(self, scene: Scene, t: int, x: Tensor) -> Tensor:
        gradient = guidance(partial(residual, scene, t), x)
        length = (gradient.square().sum((1, 2, 3), keepdim=True) + 1e-12).sqrt()
        return x - self.rate * guidance(partial(residual, scene, t), x + self.radius * gradient / length)

    def calls(self, schedule: Schedule) -> int:
        return 2 * self.steps
