"""Adversarially trained classifiers, of this project or published."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hetpure_core import Schedule
from hetpure_lab.defences.interface import Capabilities, Undefended, register
from hetpure_lab.networks import benches, robustbench
from hetpure_lab.networks.benches import Bench


@register("at", Capabilities(family="trained", own_networks=True, randomised=False, purifies=False))
@dataclass(frozen=True)
class AdversarialTraining:
    r"""Adversarial training: no purifier, but a classifier trained on the attack it will meet,
    :math:`\min_\theta \mathbb E \max_{\|\delta\| \le \epsilon} \ell(F_\theta(x + \delta), y)`.

    `model` names it: ``pgd-at-linf`` and ``pgd-at-l2`` (Madry et al. 2018; few inner steps) or
    ``fast-at-linf`` (Wong et al. 2020, one FGSM step from a random start). The ball is the one it
    will be attacked in: 8/255 or 0.5. Adaptation: the bench's Wide ResNet, fine-tuned from the
    bench's own classifier (Jeddi et al. 2020), the checkpoint of the highest PGD-10 accuracy on
    held-out images kept. A published network is named as RobustBench names it,
    ``Linf/Gowal2021Improving_28_10_ddpm_100m``: see `networks.robustbench`.
    """

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
        (name,) = self.weights(bench.name)
        return Undefended(benches.load_network(name, bench.device))

    def rehearse(self, classifier: nn.Module, denoiser: nn.Module) -> nn.Module:
        """The same with other networks in the places of its own."""
        return Undefended(classifier)
