"""Contrastive guidance (Bai et al. 2024): the purifier that consults the classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetpure_core import Denoiser, Noise, Plan, Schedule, frozen
from hetpure_lab.defences.guidance import guidance
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.defences.reverse_sde import ReverseSDE
from hetpure_lab.defences.sampling import Rival, Scene, not_negative


@register("contrastive", Capabilities(published={"steps": 100}, consults_classifier=True))
@dataclass(frozen=True)
class Contrastive(ReverseSDE):
    r"""Contrastive guidance (Bai et al.): the reverse SDE, steered so that the classifier's view of
    a step agrees with that of the last.

    :math:`x_s \leftarrow x_s - \lambda \tfrac{B}{\sqrt{1 - \bar\alpha_t}} \nabla_{x_s} L`, :math:`L
    = -\ln \frac{e^{p}}{e^{p} + \sum_k e^{n_k}}`, p the cosine of the logits of x_s and x_t. Bai et
    al. 2024: t = 0.1 for l-infinity 8/255 and 0.075 for l2 0.5, as DiffPure, steps of 1/1000 (100
    calls: ``steps=100``), lambda = 500. Adaptations: their n_k are the other images of the batch,
    and hard ones count more (tau+ = 0.1, beta = 1), here the directions of the other classes, all
    alike; their features pass through a small network that is trained anew on every image, here
    they are the logits themselves, on which 500 destroys an image, so `scale` is 1; they add the
    term to the next predicted noise, here it is applied on arrival, so that a step needs no memory.
    A step consults the classifier twice and differentiates it, so there are 10 steps by default.
    ``scale=0`` is the `ReverseSDE`.
    """

    steps: int = 10
    scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        not_negative(self, "scale")

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        raise ValueError(
            "Contrastive consults the classifier, which a plan does not see; build it with"
            " defences.assemble"
        )

    def seeing(self, classifier: nn.Module) -> Seeing:
        """This purifier with the classifier that it consults."""
        return Seeing(self, classifier)

    def guided(self, scene: Scene, classifier: nn.Module) -> Plan:
        times = self.times(scene.schedule)
        steps = [
            (s, partial(self.guided_step, scene, classifier, t, s)) for t, s in pairwise(times)
        ]
        return [(times[0], partial(scene.start, times[0]))] + steps

    def guided_step(self, scene: Scene, classifier: nn.Module, t: int, s: int, x: Tensor) -> Tensor:
        after = self.step(scene, t, s, x)
        features = lambda y: F.normalize(classifier((y + 1) / 2), dim=1)
        anchor = features(x)
        gradient = guidance(lambda y, anchor: contrast(features(y), anchor), after, anchor)
        abar_t, abar_s = float(scene.schedule.abar[t]), float(scene.schedule.abar[s])
        return after - self.scale * math.log(abar_s / abar_t) / math.sqrt(1 - abar_t) * gradient


def contrast(view: Tensor, anchor: Tensor) -> Tensor:
    """InfoNCE (n,) of unit features (n, k): the anchor is the positive, the axes other than its
    largest are the negatives.
    """
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

    def plan(
        self, x_adv: Tensor, mask: None, eps: Denoiser, noise: Noise, schedule: Schedule
    ) -> Plan:
        return self.purifier.guided(Scene(x_adv, eps, noise, schedule), frozen(self.classifier))

    def calls(self, schedule: Schedule) -> int:
        return self.purifier.calls(schedule)
