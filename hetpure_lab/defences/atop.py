"""AToP (Lin et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hetpure_core import Noise, Schedule, linear_schedule, q_xt_x0, x0_xt
from hetpure_lab.defences.behind import Behind
from hetpure_lab.defences.interface import Capabilities, register
from hetpure_lab.networks import benches
from hetpure_lab.networks.benches import Bench

CLASSIFICATION_SHARE = 1.0  # s in AToP's loss


@register("atop", Capabilities(family="trained", own_networks=True))
@dataclass(frozen=True)
class AToP:
    r"""AToP (Lin et al. 2024): destroy the perturbation with a random transform, repair with a
    purifier that is trained adversarially.

    The transform adds Gaussian noise and blanks a `missing` share of `patch` x `patch` blocks,
    :math:`x_t = (1 - B) \odot (\sqrt{\bar\alpha_t}\, x + \sqrt{1 - \bar\alpha_t}\, \epsilon)`; the
    purifier g repairs it in one call. g is trained on :math:`\|g(x_t^{adv}) - x\|_1 + s\,
    \ell(F(g(x_t^{adv})), y)` with FGSM examples of the fixed classifier F. Defaults: the release's
    combined transform for CIFAR-10 (noise of 0.25, which is about t = 0.15, a quarter of the 4 x 4
    blocks missing). Adaptations: g is the bench's denoiser, started from its weights, read as
    :math:`\hat x_0`; no GAN term; s is 1 and not 0.05, so that a small network repairs what the
    classifier looks at; in the release the l1 term repairs the transformed clean image, and the
    classification term alone sees the adversarial one; the released g is also told which blocks are
    missing, by a channel of its own. As in the release the FGSM examples (here from a random start)
    fool F alone. With nothing missing and the denoiser's own weights it is one-shot denoising.
    Gradients are exact.
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
        seen = seen.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)[
            ..., : x.shape[2], : x.shape[3]
        ]
        return seen * q_xt_x0(x, schedule.index(self.t), noise("start", x), schedule)

    def purify(self, images: Tensor, noise: Noise, network: nn.Module) -> Tensor:
        schedule = linear_schedule()
        t, x = schedule.index(self.t), self.transform(2 * images - 1, noise, schedule)
        return (
            x0_xt(x, t, network(x, torch.full((len(x),), t, device=x.device)), schedule) + 1
        ) / 2

    def calls(self, schedule: Schedule) -> int:
        """Calls of the network that began as the denoiser, per answer."""
        return 1

    def weights(self, bench: str) -> list[str]:
        return [f"{bench}-classifier", f"{bench}-atop"]

    def defend(self, bench: Bench) -> Behind:
        return Behind(
            bench.classifier, self, benches.load_network(self.weights(bench.name)[1], bench.device)
        )

    def rehearse(self, classifier: nn.Module, denoiser: nn.Module) -> nn.Module:
        """The same with other networks in the places of its own."""
        return Behind(classifier, self, denoiser)
